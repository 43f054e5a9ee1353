package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// holdfast is a cluster started by `holdfast-node dev`: one process that watches over
// the nodes, and one more for each node that was started again with --rejoin.
type holdfast struct {
	options  Options
	binary   string
	name     string
	base     int
	dev      *process
	rejoined []*process
}

// StartHoldfast starts `holdfast-node dev` and returns when every node serves.
func StartHoldfast(options Options) (Cluster, error) {
	binary, err := HoldfastBinary()
	if err != nil {
		return nil, err
	}
	base, err := freeBasePort(options.Nodes)
	if err != nil {
		return nil, err
	}
	c := &holdfast{
		options:  options,
		binary:   binary,
		name:     "holdfast",
		base:     base,
		rejoined: make([]*process, options.Nodes),
	}
	if err := c.startDev(); err != nil {
		log := c.LogTail()
		c.Stop()
		return nil, fmt.Errorf("%w\n%s", err, log)
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

func (c *holdfast) startDev() error {
	replicas := c.options.Replicas
	if replicas == 0 {
		replicas = min(c.options.Nodes, 3)
	}
	arguments := []string{
		"dev", "--nodes", strconv.Itoa(c.options.Nodes),
		"--data", c.options.Dir,
		"--client-port", strconv.Itoa(c.base),
		"--replicas", strconv.Itoa(replicas),
	}
	arguments = append(arguments, c.options.Arguments...)
	if len(c.options.SplitKeys) > 0 {
		arguments = append(arguments, "--split-keys", strings.Join(c.options.SplitKeys, ","))
	}
	output, stdout := io.Pipe()
	p, err := start(c.binary, arguments, c.logPath(), stdout, syscall.SIGTERM)
	if err != nil {
		return err
	}
	c.dev = p
	ready := make(chan struct{})
	go c.copyUntilReady(output, ready)
	go func() {
		<-p.ended
		stdout.Close()
	}()
	select {
	case <-ready:
		return nil
	case <-p.ended:
		return errors.New("holdfast-node dev ended before it was ready")
	case <-time.After(startTimeout):
		return fmt.Errorf("holdfast-node dev printed no line `ready` within %v", startTimeout)
	}
}

// copyUntilReady appends the standard output to the log, for ever, and tells when `ready` came.
func (c *holdfast) copyUntilReady(output io.Reader, ready chan<- struct{}) {
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer log.Close()
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		fmt.Fprintln(log, lines.Text())
		if strings.TrimSpace(lines.Text()) == "ready" && ready != nil {
			close(ready)
			ready = nil
		}
	}
}

func (c *holdfast) nodeDir(node int) string {
	return filepath.Join(c.options.Dir, fmt.Sprintf("node-%d", node+1))
}

func (c *holdfast) logPath() string { return filepath.Join(c.options.Dir, "dev.log") }

func (c *holdfast) Name() string             { return c.name }
func (c *holdfast) Nodes() int               { return c.options.Nodes }
func (c *holdfast) Endpoint(node int) string { return address(c.base + nodePortStride*node) }

func (c *holdfast) Pid(node int) (int, error) {
	text, err := os.ReadFile(filepath.Join(c.nodeDir(node), "pid"))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s: node %d: not a process id: %q", c.name, node+1, text)
	}
	return pid, nil
}

// rangeTable is what `holdfast-node ranges -o json` prints, as far as it is needed here.
type rangeTable struct {
	Ranges []struct {
		// Start and End are the bounds of [start, end), as text or as hex after 0x; an empty End is no bound.
		Start, End string
		// Leader is the number of the node, from 1, that serves the range; 0 if none does.
		Leader int
		// Kind is "meta" for the range with the system keys, which holds no key of a client.
		Kind string
	}
}

// LeaderOf asks the range directory for the leaseholder of the range that holds key.
func (c *holdfast) LeaderOf(ctx context.Context, via int, key string) (int, error) {
	output, err := c.ranges(ctx, via)
	if err != nil {
		return 0, err
	}
	return leaseholderOf(output, key)
}

