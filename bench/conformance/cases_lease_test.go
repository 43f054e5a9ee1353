package conformance

import (
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// leaseCases show section Lease.
func leaseCases() []Case {
	return []Case{
		{"lease/grant", func(s *Script) { s.Put("a", "1"); s.Grant(&pb.LeaseGrantRequest{TTL: 600}); s.Put("a", "2") }},
		{"lease/grant-with-id", func(s *Script) { s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600}) }},
		{"lease/grant-id-taken", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 300})
			s.TimeToLive(s.LeaseID(1), false)
		}},
		{"lease/grant-again-after-revoke", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Revoke(s.LeaseID(1))
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 300})
		}},
		{"lease/grant-too-large-ttl", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 9_000_000_001})
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: math.MaxInt64})
		}},
		{"lease/grant-largest-ttl", func(s *Script) { s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 9_000_000_000}) }},
		{"lease/grant-too-large-ttl-of-taken-id", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: math.MaxInt64})
		}},
		{"lease/grant-smallest-ttl", func(s *Script) {
			for i, ttl := range []int64{1, 0, -1, 2, 3} {
				s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(int64(i) + 1), TTL: ttl})
			}
		}},
		{"lease/grant-negative-id", func(s *Script) {
			s.render.leases[-s.leaseBase] = "negative"
			s.Grant(&pb.LeaseGrantRequest{ID: -s.leaseBase, TTL: 600})
			s.TimeToLive(-s.leaseBase, false)
		}},
		{"lease/revoke", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Revoke(s.LeaseID(1))
			s.TimeToLive(s.LeaseID(1), true)
			s.Put("a", "1")
		}},
		{"lease/revoke-unknown", func(s *Script) { s.Revoke(s.LeaseID(1)); s.Revoke(0) }},
		{"lease/revoke-twice", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Revoke(s.LeaseID(1))
			s.Revoke(s.LeaseID(1))
		}},
		{"lease/revoke-deletes-in-one-revision", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			for _, name := range []string{"c", "a", "b"} {
				s.PutRequest(&pb.PutRequest{Key: s.Key(name), Lease: s.LeaseID(1)})
			}
			s.Put("other", "1")
			w := s.Watch()
			id := w.Prefix("")
			s.Revoke(s.LeaseID(1))
			w.Events(id, 3)
			s.All("")
			s.Put("other", "2")
		}},
		{"lease/time-to-live", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.TimeToLive(s.LeaseID(1), false)
			s.TimeToLive(s.LeaseID(1), true)
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(1)})
			s.TimeToLive(s.LeaseID(1), false)
			s.TimeToLive(s.LeaseID(1), true)
		}},
		{"lease/time-to-live-of-unknown", func(s *Script) {
			s.TimeToLive(s.LeaseID(1), false)
			s.TimeToLive(s.LeaseID(1), true)
			s.TimeToLive(0, false)
		}},
		{"lease/time-left-is-within-what-was-granted", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			var left *pb.LeaseTimeToLiveResponse
			s.Quietly(func() { left = s.TimeToLive(s.LeaseID(1), false) })
			s.Note("time left", "more than 590 s: %v, at most 600 s: %v", left.TTL > 590, left.TTL <= 600)
		}},
		{"lease/keys-in-any-number", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			operations := make([]*pb.RequestOp, 50)
			for i := range operations {
				operations[i] = putOp(&pb.PutRequest{Key: s.Key(fmt.Sprintf("%02d", i)), Lease: s.LeaseID(1)})
			}
			s.Txn(&pb.TxnRequest{Success: operations})
			var keys [][]byte
			s.Quietly(func() { keys = s.TimeToLive(s.LeaseID(1), true).Keys })
			s.Note("keys", "%d", len(keys))
			s.Revoke(s.LeaseID(1))
			s.All("")
		}},
		{"lease/move-to-another-lease", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(2), TTL: 600})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(1)})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(2)})
			s.TimeToLive(s.LeaseID(1), true)
			s.TimeToLive(s.LeaseID(2), true)
			s.Revoke(s.LeaseID(1))
			s.Get("a")
			s.Revoke(s.LeaseID(2))
			s.Get("a")
		}},
		{"lease/keep-alive", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(2), TTL: 300})
			s.KeepAlive(s.LeaseID(1), s.LeaseID(2), s.LeaseID(1))
		}},
		{"lease/keep-alive-unknown", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.KeepAlive(s.LeaseID(7), s.LeaseID(1), 0)
		}},
		{"lease/keep-alive-of-revoked", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Revoke(s.LeaseID(1))
			s.KeepAlive(s.LeaseID(1))
		}},
		{"lease/keep-alive-through-every-node", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.everywhereCaughtUp(func() { s.KeepAlive(s.LeaseID(1)) })
		}},
		{"lease/time-to-live-through-every-node", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(1)})
			s.everywhere(func() {
				// A follower of etcd answers from the leader, but with the revision it has itself.
				var answer *pb.LeaseTimeToLiveResponse
				s.Quietly(func() { answer = s.TimeToLive(s.LeaseID(1), true) })
				s.Note("time to live", "granted %d, keys %q", answer.GrantedTTL, answer.Keys)
			})
		}},
		{"lease/list", func(s *Script) {
			s.HeldLeases()
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(2), TTL: 6000})
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(3), TTL: 60})
			s.HeldLeases()
			s.Revoke(s.LeaseID(1))
			s.HeldLeases()
		}},
		{"lease/expiry", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 2})
			w := s.Watch()
			id := w.Prefix("")
			for _, name := range []string{"b", "a"} {
				s.PutRequest(&pb.PutRequest{Key: s.Key(name), Lease: s.LeaseID(1)})
			}
			s.Eventually("both keys go", 15*time.Second, func() bool { return s.All("").Count == 0 })
			w.Events(id, 4)
			s.TimeToLive(s.LeaseID(1), true)
			s.KeepAlive(s.LeaseID(1))
			s.Revoke(s.LeaseID(1))
			s.Put("a", "1")
		}},
		{"lease/expiry-without-keys-takes-no-revision", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 2})
			s.Eventually("the lease goes", 15*time.Second, func() bool { return s.TimeToLive(s.LeaseID(1), false).TTL == -1 })
			s.Put("a", "1")
		}},
		{"lease/kept-alive-past-its-ttl", func(s *Script) {
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 2})
			s.PutRequest(&pb.PutRequest{Key: s.Key("a"), Lease: s.LeaseID(1)})
			for range 7 {
				time.Sleep(500 * time.Millisecond)
				s.Quietly(func() { s.KeepAlive(s.LeaseID(1)) })
			}
			s.Get("a")
		}},
	}
}
