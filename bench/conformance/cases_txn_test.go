package conformance

import (
	"bytes"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// maxTxnOps is etcd's default --max-txn-ops.
const maxTxnOps = 128

func put(key []byte, value string) *pb.RequestOp {
	return putOp(&pb.PutRequest{Key: key, Value: []byte(value)})
}

func putOp(request *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: request}}
}

func get(key []byte) *pb.RequestOp { return rangeOp(&pb.RangeRequest{Key: key}) }

func rangeOp(request *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: request}}
}

func del(key, end []byte) *pb.RequestOp {
	return deleteOp(&pb.DeleteRangeRequest{Key: key, RangeEnd: end})
}

func deleteOp(request *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: request}}
}

func nested(request *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: request}}
}

func ops(operations ...*pb.RequestOp) []*pb.RequestOp { return operations }

// compares of one key, or of all keys up to end.
func ifVersion(result pb.Compare_CompareResult, key []byte, version int64) *pb.Compare {
	return &pb.Compare{Result: result, Target: pb.Compare_VERSION, Key: key, TargetUnion: &pb.Compare_Version{Version: version}}
}

func ifCreate(result pb.Compare_CompareResult, key []byte, revision int64) *pb.Compare {
	return &pb.Compare{Result: result, Target: pb.Compare_CREATE, Key: key, TargetUnion: &pb.Compare_CreateRevision{CreateRevision: revision}}
}

