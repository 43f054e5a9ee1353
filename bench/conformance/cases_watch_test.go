package conformance

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchCases show section Watch.
func watchCases() []Case {
	return append(append(watchEventCases(), watchStartCases()...), watchControlCases()...)
}

func watchEventCases() []Case {
	return []Case{
		{"watch/one-key", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a")})
			s.Put("a", "1")
			s.Put("b", "other")
			s.Put("a", "2")
			w.Events(id, 2)
			w.Nothing()
		}},
		{"watch/prefix", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("p/")
			s.Puts("p/1", "q", "p/2", "p", "p/3")
			w.Events(id, 3)
			w.Nothing()
		}},
		{"watch/from-key", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("b"), RangeEnd: []byte{0}})
			s.Puts("a", "b", "c")
			w.Events(id, 2)
			w.Nothing()
		}},
		{"watch/empty-key-is-the-first-key", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{RangeEnd: []byte{0}})
			s.Puts("a")
			w.Events(id, 1)
		}},
		{"watch/delete-event", func(s *Script) {
			s.Put("a", "1")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a")})
			s.Delete("a")
			s.Delete("a")
			s.Put("a", "2")
			w.Events(id, 2)
			w.Nothing()
		}},
		{"watch/delete-span-in-one-response", func(s *Script) {
			s.Puts("c", "a", "b")
			w := s.Watch()
			id := w.Prefix("")
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key(""), RangeEnd: s.End("")})
			w.Events(id, 3)
		}},
		{"watch/txn-in-one-response", func(s *Script) {
			s.Put("z", "1")
			w := s.Watch()
			id := w.Prefix("")
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("b"), "1"), put(s.Key("a"), "2"), del(s.Key("z"), nil), put(s.Key("c"), "3"))})
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("d"), "4"), put(s.Key("a"), "5"))})
			w.Events(id, 6)
			w.Nothing()
		}},
		{"watch/txn-partly-watched", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("b")})
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), put(s.Key("b"), "2"), put(s.Key("c"), "3"))})
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/txn-without-change", func(s *Script) {
			w := s.Watch()
			w.Prefix("")
			s.Txn(&pb.TxnRequest{Compare: []*pb.Compare{ifVersion(greater, s.Key("a"), 0)}, Success: ops(put(s.Key("a"), "1")), Failure: ops(get(s.Key("a")))})
			w.Nothing()
		}},
		{"watch/large-txn-in-one-response", func(s *Script) {
			operations := make([]*pb.RequestOp, maxTxnOps)
			for i := range operations {
				operations[i] = put(s.Key(fmt.Sprintf("%03d", i)), "v")
			}
			w := s.Watch()
			id := w.Prefix("")
			s.Txn(&pb.TxnRequest{Success: operations})
			w.Events(id, maxTxnOps)
		}},
		{"watch/prev-kv", func(s *Script) {
			s.Put("a", "0")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), PrevKv: true})
			s.Put("a", "1")
			s.Put("b", "1")
			s.Delete("a")
			s.Put("a", "2")
			w.Events(id, 4)
		}},
		{"watch/prev-kv-in-a-txn", func(s *Script) {
			s.Put("a", "0")
			s.Put("b", "0")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), PrevKv: true})
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "1"), del(s.Key("b"), nil), put(s.Key("c"), "1"))})
			w.Events(id, 3)
		}},
		{"watch/without-puts", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
			s.Put("a", "1")
			s.Delete("a")
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/without-deletes", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}})
			s.Put("a", "1")
			s.Delete("a")
			s.Put("a", "2")
			w.Events(id, 2)
			w.Nothing()
		}},
		{"watch/without-anything", func(s *Script) {
			w := s.Watch()
			w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), Filters: []pb.WatchCreateRequest_FilterType{
				pb.WatchCreateRequest_NODELETE, pb.WatchCreateRequest_NOPUT}})
			s.Put("a", "1")
			s.Delete("a")
			w.Nothing()
		}},
		{"watch/with-lease-and-its-end", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			w := s.Watch()
			id := w.Prefix("")
			s.PutRequest(&pb.PutRequest{Key: s.Key("b"), Lease: s.LeaseID(1)})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(1)})
			s.Revoke(s.LeaseID(1))
			w.Events(id, 4)
			w.Nothing()
		}},
		{"watch/writes-through-every-node", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			s.everywhere(func() { s.Put("a", "1"); s.Put("b", "2") })
			w.Events(id, 2*len(s.side.All))
		}},
		{"watch/several-watchers-of-one-stream", func(s *Script) {
			w := s.Watch()
			one := w.Create(&pb.WatchCreateRequest{Key: s.Key("a")})
			two := w.Prefix("")
			three := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), PrevKv: true})
			s.Put("a", "1")
			s.Put("b", "1")
			s.Put("a", "2")
			w.Events(one, 2)
			w.Events(two, 3)
			w.Events(three, 2)
			w.Nothing()
		}},
		{"watch/several-streams", func(s *Script) {
			w, v := s.Watch(), s.Watch()
			one, two := w.Prefix(""), v.Prefix("")
			s.Puts("a", "b")
			w.Events(one, 2)
			v.Events(two, 2)
		}},
		{"watch/fragments", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), Fragment: true, PrevKv: true})
			s.Quietly(func() {
				for i := range 10 {
					s.Put(fmt.Sprint(i), string(bytes.Repeat([]byte("v"), 500<<10)))
				}
			})
			for range 10 {
				w.within(watchWait, func(r *pb.WatchResponse) bool { return len(r.Events) > 0 })
			}
			// Deleting brings ten previous values of half a megabyte in one revision.
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key(""), RangeEnd: s.End("")})
			w.Fragments(id, 10, requestLimit+512<<10)
		}},
		{"watch/large-revision-without-fragments", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), PrevKv: true, StartRevision: s.Rev(11)})
			s.Quietly(func() {
				for i := range 10 {
					s.Put(fmt.Sprint(i), string(bytes.Repeat([]byte("v"), 500<<10)))
				}
			})
			s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key(""), RangeEnd: s.End("")})
			w.Events(id, 10)
		}},
		{"watch/many-events", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			s.Quietly(func() {
				for i := range 300 {
					s.Put(fmt.Sprintf("%03d", i%50), "v")
				}
			})
			w.Events(id, 300)
			w.Nothing()
		}},
	}
}

