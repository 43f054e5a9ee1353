package conformance

import (
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// compactCases show section Compact.
func compactCases() []Case {
	return []Case{
		{"compact/at-the-present", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Compact(s.Rev(2))
			s.Get("a")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)})
			s.Put("a", "3")
		}},
		{"compact/twice", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Compact(s.Rev(2))
			s.Compact(s.Rev(2))
			s.Compact(s.Rev(1))
		}},
		{"compact/future", func(s *Script) {
			s.Put("a", "1")
			s.Compact(s.Rev(2))
			s.Compact(math.MaxInt64)
			s.Get("a")
		}},
		{"compact/zero-and-negative", func(s *Script) {
			s.Put("a", "1")
			s.Compact(s.Rev(1))
			s.Compact(0)
			s.Compact(-1)
		}},
		{"compact/not-physical", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			call(s, "Compact", s.compact, &pb.CompactionRequest{Revision: s.Rev(2)}, &pb.CompactionResponse{})
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)})
			s.Get("a")
		}},
		{"compact/keeps-the-newest-below", func(s *Script) {
			s.Put("a", "1")
			s.Put("b", "1")
			s.Put("a", "2")
			s.Put("c", "1")
			s.Compact(s.Rev(4))
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Revision: s.Rev(4)})
			s.Put("a", "3")
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Revision: s.Rev(4)})
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), Revision: s.Rev(5)})
		}},
		{"compact/version-and-creation-survive", func(s *Script) {
			for _, value := range []string{"1", "2", "3", "4"} {
				s.Put("a", value)
			}
			s.Compact(s.Rev(4))
			s.Get("a")
			s.Put("a", "5")
			s.Get("a")
		}},
		{"compact/deleted-keys-are-gone", func(s *Script) {
			s.Put("a", "1")
			s.Delete("a")
			s.Put("b", "1")
			s.Compact(s.Rev(3))
			s.All("")
			s.Put("a", "again")
			s.Get("a")
		}},
		{"compact/at-a-tombstone", func(s *Script) {
			s.Put("a", "1")
			s.Delete("a")
			s.Compact(s.Rev(2))
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)})
			s.Put("a", "2")
			s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)})
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(2), PrevKv: true})
			w.Events(id, 2)
			id = w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(3), PrevKv: true})
			w.Events(id, 1)
		}},
		{"compact/through-every-node", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Put("a", "3")
			s.Compact(s.Rev(2))
			s.everywhere(func() {
				s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(1)})
				s.Range(&pb.RangeRequest{Key: s.Key("a"), Revision: s.Rev(2)})
				s.Compact(s.Rev(2))
			})
		}},
	}
}