// ranges is the directory as the node `via` sees it.
func (c *holdfast) ranges(ctx context.Context, via int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, c.binary, "ranges", "--endpoints", c.Endpoint(via), "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("holdfast-node ranges: %w", err)
	}
	return output, nil
}

// Leaders counts the ranges with keys of clients that each node of a Holdfast serves, as the node `via`
// sees it.
func Leaders(ctx context.Context, c Cluster, via int) ([]int, error) {
	own, ok := c.(*holdfast)
	if !ok {
		return nil, fmt.Errorf("%s has no ranges", c.Name())
	}
	output, err := own.ranges(ctx, via)
	if err != nil {
		return nil, err
	}
	return leadersIn(output, c.Nodes())
}

func leadersIn(table []byte, nodes int) ([]int, error) {
	var ranges rangeTable
	if err := json.Unmarshal(table, &ranges); err != nil {
		return nil, fmt.Errorf("holdfast-node ranges -o json: %w", err)
	}
	leaders := make([]int, nodes)
	for _, r := range ranges.Ranges {
		switch {
		case r.Kind == "meta":
		case r.Leader < 1 || r.Leader > nodes:
			return nil, fmt.Errorf("the range from %q has no leaseholder now", r.Start)
		default:
			leaders[r.Leader-1]++
		}
	}
	return leaders, nil
}

// leaseholderOf is the one place that knows the form of the range table.
func leaseholderOf(table []byte, key string) (int, error) {
	var ranges rangeTable
	if err := json.Unmarshal(table, &ranges); err != nil {
		return 0, fmt.Errorf("holdfast-node ranges -o json: %w", err)
	}
	for _, r := range ranges.Ranges {
		start, end := bound(r.Start), bound(r.End)
		if r.Kind == "meta" || key < start || (end != "" && key >= end) {
			continue
		}
		if r.Leader == 0 {
			return 0, fmt.Errorf("the range of %q has no leaseholder now", key)
		}
		return r.Leader - 1, nil
	}
	return 0, fmt.Errorf("no range holds %q in %s", key, table)
}

// bound reads one bound of a range: text, or hex after 0x.
func bound(text string) string {
	digits, isHex := strings.CutPrefix(text, "0x")
	if !isHex {
		return text
	}
	bytes := make([]byte, 0, len(digits)/2)
	for i := 0; i+1 < len(digits); i += 2 {
		value, err := strconv.ParseUint(digits[i:i+2], 16, 8)
		if err != nil {
			return text
		}
		bytes = append(bytes, byte(value))
	}
	return string(bytes)
}

func (c *holdfast) Restart(node int) error {
	c.rejoined[node].stop(syscall.SIGTERM, 10*time.Second)
	p, err := start(c.binary, []string{"dev", "--rejoin", strconv.Itoa(node + 1), "--data", c.options.Dir},
		c.logPath(), nil, syscall.SIGTERM)
	if err != nil {
		return err
	}
	c.rejoined[node] = p
	return WaitServing(c.Endpoint(node), startTimeout)
}

func (c *holdfast) LogTail() string {
	logs := tail(c.logPath(), 40)
	for node := range c.options.Nodes {
		paths, _ := filepath.Glob(filepath.Join(c.nodeDir(node), "*.log"))
		for _, path := range paths {
			logs += tail(path, 20)
		}
	}
	return logs
}

// Stop asks the watching processes to end, then kills what its own pid file still names.
func (c *holdfast) Stop() {
	for node := range c.options.Nodes {
		if pid, err := c.Pid(node); err == nil && c.owns(pid) {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	for _, p := range append([]*process{c.dev}, c.rejoined...) {
		p.stop(syscall.SIGTERM, 20*time.Second)
	}
	for node := range c.options.Nodes {
		if pid, err := c.Pid(node); err == nil && c.owns(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = os.RemoveAll(c.nodeDir(node))
	}
}

// owns says whether the process was started for this cluster: a pid file may be older
// than the process that now has its number.
func (c *holdfast) owns(pid int) bool {
	commandLine, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(commandLine), c.options.Dir)
}