func ifMod(result pb.Compare_CompareResult, key []byte, revision int64) *pb.Compare {
	return &pb.Compare{Result: result, Target: pb.Compare_MOD, Key: key, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}

func ifValue(result pb.Compare_CompareResult, key []byte, value string) *pb.Compare {
	return &pb.Compare{Result: result, Target: pb.Compare_VALUE, Key: key, TargetUnion: &pb.Compare_Value{Value: []byte(value)}}
}

func ifLease(result pb.Compare_CompareResult, key []byte, lease int64) *pb.Compare {
	return &pb.Compare{Result: result, Target: pb.Compare_LEASE, Key: key, TargetUnion: &pb.Compare_Lease{Lease: lease}}
}

// upTo makes a compare one over all keys in [its key, end).
func upTo(compare *pb.Compare, end []byte) *pb.Compare {
	compare.RangeEnd = end
	return compare
}

const (
	equal    = pb.Compare_EQUAL
	greater  = pb.Compare_GREATER
	less     = pb.Compare_LESS
	notEqual = pb.Compare_NOT_EQUAL
)

// txnCases show section Txn.
func txnCases() []Case {
	return append(append(compareCases(), txnOrderCases()...), txnErrorCases()...)
}

// truth asks only whether compares hold; nothing is written.
func (s *Script) truth(compares ...*pb.Compare) { s.Txn(&pb.TxnRequest{Compare: compares}) }

func compareCases() []Case {
	results := []pb.Compare_CompareResult{equal, greater, less, notEqual}
	eachResult := func(around int64, make func(pb.Compare_CompareResult, int64) *pb.Compare) func(s *Script) {
		return func(s *Script) {
			for _, result := range results {
				for value := around - 1; value <= around+1; value++ {
					s.truth(make(result, value))
				}
			}
		}
	}
	cases := []Case{
		{"txn/empty", func(s *Script) { s.Txn(&pb.TxnRequest{}) }},
		{"txn/compare-version", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			eachResult(2, func(r pb.Compare_CompareResult, v int64) *pb.Compare { return ifVersion(r, s.Key("a"), v) })(s)
		}},
		{"txn/compare-create", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			eachResult(s.Rev(1), func(r pb.Compare_CompareResult, v int64) *pb.Compare { return ifCreate(r, s.Key("a"), v) })(s)
		}},
		{"txn/compare-mod", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			eachResult(s.Rev(2), func(r pb.Compare_CompareResult, v int64) *pb.Compare { return ifMod(r, s.Key("a"), v) })(s)
		}},
		{"txn/compare-value", func(s *Script) {
			s.Put("a", "m")
			for _, result := range results {
				for _, value := range []string{"", "l", "m", "ma", "n"} {
					s.truth(ifValue(result, s.Key("a"), value))
				}
			}
		}},
		{"txn/compare-lease", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(5), TTL: 600})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(5)})
			eachResult(s.LeaseID(5), func(r pb.Compare_CompareResult, v int64) *pb.Compare { return ifLease(r, s.Key("a"), v) })(s)
			s.truth(ifLease(equal, s.Key("none"), 0))
		}},
		{"txn/compare-missing-key", func(s *Script) {
			for _, result := range results {
				s.truth(ifVersion(result, s.Key("a"), 0))
				s.truth(ifCreate(result, s.Key("a"), 0))
				s.truth(ifMod(result, s.Key("a"), 0))
				s.truth(ifLease(result, s.Key("a"), 0))
				s.truth(ifValue(result, s.Key("a"), ""))
				s.truth(ifValue(result, s.Key("a"), "x"))
			}
		}},
		{"txn/compare-deleted-key", func(s *Script) {
			s.Put("a", "1")
			s.Delete("a")
			s.truth(ifVersion(equal, s.Key("a"), 0))
			s.truth(ifMod(equal, s.Key("a"), 0))
			s.truth(ifValue(notEqual, s.Key("a"), "2"))
		}},
		{"txn/compare-empty-value", func(s *Script) { s.Put("a", ""); s.truth(ifValue(equal, s.Key("a"), "")) }},
		{"txn/compare-range", func(s *Script) {
			s.Put("a", "1")
			s.Put("b", "1")
			s.Put("c", "1")
			s.truth(upTo(ifVersion(equal, s.Key(""), 1), s.End("")))
			s.truth(upTo(ifVersion(greater, s.Key(""), 0), s.End("")))
			s.truth(upTo(ifValue(equal, s.Key(""), "1"), s.End("")))
			s.Put("b", "2")
			s.truth(upTo(ifVersion(equal, s.Key(""), 1), s.End("")))
			s.truth(upTo(ifValue(equal, s.Key(""), "1"), s.End("")))
			s.truth(upTo(ifVersion(equal, s.Key("a"), 1), s.Key("b")))
			s.truth(upTo(ifMod(less, s.Key("b"), s.Rev(100)), []byte{0}))
		}},
		{"txn/compare-empty-range", func(s *Script) {
			s.truth(upTo(ifVersion(equal, s.Key(""), 0), s.End("")))
			s.truth(upTo(ifVersion(greater, s.Key(""), 0), s.End("")))
			s.truth(upTo(ifValue(equal, s.Key(""), ""), s.End("")))
			s.Put("a", "1")
			s.truth(upTo(ifVersion(equal, s.Key("z"), 0), s.Key("a")))
		}},
		{"txn/compare-all-must-hold", func(s *Script) {
			s.Put("a", "1")
			s.truth(ifVersion(equal, s.Key("a"), 1), ifValue(equal, s.Key("a"), "1"))
			s.truth(ifVersion(equal, s.Key("a"), 1), ifValue(equal, s.Key("a"), "2"))
			s.truth(ifVersion(equal, s.Key("a"), 2), ifValue(equal, s.Key("a"), "1"))
		}},
		{"txn/compare-without-value", func(s *Script) {
			s.Put("a", "1")
			for target := range pb.Compare_CompareTarget(5) {
				s.truth(&pb.Compare{Key: s.Key("a"), Target: target, Result: equal})
				s.truth(&pb.Compare{Key: s.Key("b"), Target: target, Result: equal})
				s.truth(&pb.Compare{Key: s.Key("a"), Target: target, Result: greater})
			}
		}},
		{"txn/compare-union-of-another-target", func(s *Script) {
			s.Put("a", "1")
			s.truth(&pb.Compare{Key: s.Key("a"), Target: pb.Compare_MOD, Result: equal, TargetUnion: &pb.Compare_Version{Version: 1}})
			s.truth(&pb.Compare{Key: s.Key("b"), Target: pb.Compare_MOD, Result: equal, TargetUnion: &pb.Compare_Version{Version: 1}})
		}},
		{"txn/compare-unknown-enums", func(s *Script) {
			s.Put("a", "1")
			s.truth(&pb.Compare{Key: s.Key("a"), Target: 9, Result: equal})
			s.truth(&pb.Compare{Key: s.Key("a"), Target: 9, Result: less})
			s.truth(&pb.Compare{Key: s.Key("a"), Target: pb.Compare_VERSION, Result: 9})
		}},
		{"txn/compare-empty-key", func(s *Script) { s.truth(ifVersion(equal, nil, 0)) }},
	}
	return cases
}