func watchStartCases() []Case {
	return []Case{
		{"watch/from-a-past-revision", func(s *Script) {
			s.Put("a", "1")
			s.Put("b", "1")
			s.Put("a", "2")
			s.Delete("a")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), StartRevision: s.Rev(1)})
			w.Events(id, 4)
			s.Put("a", "3")
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/from-a-past-revision-with-prev-kv", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Delete("a")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(2), PrevKv: true})
			w.Events(id, 2)
		}},
		{"watch/from-a-past-revision-filtered", func(s *Script) {
			s.Put("a", "1")
			s.Delete("a")
			s.Put("a", "2")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(1), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/from-a-past-txn", func(s *Script) {
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("c"), "1"), put(s.Key("a"), "1"), put(s.Key("b"), "1"))})
			s.Put("a", "2")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), StartRevision: s.Rev(1)})
			w.Events(id, 4)
		}},
		{"watch/long-catch-up", func(s *Script) {
			s.Quietly(func() {
				// All of the same key and value, so that it does not matter which comes first.
				var writing sync.WaitGroup
				for range 60 {
					writing.Go(func() {
						for range 20 {
							s.writeUnrecorded("a", "v")
						}
					})
				}
				writing.Wait()
			})
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), StartRevision: s.Rev(1)})
			w.Events(id, 1200)
			s.Put("last", "1")
			w.Events(id, 1)
		}},
		{"watch/from-the-present-revision", func(s *Script) {
			s.Put("a", "1")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(1)})
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/from-the-next-revision", func(s *Script) {
			s.Put("a", "1")
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(2)})
			w.Nothing()
			s.Put("a", "2")
			w.Events(id, 1)
		}},
		{"watch/from-a-future-revision", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(3)})
			s.Put("a", "1")
			s.Put("a", "2")
			w.Nothing()
			s.Put("a", "3")
			s.Put("a", "4")
			w.Events(id, 2)
			w.Nothing()
		}},
		{"watch/no-progress-below-a-future-start", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(3)})
			s.Put("b", "1")
			w.RequestProgress()
			w.Nothing()
			s.Put("b", "2")
			s.Put("a", "3")
			w.Events(id, 1)
			w.Progress(s.Rev(3))
		}},
		{"watch/negative-start-revision", func(s *Script) {
			w := s.Watch()
			w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: -1})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("a")})
		}},
		{"watch/compacted-start-revision", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Put("a", "3")
			s.Compact(s.Rev(2))
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(1)})
			w.Canceled(id)
			// The compacted revision itself is still there.
			id = w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(2)})
			w.Events(id, 2)
			id = w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(3)})
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/prev-kv-that-was-compacted", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Put("a", "3")
			s.Compact(s.Rev(2))
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), StartRevision: s.Rev(3), PrevKv: true})
			w.Events(id, 1)
			s.Compact(s.Rev(3))
			s.Put("a", "4")
			w.Events(id, 1)
		}},
		{"watch/compaction-spares-who-keeps-up", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			s.Put("a", "1")
			s.Put("a", "2")
			w.Events(id, 2)
			s.Compact(s.Rev(2))
			s.Put("a", "3")
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/resume-after-the-last-event", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			s.Put("a", "1")
			events := w.Events(id, 1)
			w.Close()
			s.Put("a", "2")
			s.Delete("a")
			if len(events) == 0 {
				return
			}
			s.everywhereCaughtUp(func() {
				v := s.Watch()
				id := v.Create(&pb.WatchCreateRequest{Key: s.Key(""), RangeEnd: s.End(""), StartRevision: events[0].Kv.ModRevision + 1})
				v.Events(id, 2)
			})
		}},
	}
}

