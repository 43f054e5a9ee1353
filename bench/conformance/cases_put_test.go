package conformance

import (
	"bytes"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// requestLimit is etcd's default --max-request-bytes.
const requestLimit = 1536 << 10

// putCases show section Put.
func putCases() []Case {
	return []Case{
		{"put/new-and-again", func(s *Script) { s.Put("a", "1"); s.Put("a", "1"); s.Get("a") }},
		{"put/prev-kv", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), PrevKv: true})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), PrevKv: true})
			s.Delete("a")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("3"), PrevKv: true})
		}},
		{"put/prev-kv-of-empty-value", func(s *Script) {
			s.Put("a", "")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), PrevKv: true})
		}},
		{"put/empty-key", func(s *Script) { s.PutRequest(&pb.PutRequest{Value: []byte("1")}) }},
		{"put/empty-key-with-lease", func(s *Script) { s.PutRequest(&pb.PutRequest{Lease: 77}) }},
		{"put/unknown-lease", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), Lease: s.LeaseID(1)})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), Lease: -1})
			s.Get("a")
		}},
		{"put/with-lease", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), Lease: s.LeaseID(1)})
			s.Get("a")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), PrevKv: true})
			s.Get("a")
			s.TimeToLive(s.LeaseID(1), true)
		}},
		{"put/ignore-value", func(s *Script) {
			s.Put("a", "1")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreValue: true, PrevKv: true})
			s.Get("a")
		}},
		{"put/ignore-value-with-value", func(s *Script) {
			s.Put("a", "1")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), IgnoreValue: true})
			s.Get("a")
		}},
		{"put/ignore-value-of-missing-key", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreValue: true})
			s.Put("a", "1")
			s.Delete("a")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreValue: true})
			s.Get("a")
		}},
		{"put/ignore-value-new-lease", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Put("a", "1")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreValue: true, Lease: s.LeaseID(1)})
			s.Get("a")
		}},
		{"put/ignore-lease", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), Lease: s.LeaseID(1)})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), IgnoreLease: true})
			s.Get("a")
			s.TimeToLive(s.LeaseID(1), true)
		}},
		{"put/ignore-lease-with-lease", func(s *Script) {
			s.Put("a", "1")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), IgnoreLease: true, Lease: 5})
		}},
		{"put/ignore-lease-of-missing-key", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("2"), IgnoreLease: true})
			s.Get("a")
		}},
		{"put/ignore-both", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreLease: true, IgnoreValue: true})
			s.Put("a", "1")
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreLease: true, IgnoreValue: true, PrevKv: true})
			s.Get("a")
		}},
		{"put/ignore-value-error-before-lease-error", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreValue: true, Value: []byte("1"), IgnoreLease: true, Lease: 5})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), IgnoreValue: true, Lease: s.LeaseID(9)})
		}},
		{"put/just-below-the-limit", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: bytes.Repeat([]byte("v"), requestLimit-200)})
			s.Get("a")
		}},
		{"put/too-large", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: bytes.Repeat([]byte("v"), requestLimit+1)})
			s.Get("a")
		}},
		{"put/key-too-large", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: append(s.Key("a"), bytes.Repeat([]byte("k"), requestLimit)...)})
		}},
		{"put/above-the-transport-limit", func(s *Script) {
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: bytes.Repeat([]byte("v"), 3<<20)})
			s.Get("a")
		}},
		{"put/failed-writes-take-no-revision", func(s *Script) {
			s.Put("a", "1")
			s.PutRequest(&pb.PutRequest{})
			s.PutRequest(&pb.PutRequest{Key: s.Key("b"), Lease: s.LeaseID(1)})
			s.PutRequest(&pb.PutRequest{Key: s.Key("b"), IgnoreValue: true})
			s.Put("a", "2")
		}},
		{"put/one-revision-each", func(s *Script) {
			for i := range 20 {
				s.Put(fmt.Sprint(i), "v")
			}
		}},
		{"put/through-every-node", func(s *Script) {
			s.everywhere(func() { s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), PrevKv: true}) })
			s.Get("a")
		}},
	}
}

// deleteCases show section DeleteRange.
func deleteCases() []Case {
	return []Case{
		{"delete/missing", func(s *Script) { s.Delete("a"); s.Put("b", "1") }},
		{"delete/one", func(s *Script) { s.Put("a", "1"); s.Delete("a"); s.Get("a"); s.Delete("a") }},
		{"delete/prev-kv", func(s *Script) {
			s.Put("a", "1")
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("a"), PrevKv: true})
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("a"), PrevKv: true})
		}},
		{"delete/prefix-in-one-revision", func(s *Script) {
			s.Puts("c", "a", "b", "x")
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key(""), RangeEnd: s.Key("d"), PrevKv: true})
			s.All("")
			s.Put("y", "1")
		}},
		{"delete/span-end-excluded", func(s *Script) {
			s.Puts("a", "b", "c")
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("a"), RangeEnd: s.Key("c")})
			s.All("")
		}},
		{"delete/reversed-span", func(s *Script) {
			s.Puts("a", "b", "c")
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("c"), RangeEnd: s.Key("a")})
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("a"), RangeEnd: s.Key("a")})
			s.All("")
		}},
		{"delete/from-key", func(s *Script) {
			s.Puts("a", "b", "c")
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("b"), RangeEnd: []byte{0}})
			s.All("")
		}},
		{"delete/empty-span", func(s *Script) {
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("a"), RangeEnd: s.Key("z"), PrevKv: true})
			s.Put("a", "1")
		}},
		{"delete/empty-key", func(s *Script) {
			s.DeleteRange(&pb.DeleteRangeRequest{})
			s.DeleteRange(&pb.DeleteRangeRequest{RangeEnd: []byte{0}})
		}},
		{"delete/old-revisions-stay-readable", func(s *Script) {
			s.Put("a", "1")
			s.Delete("a")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)})
		}},
		{"delete/detaches-from-lease", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(1)})
			s.PutRequest(&pb.PutRequest{Key: s.Key("b"), Lease: s.LeaseID(1)})
			s.Delete("a")
			s.TimeToLive(s.LeaseID(1), true)
			s.Put("a", "new")
			s.Revoke(s.LeaseID(1))
			s.All("")
		}},
		{"delete/many-keys", func(s *Script) {
			operations := make([]*pb.RequestOp, 120)
			for i := range operations {
				operations[i] = put(s.Key(fmt.Sprintf("%03d", i)), "v")
			}
			s.Txn(&pb.TxnRequest{Success: operations})
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key("0"), RangeEnd: s.Key("1"), PrevKv: true})
			s.All("")
		}},
	}
}
