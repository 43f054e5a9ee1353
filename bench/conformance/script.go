package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// callTimeout is above the 7 s after which etcd itself answers that a request timed out.
	callTimeout = 15 * time.Second
	// quietTime is how long a script listens before it says that nothing came.
	quietTime = 150 * time.Millisecond
)

// Script runs one case on one side and records every answer.
type Script struct {
	side   *Side
	render *renderer
	// prefix begins every key of this run; it has the same length on every run.
	prefix string
	// leaseBase begins the ids of the leases of this run.
	leaseBase int64
	steps     []step
	cleanups  []func()
}

// newScript reads the revision from which this run counts.
func newScript(side *Side, prefix string, leaseBase int64) (*Script, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	response, err := side.kv.Range(ctx, &pb.RangeRequest{Key: []byte(prefix)})
	if err != nil {
		return nil, err
	}
	return &Script{
		side:      side,
		render:    &renderer{base: response.Header.Revision, leases: map[int64]string{}},
		prefix:    prefix,
		leaseBase: leaseBase,
	}, nil
}

func (s *Script) close() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}

// Key is a key of this run. Its own name must be unique within the case only.
func (s *Script) Key(name string) []byte { return []byte(s.prefix + name) }

// End is the range_end of all keys that begin as Key(name) does.
func (s *Script) End(name string) []byte { return prefixEnd(s.Key(name)) }

func prefixEnd(key []byte) []byte {
	end := append([]byte(nil), key...)
	end[len(end)-1]++
	return end
}

// Rev is the revision so many after the start of the script.
func (s *Script) Rev(after int64) int64 { return s.render.base + after }

// LeaseID is an id of the script's own choice, unique to this run.
func (s *Script) LeaseID(number int64) int64 {
	id := s.leaseBase + number
	s.render.leases[id] = fmt.Sprintf("lease-%d", number)
	return id
}

// named gives an id that the server chose a name; the id itself may differ.
func (s *Script) named(id int64, name string) int64 {
	if id > 0 {
		s.render.leases[id] = name
	}
	return id
}

// context bounds one call.
func (s *Script) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

// Note records something a case found out itself.
func (s *Script) Note(what, format string, values ...any) {
	recorded := step{asked: what}
	recorded.add("note", format, values...)
	s.steps = append(s.steps, recorded)
}

// record notes an answer, or the error that came instead.
func (s *Script) record(asked string, answer proto.Message, err error) {
	recorded := step{asked: asked}
	if err != nil {
		s.render.failure(&recorded, err)
	} else {
		s.render.message(&recorded, "", answer)
	}
	s.steps = append(s.steps, recorded)
}

// Quietly runs the body without recording: for what a case needs but does not examine.
func (s *Script) Quietly(body func()) {
	before := len(s.steps)
	body()
	s.steps = s.steps[:before]
}

// call sends one request and records its answer. A failed call returns an empty answer,
// so that a case can go on without asking.
func call[Q, A proto.Message](s *Script, name string, method func(context.Context, Q) (A, error), request Q, empty A) A {
	ctx, cancel := s.context()
	defer cancel()
	answer, err := method(ctx, request)
	s.record(fmt.Sprintf("%s %s", name, brief(request)), answer, err)
	if err != nil {
		return empty
	}
	return answer
}

// brief is the request on one line, cut to what fits there.
func brief(message proto.Message) string {
	text := fmt.Sprint(message)
	if len(text) > 160 {
		text = text[:160] + "…"
	}
	return "{" + text + "}"
}

// Range asks for keys.
func (s *Script) Range(request *pb.RangeRequest) *pb.RangeResponse {
	return call(s, "Range", func(ctx context.Context, q *pb.RangeRequest) (*pb.RangeResponse, error) {
		return s.side.kv.Range(ctx, q)
	}, request, &pb.RangeResponse{})
}

// Get asks for one key.
func (s *Script) Get(name string) *pb.RangeResponse {
	return s.Range(&pb.RangeRequest{Key: s.Key(name)})
}

// All asks for all keys that begin with the name; an empty name is all of this run.
func (s *Script) All(name string) *pb.RangeResponse {
	return s.Range(&pb.RangeRequest{Key: s.Key(name), RangeEnd: s.End(name)})
}

// PutRequest sends a put as it is.
func (s *Script) PutRequest(request *pb.PutRequest) *pb.PutResponse {
	return call(s, "Put", func(ctx context.Context, q *pb.PutRequest) (*pb.PutResponse, error) {
		return s.side.kv.Put(ctx, q)
	}, request, &pb.PutResponse{})
}

// Put writes one key.
func (s *Script) Put(name, value string) *pb.PutResponse {
	return s.PutRequest(&pb.PutRequest{Key: s.Key(name), Value: []byte(value)})
}

// writeUnrecorded writes one key without a record, so that many may run at once.
func (s *Script) writeUnrecorded(name, value string) {
	ctx, cancel := s.context()
	defer cancel()
	_, _ = s.side.kv.Put(ctx, &pb.PutRequest{Key: s.Key(name), Value: []byte(value)}) // what is missing shows in the events
}