func watchControlCases() []Case {
	return []Case{
		{"watch/created-tells-the-revision", func(s *Script) {
			w := s.Watch()
			w.Prefix("")
			s.Put("a", "1")
			w.Create(&pb.WatchCreateRequest{Key: s.Key("x")})
		}},
		{"watch/ids-are-counted-from-zero", func(s *Script) {
			w := s.Watch()
			for range 3 {
				w.Create(&pb.WatchCreateRequest{Key: s.Key("a")})
			}
		}},
		{"watch/chosen-ids", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), WatchId: 7})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b")})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b"), WatchId: 1})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b")})
			s.Put("a", "1")
			w.Events(id, 1)
		}},
		{"watch/chosen-id-taken", func(s *Script) {
			w := s.Watch()
			w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), WatchId: 7})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b"), WatchId: 7})
			s.Put("a", "1")
			w.Events(7, 1)
			w.Cancel(7)
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b"), WatchId: 7})
			s.Put("b", "1")
			w.Events(7, 1)
		}},
		{"watch/negative-chosen-id", func(s *Script) {
			w := s.Watch()
			w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), WatchId: -5})
		}},
		{"watch/empty-range", func(s *Script) {
			w := s.Watch()
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b"), RangeEnd: s.Key("a")})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b"), RangeEnd: s.Key("b")})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b"), RangeEnd: s.Key("c")})
		}},
		{"watch/cancel", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			s.Put("a", "1")
			w.Events(id, 1)
			w.Cancel(id)
			s.Put("a", "2")
			w.Nothing()
		}},
		{"watch/cancel-unknown", func(s *Script) {
			w := s.Watch()
			w.CancelSilently(42)
			w.Nothing()
			id := w.Prefix("")
			w.Cancel(id)
			w.CancelSilently(id)
			w.Nothing()
		}},
		{"watch/cancel-one-of-two", func(s *Script) {
			w := s.Watch()
			one, two := w.Prefix(""), w.Prefix("")
			w.Cancel(one)
			s.Put("a", "1")
			w.Events(two, 1)
			w.Nothing()
		}},
		{"watch/progress-of-the-stream", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			s.Put("elsewhere-is-also-here", "1")
			w.Events(id, 1)
			w.Progress(s.Rev(1))
			s.Put("a", "2")
			w.Events(id, 1)
			w.Progress(s.Rev(2))
			w.Nothing()
		}},
		{"watch/progress-counts-writes-elsewhere", func(s *Script) {
			w := s.Watch()
			w.Create(&pb.WatchCreateRequest{Key: s.Key("watched")})
			s.Put("other", "1")
			s.Put("other", "2")
			w.Progress(s.Rev(2))
			w.Nothing()
		}},
		{"watch/progress-without-watchers", func(s *Script) {
			w := s.Watch()
			w.RequestProgress()
			w.Nothing()
		}},
		{"watch/progress-with-two-watchers", func(s *Script) {
			w := s.Watch()
			w.Create(&pb.WatchCreateRequest{Key: s.Key("a")})
			w.Create(&pb.WatchCreateRequest{Key: s.Key("b")})
			s.Put("c", "1")
			w.Progress(s.Rev(1))
		}},
		{"watch/progress-comes-after-events", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			for i := range 20 {
				s.Quietly(func() { s.Put("a", fmt.Sprint(i)) })
			}
			w.RequestProgress()
			w.orderedBefore(id, 20)
		}},
		{"watch/progress-notify-flag", func(s *Script) {
			w := s.Watch()
			id := w.Create(&pb.WatchCreateRequest{Key: s.Key("a"), ProgressNotify: true})
			s.Put("a", "1")
			w.Events(id, 1)
			w.Nothing()
		}},
		{"watch/empty-request-is-ignored", func(s *Script) {
			w := s.Watch()
			w.send(&pb.WatchRequest{})
			w.Prefix("")
			w.Nothing()
		}},
		{"watch/many-watchers", func(s *Script) {
			w := s.Watch()
			ids := make([]int64, 100)
			s.Quietly(func() {
				for i := range ids {
					ids[i] = w.Create(&pb.WatchCreateRequest{Key: s.Key(fmt.Sprint(i))})
				}
			})
			for i := range ids {
				s.Put(fmt.Sprint(i), "1")
			}
			for _, id := range ids {
				w.Events(id, 1)
			}
			w.Nothing()
		}},
		{"watch/stays-when-it-is-quiet", func(s *Script) {
			w := s.Watch()
			id := w.Prefix("")
			time.Sleep(1500 * time.Millisecond)
			s.Put("a", "1")
			w.Events(id, 1)
		}},
	}
}

// orderedBefore records whether every event came before a progress answer that covers it.
func (w *WatchStream) orderedBefore(id int64, events int) {
	var progress int64
	early := 0
	for seen := 0; seen < events; {
		response := w.within(watchWait, func(*pb.WatchResponse) bool { return true })
		if response == nil {
			w.script.Note("Watch order", "%d of %d events came", seen, events)
			return
		}
		if isProgress(response) {
			progress = max(progress, response.Header.Revision)
			continue
		}
		for _, event := range response.Events {
			seen++
			if event.Kv.ModRevision <= progress {
				early++
			}
		}
	}
	w.script.Note("Watch order", "%d events after a progress that covers them", early)
}
