package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"time"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/load"
)

const (
	// prefixClients write at the same time.
	prefixClients = 64
	// prefixSplitLoad is the load at which a range is cut: so low that many ranges come of it, or whole
	// numbers of leaders could not be within a tenth of even.
	prefixSplitLoad = "100"
	// prefixParts are the reports of one run.
	prefixParts = 10
)

// prefixLoad writes under one prefix, for long, and looks at what the ranges have become.
func prefixLoad(ctx context.Context, p *pair, s settings) ([]line, error) {
	c, _, err := p.startAlone("prefixload", cluster.Options{Nodes: p.nodes, Arguments: []string{"--split-load", prefixSplitLoad}})
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	spec := load.Spec{
		Clients:     prefixClients,
		Connections: load.DefaultConnections(prefixClients, p.nodes),
		Kind:        load.Kind(s.client),
		Duration:    time.Duration(s.minutes * float64(time.Minute) / prefixParts),
		Request: func(ctx context.Context, client load.Client, random *rand.Rand) error {
			return client.Put(ctx, fmt.Sprintf("prefix/%08x", random.IntN(keySpace)), value)
		},
	}
	failed := 0
	var first, last load.Result
	for part := range prefixParts {
		spec.Seed = uint64(part)
		if last, err = load.Run(c, spec); err != nil {
			return nil, err
		}
		if part == 0 {
			first = last
		}
		failed += last.Failed
		leaders, err := cluster.Leaders(ctx, c, 0)
		fmt.Fprintf(os.Stderr, "  %d of %d parts: %.0f/s, p99 %v, %d failed %s, leaders %v %v\n",
			part+1, prefixParts, last.PerSecond, last.P99, last.Failed, last.FirstError, leaders, err)
	}
	leaders, err := settledLeaders(ctx, c)
	if err != nil {
		return nil, err
	}
	ranges := 0
	for _, count := range leaders {
		ranges += count
	}
	lines := []line{
		alone("ranges at the end", "", float64(ranges), goal{}),
		alone("leaders, furthest from even", "%", 100*furthest(leaders), goal{valueBelow, 10}),
		alone("failed requests", "", float64(failed), goal{valueBelow, 0}),
		alone("requests a second, first tenth", "/s", first.PerSecond, goal{}),
		alone("requests a second, last tenth", "/s", last.PerSecond, goal{}),
		alone("put p99, first tenth", "ms", milliseconds(first.P99), goal{}),
		alone("put p99, last tenth", "ms", milliseconds(last.P99), goal{}),
	}
	for node, count := range leaders {
		lines = append(lines, alone(fmt.Sprintf("leaders on node %d", node+1), "", float64(count), goal{}))
	}
	return lines, nil
}

// settledLeaders waits while a leadership is just being handed over.
func settledLeaders(ctx context.Context, c cluster.Cluster) (leaders []int, err error) {
	for range 20 {
		if leaders, err = cluster.Leaders(ctx, c, 0); err == nil || ctx.Err() != nil {
			return leaders, err
		}
		time.Sleep(500 * time.Millisecond)
	}
	return nil, err
}

// furthest is by which part of its share a node has more or less than that.
func furthest(counts []int) float64 {
	all := 0
	for _, count := range counts {
		all += count
	}
	share := float64(all) / float64(len(counts))
	worst := 0.0
	for _, count := range counts {
		worst = max(worst, math.Abs(float64(count)-share)/share)
	}
	return worst
}
