package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/load"
)

// scenario is one thing that is measured on both clusters.
type scenario struct {
	name, about string
	// long scenarios run only when they are named.
	long bool
	run  func(ctx context.Context, p *pair, s settings) ([]line, error)
}

const (
	// valueBytes of each put.
	valueBytes = 256
	// keySpace is how many keys random puts choose from.
	keySpace = 100_000
	// readKeys are written before the first read, so that each read finds a value.
	readKeys = 2_000
	// readShare of the requests of the mixed load are linearizable reads.
	readShare = 0.75
	// rangesOfIdle are the ranges of the idle cluster that has many; each node holds one copy of each.
	rangesOfIdle = 1000
	// calmTime lets each cluster finish what the load before left it to do.
	calmTime = 300 * time.Millisecond
)

var value = strings.Repeat("v", valueBytes)

func scenarios() []scenario {
	none := goal{}
	return []scenario{
		{name: "put1", about: "put of 256 bytes on random keys, 1 client",
			run: putLoad(1, keySpace, loadGoals{p50: goal{ratioAtMost, 1.2}})},
		{name: "put100", about: "the same, 100 clients",
			run: putLoad(100, keySpace, loadGoals{goal{ratioAtLeast, 1.5}, none, goal{ratioAtMost, 1}, goal{ratioAtMost, 0.5}})},
		{name: "put1000", about: "the same, 1000 clients",
			run: putLoad(1000, keySpace, loadGoals{goal{ratioAtLeast, 1.5}, none, goal{ratioAtMost, 1}, goal{ratioAtMost, 0.5}})},
		{name: "onekey100", about: "put on one single key, 100 clients",
			run: putLoad(100, 1, loadGoals{perSecond: goal{ratioAtLeast, 1}})},
		{name: "range1000", about: "linearizable range of one key, 1000 clients",
			run: rangeLoad(1000, false, loadGoals{perSecond: goal{ratioAtLeast, 1}})},
		{name: "srange1000", about: "serializable range of one key, 1000 clients",
			run: rangeLoad(1000, true, loadGoals{})},
		{name: "mixed100", about: "3 linearizable ranges to 1 put, 100 clients",
			run: mixedLoad(100)},
		{name: "watch", about: "from sending a put to its event, 100 watchers, 50 puts a second", run: watchLatency},
		{name: "memory", about: "resident memory of the node that has most, after the loads before", run: memory},
		{name: "idle", about: "processor time of the idle cluster over 10 s", run: idle},
		{name: "kill", about: "SIGKILL of the node that leads a key: longest time without a write", run: killLeader},
		{name: "term", about: "SIGTERM of the node that leads a key", run: terminateLeader},
		{name: "pause", about: "SIGSTOP of the node that leads a key for 3 s, then SIGCONT", run: pauseLeader},
		{name: "leases", about: "client leases kept alive while the leader is paused for longer than they last", run: pauseLeases},
		{name: "idle1000", about: "the same for a Holdfast of 1000 ranges beside a plain etcd", long: true, run: idleRanges},
		{name: "recover", about: "a node that holds 1 GB is killed: time from its start until it serves", long: true, run: recoverLarge},
		{name: "ranges10000", about: "10,000 ranges on each node of a Holdfast: idle, memory, restart", long: true, run: tenThousand},
		{name: "large", about: "-gigabytes of data in a Holdfast: rate, memory, disk, a node killed", long: true, run: large},
		{name: "reprotect", about: "a node that holds 1 GB is lost: time until all copies are there, with -survivors left", long: true, run: reprotect},
		{name: "prefixload", about: "-minutes of writes over one key prefix of a Holdfast: ranges, leaders", long: true, run: prefixLoad},
	}
}

// loadGoals are the goals of the four figures that can have one.
type loadGoals struct {
	perSecond, p50, p99, serverCPU goal
}

func putLoad(clients, keys int, goals loadGoals) func(context.Context, *pair, settings) ([]line, error) {
	return func(_ context.Context, p *pair, s settings) ([]line, error) {
		if s.tool == "etcd-benchmark" {
			return toolLoad(p, s, goals, "put", clients,
				"--val-size", fmt.Sprint(valueBytes), "--key-space-size", fmt.Sprint(keys))
		}
		return runLoad(p, s, goals, load.Spec{
			Clients: clients,
			Request: func(ctx context.Context, client load.Client, random *rand.Rand) error {
				return client.Put(ctx, fmt.Sprintf("put/%08x", random.IntN(keys)), value)
			},
		})
	}
}

func readKey(random *rand.Rand) string { return fmt.Sprintf("read/%08x", random.IntN(readKeys)) }

func rangeLoad(clients int, serializable bool, goals loadGoals) func(context.Context, *pair, settings) ([]line, error) {
	return func(_ context.Context, p *pair, s settings) ([]line, error) {
		if err := p.each(1, func(c cluster.Cluster, _ side) error { return fill(c) }); err != nil {
			return nil, err
		}
		if s.tool == "etcd-benchmark" {
			consistency := "l"
			if serializable {
				consistency = "s"
			}
			return toolLoad(p, s, goals, "range", clients, "read/00000000", "--consistency", consistency)
		}
		return runLoad(p, s, goals, load.Spec{
			Clients: clients,
			Request: func(ctx context.Context, client load.Client, random *rand.Rand) error {
				_, err := client.Get(ctx, readKey(random), serializable)
				return err
			},
		})
	}
}

