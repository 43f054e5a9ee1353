// Package conformance asks a real etcd and a target the same questions and compares
// the answers field by field, and errors byte for byte.
//
// Invariants: a case is a script that knows nothing of the side it runs on; it runs on
// both sides with the same keys, so that both stores go through the same history; every
// answer is recorded, and what may differ by nature is replaced in one place (render.go);
// a known and wanted difference stands in one list with its reason (allow.go).
package conformance

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"holdfast.dev/bench/internal/cluster"
)

// Side is one node of one cluster, with a connection of its own for each service.
type Side struct {
	// Endpoint is the node's host:port; All are those of the whole cluster.
	Endpoint string
	All      []string

	conn        *grpc.ClientConn
	kv          pb.KVClient
	watch       pb.WatchClient
	lease       pb.LeaseClient
	maintenance pb.MaintenanceClient
	cluster     pb.ClusterClient
	auth        pb.AuthClient
	health      grpc_health_v1.HealthClient
}

// Connect opens the connection to one node. Nothing is retried.
func Connect(c cluster.Cluster, node int, options ...grpc.DialOption) (*Side, error) {
	return connectTo(c.Endpoint(node), cluster.Endpoints(c), options...)
}

func connectTo(endpoint string, all []string, options ...grpc.DialOption) (*Side, error) {
	conn, err := cluster.Dial(endpoint, options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", endpoint, err)
	}
	return &Side{
		Endpoint:    endpoint,
		All:         all,
		conn:        conn,
		kv:          pb.NewKVClient(conn),
		watch:       pb.NewWatchClient(conn),
		lease:       pb.NewLeaseClient(conn),
		maintenance: pb.NewMaintenanceClient(conn),
		cluster:     pb.NewClusterClient(conn),
		auth:        pb.NewAuthClient(conn),
		health:      grpc_health_v1.NewHealthClient(conn),
	}, nil
}

// Close ends the connection.
func (s *Side) Close() { s.conn.Close() }
