package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/load"
	"holdfast.dev/bench/internal/probe"
)

// What etcd has no counterpart for: very many ranges, data that is larger than a small
// etcd takes, copies that are made anew. The figures are of this machine, and what is
// compared is one figure with another of the same run where it can be.

const (
	// manyRanges are the ranges of the cluster that shows what one costs.
	manyRanges = 10_000
	// documentBytes of each value: a larger object of Kubernetes. Holdfast keeps a value of exactly 64 KiB
	// in a page of 128 KiB.
	documentBytes = 8000
	// reprotectBytes is what each node holds before one of them is lost.
	reprotectBytes = 1 << 30
)

// alone is a line that has no figure of etcd's beside it.
func alone(metric, unit string, value float64, g goal) line {
	l := line{Metric: metric, Unit: unit, Other: value, Goal: g.String()}
	l.Verdict = verdict(l, g)
	return l
}

// startAlone starts one more Holdfast, with arguments of its own for `dev`.
func (p *pair) startAlone(name string, nodes int, splitKeys, arguments []string) (cluster.Cluster, string, error) {
	dir := filepath.Join(p.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, "", err
	}
	c, err := cluster.StartHoldfast(cluster.Options{Nodes: nodes, Dir: dir, SplitKeys: splitKeys, Arguments: arguments})
	return c, dir, err
}

// tenThousand is what a node costs that has very many ranges and nothing to do.
func tenThousand(_ context.Context, p *pair, _ settings) ([]line, error) {
	few, _, err := p.startAlone("one-range", p.nodes, nil, nil)
	if err != nil {
		return nil, err
	}
	_, plain, err := cluster.MemoryBytes(few)
	few.Stop()
	if err != nil {
		return nil, err
	}
	splitKeys := make([]string, manyRanges-1)
	for i := range splitKeys {
		splitKeys[i] = fmt.Sprintf("%04d", i+1)
	}
	began := time.Now()
	c, _, err := p.startAlone("ten-thousand", p.nodes, splitKeys, nil)
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	formed := time.Since(began)
	time.Sleep(20 * time.Second)
	_, full, err := cluster.MemoryBytes(c)
	if err != nil {
		return nil, err
	}
	share, err := idleShare(c)
	if err != nil {
		return nil, err
	}
	restarted, err := killAndRestart(c, 0)
	if err != nil {
		return nil, err
	}
	return []line{
		alone("start until all serve", "s", formed.Seconds(), goal{}),
		alone("idle, of a core, each node", "%", share, goal{valueBelow, 5}),
		alone("memory a range", "KiB", float64(full-plain)/1024/manyRanges, goal{valueBelow, 4}),
		alone("restart until it serves", "s", restarted.Seconds(), goal{valueBelow, 30}),
	}, nil
}

// large fills a cluster beyond what its caches hold, and kills a node.
func large(ctx context.Context, p *pair, s settings) ([]line, error) {
	c, dir, err := p.startAlone("large", p.nodes, nil, nil)
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	const parts = 4
	keys := s.gigabytes << 30 / documentBytes
	rates := make([]float64, parts)
	for part := range parts {
		began := time.Now()
		if err := documents.fill(ctx, c, keys*part/parts, keys*(part+1)/parts); err != nil {
			return nil, err
		}
		rates[part] = float64(keys/parts) * documentBytes / 1e6 / time.Since(began).Seconds()
		_, memory, err := cluster.MemoryBytes(c)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  %d of %d parts: %.1f MB/s, %d MiB of memory\n", part+1, parts, rates[part], memory>>20)
	}
	_, memory, err := cluster.MemoryBytes(c)
	if err != nil {
		return nil, err
	}
	time.Sleep(15 * time.Second) // the log is cut when the state is durable
	bytes, err := bytesBelow(filepath.Join(dir, "node-1"))
	if err != nil {
		return nil, err
	}
	hit, err := strikeLeader(ctx, c, false, func(victim int) error {
		return cluster.Signal(c, victim, syscall.SIGKILL)
	})
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := c.Restart(hit.victim); err != nil {
		return nil, err
	}
	data := float64(s.gigabytes << 30)
	return []line{
		alone("load, first quarter", "MB/s", rates[0], goal{}),
		alone("load, last quarter", "MB/s", rates[parts-1], goal{}),
		alone("last by first quarter", "", rates[parts-1]/rates[0], goal{}),
		alone("memory not of a file", "MiB", float64(memory>>20), goal{}),
		alone("disk by data, each copy", "", float64(bytes)/data, goal{valueBelow, 2.5}),
		alone("kill: gap", "ms", milliseconds(hit.report.Gap), goal{}),
		alone("kill: failed requests", "", float64(hit.report.Failed), goal{valueBelow, 0}),
		alone("restart until it serves", "s", time.Since(began).Seconds(), goal{valueBelow, 10}),
	}, nil
}