func txnOrderCases() []Case {
	return []Case{
		{"txn/create-if-absent", func(s *Script) {
			for range 2 {
				s.Txn(&pb.TxnRequest{
					Compare: []*pb.Compare{ifMod(equal, s.Key("a"), 0)},
					Success: ops(put(s.Key("a"), "1")),
					Failure: ops(get(s.Key("a"))),
				})
			}
			s.Put("b", "1")
		}},
		{"txn/update-if-unchanged", func(s *Script) {
			s.Put("a", "1")
			for range 2 {
				s.Txn(&pb.TxnRequest{
					Compare: []*pb.Compare{ifMod(equal, s.Key("a"), s.Rev(1))},
					Success: ops(put(s.Key("a"), "2")),
					Failure: ops(get(s.Key("a"))),
				})
			}
		}},
		{"txn/delete-if-unchanged", func(s *Script) {
			s.Put("a", "1")
			for range 2 {
				s.Txn(&pb.TxnRequest{
					Compare: []*pb.Compare{ifMod(equal, s.Key("a"), s.Rev(1))},
					Success: ops(del(s.Key("a"), nil)),
					Failure: ops(get(s.Key("a"))),
				})
			}
		}},
		{"txn/one-revision-for-all", func(s *Script) {
			s.Put("z", "1")
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), put(s.Key("b"), "1"), del(s.Key("z"), nil), put(s.Key("c"), "1"))})
			s.All("")
			s.Put("d", "1")
		}},
		{"txn/no-change-takes-no-revision", func(s *Script) {
			s.Put("a", "1")
			s.Txn(&pb.TxnRequest{Success: ops(del(s.Key("x"), nil))})
			s.Txn(&pb.TxnRequest{Success: ops(get(s.Key("a")), del(s.Key("x"), s.Key("y")))})
			s.Put("a", "2")
		}},
		{"txn/read-after-write-inside", func(s *Script) {
			s.Put("a", "old")
			s.Txn(&pb.TxnRequest{Success: ops(
				get(s.Key("a")), put(s.Key("a"), "new"), get(s.Key("a")), put(s.Key("b"), "1"),
				rangeOp(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End("")}),
			)})
		}},
		{"txn/read-after-delete-inside", func(s *Script) {
			s.Puts("a", "b")
			s.Txn(&pb.TxnRequest{Success: ops(
				del(s.Key("a"), nil), get(s.Key("a")),
				rangeOp(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true}),
				del(s.Key("a"), nil),
			)})
		}},
		{"txn/delete-then-delete-again", func(s *Script) {
			s.Puts("a", "b")
			s.Txn(&pb.TxnRequest{Success: ops(
				deleteOp(&pb.DeleteRangeRequest{Key: s.Key("a"), PrevKv: true}),
				deleteOp(&pb.DeleteRangeRequest{Key: s.Key(""), RangeEnd: s.End(""), PrevKv: true}),
			)})
		}},
		{"txn/prev-kv-inside", func(s *Script) {
			s.Put("a", "1")
			s.Txn(&pb.TxnRequest{Success: ops(
				putOp(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), PrevKv: true}),
				putOp(&pb.PutRequest{Key: s.Key("b"), Value: []byte("2"), PrevKv: true}),
			)})
		}},
		{"txn/read-only", func(s *Script) {
			s.Puts("a", "b")
			s.Txn(&pb.TxnRequest{Success: ops(get(s.Key("a")), get(s.Key("b")), get(s.Key("x")))})
			s.Txn(&pb.TxnRequest{
				Compare: []*pb.Compare{ifVersion(equal, s.Key("a"), 9)},
				Success: ops(get(s.Key("a"))),
				Failure: ops(get(s.Key("b")), rangeOp(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Limit: 1})),
			})
		}},
		{"txn/read-only-serializable", func(s *Script) {
			s.Puts("a")
			s.Txn(&pb.TxnRequest{Success: ops(rangeOp(&pb.RangeRequest{Key: s.Key("a"), Serializable: true}))})
		}},
		{"txn/reads-at-old-revisions", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Txn(&pb.TxnRequest{Success: ops(
				rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)}),
				put(s.Key("a"), "3"),
				rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)}),
				get(s.Key("a")),
			)})
		}},
		{"txn/range-options-inside", func(s *Script) {
			s.history()
			s.Txn(&pb.TxnRequest{Success: ops(
				rangeOp(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_DESCEND, Limit: 2}),
				rangeOp(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), KeysOnly: true}),
				rangeOp(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), MinModRevision: s.Rev(5)}),
				rangeOp(&pb.RangeRequest{Key: s.Key("b"), RangeEnd: []byte{0}}),
			)})
		}},
		{"txn/nested", func(s *Script) {
			s.Put("a", "1")
			s.Txn(&pb.TxnRequest{Success: ops(
				put(s.Key("b"), "1"),
				nested(&pb.TxnRequest{
					Compare: []*pb.Compare{ifValue(equal, s.Key("a"), "1")},
					Success: ops(put(s.Key("c"), "then"), get(s.Key("b"))),
					Failure: ops(put(s.Key("c"), "else")),
				}),
				nested(&pb.TxnRequest{
					Compare: []*pb.Compare{ifValue(equal, s.Key("a"), "2")},
					Success: ops(put(s.Key("d"), "then")),
					Failure: ops(put(s.Key("d"), "else"), nested(&pb.TxnRequest{Success: ops(put(s.Key("e"), "deep"))})),
				}),
				get(s.Key("d")),
			)})
			s.All("")
		}},
		{"txn/nested-compares-see-the-state-before", func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(
				put(s.Key("a"), "1"),
				nested(&pb.TxnRequest{
					Compare: []*pb.Compare{ifVersion(equal, s.Key("a"), 0)},
					Success: ops(put(s.Key("b"), "absent before")),
					Failure: ops(put(s.Key("b"), "there")),
				}),
			)})
			s.All("")
		}},
		{"txn/nested-reads-only", func(s *Script) {
			s.Put("a", "1")
			s.Txn(&pb.TxnRequest{Success: ops(nested(&pb.TxnRequest{Success: ops(get(s.Key("a")))}))})
			s.Txn(&pb.TxnRequest{Success: ops(nested(&pb.TxnRequest{}))})
		}},
		{"txn/nested-and-failed-branch", func(s *Script) {
			s.Txn(&pb.TxnRequest{
				Compare: []*pb.Compare{ifVersion(greater, s.Key("a"), 0)},
				Success: ops(nested(&pb.TxnRequest{Success: ops(put(s.Key("a"), "then"))})),
				Failure: ops(nested(&pb.TxnRequest{Success: ops(put(s.Key("a"), "else"))})),
			})
			s.All("")
		}},
		{"txn/with-lease", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Txn(&pb.TxnRequest{Success: ops(
				putOp(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(1)}),
				putOp(&pb.PutRequest{Key: s.Key("b"), Lease: s.LeaseID(1)}),
			)})
			s.TimeToLive(s.LeaseID(1), true)
			s.Txn(&pb.TxnRequest{Success: ops(putOp(&pb.PutRequest{Key: s.Key("a"), Value: []byte("x"), IgnoreLease: true}), del(s.Key("b"), nil))})
			s.TimeToLive(s.LeaseID(1), true)
			s.Revoke(s.LeaseID(1))
			s.All("")
		}},
		{"txn/delete-many-keys-and-put", func(s *Script) {
			for batch := range 5 {
				many := make([]*pb.RequestOp, maxTxnOps)
				for i := range many {
					many[i] = put(s.Key(fmt.Sprintf("many/%03d", batch*maxTxnOps+i)), "v")
				}
				s.Txn(&pb.TxnRequest{Success: many})
			}
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), del(s.Key("many/"), s.End("many/")), get(s.Key("many/007")))})
			s.All("")
		}},
		{"txn/delete-whole-prefix", func(s *Script) {
			s.Puts("a", "b", "c")
			s.Txn(&pb.TxnRequest{Success: ops(deleteOp(&pb.DeleteRangeRequest{Key: s.Key(""), RangeEnd: s.End(""), PrevKv: true}))})
			s.All("")
		}},
	}
}

