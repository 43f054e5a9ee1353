package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

func (s *Script) compact(ctx context.Context, q *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return s.side.kv.Compact(ctx, q)
}

// unary calls a method of any service and records its answer.
func unary[Q, A proto.Message](s *Script, name string, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, bool) {
	ctx, cancel := s.context()
	defer cancel()
	answer, err := method(ctx, request)
	s.record(name+" "+brief(request), answer, err)
	return answer, err == nil
}

// maintenanceCases show Maintenance, Cluster and health.
func maintenanceCases() []Case {
	return []Case{
		{"maintenance/status", func(s *Script) {
			s.Put("a", "1")
			unary(s, "Status", s.side.maintenance.Status, &pb.StatusRequest{})
		}},
		{"maintenance/status-version-can-be-read-by-clients", func(s *Script) {
			var status *pb.StatusResponse
			s.Quietly(func() { status, _ = unary(s, "Status", s.side.maintenance.Status, &pb.StatusRequest{}) })
			var major, minor, patch int
			_, err := fmt.Sscanf(status.GetVersion(), "%d.%d.%d", &major, &minor, &patch)
			// Kubernetes asks for progress on request only from 3.5.13 or 3.4.31 on.
			s.Note("version", "readable: %v, 3.5.13 or newer: %v", err == nil, major*10000+minor*100+patch >= 30513)
		}},
		{"maintenance/all-nodes-name-one-leader", func(s *Script) {
			leaders, members := map[uint64]bool{}, map[uint64]bool{}
			s.everywhere(func() {
				s.Quietly(func() {
					if status, answered := unary(s, "Status", s.side.maintenance.Status, &pb.StatusRequest{}); answered {
						leaders[status.Leader] = true
						members[status.Header.MemberId] = true
					}
				})
			})
			s.Note("leaders", "%d", len(leaders))
			s.Note("members", "%d", len(members))
		}},
		{"maintenance/alarms", func(s *Script) {
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType_NOSPACE})
		}},
		{"maintenance/disarm-nothing", func(s *Script) {
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE})
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE})
		}},
		{"maintenance/no-space-alarm", func(s *Script) {
			member := s.memberID()
			s.Put("a", "1")
			s.Put("b", "1")
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: member, Alarm: pb.AlarmType_NOSPACE})
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
			s.Put("a", "2")
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("a"), "2"))})
			s.Get("a")
			s.Delete("b")
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Compact(s.Rev(2))
			s.HTTP("GET", "/health")
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: member, Alarm: pb.AlarmType_NOSPACE})
			unary(s, "Alarm", s.side.maintenance.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
			s.Put("a", "3")
		}},
		{"maintenance/defragment", func(s *Script) {
			s.Put("a", "1")
			unary(s, "Defragment", s.side.maintenance.Defragment, &pb.DefragmentRequest{})
			s.Get("a")
		}},
		{"maintenance/hash", func(s *Script) {
			s.Put("a", "1")
			unary(s, "Hash", s.side.maintenance.Hash, &pb.HashRequest{})
		}},
		{"maintenance/hash-kv-is-the-same-everywhere", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Compact(s.Rev(1))
			hashes := map[uint32]bool{}
			s.everywhere(func() {
				s.Get("a") // brings the node up to this revision
				if answer, answered := unary(s, "HashKV", s.side.maintenance.HashKV, &pb.HashKVRequest{Revision: s.Rev(2)}); answered {
					hashes[answer.Hash] = true
				}
			})
			s.Note("different hashes", "%d", len(hashes))
		}},
		{"maintenance/hash-kv-tells-differences", func(s *Script) {
			hashes := map[uint32]bool{}
			for _, value := range []string{"1", "2", "2"} {
				s.Put("a", value)
				if answer, answered := unary(s, "HashKV", s.side.maintenance.HashKV, &pb.HashKVRequest{}); answered {
					hashes[answer.Hash] = true
				}
			}
			s.Note("different hashes", "%d", len(hashes))
		}},
		{"maintenance/hash-kv-bad-revisions", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Compact(s.Rev(2))
			unary(s, "HashKV", s.side.maintenance.HashKV, &pb.HashKVRequest{Revision: s.Rev(1)})
			unary(s, "HashKV", s.side.maintenance.HashKV, &pb.HashKVRequest{Revision: s.Rev(9)})
		}},
		{"maintenance/move-leader-on-a-follower", func(s *Script) {
			s.onLeader(false, func() {
				unary(s, "MoveLeader", s.side.maintenance.MoveLeader, &pb.MoveLeaderRequest{TargetID: 1})
			})
		}},
		{"maintenance/move-leader-to-nobody", func(s *Script) {
			// Holdfast numbers its nodes from 1.
			s.onLeader(true, func() {
				unary(s, "MoveLeader", s.side.maintenance.MoveLeader, &pb.MoveLeaderRequest{TargetID: 1 << 40})
			})
		}},
		{"maintenance/move-leader-to-itself", func(s *Script) {
			s.onLeader(true, func() {
				unary(s, "MoveLeader", s.side.maintenance.MoveLeader, &pb.MoveLeaderRequest{TargetID: s.memberID()})
			})
		}},
		{"cluster/member-list", func(s *Script) {
			answer, answered := unary(s, "MemberList", s.side.cluster.MemberList, &pb.MemberListRequest{})
			if !answered {
				return
			}
			var clients []string
			own := false
			for _, member := range answer.Members {
				own = own || member.ID == answer.Header.MemberId
				for _, url := range member.ClientURLs {
					clients = append(clients, strings.TrimPrefix(url, "http://"))
				}
			}
			slices.Sort(clients)
			all := slices.Sorted(slices.Values(s.side.All))
			s.Note("client urls are those that clients use", "%v", slices.Equal(clients, all))
			s.Note("the answering member is in the list", "%v", own)
		}},
		{"cluster/member-list-linearizable", func(s *Script) {
			unary(s, "MemberList", s.side.cluster.MemberList, &pb.MemberListRequest{Linearizable: true})
		}},
		{"cluster/member-list-is-the-same-everywhere", func(s *Script) {
			lists := map[string]bool{}
			s.everywhere(func() {
				s.Quietly(func() {
					answer, _ := unary(s, "MemberList", s.side.cluster.MemberList, &pb.MemberListRequest{})
					var ids []string
					for _, member := range answer.GetMembers() {
						ids = append(ids, fmt.Sprintf("%x %s %v", member.ID, member.Name, member.ClientURLs))
					}
					slices.Sort(ids)
					lists[strings.Join(ids, ",")] = true
				})
			})
			s.Note("different lists", "%d", len(lists))
		}},
		{"health/whole-server", func(s *Script) {
			unary(s, "Check", s.side.health.Check, &grpc_health_v1.HealthCheckRequest{})
		}},
		{"health/unknown-service", func(s *Script) {
			unary(s, "Check", s.side.health.Check, &grpc_health_v1.HealthCheckRequest{Service: "nobody"})
		}},
		{"health/watch", func(s *Script) {
			ctx, cancel := s.context()
			defer cancel()
			stream, err := s.side.health.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
			if err != nil {
				s.record("Watch", nil, err)
				return
			}
			answer, err := stream.Recv()
			s.record("Watch", answer, err)
		}},
		{"transport/require-leader", func(s *Script) {
			ctx, cancel := s.context()
			defer cancel()
			ctx = metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
			answer, err := s.side.kv.Range(ctx, &pb.RangeRequest{Key: s.Key("a")})
			s.record("Range with hasleader", answer, err)
		}},
		{"transport/client-api-version", func(s *Script) {
			ctx, cancel := s.context()
			defer cancel()
			ctx = metadata.AppendToOutgoingContext(ctx, "client-api-version", "3.7")
			answer, err := s.side.kv.Range(ctx, &pb.RangeRequest{Key: s.Key("a")})
			s.record("Range with client-api-version", answer, err)
		}},
		{"transport/unknown-method", func(s *Script) {
			ctx, cancel := s.context()
			defer cancel()
			var answer pb.RangeResponse
			err := s.side.conn.Invoke(ctx, "/etcdserverpb.KV/Nothing", &pb.RangeRequest{}, &answer)
			s.record("KV/Nothing", &answer, err)
			err = s.side.conn.Invoke(ctx, "/nobody.Nothing/Nothing", &pb.RangeRequest{}, &answer)
			s.record("nobody.Nothing/Nothing", &answer, err)
		}},
		{"transport/deadline", func(s *Script) {
			ctx, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
			defer cancel()
			_, err := s.side.kv.Range(ctx, &pb.RangeRequest{Key: s.Key("a")})
			s.Note("Range after its deadline", "%v", isDeadline(err))
		}},
		{"transport/headers", func(s *Script) {
			s.Put("a", "1")
			s.Delete("a")
			s.Txn(&pb.TxnRequest{Success: ops(put(s.Key("b"), "1"), get(s.Key("b")), del(s.Key("c"), nil), nested(&pb.TxnRequest{}))})
			var ids []uint64
			s.Quietly(func() {
				s.everywhere(func() {
					if header := s.Get("b").Header; header != nil {
						ids = append(ids, header.ClusterId)
					}
				})
			})
			s.Note("cluster ids", "%d answers, %d ids", len(ids), len(slices.Compact(ids)))
		}},
		{"transport/many-calls-at-once", func(s *Script) {
			failures := make(chan error, 500)
			for i := range cap(failures) {
				go func() {
					ctx, cancel := s.context()
					defer cancel()
					_, err := s.side.kv.Put(ctx, &pb.PutRequest{Key: s.Key(fmt.Sprint(i)), Value: []byte("v")})
					failures <- err
				}()
			}
			failed := 0
			for range cap(failures) {
				if <-failures != nil {
					failed++
				}
			}
			s.Note("failed", "%d", failed)
			s.Range(&pb.RangeRequest{Key: s.Key(""), RangeEnd: s.End(""), CountOnly: true})
			s.Put("after", "1")
		}},
	}
}