// Puts writes keys one after the other, each with its own name as the value.
func (s *Script) Puts(names ...string) {
	for _, name := range names {
		s.Put(name, "value of "+name)
	}
}

// DeleteRange sends a delete as it is.
func (s *Script) DeleteRange(request *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	return call(s, "DeleteRange", func(ctx context.Context, q *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
		return s.side.kv.DeleteRange(ctx, q)
	}, request, &pb.DeleteRangeResponse{})
}

// Delete removes one key.
func (s *Script) Delete(name string) *pb.DeleteRangeResponse {
	return s.DeleteRange(&pb.DeleteRangeRequest{Key: s.Key(name)})
}

// Txn sends a transaction.
func (s *Script) Txn(request *pb.TxnRequest) *pb.TxnResponse {
	return call(s, "Txn", func(ctx context.Context, q *pb.TxnRequest) (*pb.TxnResponse, error) {
		return s.side.kv.Txn(ctx, q)
	}, request, &pb.TxnResponse{})
}

// Compact forgets what is older than the revision. It always waits until that is done.
func (s *Script) Compact(revision int64) *pb.CompactionResponse {
	return call(s, "Compact", func(ctx context.Context, q *pb.CompactionRequest) (*pb.CompactionResponse, error) {
		return s.side.kv.Compact(ctx, q)
	}, &pb.CompactionRequest{Revision: revision, Physical: true}, &pb.CompactionResponse{})
}

// Grant makes a lease and gives it a name if the server chose its id.
func (s *Script) Grant(request *pb.LeaseGrantRequest) *pb.LeaseGrantResponse {
	ctx, cancel := s.context()
	defer cancel()
	answer, err := s.side.lease.LeaseGrant(ctx, request)
	if err == nil && s.render.leases[answer.ID] == "" {
		s.named(answer.ID, fmt.Sprintf("chosen-%d", len(s.render.leases)+1))
	}
	s.record("LeaseGrant "+brief(request), answer, err)
	if err != nil {
		return &pb.LeaseGrantResponse{}
	}
	s.cleanups = append(s.cleanups, func() { s.revokeQuietly(answer.ID) })
	return answer
}

// revokeQuietly clears up, so that no lease of one run expires in another.
func (s *Script) revokeQuietly(id int64) {
	ctx, cancel := s.context()
	defer cancel()
	_, _ = s.side.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id}) // it may have gone already
}

// Revoke ends a lease.
func (s *Script) Revoke(id int64) *pb.LeaseRevokeResponse {
	return call(s, "LeaseRevoke", func(ctx context.Context, q *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
		return s.side.lease.LeaseRevoke(ctx, q)
	}, &pb.LeaseRevokeRequest{ID: id}, &pb.LeaseRevokeResponse{})
}

// TimeToLive asks how long a lease has left. The keys come from a map of etcd's and are sorted here.
func (s *Script) TimeToLive(id int64, keys bool) *pb.LeaseTimeToLiveResponse {
	return call(s, "LeaseTimeToLive", func(ctx context.Context, q *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
		answer, err := s.side.lease.LeaseTimeToLive(ctx, q)
		slices.SortFunc(answer.GetKeys(), bytes.Compare)
		return answer, err
	}, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys}, &pb.LeaseTimeToLiveResponse{})
}

// KeepAlive renews leases one after the other on one stream.
func (s *Script) KeepAlive(ids ...int64) {
	ctx, cancel := s.context()
	defer cancel()
	stream, err := s.side.lease.LeaseKeepAlive(ctx)
	if err != nil {
		s.record("LeaseKeepAlive", nil, err)
		return
	}
	for _, id := range ids {
		if err = stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err == nil {
			var answer *pb.LeaseKeepAliveResponse
			answer, err = stream.Recv()
			s.record("LeaseKeepAlive "+s.render.lease(id), answer, err)
		}
		if err != nil {
			return
		}
	}
}

// HeldLeases records which of the script's own leases the server lists. The order is that
// of expiry, which only etcd's leader knows, so it is not compared.
func (s *Script) HeldLeases() {
	ctx, cancel := s.context()
	defer cancel()
	answer, err := s.side.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		s.record("LeaseLeases", nil, err)
		return
	}
	var own []string
	for _, lease := range answer.Leases {
		if name, known := s.render.leases[lease.ID]; known {
			own = append(own, name)
		}
	}
	slices.Sort(own)
	recorded := step{asked: "LeaseLeases"}
	s.render.message(&recorded, "header.", answer.Header)
	recorded.add("own leases", "%s", strings.Join(own, " "))
	s.steps = append(s.steps, recorded)
}

// Eventually asks until the answer is as wanted or the time is over; a case then records
// what it wants to compare. Only its outcome is recorded, so that how long it took does not matter.
func (s *Script) Eventually(what string, limit time.Duration, reached func() bool) {
	deadline := time.Now().Add(limit)
	for {
		var done bool
		s.Quietly(func() { done = reached() })
		if done {
			s.Note(what, "reached")
			return
		}
		if time.Now().After(deadline) {
			s.Note(what, "not reached in %v", limit)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// isDeadline says whether an error is the caller's own time limit.
func isDeadline(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}
