package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/load"
)

const (
	largeValueBytes = 64 << 10
	largeKeys       = 1 << 30 / largeValueBytes
)

// recoverLarge fills both clusters with 1 GB, kills a node that leads, and takes the
// time from its start until it answers a linearizable read itself.
func recoverLarge(ctx context.Context, p *pair, _ settings) ([]line, error) {
	var seconds samples
	err := p.each(1, func(c cluster.Cluster, side side) error {
		if err := fillLarge(c); err != nil {
			return err
		}
		victim, err := leaderOf(ctx, c)
		if err != nil {
			return err
		}
		pid, err := c.Pid(victim)
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return err
		}
		if err := cluster.WaitGone(pid, 10*time.Second); err != nil {
			return err
		}
		began := time.Now()
		if err := c.Restart(victim); err != nil {
			return err
		}
		seconds.add(side, time.Since(began).Seconds())
		return nil
	})
	return []line{summary("start until it serves", "s", seconds, largest, goal{valueBelow, 10})}, err
}

func fillLarge(c cluster.Cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	large := strings.Repeat("v", largeValueBytes)
	const writers = 8
	failures := make([]error, writers)
	var writing sync.WaitGroup
	for writer := range writers {
		writing.Go(func() {
			client, err := load.Connect(load.Raw, c.Endpoint(writer%c.Nodes()))
			if err != nil {
				failures[writer] = err
				return
			}
			defer client.Close()
			for key := writer; key < largeKeys && failures[writer] == nil; key += writers {
				failures[writer] = client.Put(ctx, fmt.Sprintf("large/%06d", key), large)
			}
		})
	}
	writing.Wait()
	for _, failure := range failures {
		if failure != nil {
			return failure
		}
	}
	return nil
}
