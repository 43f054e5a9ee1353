package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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
	// documentBytes of each value: a larger object of Kubernetes.
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

// startAlone starts one more Holdfast, in a folder of that name.
func (p *pair) startAlone(name string, options cluster.Options) (cluster.Cluster, string, error) {
	options.Dir = filepath.Join(p.dir, name)
	if err := os.Mkdir(options.Dir, 0o755); err != nil {
		return nil, "", err
	}
	c, err := cluster.StartHoldfast(options)
	return c, options.Dir, err
}

// tenThousand is what a node costs that has very many ranges and nothing to do.
func tenThousand(_ context.Context, p *pair, _ settings) ([]line, error) {
	few, _, err := p.startAlone("one-range", cluster.Options{Nodes: p.nodes})
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
	c, _, err := p.startAlone("ten-thousand", cluster.Options{Nodes: p.nodes, SplitKeys: splitKeys})
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

// large fills a cluster beyond what its caches hold, reads all over it, and kills a node.
func large(ctx context.Context, p *pair, s settings) ([]line, error) {
	c, dir, err := p.startAlone("large", cluster.Options{Nodes: p.nodes, Replicas: s.replicas})
	if err != nil {
		return nil, err
	}
	defer c.Stop()
	const parts = 8
	keys := s.gigabytes << 30 / documentBytes
	rates := make([]float64, parts)
	most := int64(0)
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
		most = max(most, memory)
		fmt.Fprintf(os.Stderr, "  %d of %d parts: %.1f MB/s, %d MiB of memory\n", part+1, parts, rates[part], memory>>20)
	}
	reads, err := documents.read(ctx, c, keys, 10*time.Second)
	if err != nil {
		return nil, err
	}
	_, memory, err := cluster.MemoryBytes(c)
	if err != nil {
		return nil, err
	}
	most = max(most, memory)
	time.Sleep(15 * time.Second) // the log is cut when the state is durable
	bytes, err := bytesBelow(dir)
	if err != nil {
		return nil, err
	}
	slowest, fastest := slices.Min(rates), slices.Max(rates)
	lines := []line{
		alone("load, first eighth", "MB/s", rates[0], goal{}),
		alone("load, last eighth", "MB/s", rates[parts-1], goal{}),
		alone("load, slowest by fastest eighth", "", slowest/fastest, goal{}),
		alone("random reads", "/s", reads, goal{}),
		alone("memory not of a file, at most", "MiB", float64(most>>20), goal{}),
		alone("disk by data, each copy", "", float64(bytes)/float64(s.gigabytes<<30*s.replicas), goal{valueBelow, 2.5}),
	}
	victim := 0
	if s.replicas > 1 {
		hit, err := strikeLeader(ctx, c, false, func(victim int) error {
			return cluster.Signal(c, victim, syscall.SIGKILL)
		})
		if err != nil {
			return lines, err
		}
		lines = append(lines,
			alone("kill: gap", "ms", milliseconds(hit.report.Gap), goal{}),
			alone("kill: failed requests", "", float64(hit.report.Failed), goal{valueBelow, 0}))
		victim = hit.victim
	} else if err := killAndWait(c, victim); err != nil {
		return lines, err
	}
	restarted, err := restart(c, victim)
	if err != nil {
		return lines, err
	}
	reads, err = documents.read(ctx, c, keys, 10*time.Second)
	return append(lines,
		alone("restart until it serves", "s", restarted.Seconds(), goal{valueBelow, 10}),
		alone("random reads after it", "/s", reads, goal{})), err
}

// reprotect loses a node that holds 1 GB for good: three survivors are the fewest that with three copies
// leave a place for new ones. With -quick an eighth of the data.
func reprotect(ctx context.Context, p *pair, s settings) ([]line, error) {
	var lines []line
	var first float64
	for _, number := range strings.Split(s.survivors, ",") {
		survivors, err := strconv.Atoi(number)
		if err != nil || survivors < 3 {
			return lines, fmt.Errorf("-survivors %s: must be numbers, three or more", s.survivors)
		}
		bytes := reprotectBytes
		if s.quick {
			bytes /= 8
		}
		seen, err := reprotectOnce(ctx, p, survivors+1, bytes)
		if err != nil {
			return lines, fmt.Errorf("%d survivors: %w", survivors, err)
		}
		if first == 0 {
			first = seen.seconds
		}
		name := func(what string) string { return fmt.Sprintf("%d survivors: %s", survivors, what) }
		lines = append(lines,
			alone(name("starts after the delay"), "s", seen.start, goal{}),
			alone(name("whole again"), "s", seen.seconds, goal{}),
			alone(name("by the first"), "", seen.seconds/first, goal{}),
			alone(name("rate"), "MB/s", float64(bytes)/1e6/seen.seconds, goal{}),
			alone(name("plain copy"), "MB/s", float64(bytes)/1e6/seen.plain, goal{}),
			alone(name("rate by plain copy"), "", seen.plain/seen.seconds, goal{valueAtLeast, 0.5}),
			alone(name("put p99 before"), "ms", milliseconds(seen.before.P99), goal{}),
			alone(name("put p99 meanwhile"), "ms", milliseconds(seen.meanwhile.P99), goal{}),
			alone(name("put p99 meanwhile by before"), "", float64(seen.meanwhile.P99)/float64(seen.before.P99), goal{valueBelow, 2}),
			alone(name("longest gap meanwhile"), "ms", milliseconds(seen.meanwhile.Gap), goal{}),
			alone(name("failed requests"), "", float64(seen.meanwhile.Failed), goal{valueBelow, 0}))
	}
	return lines, nil
}

