package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

type clientBody func(ctx context.Context, s *Script, client *clientv3.Client)

// withClient runs the body with etcd's Go client, connected to every node of the side.
func withClient(body clientBody) func(s *Script) {
	return withEndpoints(func(s *Side) []string { return s.All }, body)
}

// withOneNode runs it connected to one node: a serializable read at a revision that
// another node answered with fails on a node that lags.
func withOneNode(body clientBody) func(s *Script) {
	return withEndpoints(func(s *Side) []string { return []string{s.Endpoint} }, body)
}

func withEndpoints(endpoints func(s *Side) []string, body clientBody) func(s *Script) {
	return func(s *Script) {
		client, err := clientv3.New(clientv3.Config{Endpoints: endpoints(s.side), Logger: zap.NewNop()})
		if err != nil {
			s.Note("connect", "%v", err)
			return
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		body(ctx, s, client)
	}
}

func (s *Script) key(name string) string { return string(s.Key(name)) }

// clientCases show that what etcd's Go client builds on the API works: its errors, its
// watches that resume, its keep-alive loop, its locks, elections and transactions in memory.
func clientCases() []Case {
	return append(clientCallCases(), concurrencyCases()...)
}

func clientCallCases() []Case {
	return []Case{
		{"client/put-get-delete", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			put, err := client.Put(ctx, s.key("a"), "1")
			s.Note("put", "%s %v", s.render.revision(put.OpResponse().Put().Header.Revision), err)
			got, err := client.Get(ctx, s.key(""), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))
			s.Note("get", "%d %v", len(got.Kvs), err)
			deleted, err := client.Delete(ctx, s.key(""), clientv3.WithPrefix(), clientv3.WithPrevKV())
			s.Note("delete", "%d %q %v", deleted.Deleted, deleted.PrevKvs[0].Value, err)
		})},
		{"client/errors-are-known", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			_, err := client.Put(ctx, s.key("a"), "1", clientv3.WithLease(clientv3.LeaseID(s.LeaseID(1))))
			s.Note("lease", "%v", errors.Is(err, rpctypes.ErrLeaseNotFound))
			_, err = client.Get(ctx, "")
			s.Note("empty key", "%v", errors.Is(err, rpctypes.ErrEmptyKey))
			_, err = client.Get(ctx, s.key("a"), clientv3.WithRev(s.Rev(1000)))
			s.Note("future", "%v", errors.Is(err, rpctypes.ErrFutureRev))
			_, err = client.Compact(ctx, s.Rev(1000))
			s.Note("compact", "%v", errors.Is(err, rpctypes.ErrFutureRev))
			_, err = client.Txn(ctx).Then(clientv3.OpPut(s.key("a"), "1"), clientv3.OpPut(s.key("a"), "2")).Commit()
			s.Note("duplicate", "%v", errors.Is(err, rpctypes.ErrDuplicateKey))
			_, err = client.Revoke(ctx, clientv3.LeaseID(s.LeaseID(1)))
			s.Note("revoke", "%v", errors.Is(err, rpctypes.ErrLeaseNotFound))
		})},
		{"client/txn", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			for range 2 {
				answer, err := client.Txn(ctx).
					If(clientv3.Compare(clientv3.CreateRevision(s.key("a")), "=", 0)).
					Then(clientv3.OpPut(s.key("a"), "1"), clientv3.OpGet(s.key("a"))).
					Else(clientv3.OpGet(s.key("a"))).
					Commit()
				if err != nil {
					s.Note("txn", "%v", err)
					continue
				}
				s.Note("txn", "%v with %d answers at %s", answer.Succeeded, len(answer.Responses), s.render.revision(answer.Header.Revision))
			}
		})},
		{"client/watch", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			watching, stop := context.WithCancel(ctx)
			defer stop()
			responses := client.Watch(watching, s.key(""), clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
			created := <-responses
			s.Note("created", "%v", created.Created)
			s.Puts("a", "b", "a")
			s.Delete("a")
			for events := 0; events < 4; {
				response, open := <-responses
				if !open {
					s.Note("watch", "closed after %d events: %v", events, response.Err())
					return
				}
				for _, event := range response.Events {
					s.Note("event", "%v %s %q before %q at %s", event.Type, event.Kv.Key, event.Kv.Value,
						event.PrevKv.GetValue(), s.render.revision(event.Kv.ModRevision))
					events++
				}
			}
		})},
		{"client/watch-requires-leader", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			watching, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
			defer stop()
			responses := client.Watch(watching, s.key("a"))
			s.Put("a", "1")
			// The watch may begin after the put: only an event of the second one is sure.
			time.Sleep(quietTime)
			s.Put("a", "2")
			for response := range responses {
				for _, event := range response.Events {
					if string(event.Kv.Value) == "2" {
						s.Note("event", "came")
						return
					}
				}
			}
			s.Note("event", "did not come")
		})},
		{"client/watch-compacted", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Compact(s.Rev(2))
			response := <-client.Watch(ctx, s.key("a"), clientv3.WithRev(s.Rev(1)))
			s.Note("watch", "canceled %v, compacted at %s, %v", response.Canceled, s.render.revision(response.CompactRevision), response.Err())
		})},
		{"client/watch-progress", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			watching, stop := context.WithCancel(ctx)
			defer stop()
			responses := client.Watch(watching, s.key("a"), clientv3.WithCreatedNotify())
			<-responses
			s.Put("b", "1")
			for range 50 {
				if err := client.RequestProgress(watching); err != nil {
					s.Note("progress", "%v", err)
					return
				}
				select {
				case response := <-responses:
					if response.Header.Revision >= s.Rev(1) {
						s.Note("progress", "%v at %s", response.IsProgressNotify(), s.render.revision(response.Header.Revision))
						return
					}
					// Progress may be told of before the watch has come that far.
					time.Sleep(20 * time.Millisecond)
				case <-time.After(100 * time.Millisecond):
				}
			}
			s.Note("progress", "none")
		})},
		{"client/keep-alive", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			lease, err := client.Grant(ctx, 2)
			if err != nil {
				s.Note("grant", "%v", err)
				return
			}
			alive, err := client.KeepAlive(ctx, lease.ID)
			s.Note("keep alive", "%v", err)
			_, err = client.Put(ctx, s.key("a"), "1", clientv3.WithLease(lease.ID))
			s.Note("put", "%v", err)
			deadline := time.After(4 * time.Second)
			for waiting := true; waiting; {
				select {
				case _, open := <-alive:
					if !open {
						s.Note("keep alive", "ended")
						waiting = false
					}
				case <-deadline:
					waiting = false
				}
			}
			got, err := client.Get(ctx, s.key("a"), clientv3.WithCountOnly())
			s.Note("after twice its time", "%d %v", got.Count, err)
			_, err = client.Revoke(ctx, lease.ID)
			s.Note("revoke", "%v", err)
		})},
		{"client/sync-endpoints", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			s.Note("sync", "%v", client.Sync(ctx))
			s.Note("endpoints", "%d", len(client.Endpoints()))
			_, err := client.Put(ctx, s.key("a"), "1")
			s.Note("put", "%v", err)
		})},
	}
}

