package main

import (
	"context"
	"syscall"
	"time"

	"holdfast.dev/bench/internal/cluster"
)

const (
	largeValueBytes = 64 << 10
	largeKeys       = 1 << 30 / largeValueBytes
)

// recoverLarge fills both clusters with 1 GB, kills a node that leads, and takes the
// time from its start until it answers a linearizable read itself.
func recoverLarge(ctx context.Context, p *pair, _ settings) ([]line, error) {
	var seconds samples
	large := values{bytes: largeValueBytes, writers: 8}
	err := p.each(1, func(c cluster.Cluster, side side) error {
		if err := large.fill(ctx, c, 0, largeKeys); err != nil {
			return err
		}
		victim, err := leaderOf(ctx, c)
		if err != nil {
			return err
		}
		took, err := killAndRestart(c, victim)
		seconds.add(side, took.Seconds())
		return err
	})
	return []line{summary("start until it serves", "s", seconds, largest, goal{valueBelow, 10})}, err
}

// killAndRestart takes the time from a node's start until it serves, after its process was killed.
func killAndRestart(c cluster.Cluster, node int) (time.Duration, error) {
	if err := killAndWait(c, node); err != nil {
		return 0, err
	}
	return restart(c, node)
}

// killAndWait kills a node's process and returns when it is gone.
func killAndWait(c cluster.Cluster, node int) error {
	pid, err := c.Pid(node)
	if err != nil {
		return err
	}
	if err := cluster.Signal(c, node, syscall.SIGKILL); err != nil {
		return err
	}
	return cluster.WaitGone(pid, 10*time.Second)
}

// restart takes the time from a node's start until it serves.
func restart(c cluster.Cluster, node int) (time.Duration, error) {
	began := time.Now()
	err := c.Restart(node)
	return time.Since(began), err
}
