package main

import "testing"

// A verdict is what a reader takes away, so each kind of goal is tried on both sides of its bound.
func TestVerdictMeetsOrMissesItsGoal(t *testing.T) {
	for _, c := range []struct {
		goal  goal
		etcd  float64
		other float64
		want  string
	}{
		{goal{ratioAtLeast, 1.5}, 100, 150, "ok"},
		{goal{ratioAtLeast, 1.5}, 100, 149, "short"},
		{goal{ratioAtMost, 0.5}, 100, 50, "ok"},
		{goal{ratioAtMost, 0.5}, 100, 51, "short"},
		{goal{ratioAtMost, 0.5}, 0, 0, "short"}, // nothing was measured
		{goal{valueBelow, 500}, 1000, 499, "ok"},
		{goal{valueBelow, 500}, 1000, 500, "short"},
		{goal{valueBelow, 0}, 3, 0, "ok"},
		{goal{valueBelow, 0}, 3, 1, "short"},
		{goal{valueAtLeast, 0.5}, 0, 0.5, "ok"},
		{goal{valueAtLeast, 0.5}, 0, 0.49, "short"},
		{goal{}, 1, 2, ""},
	} {
		var s samples
		s.add(etcdSide, c.etcd)
		s.add(otherSide, c.other)
		if got := summary("metric", "", s, median, c.goal).Verdict; got != c.want {
			t.Errorf("goal %v, etcd %v, other %v: %q, want %q", c.goal, c.etcd, c.other, got, c.want)
		}
	}
}

func TestMedianIsTheMiddleOne(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 3}, 3}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.values, got, c.want)
		}
	}
}

func TestFurthestIsThePartOfAShare(t *testing.T) {
	if even := furthest([]int{4, 4, 4}); even != 0 {
		t.Errorf("even: %v", even)
	}
	if uneven := furthest([]int{8, 4, 0}); uneven != 1 {
		t.Errorf("a node with twice its share: %v", uneven)
	}
}
