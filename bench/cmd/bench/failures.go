package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/probe"
)

const (
	// probeKey is the key whose leader is struck.
	probeKey = "probe/key"
	// pauseTime is how long the paused leader sleeps.
	pauseTime = 3 * time.Second
	// settleTime lets a node that came back catch up, and leaders move if they want to.
	settleTime = 2 * time.Second
	// recoveryLimit bounds the wait for writes to go on.
	recoveryLimit = 15 * time.Second
)

// strike is one failure of a leader's node, seen by a probe on another node.
type strike struct {
	victim int
	report probe.Report
	stale  probe.StaleReport
}

// strikeLeader finds the node that leads the probe's key and has the failure happen to
// it, while a probe writes through the next node. The failure returns once it is over
// as far as the victim is concerned; the probe goes on until writes are steady again.
func strikeLeader(ctx context.Context, c cluster.Cluster, watchVictim bool, failure func(victim int) error) (strike, error) {
	victim, err := leaderOf(ctx, c)
	if err != nil {
		return strike{}, err
	}
	survivor := (victim + 1) % c.Nodes()
	p, err := probe.Start(c.Endpoint(survivor), probeKey)
	if err != nil {
		return strike{}, err
	}
	p.Recovered(500*time.Millisecond, recoveryLimit)
	stopReads := func() probe.StaleReport { return probe.StaleReport{} }
	if watchVictim {
		if stopReads, err = p.WatchStale(c.Endpoint(victim)); err != nil {
			p.Stop()
			return strike{}, err
		}
	}
	failureError := failure(victim)
	p.Recovered(time.Second, recoveryLimit)
	s := strike{victim: victim, stale: stopReads(), report: p.Stop()}
	fmt.Fprintf(os.Stderr, "  %s node %d: gap %v, slowest write %v, %d of %d failed %s\n", c.Name(), victim+1,
		s.report.Gap.Round(time.Millisecond), s.report.Slowest.Round(time.Millisecond),
		s.report.Failed, s.report.Failed+s.report.Writes, s.report.FirstError)
	return s, failureError
}

// leaderOf waits until one of the nodes names a leader of the probe's key.
func leaderOf(ctx context.Context, c cluster.Cluster) (int, error) {
	deadline := time.Now().Add(recoveryLimit)
	for {
		var lastError error
		for via := range c.Nodes() {
			leader, err := c.LeaderOf(ctx, via, probeKey)
			if err == nil {
				return leader, nil
			}
			lastError = err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return 0, lastError
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// strikeBoth repeats a failure on both clusters and sums up what the probes saw.
func strikeBoth(p *pair, repeats int, one func(c cluster.Cluster) (strike, error)) (gap, slowest, failed, stale samples, err error) {
	if p.etcd.Nodes() < 3 {
		return gap, slowest, failed, stale, fmt.Errorf("needs at least 3 nodes")
	}
	err = p.each(repeats, func(c cluster.Cluster, side side) error {
		s, err := one(c)
		if err != nil {
			return err
		}
		gap.add(side, milliseconds(s.report.Gap))
		slowest.add(side, milliseconds(s.report.Slowest))
		failed.add(side, float64(s.report.Failed))
		stale.add(side, float64(s.stale.Stale))
		return nil
	})
	return gap, slowest, failed, stale, err
}

func killLeader(ctx context.Context, p *pair, s settings) ([]line, error) {
	gap, slowest, failed, _, err := strikeBoth(p, s.repeats, func(c cluster.Cluster) (strike, error) {
		return strikeAndRestart(ctx, c, syscall.SIGKILL)
	})
	return []line{
		summary("gap, median", "ms", gap, median, goal{valueBelow, 500}),
		summary("gap, worst", "ms", gap, largest, goal{}),
		summary("slowest write", "ms", slowest, median, goal{}),
		summary("failed requests", "", failed, total, goal{valueBelow, 0}),
	}, err
}

func terminateLeader(ctx context.Context, p *pair, s settings) ([]line, error) {
	gap, slowest, failed, _, err := strikeBoth(p, s.repeats, func(c cluster.Cluster) (strike, error) {
		return strikeAndRestart(ctx, c, syscall.SIGTERM)
	})
	return []line{
		summary("gap, median", "ms", gap, median, goal{}),
		summary("gap, worst", "ms", gap, largest, goal{valueBelow, 60}),
		summary("slowest write", "ms", slowest, median, goal{}),
		summary("failed requests", "", failed, total, goal{valueBelow, 0}),
	}, err
}

// strikeAndRestart ends the leader's node by a signal and starts it again after the probe has reported.
func strikeAndRestart(ctx context.Context, c cluster.Cluster, signal syscall.Signal) (strike, error) {
	s, err := strikeLeader(ctx, c, false, func(victim int) error {
		pid, err := c.Pid(victim)
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, signal); err != nil {
			return err
		}
		return cluster.WaitGone(pid, 30*time.Second)
	})
	if err != nil {
		return s, err
	}
	if err := c.Restart(s.victim); err != nil {
		return s, err
	}
	time.Sleep(settleTime)
	return s, nil
}

func pauseLeader(ctx context.Context, p *pair, s settings) ([]line, error) {
	gap, slowest, failed, stale, err := strikeBoth(p, s.repeats, func(c cluster.Cluster) (strike, error) {
		s, err := strikeLeader(ctx, c, true, func(victim int) error { return pause(c, victim, pauseTime) })
		time.Sleep(settleTime)
		return s, err
	})
	return []line{
		summary("gap, median", "ms", gap, median, goal{}),
		summary("gap, worst", "ms", gap, largest, goal{valueBelow, 1500}),
		summary("slowest write", "ms", slowest, median, goal{}),
		summary("failed requests", "", failed, total, goal{}),
		summary("stale reads", "", stale, total, goal{valueBelow, 0}),
	}, err
}

// pause stops a node's process for a while. It always lets it go on.
func pause(c cluster.Cluster, node int, length time.Duration) error {
	if err := cluster.Signal(c, node, syscall.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(length)
	return cluster.Signal(c, node, syscall.SIGCONT)
}
