package load

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"holdfast.dev/bench/internal/cluster"
)

// WatchSpec says how watch latency is measured: one writer at a fixed rate, and many
// watchers that all see every write.
type WatchSpec struct {
	// Watchers in all, spread over the nodes; those of one node share Streams streams.
	Watchers int
	// Streams a node.
	Streams int
	// Rate of writes a second.
	Rate int
	// Duration of the writing.
	Duration time.Duration
}

// WatchResult is what one run measured: from the moment a write is sent until a watcher has its event.
type WatchResult struct {
	// Events that arrived, and those that should have.
	Events, Expected int
	// P50, P99 and Max latency.
	P50, P99, Max time.Duration
}

// eventGrace is how long events may still arrive after the last write.
const eventGrace = 5 * time.Second

// RunWatch measures watch latency. The value of each write is the time it was sent, in
// nanoseconds; writer and watchers share one process and so one clock.
func RunWatch(c cluster.Cluster, spec WatchSpec, prefix string) (WatchResult, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	clients, err := watchClients(c, spec.Streams)
	if err != nil {
		return WatchResult{}, err
	}
	defer func() {
		for _, client := range clients {
			client.Close()
		}
	}()

	writes := int(spec.Duration.Seconds() * float64(spec.Rate))
	latencies := make([][]time.Duration, spec.Watchers)
	var watching, finished sync.WaitGroup
	for i := range latencies {
		watching.Add(1)
		finished.Go(func() {
			client := clients[i%len(clients)]
			events := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
			// A stream that breaks is opened again and says so twice.
			latencies[i] = collect(events, writes, sync.OnceFunc(watching.Done))
		})
	}
	watching.Wait()

	err = writeAtRate(ctx, clients[0], spec.Rate, writes, prefix)
	grace := time.AfterFunc(eventGrace, cancel)
	defer grace.Stop()
	if err != nil {
		cancel()
	}
	finished.Wait()

	var all []time.Duration
	for _, own := range latencies {
		all = append(all, own...)
	}
	result := WatchResult{Events: len(all), Expected: writes * spec.Watchers}
	result.P50, _, result.P99, result.Max = Percentiles(all)
	return result, err
}

func watchClients(c cluster.Cluster, perNode int) ([]*clientv3.Client, error) {
	var clients []*clientv3.Client
	for i := range perNode * c.Nodes() {
		client, err := NewOfficial(c.Endpoint(i % c.Nodes()))
		if err != nil {
			for _, client := range clients {
				client.Close()
			}
			return nil, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// collect notes how long each of the first `expected` events took; created is called once the watch is on.
func collect(events clientv3.WatchChan, expected int, created func()) []time.Duration {
	latencies := make([]time.Duration, 0, expected)
	for response := range events {
		if response.Created {
			created()
			continue
		}
		now := time.Now().UnixNano()
		for _, event := range response.Events {
			sent, err := strconv.ParseInt(string(event.Kv.Value), 10, 64)
			if err == nil {
				latencies = append(latencies, time.Duration(now-sent))
			}
		}
		if len(latencies) >= expected {
			break
		}
	}
	return latencies
}

func writeAtRate(ctx context.Context, client *clientv3.Client, rate, writes int, prefix string) error {
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for i := range writes {
		<-ticker.C
		key := fmt.Sprintf("%s%06d", prefix, i)
		sent := strconv.FormatInt(time.Now().UnixNano(), 10)
		if _, err := client.Put(ctx, key, sent); err != nil {
			return fmt.Errorf("write %d of %d: %w", i+1, writes, err)
		}
	}
	return nil
}
