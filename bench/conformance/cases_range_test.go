package conformance

import (
	"fmt"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// rangeCases show section Range: spans, revisions, limits, filters, orders, errors.
func rangeCases() []Case {
	cases := []Case{
		{"range/missing-key", func(s *Script) { s.Get("a") }},
		{"range/one-key", func(s *Script) { s.Puts("a"); s.Get("a") }},
		{"range/empty-value", func(s *Script) { s.Put("a", ""); s.Get("a") }},
		{"range/binary-key-and-value", func(s *Script) { s.Put("\x00\xff\xfe", "\x00\x01\xff"); s.Get("\x00\xff\xfe"); s.All("") }},
		{"range/key-history", func(s *Script) {
			s.Put("a", "1")
			s.Put("b", "1")
			s.Put("a", "2")
			s.Put("a", "2")
			s.Get("a")
			s.Delete("a")
			s.Get("a")
			s.Put("a", "3")
			s.Get("a")
		}},
		{"range/prefix", func(s *Script) { s.Puts("a", "ab", "abc", "b", "ac"); s.All("ab"); s.All("a"); s.All("") }},
		{"range/span", func(s *Script) {
			s.Puts("a", "b", "c", "d")
			s.Range(&pb.RangeRequest{Key: s.Key("b"), RangeEnd: s.Key("d")})
			s.Range(&pb.RangeRequest{Key: s.Key("b"), RangeEnd: s.Key("b")})
			s.Range(&pb.RangeRequest{Key: s.Key("d"), RangeEnd: s.Key("b")})
			s.Range(&pb.RangeRequest{Key: s.Key("aa"), RangeEnd: s.Key("cc")})
		}},
		{"range/from-key", func(s *Script) {
			s.Puts("a", "b", "c")
			s.Range(&pb.RangeRequest{Key: s.Key("b"), RangeEnd: []byte{0}})
		}},
		{"range/everything", func(s *Script) {
			s.Puts("a", "b")
			s.Range(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, MinModRevision: s.Rev(1)})
			s.Range(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, MinModRevision: s.Rev(2)})
		}},
		{"range/key-zero-alone", func(s *Script) { s.Range(&pb.RangeRequest{Key: []byte{0}}) }},
		{"range/range-end-zero-zero", func(s *Script) {
			s.Puts("a")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), RangeEnd: []byte{0, 0}})
		}},
		{"range/empty-key", func(s *Script) { s.Range(&pb.RangeRequest{}) }},
		{"range/empty-key-with-end", func(s *Script) { s.Range(&pb.RangeRequest{RangeEnd: []byte("z")}) }},
		{"range/at-revisions", func(s *Script) {
			s.Put("a", "1")
			s.Put("b", "1")
			s.Put("a", "2")
			s.Delete("b")
			for after := int64(1); after <= 4; after++ {
				s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Revision: s.Rev(after)})
			}
		}},
		{"range/header-is-the-present", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)})
		}},
		{"range/future-revision", func(s *Script) {
			s.Put("a", "1")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: math.MaxInt64})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2), Serializable: true})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2), CountOnly: true})
		}},
		{"range/negative-revision", func(s *Script) {
			s.Put("a", "1")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: -1})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: math.MinInt64})
		}},
		{"range/compacted-revision", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Put("a", "3")
			s.Compact(s.Rev(2))
			for after := int64(1); after <= 3; after++ {
				s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(after)})
			}
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: 1})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1), CountOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1), Serializable: true})
		}},
		{"range/limit", func(s *Script) {
			s.Puts("a", "b", "c", "d")
			for _, limit := range []int64{1, 2, 3, 4, 5, math.MaxInt64, -1} {
				s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Limit: limit})
			}
		}},
		{"range/limit-on-one-key", func(s *Script) { s.Puts("a"); s.Range(&pb.RangeRequest{Key: s.Key("a"), Limit: 1}) }},
		{"range/limit-at-revision", func(s *Script) {
			s.Puts("a", "b", "c")
			s.Delete("a")
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Limit: 2, Revision: s.Rev(3)})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Limit: 2})
		}},
		{"range/pages", func(s *Script) {
			s.Puts("a", "b", "c", "d", "e")
			key := s.Key("")
			for range 3 {
				page := s.Range(&pb.RangeRequest{Key: key, RangeEnd: s.End(""), Limit: 2, Revision: s.Rev(5)})
				if len(page.Kvs) == 0 {
					break
				}
				key = append(page.Kvs[len(page.Kvs)-1].Key, 0)
			}
		}},
		{"range/count-only", func(s *Script) {
			s.Puts("a", "b", "c")
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true, Limit: 1})
			s.Range(&pb.RangeRequest{Key: s.Key("b"), CountOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key("x"), CountOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true, Revision: s.Rev(2)})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true, KeysOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true, MinModRevision: s.Rev(3)})
		}},
		{"range/keys-only", func(s *Script) {
			s.Puts("a", "b")
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), KeysOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), KeysOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), KeysOnly: true, Limit: 1})
		}},
		{"range/keys-only-with-lease", func(s *Script) {
			lease := s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Value: []byte("1"), Lease: lease.ID})
			s.Get("a")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), KeysOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), KeysOnly: true, SortTarget: pb.RangeRequest_VALUE})
		}},
		{"range/serializable", func(s *Script) {
			s.Puts("a", "b")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Serializable: true})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Serializable: true})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Serializable: true, Revision: s.Rev(1)})
		}},
		{"range/bad-sort-order", func(s *Script) { s.Range(&pb.RangeRequest{Key: s.Key("a"), SortOrder: 3}) }},
		{"range/bad-sort-target", func(s *Script) { s.Range(&pb.RangeRequest{Key: s.Key("a"), SortTarget: 5}) }},
		{"range/negative-sort", func(s *Script) {
			s.Range(&pb.RangeRequest{Key: s.Key("a"), SortOrder: -1})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), SortTarget: -1})
		}},
		{"range/empty-key-before-bad-sort", func(s *Script) { s.Range(&pb.RangeRequest{SortOrder: 9}) }},
		{"range/bad-sort-before-future-revision", func(s *Script) {
			s.Range(&pb.RangeRequest{Key: s.Key("a"), SortOrder: 9, Revision: s.Rev(100)})
		}},
		{"range/filters", func(s *Script) {
			s.history()
			for _, filter := range []*pb.RangeRequest{
				{MinModRevision: s.Rev(4)}, {MaxModRevision: s.Rev(4)},
				{MinCreateRevision: s.Rev(3)}, {MaxCreateRevision: s.Rev(3)},
				{MinModRevision: s.Rev(4), MaxModRevision: s.Rev(5)},
				{MinCreateRevision: s.Rev(2), MaxCreateRevision: s.Rev(3)},
				{MinModRevision: s.Rev(5), MaxCreateRevision: s.Rev(1)},
				{MinModRevision: s.Rev(100)}, {MaxModRevision: 1}, {MinModRevision: -5}, {MaxModRevision: -5},
			} {
				filter.Key, filter.RangeEnd = s.Key(""), s.End("")
				s.Range(filter)
			}
		}},
		{"range/filters-with-limit", func(s *Script) {
			s.history()
			for limit := int64(1); limit <= 4; limit++ {
				s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), MinModRevision: s.Rev(3), Limit: limit})
			}
		}},
		{"range/filters-at-revision", func(s *Script) {
			s.history()
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), MinModRevision: s.Rev(2), Revision: s.Rev(4)})
		}},
		{"range/unsorted-target-is-ascending", func(s *Script) {
			s.history()
			for target := pb.RangeRequest_SortTarget(1); target <= 4; target++ {
				s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), SortTarget: target})
			}
		}},
		{"range/unsorted-target-cuts-before-it-sorts", func(s *Script) {
			s.Put("a", "9")
			s.Put("b", "8")
			s.Put("c", "1")
			s.Put("d", "2")
			for limit := int64(1); limit <= 4; limit++ {
				s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), SortTarget: pb.RangeRequest_VALUE, Limit: limit})
				s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), SortTarget: pb.RangeRequest_VALUE,
					SortOrder: pb.RangeRequest_ASCEND, Limit: limit})
			}
		}},
		{"range/large-answer", func(s *Script) {
			large := string(make([]byte, 200<<10))
			for i := range 20 {
				s.Put(fmt.Sprintf("%02d", i), large)
			}
			s.All("")
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Limit: 15})
		}},
		{"range/many-keys", func(s *Script) {
			for i := range 10 {
				operations := make([]*pb.RequestOp, 100)
				for j := range operations {
					operations[j] = put(s.Key(fmt.Sprintf("%04d", i*100+j)), "v")
				}
				s.Txn(&pb.TxnRequest{Success: operations})
			}
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), KeysOnly: true})
			s.Range(&pb.RangeRequest{Key: s.Key("05"), RangeEnd: s.End("05"), SortOrder: pb.RangeRequest_DESCEND, Limit: 7})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true})
		}},
		{"range/long-key", func(s *Script) {
			long := string(make([]byte, 4000))
			s.Put(long, "1")
			s.Get(long)
			s.All("")
		}},
		{"range/seen-through-every-node", func(s *Script) {
			s.Put("a", "1")
			s.everywhere(func() { s.Get("a") })
			s.Put("a", "2")
			s.everywhere(func() { s.Get("a") })
		}},
	}
	for target := range pb.RangeRequest_SortTarget(5) {
		for order := range pb.RangeRequest_SortOrder(3) {
			cases = append(cases, Case{
				fmt.Sprintf("range/sort-%v-%v", target, order),
				func(s *Script) {
					s.history()
					for _, limit := range []int64{0, 2, 3} {
						s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), SortTarget: target, SortOrder: order, Limit: limit})
					}
					s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), SortTarget: target, SortOrder: order, KeysOnly: true})
					s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), SortTarget: target, SortOrder: order, MinModRevision: s.Rev(3), Limit: 2})
				},
			})
		}
	}
	return cases
}

// history writes four keys so that every sort target orders them differently and no two are equal.
func (s *Script) history() {
	s.Put("b", "40")
	s.Put("d", "30")
	s.Put("a", "20")
	s.Put("c", "10")
	s.Put("d", "35")
	s.Put("a", "25")
	s.Put("a", "21")
	s.Put("b", "41")
	s.Put("b", "42")
	s.Put("b", "43")
}

// everywhere runs the body through each node of the cluster in turn.
func (s *Script) everywhere(body func()) {
	own := s.side
	defer func() { s.side = own }()
	for _, endpoint := range own.All {
		side, err := connectTo(endpoint, own.All)
		if err != nil {
			s.Note("connect", "%v", err)
			continue
		}
		s.side = side
		body()
		side.Close()
	}
}

// everywhereCaughtUp does so once each node has the present revision: some answers carry
// the revision of the node itself.
func (s *Script) everywhereCaughtUp(body func()) {
	s.everywhere(func() {
		s.Quietly(func() { s.Get("") })
		body()
	})
}
