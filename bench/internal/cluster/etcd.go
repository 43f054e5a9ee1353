package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// etcd is a cluster of real etcd processes with etcd's own default settings, but for
// a quota that a benchmark does not fill.
type etcd struct {
	name      string
	options   Options
	binary    string
	base      int
	processes []*process
}

// StartEtcd starts a cluster of etcd and returns when every member serves.
func StartEtcd(options Options) (Cluster, error) {
	binaries, err := BuiltBinaries()
	if err != nil {
		return nil, err
	}
	base, err := freeBasePort(options.Nodes)
	if err != nil {
		return nil, err
	}
	c := &etcd{
		name:      "etcd " + binaries.EtcdVersion,
		options:   options,
		binary:    binaries.Etcd,
		base:      base,
		processes: make([]*process, options.Nodes),
	}
	for node := range options.Nodes {
		if err := c.start(node); err != nil {
			c.Stop()
			return nil, err
		}
	}
	for node := range options.Nodes {
		if err := WaitServing(c.Endpoint(node), startTimeout); err != nil {
			log := c.LogTail()
			c.Stop()
			return nil, fmt.Errorf("%s: %w\n%s", c.name, err, log)
		}
	}
	return c, nil
}

func (c *etcd) start(node int) error {
	client, peer := "http://"+c.Endpoint(node), "http://"+c.peer(node)
	members := make([]string, c.options.Nodes)
	for i := range members {
		members[i] = fmt.Sprintf("node-%d=http://%s", i+1, c.peer(i))
	}
	p, err := start(c.binary, []string{
		"--name", fmt.Sprintf("node-%d", node+1),
		"--data-dir", filepath.Join(c.options.Dir, fmt.Sprintf("node-%d", node+1)),
		"--listen-client-urls", client,
		"--advertise-client-urls", client,
		"--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer,
		"--initial-cluster", strings.Join(members, ","),
		"--initial-cluster-state", "new",
		"--initial-cluster-token", filepath.Base(c.options.Dir),
		"--quota-backend-bytes", "8589934592",
		"--log-level", "warn",
	}, c.logPath(node), nil, syscall.SIGKILL)
	c.processes[node] = p
	return err
}

func (c *etcd) peer(node int) string { return address(c.base + nodePortStride*node + 1) }

func (c *etcd) logPath(node int) string {
	return filepath.Join(c.options.Dir, fmt.Sprintf("node-%d.log", node+1))
}

func (c *etcd) Name() string             { return c.name }
func (c *etcd) Nodes() int               { return c.options.Nodes }
func (c *etcd) Endpoint(node int) string { return address(c.base + nodePortStride*node) }

func (c *etcd) Pid(node int) (int, error) {
	p := c.processes[node]
	if p == nil || !p.running() {
		return 0, fmt.Errorf("%s: node %d does not run", c.name, node+1)
	}
	return p.pid(), nil
}

// LeaderOf is the one leader; etcd has one range. Member ids are matched by asking each node.
func (c *etcd) LeaderOf(ctx context.Context, via int, _ string) (int, error) {
	seen, err := status(ctx, c.Endpoint(via))
	if err != nil {
		return 0, err
	}
	for node := range c.options.Nodes {
		if node == via && seen.Header.MemberId == seen.Leader {
			return node, nil
		}
		if own, err := status(ctx, c.Endpoint(node)); err == nil && own.Header.MemberId == seen.Leader {
			return node, nil
		}
	}
	return 0, fmt.Errorf("%s: node %d names leader %x, which no node is", c.name, via+1, seen.Leader)
}

func status(ctx context.Context, endpoint string) (*pb.StatusResponse, error) {
	conn, err := Dial(endpoint)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
}

func (c *etcd) Restart(node int) error {
	c.processes[node].stop(syscall.SIGKILL, time.Second)
	if err := c.start(node); err != nil {
		return err
	}
	return WaitServing(c.Endpoint(node), startTimeout)
}

func (c *etcd) LogTail() string {
	var logs strings.Builder
	for node := range c.options.Nodes {
		logs.WriteString(tail(c.logPath(node), 20))
	}
	return logs.String()
}

// Stop kills: the data of a benchmark or a test is thrown away.
func (c *etcd) Stop() {
	for _, p := range c.processes {
		p.stop(syscall.SIGKILL, time.Second)
	}
	for node := range c.options.Nodes {
		_ = os.RemoveAll(filepath.Join(c.options.Dir, fmt.Sprintf("node-%d", node+1)))
	}
}
