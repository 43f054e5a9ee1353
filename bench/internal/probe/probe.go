// Package probe watches one key from one node while something happens to another: how
// long did no write succeed, which requests failed, was any answer stale.
//
// Invariants: the probe never retries; it sends at a fixed rate whatever comes back, so
// that a gap is a gap of the cluster and not of a waiting client; a read is stale if it
// shows less than what was acknowledged, to anyone, before the read was sent.
package probe

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"holdfast.dev/bench/internal/cluster"
)

const (
	// interval between two writes, and so the resolution of a gap.
	interval = 2 * time.Millisecond
	// readInterval between two reads from the watched node.
	readInterval = 10 * time.Millisecond
	// requestTimeout is longer than the 7 s after which etcd itself gives up on a request.
	requestTimeout = 12 * time.Second
)

// Probe writes to one key through one node until it is stopped.
type Probe struct {
	conn    *grpc.ClientConn
	kv      pb.KVClient
	key     []byte
	began   time.Time
	stop    chan struct{}
	running sync.WaitGroup

	// acknowledged is the greatest revision that a write of the key was acknowledged with.
	acknowledged atomic.Int64

	mutex     sync.Mutex
	succeeded []time.Duration // when writes were acknowledged, since began
	took      []time.Duration // how long each of them was
	longest   time.Duration   // the slowest successful write
	failed    int
	error     error
}

// Report is what a probe saw.
type Report struct {
	// Writes that succeeded.
	Writes int
	// Gap is the longest time in which no write was acknowledged.
	Gap time.Duration
	// Slowest is the longest that one successful write took.
	Slowest time.Duration
	// P99 of those that succeeded.
	P99 time.Duration
	// Failed writes, and the first of their errors.
	Failed     int
	FirstError string
}

// Start begins to write. It returns once a first write has succeeded.
func Start(endpoint, key string) (*Probe, error) {
	conn, err := cluster.Dial(endpoint)
	if err != nil {
		return nil, err
	}
	p := &Probe{conn: conn, kv: pb.NewKVClient(conn), key: []byte(key), stop: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if _, err := p.kv.Put(ctx, &pb.PutRequest{Key: p.key}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("first write of the probe: %w", err)
	}
	p.began = time.Now()
	p.running.Go(p.writeAtRate)
	return p, nil
}

func (p *Probe) writeAtRate() {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticker.C:
			p.running.Go(p.write)
		}
	}
}

func (p *Probe) write() {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	sent := time.Now()
	response, err := p.kv.Put(ctx, &pb.PutRequest{Key: p.key})
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if err != nil {
		p.failed++
		if p.error == nil {
			p.error = err
		}
		return
	}
	// Appended under the mutex with the time taken inside, so the times are in order.
	p.succeeded = append(p.succeeded, time.Since(p.began))
	took := time.Since(sent)
	p.took = append(p.took, took)
	p.longest = max(p.longest, took)
	if response.Header.Revision > p.acknowledged.Load() {
		p.acknowledged.Store(response.Header.Revision)
	}
}

// Recovered waits until writes have succeeded without a gap of 100 ms for the given
// time, so that a run ends soon after the cluster is well again. It gives up at the limit.
func (p *Probe) Recovered(calm, limit time.Duration) {
	deadline := time.Now().Add(limit)
	calmSince := time.Now()
	for time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
		p.mutex.Lock()
		last := p.began
		if len(p.succeeded) > 0 {
			last = p.began.Add(p.succeeded[len(p.succeeded)-1])
		}
		p.mutex.Unlock()
		if time.Since(last) > 100*time.Millisecond {
			calmSince = time.Now()
		}
		if time.Since(calmSince) > calm {
			return
		}
	}
}

// Stop ends the writing, waits for every answer, and reports.
func (p *Probe) Stop() Report {
	close(p.stop)
	p.running.Wait()
	end := time.Since(p.began)
	p.conn.Close()
	report := Report{Writes: len(p.succeeded), Slowest: p.longest, Failed: p.failed}
	if p.error != nil {
		report.FirstError = p.error.Error()
	}
	var before time.Duration
	for _, at := range p.succeeded {
		report.Gap = max(report.Gap, at-before)
		before = at
	}
	if len(p.succeeded) == 0 {
		report.Gap = end
	} else {
		slices.Sort(p.took)
		report.P99 = p.took[len(p.took)*99/100]
	}
	return report
}

// StaleReport is what the reads of a watched node showed.
type StaleReport struct {
	// Reads that were answered, and how many of them showed less than was acknowledged before they were sent.
	Reads, Stale int
	// Worst is the most revisions that an answer lacked.
	Worst int64
}

// WatchStale sends linearizable reads of the key to the endpoint, at a fixed rate and
// without waiting, until the returned function is called. A read sent to a paused
// process waits in its socket and is answered the moment the process wakes up: just
// when it may still believe that it leads.
func (p *Probe) WatchStale(endpoint string) (func() StaleReport, error) {
	conn, err := cluster.Dial(endpoint)
	if err != nil {
		return nil, err
	}
	kv := pb.NewKVClient(conn)
	var report StaleReport
	var mutex sync.Mutex
	var reading sync.WaitGroup
	read := func() {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		acknowledged := p.acknowledged.Load()
		response, err := kv.Range(ctx, &pb.RangeRequest{Key: p.key})
		if err != nil || len(response.Kvs) == 0 {
			return
		}
		mutex.Lock()
		defer mutex.Unlock()
		report.Reads++
		if lacks := acknowledged - response.Kvs[0].ModRevision; lacks > 0 {
			report.Stale++
			report.Worst = max(report.Worst, lacks)
		}
	}
	stop := make(chan struct{})
	reading.Go(func() {
		ticker := time.NewTicker(readInterval)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				reading.Go(read)
			}
		}
	})
	return func() StaleReport {
		close(stop)
		reading.Wait()
		conn.Close()
		return report
	}, nil
}
