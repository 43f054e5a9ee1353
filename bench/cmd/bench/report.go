package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// side says which of the two clusters a figure belongs to.
type side int

const (
	etcdSide side = iota
	otherSide
)

// samples are the figures of one metric, one a round, for each side.
type samples [2][]float64

func (s *samples) add(side side, value float64) { s[side] = append(s[side], value) }

// goal is what a line must reach. The zero goal asks nothing.
type goal struct {
	of    measure
	bound float64
}

type measure int

const (
	noGoal measure = iota
	ratioAtLeast
	ratioAtMost
	valueBelow
	valueAtLeast
)

func (g goal) String() string {
	switch g.of {
	case ratioAtLeast:
		return fmt.Sprintf(">= %g x", g.bound)
	case ratioAtMost:
		return fmt.Sprintf("<= %g x", g.bound)
	case valueBelow:
		if g.bound == 0 {
			return "0"
		}
		return fmt.Sprintf("< %g", g.bound)
	case valueAtLeast:
		return fmt.Sprintf(">= %g", g.bound)
	default:
		return ""
	}
}

// line is one row of the table.
type line struct {
	Scenario string `json:"scenario"`
	Metric   string `json:"metric"`
	Unit     string `json:"unit,omitempty"`
	// Etcd and Other are what the two clusters did.
	Etcd  float64 `json:"etcd"`
	Other float64 `json:"other"`
	// Ratio is Other divided by Etcd; 0 if Etcd is 0.
	Ratio float64 `json:"ratio,omitempty"`
	// Goal and Verdict are empty for a line without a goal.
	Goal    string `json:"goal,omitempty"`
	Verdict string `json:"verdict,omitempty"`
	// Error is why a scenario could not be finished; the figures then mean nothing.
	Error string `json:"error,omitempty"`
}

// summary makes a line from how all rounds are summed up in one figure: their median,
// their largest, their total.
func summary(metric, unit string, s samples, sum func([]float64) float64, g goal) line {
	l := line{Metric: metric, Unit: unit, Etcd: sum(s[etcdSide]), Other: sum(s[otherSide]), Goal: g.String()}
	if l.Etcd != 0 {
		l.Ratio = l.Other / l.Etcd
	}
	l.Verdict = verdict(l, g)
	if l.Verdict == "ok" && (len(s[otherSide]) == 0 || len(s[etcdSide]) == 0) {
		l.Verdict = "short" // nothing was measured
	}
	return l
}

func verdict(l line, g goal) string {
	var met bool
	switch g.of {
	case noGoal:
		return ""
	case ratioAtLeast:
		met = l.Ratio >= g.bound
	case ratioAtMost:
		met = l.Ratio <= g.bound && l.Etcd != 0
	case valueBelow:
		met = l.Other < g.bound || (g.bound == 0 && l.Other == 0)
	case valueAtLeast:
		met = l.Other >= g.bound
	}
	if met {
		return "ok"
	}
	return "short"
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

func largest(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Max(values)
}

func total(values []float64) float64 {
	var sum float64
	for _, value := range values {
		sum += value
	}
	return sum
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// report gathers the lines of all scenarios.
type report struct {
	EtcdName  string    `json:"etcdName"`
	OtherName string    `json:"otherName"`
	Cores     int       `json:"cores"`
	Began     time.Time `json:"began"`
	Client    string    `json:"client"`
	Lines     []line    `json:"lines"`
}

func newReport(p *pair, s settings) *report {
	return &report{
		EtcdName:  p.etcd.Name(),
		OtherName: p.other.Name(),
		Cores:     runtime.NumCPU(),
		Began:     time.Now().UTC().Truncate(time.Second),
		Client:    s.client,
	}
}

// add also prints the lines at once, since a whole run takes minutes.
func (r *report) add(scenario string, lines []line) {
	for _, l := range lines {
		l.Scenario = scenario
		r.Lines = append(r.Lines, l)
		if l.Error != "" {
			fmt.Fprintf(os.Stderr, "  %s: %s\n", l.Metric, l.Error)
			continue
		}
		fmt.Fprintf(os.Stderr, "  %-22s %10s %10s %-6s %s\n", l.Metric, figure(l.Etcd), figure(l.Other), l.Unit, l.Verdict)
	}
}

func (r *report) print(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nscenario\tmetric\t%s\t%s\tunit\tratio\tgoal\t\n", r.EtcdName, r.OtherName)
	met, short := 0, 0
	for _, l := range r.Lines {
		if l.Error != "" {
			fmt.Fprintf(table, "%s\tFAILED: %s\t\t\t\t\t\tshort\n", l.Scenario, l.Error)
			short++
			continue
		}
		ratio := ""
		if l.Ratio != 0 {
			ratio = fmt.Sprintf("%.2f", l.Ratio)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			l.Scenario, l.Metric, figure(l.Etcd), figure(l.Other), l.Unit, ratio, l.Goal, l.Verdict)
		switch l.Verdict {
		case "ok":
			met++
		case "short":
			short++
		}
	}
	table.Flush()
	fmt.Fprintf(out, "\n%d goals met, %d short; %d cores, client %s; compare ratios, not figures of two machines\n",
		met, short, r.Cores, r.Client)
}

// figure shows three digits that matter, and no more.
func figure(value float64) string {
	switch {
	case value >= 100 || value == 0:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	default:
		return fmt.Sprintf("%.2f", value)
	}
}

func (r *report) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
