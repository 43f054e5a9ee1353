package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/load"
)

// What etcd's load tool prints.
var (
	toolPerSecond = regexp.MustCompile(`Requests/sec:\s*([0-9.]+)`)
	toolP50       = regexp.MustCompile(`50% in ([0-9.]+) secs`)
	toolP99       = regexp.MustCompile(`99% in ([0-9.]+) secs`)
)

// toolTotal is how many requests etcd's load tool sends, unless -total says otherwise:
// it knows no duration.
func toolTotal(s settings, clients int) int {
	if s.total > 0 {
		return s.total
	}
	perSecond := 5000
	if clients == 1 {
		perSecond = 500
	}
	return max(1, int(s.duration.Seconds()*float64(perSecond)))
}

// toolLoad is runLoad with etcd's own load tool as the client.
func toolLoad(p *pair, s settings, goals loadGoals, command string, clients int, arguments ...string) ([]line, error) {
	binaries, err := cluster.BuiltBinaries()
	if err != nil {
		return nil, err
	}
	requests := toolTotal(s, clients)
	var perSecond, p50, p99, serverCPU samples
	err = p.each(s.rounds, func(c cluster.Cluster, side side) error {
		time.Sleep(calmTime)
		before, err := cluster.CPUTime(c)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		all := append([]string{
			"--endpoints", strings.Join(cluster.Endpoints(c), ","),
			"--conns", strconv.Itoa(min(clients, load.DefaultConnections(clients, s.nodes))),
			"--clients", strconv.Itoa(clients),
			command, "--total", strconv.Itoa(requests),
		}, arguments...)
		output, err := exec.CommandContext(ctx, binaries.EtcdBenchmark, all...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("etcd's load tool: %w\n%s", err, output)
		}
		after, err := cluster.CPUTime(c)
		if err != nil {
			return err
		}
		for _, figure := range []struct {
			pattern *regexp.Regexp
			samples *samples
			scale   float64
		}{{toolPerSecond, &perSecond, 1}, {toolP50, &p50, 1000}, {toolP99, &p99, 1000}} {
			found := figure.pattern.FindSubmatch(output)
			if found == nil {
				return fmt.Errorf("etcd's load tool printed no %v:\n%s", figure.pattern, output)
			}
			value, err := strconv.ParseFloat(string(found[1]), 64)
			if err != nil {
				return err
			}
			figure.samples.add(side, value*figure.scale)
		}
		serverCPU.add(side, float64((after-before).Nanoseconds())/1000/float64(requests))
		return nil
	})
	return []line{
		summary("requests a second", "/s", perSecond, median, goals.perSecond),
		summary("latency p50", "ms", p50, median, goals.p50),
		summary("latency p99", "ms", p99, median, goals.p99),
		summary("server CPU a request", "µs", serverCPU, median, goals.serverCPU),
	}, err
}