// reprotection is what was seen of one.
type reprotection struct {
	start, seconds, plain float64
	before, meanwhile     probe.Report
}

// reprotectPieces are the ranges of the data.
const reprotectPieces = 24

func reprotectOnce(ctx context.Context, p *pair, nodes, bytes int) (seen reprotection, err error) {
	const delay = 5 * time.Second
	splitKeys := make([]string, 0, reprotectPieces)
	keys := bytes * nodes / 3 / documentBytes
	for piece := 1; piece < reprotectPieces; piece++ {
		splitKeys = append(splitKeys, largeKey(keys*piece/reprotectPieces))
	}
	c, dir, err := p.startAlone(fmt.Sprintf("reprotect-%d", nodes), cluster.Options{
		Nodes: nodes, SplitKeys: splitKeys, Arguments: []string{"--reprotect-delay", delay.String()},
	})
	if err != nil {
		return seen, err
	}
	defer os.RemoveAll(dir)
	defer c.Stop()
	if err := documents.fill(ctx, c, 0, keys); err != nil {
		return seen, err
	}
	time.Sleep(10 * time.Second)
	if seen.plain, err = plainCopy(filepath.Join(dir, "plain"), bytes, reprotectPieces*3/nodes, nodes-1); err != nil {
		return seen, err
	}
	writes, err := probe.Start(c.Endpoint(0), probeKey)
	if err != nil {
		return seen, err
	}
	time.Sleep(5 * time.Second)
	seen.before = writes.Stop()
	if writes, err = probe.Start(c.Endpoint(0), probeKey); err != nil {
		return seen, err
	}
	defer func() { seen.meanwhile = writes.Stop() }()
	if err := cluster.Signal(c, nodes-1, syscall.SIGKILL); err != nil {
		return seen, err
	}
	began := time.Now()
	log := filepath.Join(dir, "dev.log")
	if err = waitForLine(ctx, log, "reprotection starts", time.Minute); err != nil {
		return seen, err
	}
	begun := time.Now()
	seen.start = begun.Sub(began.Add(delay)).Seconds()
	err = waitForLine(ctx, log, "Full Protection Restored", 10*time.Minute)
	seen.seconds = time.Since(begun).Seconds()
	return seen, err
}

// copySyncBytes is how often a node makes durable what it installs.
const copySyncBytes = 2 << 20

// plainCopy is the time of the same work without a store: so many bytes in so many pieces, shared by so
// many writers. Like a copy of a range, each piece is read from a file and written to another one, which is
// made durable bit by bit.
func plainCopy(dir string, bytes, pieces, writers int) (float64, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	source := filepath.Join(dir, "source")
	text := make([]byte, bytes/pieces)
	for i := range text {
		text[i] = byte(i * i >> 8)
	}
	if err := os.WriteFile(source, text, 0o600); err != nil {
		return 0, err
	}
	copyPiece := func(to string) error {
		in, err := os.Open(source)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(to)
		if err != nil {
			return err
		}
		defer out.Close()
		buffer := make([]byte, 256<<10)
		for {
			copied, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(in, copySyncBytes), buffer)
			if err != nil || copied == 0 {
				return err
			}
			if err := syscall.Fdatasync(int(out.Fd())); err != nil {
				return err
			}
		}
	}
	began := time.Now()
	var failure atomic.Value
	var copying sync.WaitGroup
	for writer := range writers {
		copying.Go(func() {
			for piece := writer; piece < pieces; piece += writers {
				if err := copyPiece(filepath.Join(dir, fmt.Sprintf("state-%d", piece))); err != nil {
					failure.Store(err)
					return
				}
			}
		})
	}
	copying.Wait()
	err, _ := failure.Load().(error)
	return time.Since(began).Seconds(), err
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

// read takes values of random keys below so many, checks them, and tells how many came a second.
func (v values) read(ctx context.Context, c cluster.Cluster, keys int, length time.Duration) (float64, error) {
	tail := func(key int) string { return fmt.Sprintf("%08d", key) }
	result, err := load.Run(c, load.Spec{
		Clients:     v.writers,
		Connections: load.DefaultConnections(v.writers, c.Nodes()),
		Kind:        load.Raw,
		Duration:    length,
		Request: func(ctx context.Context, client load.Client, random *rand.Rand) error {
			key := random.IntN(keys)
			value, err := client.Get(ctx, largeKey(key), false)
			if err == nil && (len(value) != v.bytes || !strings.HasSuffix(value, tail(key))) {
				err = fmt.Errorf("key %d has another value", key)
			}
			return err
		},
	})
	if err == nil && result.Failed > 0 {
		err = fmt.Errorf("%d reads failed: %s", result.Failed, result.FirstError)
	}
	return result.PerSecond, err
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
