// Package load puts a closed load on a cluster: a number of clients, each with one
// request in flight, spread over connections that are spread over the nodes.
//
// Invariants: the same code with the same settings loads every cluster that is
// compared; server CPU time is counted from before the first request is sent until
// after the last has been answered; a failed request is counted, never retried.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast.dev/bench/internal/cluster"
)

// requestTimeout is long enough for a request to outlive an election.
const requestTimeout = 15 * time.Second

// Spec says how much load to put on, and of what kind.
type Spec struct {
	// Clients that each keep one request in flight.
	Clients int
	// Connections that the clients share; the clients of one node's connections use that node only.
	Connections int
	// Kind of client library.
	Kind Kind
	// Duration after which no new request is sent, unless Total is set.
	Duration time.Duration
	// Total number of requests to send; 0 means that Duration decides.
	Total int
	// Seed of the random keys, so that every cluster is sent the same ones.
	Seed uint64
	// Request sends one request.
	Request func(ctx context.Context, client Client, random *rand.Rand) error
}

// Result is what one run measured.
type Result struct {
	// Requests that succeeded, and those that failed.
	Requests, Failed int
	// FirstError of those that failed.
	FirstError string
	// PerSecond is the number of successful requests a second.
	PerSecond float64
	// P50, P90, P99 and Max latency of successful requests.
	P50, P90, P99, Max time.Duration
	// ServerCPU and ClientCPU time used for each successful request: all nodes together, and this program.
	ServerCPU, ClientCPU time.Duration
}

// DefaultConnections spreads clients as etcd's own published benchmarks do: ten on a
// connection, but never fewer connections than nodes.
func DefaultConnections(clients, nodes int) int {
	return max(nodes, clients/10)
}

// Run connects, warms the connections up with one request each, and puts the load on.
func Run(c cluster.Cluster, spec Spec) (Result, error) {
	connections, closeAll, err := connect(c, spec)
	if err != nil {
		return Result{}, err
	}
	defer closeAll()

	serversBefore, err := cluster.CPUTime(c)
	if err != nil {
		return Result{}, err
	}
	clientBefore := ownCPUTime()
	began := time.Now()
	workers := runWorkers(connections, spec, began)
	elapsed := time.Since(began)
	clientUsed := ownCPUTime() - clientBefore
	serversAfter, err := cluster.CPUTime(c)
	if err != nil {
		return Result{}, err
	}
	return summarize(workers, elapsed, serversAfter-serversBefore, clientUsed)
}

// connect opens the connections, node by node in turn.
func connect(c cluster.Cluster, spec Spec) ([]Client, func(), error) {
	var connections []Client
	closeAll := func() {
		for _, connection := range connections {
			connection.Close()
		}
	}
	random := rand.New(rand.NewPCG(spec.Seed, 0))
	for i := range spec.Connections {
		connection, err := Connect(spec.Kind, c.Endpoint(i%c.Nodes()))
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		connections = append(connections, connection)
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		err = spec.Request(ctx, connection, random)
		cancel()
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("first request to %s: %w", c.Endpoint(i%c.Nodes()), err)
		}
	}
	return connections, closeAll, nil
}

// worker is what one client saw.
type worker struct {
	latencies  []time.Duration
	failed     int
	firstError error
}

func runWorkers(connections []Client, spec Spec, began time.Time) []worker {
	workers := make([]worker, spec.Clients)
	var sent atomic.Int64
	more := func() bool {
		if spec.Total > 0 {
			return sent.Add(1) <= int64(spec.Total)
		}
		return time.Since(began) < spec.Duration
	}
	var running sync.WaitGroup
	for i := range workers {
		running.Go(func() {
			w := &workers[i]
			random := rand.New(rand.NewPCG(spec.Seed, uint64(i)+1))
			for turn := 0; more(); turn++ {
				// Few clients take turns over the connections, so that one client meets every node.
				connection := connections[(i+turn*spec.Clients)%len(connections)]
				w.request(connection, spec, random)
			}
		})
	}
	running.Wait()
	return workers
}

func (w *worker) request(connection Client, spec Spec, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	began := time.Now()
	if err := spec.Request(ctx, connection, random); err != nil {
		w.failed++
		if w.firstError == nil {
			w.firstError = err
		}
		return
	}
	w.latencies = append(w.latencies, time.Since(began))
}

func summarize(workers []worker, elapsed, serverCPU, clientCPU time.Duration) (Result, error) {
	var result Result
	var all []time.Duration
	for _, w := range workers {
		all = append(all, w.latencies...)
		result.Failed += w.failed
		if w.firstError != nil && result.FirstError == "" {
			result.FirstError = w.firstError.Error()
		}
	}
	if len(all) == 0 {
		return result, fmt.Errorf("no request succeeded: %s", result.FirstError)
	}
	result.Requests = len(all)
	result.PerSecond = float64(len(all)) / elapsed.Seconds()
	result.P50, result.P90, result.P99, result.Max = Percentiles(all)
	result.ServerCPU = serverCPU / time.Duration(len(all))
	result.ClientCPU = clientCPU / time.Duration(len(all))
	return result, nil
}

// Percentiles sorts the latencies in place and returns the 50th, 90th, 99th and the largest.
func Percentiles(latencies []time.Duration) (p50, p90, p99, largest time.Duration) {
	if len(latencies) == 0 {
		return 0, 0, 0, 0
	}
	slices.Sort(latencies)
	at := func(share float64) time.Duration { return latencies[int(share*float64(len(latencies)-1))] }
	return at(0.50), at(0.90), at(0.99), latencies[len(latencies)-1]
}

func ownCPUTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