// reprotect loses a node that holds 1 GB for good, with 3, 4 and 8 survivors: three are the fewest that
// with three copies leave a place for new ones. With -quick an eighth of the data.
func reprotect(ctx context.Context, p *pair, s settings) ([]line, error) {
	var lines []line
	var first float64
	for _, survivors := range []int{3, 4, 8} {
		bytes := reprotectBytes
		if s.quick {
			bytes /= 8
		}
		seconds, calm, busy, failed, err := reprotectOnce(ctx, p, survivors+1, bytes)
		if err != nil {
			return lines, fmt.Errorf("%d survivors: %w", survivors, err)
		}
		if first == 0 {
			first = seconds
		}
		name := func(what string) string { return fmt.Sprintf("%d survivors: %s", survivors, what) }
		lines = append(lines,
			alone(name("whole again"), "s", seconds, goal{}),
			alone(name("by the first"), "", seconds/first, goal{}),
			alone(name("put p99 before"), "ms", calm, goal{}),
			alone(name("put p99 meanwhile"), "ms", busy, goal{}),
			alone(name("put p99 meanwhile by before"), "", busy/calm, goal{valueBelow, 2}),
			alone(name("failed requests"), "", float64(failed), goal{valueBelow, 0}))
	}
	return lines, nil
}

func reprotectOnce(ctx context.Context, p *pair, nodes, bytes int) (seconds, calm, busy float64, failed int, err error) {
	const pieces = 24
	splitKeys := make([]string, 0, pieces)
	keys := bytes * nodes / 3 / documentBytes
	for piece := 1; piece < pieces; piece++ {
		splitKeys = append(splitKeys, largeKey(keys*piece/pieces))
	}
	arguments := []string{"--reprotect-delay", "2s"}
	c, dir, err := p.startAlone(fmt.Sprintf("reprotect-%d", nodes), nodes, splitKeys, arguments)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	defer os.RemoveAll(dir)
	defer c.Stop()
	if err := documents.fill(ctx, c, 0, keys); err != nil {
		return 0, 0, 0, 0, err
	}
	time.Sleep(10 * time.Second)
	writes, err := probe.Start(c.Endpoint(0), probeKey)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	time.Sleep(5 * time.Second)
	before := writes.Stop()
	if writes, err = probe.Start(c.Endpoint(0), probeKey); err != nil {
		return 0, 0, 0, 0, err
	}
	if err := cluster.Signal(c, nodes-1, syscall.SIGKILL); err != nil {
		writes.Stop()
		return 0, 0, 0, 0, err
	}
	began := time.Now()
	err = waitForLine(ctx, filepath.Join(dir, "dev.log"), "Full Protection Restored", 10*time.Minute)
	// The delay is not part of the work.
	seconds = time.Since(began).Seconds() - 2
	after := writes.Stop()
	return seconds, milliseconds(before.P99), milliseconds(after.P99), after.Failed, err
}

func largeKey(number int) string { return fmt.Sprintf("large/%08d", number) }

// values are what a cluster is filled with.
type values struct{ bytes, writers int }

var documents = values{bytes: documentBytes, writers: 32}

// fill writes such values under the keys of these numbers.
func (v values) fill(ctx context.Context, c cluster.Cluster, from, to int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	// Not to be made smaller by a file system that compresses, and not the same twice.
	text := strings.Repeat("v", v.bytes-8)
	var failure atomic.Value
	var writing sync.WaitGroup
	for writer := range v.writers {
		writing.Go(func() {
			client, err := load.Connect(load.Raw, c.Endpoint(writer%c.Nodes()))
			if err != nil {
				failure.Store(err)
				return
			}
			defer client.Close()
			for key := from + writer; key < to && failure.Load() == nil; key += v.writers {
				if err := client.Put(ctx, largeKey(key), text+fmt.Sprintf("%08d", key)); err != nil {
					failure.Store(err)
				}
			}
		})
	}
	writing.Wait()
	err, _ := failure.Load().(error)
	return err
}

func waitForLine(ctx context.Context, path, text string, limit time.Duration) error {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		log, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(log), text) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	tail, _ := exec.Command("tail", "-n", "5", path).Output()
	return fmt.Errorf("%q did not come within %v; the log ends with:\n%s", text, limit, tail)
}

// bytesBelow is what the files of a folder take on the disk.
func bytesBelow(dir string) (int64, error) {
	var all int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil // gone since it was listed
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			all += stat.Blocks * 512
		}
		return nil
	})
	return all, err
}