// memberID is the id of the node this script talks to.
func (s *Script) memberID() uint64 {
	var answer *pb.RangeResponse
	s.Quietly(func() { answer = s.Get("member") })
	return answer.GetHeader().GetMemberId()
}

// onLeader runs the body through the node that leads, or through one that does not.
func (s *Script) onLeader(leading bool, body func()) {
	done := false
	s.everywhere(func() {
		if done {
			return
		}
		var status *pb.StatusResponse
		s.Quietly(func() { status, _ = unary(s, "Status", s.side.maintenance.Status, &pb.StatusRequest{}) })
		if status != nil && (status.Leader == status.Header.GetMemberId()) == leading {
			done = true
			body()
		}
	})
	if !done {
		s.Note("leader", "no such node")
	}
}

// serviceCases show the services that come later: that they are there, or say that they are not.
func serviceCases() []Case {
	stream := func(request *pb.RangeRequest) func(s *Script) {
		return func(s *Script) {
			s.Puts("a", "b", "c")
			sent := proto.CloneOf(request)
			sent.Key, sent.RangeEnd = s.Key(""), s.End("")
			ctx, cancel := s.context()
			defer cancel()
			answers, err := s.side.kv.RangeStream(ctx, sent)
			if err != nil {
				s.record("RangeStream", nil, err)
				return
			}
			whole := &pb.RangeResponse{}
			for {
				part, err := answers.Recv()
				if err != nil {
					if err.Error() != "EOF" {
						s.record("RangeStream", nil, err)
						return
					}
					break
				}
				proto.Merge(whole, part.RangeResponse)
			}
			s.record("RangeStream", whole, nil)
		}
	}
	return []Case{
		{"service/range-stream-all", stream(&pb.RangeRequest{})},
		{"service/range-stream-limit", stream(&pb.RangeRequest{Limit: 2})},
		{"service/range-stream-sorted", stream(&pb.RangeRequest{SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_DESCEND})},
		{"service/auth-status", func(s *Script) { unary(s, "AuthStatus", s.side.auth.AuthStatus, &pb.AuthStatusRequest{}) }},
		{"service/auth-users", func(s *Script) { unary(s, "UserList", s.side.auth.UserList, &pb.AuthUserListRequest{}) }},
		{"service/auth-roles", func(s *Script) { unary(s, "RoleList", s.side.auth.RoleList, &pb.AuthRoleListRequest{}) }},
		{"service/auth-enable-without-root", func(s *Script) { unary(s, "AuthEnable", s.side.auth.AuthEnable, &pb.AuthEnableRequest{}) }},
		{"service/auth-authenticate", func(s *Script) {
			unary(s, "Authenticate", s.side.auth.Authenticate, &pb.AuthenticateRequest{Name: "a", Password: "b"})
		}},
		{"service/snapshot", func(s *Script) {
			ctx, cancel := s.context()
			defer cancel()
			blobs, err := s.side.maintenance.Snapshot(ctx, &pb.SnapshotRequest{})
			if err == nil {
				_, err = blobs.Recv()
			}
			s.record("Snapshot", &pb.SnapshotResponse{}, err)
		}},
		{"service/member-remove-unknown", func(s *Script) {
			unary(s, "MemberRemove", s.side.cluster.MemberRemove, &pb.MemberRemoveRequest{ID: 12345})
		}},
		{"service/member-update-unknown", func(s *Script) {
			unary(s, "MemberUpdate", s.side.cluster.MemberUpdate, &pb.MemberUpdateRequest{ID: 12345, PeerURLs: []string{"http://127.0.0.1:1"}})
		}},
		{"service/member-promote-unknown", func(s *Script) {
			unary(s, "MemberPromote", s.side.cluster.MemberPromote, &pb.MemberPromoteRequest{ID: 12345})
		}},
		{"service/member-add-bad-url", func(s *Script) {
			unary(s, "MemberAdd", s.side.cluster.MemberAdd, &pb.MemberAddRequest{PeerURLs: []string{"not a url"}})
		}},
		{"service/downgrade-cancel", func(s *Script) {
			unary(s, "Downgrade", s.side.maintenance.Downgrade, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})
		}},
		{"service/lock", withEmptyRequest("/v3lockpb.Lock/Unlock")},
		{"service/election", withEmptyRequest("/v3electionpb.Election/Leader")},
	}
}

// withEmptyRequest calls a method with an empty request: what matters is whether the service is there.
func withEmptyRequest(method string) func(s *Script) {
	return func(s *Script) {
		ctx, cancel := s.context()
		defer cancel()
		var answer emptypb.Empty
		err := s.side.conn.Invoke(ctx, method, &emptypb.Empty{}, &answer)
		s.record(method, &answer, err)
	}
}
