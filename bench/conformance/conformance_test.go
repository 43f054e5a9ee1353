package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"holdfast.dev/bench/internal/cluster"
)

var (
	targetFlag = flag.String("target", "", "what to compare with etcd: holdfast, or etcd to check the comparison itself (default: holdfast if it is built, else skip)")
	nodesFlag  = flag.Int("nodes", 3, "nodes of each cluster; every case runs through every node of the target")
	showFlag   = flag.Bool("show", false, "print every answer of the target")
	rangesFlag = flag.String("ranges", "one", "one: all keys in Holdfast's first range; many: a range is cut inside every case, so that requests over several keys go to several ranges")
)

// Case is a script with a name, group/what-it-shows.
type Case struct {
	Name string
	Run  func(s *Script)
}

// allCases in the order in which they run.
func allCases() []Case {
	var all []Case
	for _, group := range [][]Case{
		rangeCases(), putCases(), deleteCases(), txnCases(), compactCases(), watchCases(),
		leaseCases(), maintenanceCases(), serviceCases(), httpCases(), clientCases(), etcdctlCases(),
	} {
		all = append(all, group...)
	}
	return all
}

func TestConformance(t *testing.T) {
	clusters := startClusters(t)
	cases := allCases()
	var runs, allowed int
	for number, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			for node := range clusters.target.Nodes() {
				t.Run(fmt.Sprintf("node-%d", node+1), func(t *testing.T) {
					runs++
					allowed += runCase(t, clusters, c, number, node)
				})
			}
		})
	}
	t.Logf("%d cases, %d runs against %s, %d allowed differences", len(cases), runs, clusters.target.Name(), allowed)
}

// pairOfClusters is etcd and what is compared with it.
type pairOfClusters struct{ reference, target cluster.Cluster }

func startClusters(t *testing.T) pairOfClusters {
	t.Helper()
	startTarget := cluster.StartHoldfast
	switch *targetFlag {
	case "etcd":
		startTarget = cluster.StartEtcd
	case "holdfast":
	case "":
		if _, err := cluster.HoldfastBinary(); errors.Is(err, cluster.ErrNoHoldfast) {
			t.Skip(err)
		}
	default:
		t.Fatalf("-target=%s: must be holdfast or etcd", *targetFlag)
	}
	var clusters pairOfClusters
	for _, one := range []struct {
		name  string
		start func(cluster.Options) (cluster.Cluster, error)
		to    *cluster.Cluster
	}{{"etcd", cluster.StartEtcd, &clusters.reference}, {"target", startTarget, &clusters.target}} {
		dir := filepath.Join(t.TempDir(), one.name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		options := cluster.Options{Nodes: *nodesFlag, Dir: dir, SplitKeys: splitKeys(t)}
		started, err := one.start(options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(started.Stop)
		*one.to = started
	}
	return clusters
}

// attempts bounds how often a case is run again because a leader changed during it:
// an election on a busy machine is not a difference.
const attempts = 4

func runCase(t *testing.T, clusters pairOfClusters, c Case, number, node int) (allowed int) {
	for attempt := range attempts {
		want, got, steady, err := runOnBoth(clusters, c, number, node, attempt)
		if err != nil {
			t.Fatal(err)
		}
		if !steady && attempt < attempts-1 {
			t.Logf("a leader changed during the case; running it again")
			continue
		}
		if *showFlag {
			for i, answer := range got {
				t.Logf("%d %v", i+1, answer)
			}
		}
		wrong, reasons := split(c.Name, compare(want, got), Allowances)
		for reason, count := range reasons {
			t.Logf("%d allowed: %s", count, reason)
			allowed += count
		}
		for _, difference := range wrong {
			t.Errorf("%v", difference)
		}
		return allowed
	}
	return allowed
}

// runOnBoth runs a case on both sides at once. Steady says that no leader changed on either.
func runOnBoth(clusters pairOfClusters, c Case, number, node, attempt int, onTarget ...grpc.DialOption) (want, got []step, steady bool, err error) {
	var wantTerms, gotTerms int
	var wantError, gotError error
	var running sync.WaitGroup
	running.Go(func() {
		want, wantTerms, wantError = runOn(clusters.reference, c, number, node%clusters.reference.Nodes(), node, attempt)
	})
	running.Go(func() {
		got, gotTerms, gotError = runOn(clusters.target, c, number, node, node, attempt, onTarget...)
	})
	running.Wait()
	return want, got, wantTerms == 1 && gotTerms == 1, errors.Join(wantError, gotError)
}

func runOn(on cluster.Cluster, c Case, number, through, node, attempt int, options ...grpc.DialOption) ([]step, int, error) {
	side, err := Connect(on, through, options...)
	if err != nil {
		return nil, 0, err
	}
	defer side.Close()
	before, err := term(side)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w\n%s", on.Name(), err, on.LogTail())
	}
	script, err := newScript(side, keyPrefix(number, node, attempt), int64(number+1)*100_000+int64(node)*10_000+int64(attempt)*1000)
	if err != nil {
		return nil, 0, err
	}
	c.Run(script)
	script.close()
	after, err := term(side)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w\n%s", on.Name(), err, on.LogTail())
	}
	return script.steps, int(after-before) + 1, nil
}

// keyPrefix begins every key of one run of a case. It grows from run to run, so that no
// key lies behind those of the run that is on.
func keyPrefix(number, node, attempt int) string {
	return fmt.Sprintf("c%03d%d%02d/", number, node, attempt)
}

// splitKeys cut Holdfast's ranges as -ranges asks.
func splitKeys(t *testing.T) []string {
	t.Helper()
	switch *rangesFlag {
	case "one":
		return nil
	case "many":
	default:
		t.Fatalf("-ranges=%s: must be one or many", *rangesFlag)
	}
	var keys []string
	for number, c := range allCases() {
		if slices.Contains(uncut, c.Name) {
			continue
		}
		for node := range *nodesFlag {
			keys = append(keys, keyPrefix(number, node, 0)+"b")
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// uncut are cases in which several ranges are known to show (docs/etcd-compatibility.md):
// the end of a client lease has a revision of its own in each range, and a stale read names
// the revision to which its own range is complete.
var uncut = []string{"range/serializable", "watch/with-lease-and-its-end", "lease/revoke-deletes-in-one-revision", "lease/expiry"}

// term is the term in which the node's leader leads. It waits out an election.
func term(side *Side) (uint64, error) {
	var lastError error
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		response, err := side.kv.Range(ctx, &pb.RangeRequest{Key: []byte("term")})
		cancel()
		if err == nil {
			return response.Header.RaftTerm, nil
		}
		lastError = err
		time.Sleep(250 * time.Millisecond)
	}
	return 0, lastError
}
