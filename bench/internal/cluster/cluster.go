// Package cluster starts real clusters of etcd or Holdfast as child processes on
// loopback, so that one program can put the same questions or the same load to both.
//
// Invariants: every process that is started here is a child of this program and dies
// with it; every port is on 127.0.0.1; every file is under the folder the caller gave.
package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Cluster is a running cluster. Nodes are counted from 0.
type Cluster interface {
	// Name says what runs, with its version, for people: "etcd 3.7.3".
	Name() string
	// Nodes is the number of nodes the cluster was started with.
	Nodes() int
	// Endpoint is the host:port on which a node serves clients.
	Endpoint(node int) string
	// Pid is the process id of a node that runs or is paused.
	Pid(node int) (int, error)
	// LeaderOf finds the node that leads the range that holds key, as the node `via` sees it.
	LeaderOf(ctx context.Context, via int, key string) (int, error)
	// Restart starts a node again, on its own data, after it was killed or has ended.
	Restart(node int) error
	// LogTail returns the last lines a node (or the cluster's own process) wrote.
	LogTail() string
	// Stop ends every process of the cluster and waits for it.
	Stop()
}

// Options are what the two kinds of cluster have in common.
type Options struct {
	// Nodes to start, at least 1.
	Nodes int
	// Dir is the folder for data and logs; it must exist.
	Dir string
	// SplitKeys cut the first ranges of a Holdfast cluster there; etcd ignores them.
	SplitKeys []string
	// Replicas of each range of a Holdfast cluster; 0 is three, or as many as there are nodes.
	Replicas int
	// Arguments are more of them for `holdfast-node dev`; etcd ignores them.
	Arguments []string
}

// startTimeout bounds how long a cluster or a node may take until it serves. A
// machine shared with builds needs far longer than the second or two of an idle one.
const startTimeout = 90 * time.Second

// Endpoints lists the client endpoints of all nodes.
func Endpoints(c Cluster) []string {
	endpoints := make([]string, c.Nodes())
	for node := range endpoints {
		endpoints[node] = c.Endpoint(node)
	}
	return endpoints
}

// Dial opens one connection of its own to one endpoint, with no retry and no wait:
// what the node answers is what the caller sees.
func Dial(endpoint string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(1<<30),
			grpc.MaxCallSendMsgSize(1<<30),
		),
	}, options...)
	return grpc.NewClient("passthrough:///"+endpoint, options...)
}

// WaitServing returns once the node answers a linearizable read, or with the last error.
func WaitServing(endpoint string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		err := readOnce(endpoint)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve after %v: %w", endpoint, timeout, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func readOnce(endpoint string) error {
	conn, err := Dial(endpoint)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("\x00"), Limit: 1, KeysOnly: true, RangeEnd: []byte("\x00")})
	return err
}

// Signal sends a signal to a node's process.
func Signal(c Cluster, node int, signal syscall.Signal) error {
	pid, err := c.Pid(node)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, signal)
}

// WaitGone returns once the process has ended (a zombie counts as ended).
func WaitGone(pid int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil
		}
		if _, after, found := strings.Cut(string(stat), ") "); found && strings.HasPrefix(after, "Z") {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d is still there after %v", pid, timeout)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
