package conformance

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/bench/internal/cluster"
)

// A comparison that cannot fail is worth nothing. Each of these spoils one thing in the
// target's answers, on the way to the script, and the comparison must tell.
func TestEverySpoiltAnswerIsFound(t *testing.T) {
	clusters := pairOfClusters{reference: startOneEtcd(t), target: startOneEtcd(t)}
	for run, spoil := range []struct {
		name, inCase string
		option       grpc.DialOption
	}{
		{"nothing at all", "", nil},
		{"a version", "range/one-key", onAnswer(func(answer any, _ *error) {
			if r, is := answer.(*pb.RangeResponse); is && len(r.Kvs) > 0 {
				r.Kvs[0].Version++
			}
		})},
		{"a revision in a header", "put/new-and-again", onAnswer(func(answer any, _ *error) {
			if r, is := answer.(*pb.PutResponse); is && r.Header != nil {
				r.Header.Revision++
			}
		})},
		{"a missing cluster id", "put/new-and-again", onAnswer(func(answer any, _ *error) {
			if r, is := answer.(*pb.PutResponse); is && r.Header != nil {
				r.Header.ClusterId = 0
			}
		})},
		{"more", "range/limit", onAnswer(func(answer any, _ *error) {
			if r, is := answer.(*pb.RangeResponse); is {
				r.More = false
			}
		})},
		{"the order of two keys", "range/prefix", onAnswer(func(answer any, _ *error) {
			if r, is := answer.(*pb.RangeResponse); is && len(r.Kvs) > 1 {
				r.Kvs[0], r.Kvs[1] = r.Kvs[1], r.Kvs[0]
			}
		})},
		{"an error's code", "range/future-revision", onAnswer(func(_ any, err *error) {
			if *err != nil {
				*err = status.Error(codes.Unknown, status.Convert(*err).Message())
			}
		})},
		{"one letter of an error", "range/empty-key", onAnswer(func(_ any, err *error) {
			if *err != nil {
				*err = status.Error(status.Code(*err), status.Convert(*err).Message()+".")
			}
		})},
		{"an error instead of an answer", "txn/read-only", onAnswer(func(_ any, err *error) {
			*err = status.Error(codes.Unavailable, "etcdserver: no leader")
		})},
		{"whether a txn succeeded", "txn/compare-version", onAnswer(func(answer any, _ *error) {
			if r, is := answer.(*pb.TxnResponse); is {
				r.Succeeded = !r.Succeeded
			}
		})},
		{"a granted time to live", "lease/grant-with-id", onAnswer(func(answer any, _ *error) {
			if r, is := answer.(*pb.LeaseGrantResponse); is {
				r.TTL++
			}
		})},
		{"an event", "watch/one-key", onEvent(func(r *pb.WatchResponse) {
			if len(r.Events) > 0 {
				r.Events = r.Events[1:]
			}
		})},
		{"a previous value", "watch/prev-kv", onEvent(func(r *pb.WatchResponse) {
			for _, event := range r.Events {
				event.PrevKv = nil
			}
		})},
		{"the revision of a progress answer", "watch/progress-of-the-stream", onEvent(func(r *pb.WatchResponse) {
			if isProgress(r) {
				r.Header.Revision++
			}
		})},
		{"why a watch was canceled", "watch/empty-range", onEvent(func(r *pb.WatchResponse) { r.CancelReason = "" })},
	} {
		t.Run(spoil.name, func(t *testing.T) {
			for number, c := range allCases() {
				if c.Name != spoil.inCase && (spoil.inCase != "" || c.Name != "range/one-key") {
					continue
				}
				var options []grpc.DialOption
				if spoil.option != nil {
					options = append(options, spoil.option)
				}
				want, got, _, err := runOnBoth(clusters, c, number, 0, run, options...)
				if err != nil {
					t.Fatal(err)
				}
				differences := compare(want, got)
				if found := len(differences) > 0; found != (spoil.option != nil) {
					t.Errorf("in %s: found %d differences: %v", c.Name, len(differences), differences)
				}
				return
			}
			t.Fatalf("no case %q", spoil.inCase)
		})
	}
}

func startOneEtcd(t *testing.T) cluster.Cluster {
	t.Helper()
	started, err := cluster.StartEtcd(cluster.Options{Nodes: 1, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(started.Stop)
	return started
}

// onAnswer changes the answers of unary calls, but not those the harness itself asks for.
func onAnswer(change func(answer any, err *error)) grpc.DialOption {
	return grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, answer any,
		conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		err := invoke(ctx, method, request, answer, conn, options...)
		if !isHarness(request) {
			change(answer, &err)
		}
		return err
	})
}

// isHarness knows the reads by which the harness learns the term and the first revision.
func isHarness(request any) bool {
	read, is := request.(*pb.RangeRequest)
	return is && (string(read.Key) == "term" || (len(read.Key) > 0 && read.Key[len(read.Key)-1] == '/' && len(read.RangeEnd) == 0))
}

// onEvent changes what comes on watch streams.
func onEvent(change func(*pb.WatchResponse)) grpc.DialOption {
	return grpc.WithStreamInterceptor(func(ctx context.Context, description *grpc.StreamDesc, conn *grpc.ClientConn,
		method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := open(ctx, description, conn, method, options...)
		return spoiltStream{stream, change}, err
	})
}

type spoiltStream struct {
	grpc.ClientStream
	change func(*pb.WatchResponse)
}

func (s spoiltStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if response, is := message.(*pb.WatchResponse); is && err == nil {
		s.change(response)
	}
	return err
}