func txnErrorCases() []Case {
	puts := func(s *Script, count int) []*pb.RequestOp {
		operations := make([]*pb.RequestOp, count)
		for i := range operations {
			operations[i] = put(s.Key(fmt.Sprintf("%03d", i)), "v")
		}
		return operations
	}
	unchanged := func(body func(s *Script)) func(s *Script) {
		return func(s *Script) {
			s.Put("before", "1")
			body(s)
			s.All("")
			s.Put("after", "1")
		}
	}
	return []Case{
		{"txn/as-many-operations-as-allowed", func(s *Script) { s.Txn(&pb.TxnRequest{Success: puts(s, maxTxnOps)}); s.All("") }},
		{"txn/too-many-operations", unchanged(func(s *Script) { s.Txn(&pb.TxnRequest{Success: puts(s, maxTxnOps+1)}) })},
		{"txn/too-many-operations-in-else", unchanged(func(s *Script) { s.Txn(&pb.TxnRequest{Failure: puts(s, maxTxnOps+1)}) })},
		{"txn/too-many-compares", unchanged(func(s *Script) {
			compares := make([]*pb.Compare, maxTxnOps+1)
			for i := range compares {
				compares[i] = ifVersion(equal, s.Key("a"), 0)
			}
			s.Txn(&pb.TxnRequest{Compare: compares})
		})},
		{"txn/nested-operations-count-too", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("x"), "1"), nested(&pb.TxnRequest{Success: puts(s, maxTxnOps-1)}))})
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("x"), "1"), nested(&pb.TxnRequest{Success: puts(s, maxTxnOps-2)}))})
		})},
		{"txn/empty-operation", unchanged(func(s *Script) { s.Txn(&pb.TxnRequest{Success: ops(&pb.RequestOp{})}) })},
		{"txn/empty-operation-in-else", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1")), Failure: ops(&pb.RequestOp{})})
		})},
		{"txn/empty-key-in-put", unchanged(func(s *Script) { s.Txn(&pb.TxnRequest{Success: ops(put(nil, "1"))}) })},
		{"txn/empty-key-in-range", unchanged(func(s *Script) { s.Txn(&pb.TxnRequest{Success: ops(get(nil))}) })},
		{"txn/empty-key-in-delete", unchanged(func(s *Script) { s.Txn(&pb.TxnRequest{Failure: ops(del(nil, nil))}) })},
		{"txn/bad-sort-inside", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(rangeOp(&pb.RangeRequest{Key: s.Key("a"), SortOrder: 7}))})
		})},
		{"txn/value-with-ignore-value", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(putOp(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), IgnoreValue: true}))})
		})},
		{"txn/lease-with-ignore-lease", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(putOp(&pb.PutRequest{Key: s.Key("a"), Lease: 4, IgnoreLease: true}))})
		})},
		{"txn/duplicate-puts", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), put(s.Key("a"), "2"))})
			s.Txn(&pb.TxnRequest{Failure: ops(put(s.Key("a"), "1"), put(s.Key("a"), "1"))})
		})},
		{"txn/put-and-delete-of-one-key", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), del(s.Key("a"), nil))})
			s.Txn(&pb.TxnRequest{Success: ops(del(s.Key("a"), nil), put(s.Key("a"), "1"))})
		})},
		{"txn/put-inside-a-deleted-span", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("b"), "1"), del(s.Key("a"), s.Key("c")))})
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("b"), "1"), del(s.Key("a"), []byte{0}))})
		})},
		{"txn/put-at-the-end-of-a-deleted-span", func(s *Script) {
			s.Puts("a", "b")
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("c"), "1"), del(s.Key("a"), s.Key("c")))})
			s.All("")
		}},
		{"txn/overlapping-deletes-are-fine", func(s *Script) {
			s.Puts("a", "b", "c")
			s.Txn(&pb.TxnRequest{Success: ops(del(s.Key("a"), s.Key("c")), del(s.Key("b"), nil), del(s.Key("a"), nil), del(s.Key("b"), s.Key("d")))})
			s.All("")
		}},
		{"txn/both-branches-may-share-keys", func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1")), Failure: ops(put(s.Key("a"), "2"), del(s.Key("b"), nil))})
		}},
		{"txn/duplicate-of-a-nested-put", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), nested(&pb.TxnRequest{Success: ops(put(s.Key("a"), "2"))}))})
			s.Txn(&pb.TxnRequest{Success: ops(del(s.Key("a"), nil), nested(&pb.TxnRequest{Failure: ops(put(s.Key("a"), "2"))}))})
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), nested(&pb.TxnRequest{Success: ops(del(s.Key("a"), nil))}))})
		})},
		{"txn/branches-of-one-nested-txn-may-share", func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(nested(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1")), Failure: ops(put(s.Key("a"), "2"))}))})
			s.All("")
		}},
		{"txn/sibling-nested-txns-may-not-share", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(
				nested(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"))}),
				nested(&pb.TxnRequest{Failure: ops(put(s.Key("a"), "2"))}),
			)})
		})},
		{"txn/duplicate-in-the-branch-not-taken", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{
				Compare: []*pb.Compare{ifVersion(equal, s.Key("a"), 0)},
				Success: ops(put(s.Key("a"), "1")),
				Failure: ops(put(s.Key("b"), "1"), put(s.Key("b"), "2")),
			})
		})},
		{"txn/unknown-lease", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), putOp(&pb.PutRequest{Key: s.Key("b"), Lease: s.LeaseID(1)}))})
		})},
		{"txn/unknown-lease-in-the-branch-not-taken", func(s *Script) {
			s.Txn(&pb.TxnRequest{
				Success: ops(put(s.Key("a"), "1")),
				Failure: ops(putOp(&pb.PutRequest{Key: s.Key("b"), Lease: s.LeaseID(1)})),
			})
			s.All("")
		}},
		{"txn/ignore-value-of-missing-key", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), putOp(&pb.PutRequest{Key: s.Key("b"), IgnoreValue: true}))})
		})},
		{"txn/ignore-lease-of-missing-key", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(putOp(&pb.PutRequest{Key: s.Key("b"), IgnoreLease: true}))})
		})},
		{"txn/future-revision-inside", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(50)}))})
			s.Txn(&pb.TxnRequest{Success: ops(rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(50)}))})
		})},
		{"txn/revision-of-its-own-write-is-future", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)}))})
		})},
		{"txn/compacted-revision-inside", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Put("a", "3")
			s.Compact(s.Rev(2))
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("b"), "1"), rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)}))})
			s.Txn(&pb.TxnRequest{Success: ops(rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)}))})
			s.Txn(&pb.TxnRequest{Success: ops(rangeOp(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)}))})
			s.All("")
		}},
		{"txn/nested-check-fails-the-whole", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(
				put(s.Key("a"), "1"),
				nested(&pb.TxnRequest{Success: ops(putOp(&pb.PutRequest{Key: s.Key("b"), Lease: s.LeaseID(1)}))}),
			)})
		})},
		{"txn/too-large", unchanged(func(s *Script) {
			half := string(bytes.Repeat([]byte("v"), requestLimit/2+1))
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), half), put(s.Key("b"), half))})
		})},
		{"txn/empty-compare-key-before-other-errors", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Compare: []*pb.Compare{ifVersion(equal, nil, 0)}, Success: ops(put(nil, ""), &pb.RequestOp{})})
		})},
		{"txn/too-many-before-other-errors", unchanged(func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: append(puts(s, maxTxnOps), put(nil, ""))})
		})},
	}
}