func mixedLoad(clients int) func(context.Context, *pair, settings) ([]line, error) {
	return func(_ context.Context, p *pair, s settings) ([]line, error) {
		if err := p.each(1, func(c cluster.Cluster, _ side) error { return fill(c) }); err != nil {
			return nil, err
		}
		return runLoad(p, s, loadGoals{}, load.Spec{
			Clients: clients,
			Request: func(ctx context.Context, client load.Client, random *rand.Rand) error {
				if random.Float64() < readShare {
					_, err := client.Get(ctx, readKey(random), false)
					return err
				}
				return client.Put(ctx, fmt.Sprintf("put/%08x", random.IntN(keySpace)), value)
			},
		})
	}
}

// fill writes the keys that reads look for.
func fill(c cluster.Cluster) error {
	client, err := load.Connect(load.Raw, c.Endpoint(0))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const writers = 16
	failures := make(chan error, writers)
	for writer := range writers {
		go func() {
			var failure error
			for key := writer; key < readKeys && failure == nil; key += writers {
				failure = client.Put(ctx, fmt.Sprintf("read/%08x", key), value)
			}
			failures <- failure
		}()
	}
	for range writers {
		if failure := <-failures; failure != nil {
			err = failure
		}
	}
	return err
}

// runLoad puts the load on both clusters in turn and makes a line of each figure.
func runLoad(p *pair, s settings, goals loadGoals, spec load.Spec) ([]line, error) {
	spec.Kind = load.Kind(s.client)
	spec.Duration, spec.Total = s.duration, s.total
	spec.Connections = load.DefaultConnections(spec.Clients, s.nodes)
	var perSecond, p50, p99, serverCPU, clientCPU, failed samples
	round := [2]uint64{}
	err := p.each(s.rounds, func(c cluster.Cluster, side side) error {
		time.Sleep(calmTime)
		round[side]++
		spec.Seed = round[side]
		result, err := load.Run(c, spec)
		if err != nil {
			return err
		}
		perSecond.add(side, result.PerSecond)
		p50.add(side, milliseconds(result.P50))
		p99.add(side, milliseconds(result.P99))
		serverCPU.add(side, float64(result.ServerCPU.Nanoseconds())/1000)
		clientCPU.add(side, float64(result.ClientCPU.Nanoseconds())/1000)
		failed.add(side, float64(result.Failed))
		return nil
	})
	lines := []line{
		summary("requests a second", "/s", perSecond, median, goals.perSecond),
		summary("latency p50", "ms", p50, median, goals.p50),
		summary("latency p99", "ms", p99, median, goals.p99),
		summary("server CPU a request", "µs", serverCPU, median, goals.serverCPU),
		summary("client CPU a request", "µs", clientCPU, median, goal{}),
		summary("failed requests", "", failed, total, goal{valueBelow, 0}),
	}
	return lines, err
}

func watchLatency(_ context.Context, p *pair, s settings) ([]line, error) {
	spec := load.WatchSpec{Watchers: 100, Streams: 2, Rate: 50, Duration: s.duration}
	var p50, p99, missing samples
	round := 0
	err := p.each(s.rounds, func(c cluster.Cluster, side side) error {
		round++
		result, err := load.RunWatch(c, spec, fmt.Sprintf("watch/%d/", round))
		if err != nil {
			return err
		}
		p50.add(side, milliseconds(result.P50))
		p99.add(side, milliseconds(result.P99))
		missing.add(side, float64(result.Expected-result.Events))
		return nil
	})
	return []line{
		summary("latency p50", "ms", p50, median, goal{}),
		summary("latency p99", "ms", p99, median, goal{}),
		summary("missing events", "", missing, total, goal{valueBelow, 0}),
	}, err
}

func memory(_ context.Context, p *pair, _ settings) ([]line, error) {
	var resident, anonymous samples
	err := p.each(1, func(c cluster.Cluster, side side) error {
		all, own, err := cluster.MemoryBytes(c)
		resident.add(side, float64(all)/(1<<20))
		anonymous.add(side, float64(own)/(1<<20))
		return err
	})
	return []line{
		summary("resident memory", "MiB", resident, largest, goal{}),
		summary("of that not of a file", "MiB", anonymous, largest, goal{}),
	}, err
}

func idle(_ context.Context, p *pair, _ settings) ([]line, error) {
	var share samples
	err := p.each(1, func(c cluster.Cluster, side side) error {
		used, err := idleShare(c)
		share.add(side, used)
		return err
	})
	return []line{summary("of a core, each node", "%", share, median, goal{})}, err
}

// idleRanges looks at a cluster of its own that has many ranges and nothing to do.
func idleRanges(_ context.Context, p *pair, _ settings) ([]line, error) {
	splitKeys := make([]string, rangesOfIdle-1)
	for i := range splitKeys {
		splitKeys[i] = fmt.Sprintf("range/%06d", i)
	}
	many, err := p.startOther("many-ranges", splitKeys)
	if err != nil {
		return nil, err
	}
	defer many.Stop()
	time.Sleep(10 * time.Second)
	var share samples
	for side, c := range map[side]cluster.Cluster{etcdSide: p.etcd, otherSide: many} {
		used, err := idleShare(c)
		if err != nil {
			return nil, err
		}
		share.add(side, used)
	}
	return []line{summary("of a core, each node", "%", share, median, goal{valueBelow, 5})}, nil
}

// idleShare is how much of a core a node of an idle cluster uses, in percent.
func idleShare(c cluster.Cluster) (float64, error) {
	const window = 10 * time.Second
	time.Sleep(2 * time.Second)
	before, err := cluster.CPUTime(c)
	if err != nil {
		return 0, err
	}
	time.Sleep(window)
	after, err := cluster.CPUTime(c)
	return 100 * float64(after-before) / float64(window) / float64(c.Nodes()), err
}