func concurrencyCases() []Case {
	return []Case{
		{"concurrency/mutex", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			const contenders, rounds = 4, 5
			var inside, most, entered int
			var guard sync.Mutex
			var contending sync.WaitGroup
			for range contenders {
				contending.Go(func() {
					session, err := concurrency.NewSession(client, concurrency.WithTTL(30), concurrency.WithContext(ctx))
					if err != nil {
						return
					}
					defer session.Close()
					mutex := concurrency.NewMutex(session, s.key("mutex/"))
					for range rounds {
						if mutex.Lock(ctx) != nil {
							return
						}
						guard.Lock()
						inside, entered = inside+1, entered+1
						most = max(most, inside)
						guard.Unlock()
						guard.Lock()
						inside--
						guard.Unlock()
						if mutex.Unlock(ctx) != nil {
							return
						}
					}
				})
			}
			contending.Wait()
			s.Note("mutex", "entered %d times, at most %d at once", entered, most)
		})},
		{"concurrency/election", withClient(func(ctx context.Context, s *Script, client *clientv3.Client) {
			first, err := concurrency.NewSession(client, concurrency.WithTTL(30), concurrency.WithContext(ctx))
			if err != nil {
				s.Note("session", "%v", err)
				return
			}
			second, err := concurrency.NewSession(client, concurrency.WithTTL(30), concurrency.WithContext(ctx))
			if err != nil {
				s.Note("session", "%v", err)
				return
			}
			defer second.Close()
			one, two := concurrency.NewElection(first, s.key("election/")), concurrency.NewElection(second, s.key("election/"))
			s.Note("first", "%v", one.Campaign(ctx, "first"))
			won := make(chan error, 1)
			go func() { won <- two.Campaign(ctx, "second") }()
			time.Sleep(quietTime)
			leader, err := two.Leader(ctx)
			if err == nil {
				s.Note("leader", "%s", leader.Kvs[0].Value)
			}
			s.Note("proclaim", "%v", one.Proclaim(ctx, "still first"))
			s.Note("session ends", "%v", first.Close()) // revokes its lease, so the second wins
			s.Note("second", "%v", <-won)
			leader, err = two.Leader(ctx)
			if err == nil {
				s.Note("leader", "%s", leader.Kvs[0].Value)
			}
			s.Note("resign", "%v", two.Resign(ctx))
		})},
		{"concurrency/stm-moves-money", withOneNode(func(ctx context.Context, s *Script, client *clientv3.Client) {
			const accounts, movers, moves = 5, 4, 10
			account := func(i int) string { return s.key(fmt.Sprintf("account/%d", i%accounts)) }
			for i := range accounts {
				s.Put(fmt.Sprintf("account/%d", i), "100")
			}
			var moving sync.WaitGroup
			failures := make(chan error, movers*moves)
			for mover := range movers {
				moving.Go(func() {
					for move := range moves {
						_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
							var from, to int
							fmt.Sscan(stm.Get(account(mover+move)), &from)
							fmt.Sscan(stm.Get(account(mover+move+1)), &to)
							stm.Put(account(mover+move), fmt.Sprint(from-3))
							stm.Put(account(mover+move+1), fmt.Sprint(to+3))
							return nil
						}, concurrency.WithIsolation(concurrency.SerializableSnapshot))
						if err != nil {
							failures <- err
						}
					}
				})
			}
			moving.Wait()
			sum := 0
			answer, err := client.Get(ctx, s.key("account/"), clientv3.WithPrefix())
			if err != nil {
				s.Note("get", "%v", err)
				return
			}
			for _, kv := range answer.Kvs {
				var amount int
				fmt.Sscan(string(kv.Value), &amount)
				sum += amount
			}
			s.Note("money", "%d, %d failures", sum, len(failures))
			if len(failures) > 0 {
				s.Note("first failure", "%v", <-failures)
			}
		})},
	}
}
