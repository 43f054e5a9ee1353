// Command bench runs the same load, through the same client, against a three-node
// Holdfast and a three-node etcd on the same disk, turn by turn in one run, and prints
// what each did, the ratio, the goal, and whether the goal is met.
//
// Its figures are worth something as ratios only: both sides share one machine with
// their own client.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/load"
)

// settings are the flags.
type settings struct {
	only      string
	against   string
	nodes     int
	split     string
	quick     bool
	total     int
	duration  time.Duration
	rounds    int
	repeats   int
	client    string
	tool      string
	json      string
	dir       string
	keep      bool
	gigabytes int
	replicas  int
	minutes   float64
	survivors string
}

func main() {
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(arguments []string) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&s.only, "only", "", "comma-separated scenarios to run (default: all that are not marked long)")
	flags.StringVar(&s.against, "against", "holdfast", "what to compare with etcd: holdfast, or etcd to check the benchmark itself")
	flags.IntVar(&s.nodes, "nodes", 3, "nodes of each cluster")
	flags.StringVar(&s.split, "split-keys", "", "comma-separated keys at which Holdfast's first ranges are cut")
	flags.BoolVar(&s.quick, "quick", false, "one short round of each scenario: for a first look, not for a record")
	flags.IntVar(&s.total, "total", 0, "requests of each load, instead of a duration")
	flags.DurationVar(&s.duration, "duration", 8*time.Second, "length of each load")
	flags.IntVar(&s.rounds, "rounds", 3, "how often each load is run on each cluster; the median counts")
	flags.IntVar(&s.repeats, "repeats", 5, "how often each failure is caused")
	flags.StringVar(&s.client, "client", string(load.Official), "client library of the load: clientv3, or raw for the bare gRPC stub")
	flags.StringVar(&s.tool, "tool", "own", "load generator for put and range: own, or etcd-benchmark for etcd's own tool")
	flags.StringVar(&s.json, "json", "", "file to write the results to as JSON")
	flags.StringVar(&s.dir, "dir", "", "folder for the data of both clusters (default: a temporary one)")
	flags.IntVar(&s.gigabytes, "gigabytes", 6, "data of the scenario `large`; on the disk it needs about two and a half times that for each of its -replicas")
	flags.IntVar(&s.replicas, "replicas", 3, "copies of each range in the scenario `large`; with 1 its node is killed without a load")
	flags.Float64Var(&s.minutes, "minutes", 10, "length of the load of the scenario `prefixload`")
	flags.StringVar(&s.survivors, "survivors", "3,4,8", "comma-separated numbers of nodes that are left in the scenario `reprotect`, three or more")
	flags.BoolVar(&s.keep, "keep", false, "keep the logs of both clusters")
	flags.Usage = func() { usage(flags) }
	if err := flags.Parse(arguments); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.quick {
		s.duration, s.rounds, s.repeats = 2*time.Second, 1, 2
	}
	if s.rounds < 1 || s.repeats < 1 || s.nodes < 1 || s.duration <= 0 || s.minutes <= 0 || s.total < 0 {
		return s, errors.New("-rounds, -repeats, -nodes, -duration and -minutes must be above 0, -total not below")
	}
	if s.against != "holdfast" && s.against != "etcd" {
		return s, fmt.Errorf("-against %s: must be holdfast or etcd", s.against)
	}
	if s.client != string(load.Official) && s.client != string(load.Raw) {
		return s, fmt.Errorf("-client %s: must be %s or %s", s.client, load.Official, load.Raw)
	}
	if s.tool != "own" && s.tool != "etcd-benchmark" {
		return s, fmt.Errorf("-tool %s: must be own or etcd-benchmark", s.tool)
	}
	return s, nil
}

func usage(flags *flag.FlagSet) {
	fmt.Fprintln(flags.Output(), "usage: bench [flags]\n\nscenarios:")
	for _, scenario := range scenarios() {
		long := ""
		if scenario.long {
			long = " (long: only when named with -only)"
		}
		fmt.Fprintf(flags.Output(), "  %-12s %s%s\n", scenario.name, scenario.about, long)
	}
	fmt.Fprintln(flags.Output(), "\nflags:")
	flags.PrintDefaults()
}

// chosen are the scenarios that -only names, in the order of the list.
func chosen(only string) ([]scenario, error) {
	all := scenarios()
	if only == "" {
		return slices.DeleteFunc(all, func(s scenario) bool { return s.long }), nil
	}
	names := strings.Split(only, ",")
	for _, name := range names {
		if !slices.ContainsFunc(all, func(s scenario) bool { return s.name == name }) {
			return nil, fmt.Errorf("no scenario %q; -help lists them", name)
		}
	}
	return slices.DeleteFunc(all, func(s scenario) bool { return !slices.Contains(names, s.name) }), nil
}

func run(s settings) error {
	scenarios, err := chosen(s.only)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	dir, err := os.MkdirTemp(s.dir, "holdfast-bench-")
	if err != nil {
		return err
	}
	if !s.keep {
		defer os.RemoveAll(dir)
	}
	pair, err := startPair(s, dir)
	if err != nil {
		return err
	}
	defer pair.stop()

	report := newReport(pair, s)
	for _, scenario := range scenarios {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", scenario.name, scenario.about)
		lines, err := scenario.run(ctx, pair, s)
		if err != nil {
			lines = append(lines, line{Metric: "failed", Error: err.Error()})
		}
		report.add(scenario.name, lines)
	}
	report.print(os.Stdout)
	if s.json != "" {
		return report.writeJSON(s.json)
	}
	return nil
}

// pair is the two clusters: always etcd first.
type pair struct {
	etcd, other cluster.Cluster
	dir         string
	nodes       int
	against     string
}

func startPair(s settings, dir string) (*pair, error) {
	p := &pair{dir: dir, nodes: s.nodes, against: s.against}
	etcdDir := filepath.Join(dir, "etcd")
	if err := os.Mkdir(etcdDir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if p.etcd, err = cluster.StartEtcd(cluster.Options{Nodes: s.nodes, Dir: etcdDir}); err != nil {
		return nil, err
	}
	var splitKeys []string
	if s.split != "" {
		splitKeys = strings.Split(s.split, ",")
	}
	if p.other, err = p.startOther("other", splitKeys); err != nil {
		p.etcd.Stop()
		return nil, err
	}
	return p, nil
}

// startOther starts one more cluster of what is compared with etcd.
func (p *pair) startOther(name string, splitKeys []string) (cluster.Cluster, error) {
	own := filepath.Join(p.dir, name)
	if err := os.Mkdir(own, 0o755); err != nil {
		return nil, err
	}
	start := cluster.StartHoldfast
	if p.against == "etcd" {
		start = cluster.StartEtcd
	}
	return start(cluster.Options{Nodes: p.nodes, Dir: own, SplitKeys: splitKeys})
}

func (p *pair) stop() {
	p.other.Stop()
	p.etcd.Stop()
}

// each runs the same thing on both clusters, the first one first in even rounds and
// last in odd ones, so that neither always meets a warmer or fuller machine.
func (p *pair) each(rounds int, measure func(c cluster.Cluster, side side) error) error {
	for round := range rounds {
		order := []side{etcdSide, otherSide}
		if round%2 == 1 {
			order = []side{otherSide, etcdSide}
		}
		for _, side := range order {
			c := p.etcd
			if side == otherSide {
				c = p.other
			}
			if err := measure(c, side); err != nil {
				return fmt.Errorf("%s: %w", c.Name(), err)
			}
		}
	}
	return nil
}
