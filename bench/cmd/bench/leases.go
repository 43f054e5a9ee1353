package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"holdfast.dev/bench/internal/cluster"
	"holdfast.dev/bench/internal/load"
)

const (
	// leaseSeconds is shorter than the pause, so that the sleeping leader believes every lease has run out.
	leaseSeconds = 5
	// leasePause is longer than the leases by enough to see a wrong revocation.
	leasePause = 8 * time.Second
	// leaseCount of leases with a key each.
	leaseCount = 20
	// renewInterval and renewTimeout make a client that tries hard: a renewal that hangs
	// is given up and sent again, to the other node.
	renewInterval = 500 * time.Millisecond
	renewTimeout  = time.Second
)

// pauseLeases keeps leases alive through two nodes while the third, which leads, is
// paused for longer than they last and resumed. A lease that is kept alive must not
// vanish, and an election whose holder is alive must not be won by another.
func pauseLeases(ctx context.Context, p *pair, s settings) ([]line, error) {
	var vanished, wrongly, holders samples
	if p.etcd.Nodes() < 3 {
		return nil, errors.New("needs at least 3 nodes")
	}
	run := 0
	err := p.each(min(s.repeats, 3), func(c cluster.Cluster, side side) error {
		run++
		seen, err := pauseLeasesOnce(ctx, c, fmt.Sprintf("leases/%d/", run))
		vanished.add(side, float64(seen.vanished))
		wrongly.add(side, float64(seen.wrongly))
		holders.add(side, float64(seen.secondHolders))
		return err
	})
	return []line{
		summary("vanished leases", "", vanished, total, goal{valueBelow, 0}),
		summary("of those within a TTL", "", wrongly, total, goal{valueBelow, 0}),
		summary("second holders", "", holders, total, goal{valueBelow, 0}),
	}, err
}

// leaseReport is what one pause did.
type leaseReport struct {
	// vanished are leases that were asked to be kept alive and whose key went away all the same.
	vanished int
	// wrongly are those of them that went before the TTL of their last acknowledged renewal had passed.
	wrongly int
	// secondHolders were elected while the first holder was alive.
	secondHolders int64
}

func pauseLeasesOnce(ctx context.Context, c cluster.Cluster, prefix string) (leaseReport, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	victim, err := leaderOf(ctx, c)
	if err != nil {
		return leaseReport{}, err
	}
	var survivors [2]*clientv3.Client
	for i := range survivors {
		survivors[i], err = load.NewOfficial(c.Endpoint((victim + 1 + i) % c.Nodes()))
		if err != nil {
			return leaseReport{}, err
		}
		defer survivors[i].Close()
	}

	kept := &keptLeases{survivors: survivors, lastAcknowledged: map[string]time.Time{}}
	watching := survivors[1].Watch(ctx, prefix+"key/", clientv3.WithPrefix(), clientv3.WithFilterPut())
	var watched sync.WaitGroup
	watched.Go(func() { kept.watch(watching) })
	for i := range leaseCount {
		if err := kept.grant(ctx, fmt.Sprintf("%skey/%d", prefix, i)); err != nil {
			return leaseReport{}, err
		}
	}
	wins, err := contest(ctx, survivors[0], survivors[1], prefix+"election/")
	if err != nil {
		return leaseReport{}, err
	}
	err = pause(c, victim, leasePause)
	time.Sleep(settleTime + leaseSeconds*time.Second)
	report := kept.report()
	report.secondHolders = wins()
	cancel()
	watched.Wait()
	return report, err
}

// keptLeases renews leases through the survivors and watches their keys.
type keptLeases struct {
	survivors [2]*clientv3.Client

	mutex sync.Mutex
	// lastAcknowledged is, for each key, when the last renewal that was acknowledged had been sent.
	lastAcknowledged map[string]time.Time
	seen             leaseReport
}

// grant makes a lease with a key and renews it until the context ends.
func (k *keptLeases) grant(ctx context.Context, key string) error {
	sent := time.Now()
	lease, err := k.survivors[0].Grant(ctx, leaseSeconds)
	if err != nil {
		return err
	}
	if _, err := k.survivors[0].Put(ctx, key, "", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	k.acknowledge(key, sent)
	go k.renew(ctx, key, lease.ID)
	return nil
}

func (k *keptLeases) renew(ctx context.Context, key string, lease clientv3.LeaseID) {
	ticker := time.NewTicker(renewInterval)
	defer ticker.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		sent := time.Now()
		attempt, cancel := context.WithTimeout(ctx, renewTimeout)
		response, err := k.survivors[turn%len(k.survivors)].KeepAliveOnce(attempt, lease)
		cancel()
		if err == nil && response.TTL > 0 {
			k.acknowledge(key, sent)
		}
	}
}

func (k *keptLeases) acknowledge(key string, sent time.Time) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.lastAcknowledged[key] = sent
}

func (k *keptLeases) watch(responses clientv3.WatchChan) {
	for response := range responses {
		k.mutex.Lock()
		for _, event := range response.Events {
			k.seen.vanished++
			if time.Since(k.lastAcknowledged[string(event.Kv.Key)]) < leaseSeconds*time.Second {
				k.seen.wrongly++
			}
		}
		k.mutex.Unlock()
	}
}

func (k *keptLeases) report() leaseReport {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	return k.seen
}

// contest has one candidate win an election and another wait for it. The returned
// function says how many times the other was elected although the first never gave up
// and its session never said that it had ended.
func contest(ctx context.Context, first, second *clientv3.Client, name string) (func() int64, error) {
	holder, err := concurrency.NewSession(first, concurrency.WithTTL(leaseSeconds), concurrency.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	rival, err := concurrency.NewSession(second, concurrency.WithTTL(leaseSeconds), concurrency.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := concurrency.NewElection(holder, name).Campaign(ctx, "first"); err != nil {
		return nil, err
	}
	var wins atomic.Int64
	waiting, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if concurrency.NewElection(rival, name).Campaign(waiting, "second") != nil {
			return
		}
		select {
		case <-holder.Done():
		default:
			wins.Add(1)
		}
	}()
	return func() int64 {
		stop()
		<-ended
		return wins.Load()
	}, nil
}
