package cluster

import "testing"

// The range table is read in one place; this fixes the form it expects.
func TestLeaseholderOfFindsTheRangeThatHoldsTheKey(t *testing.T) {
	table := []byte(`{"ranges":[
		{"id":1,"start":"","end":"g","leader":1,"replicas":[1,2,3]},
		{"id":2,"start":"g","end":"0x7a00","leader":3,"replicas":[1,2,3]},
		{"id":3,"start":"0x7a00","end":"","leader":0,"replicas":[1,2,3]}]}`)
	for key, want := range map[string]int{"a": 0, "g": 2, "z": 2} {
		got, err := leaseholderOf(table, key)
		if err != nil || got != want {
			t.Errorf("leaseholder of %q: got node index %d, %v; want %d", key, got, err, want)
		}
	}
	if _, err := leaseholderOf(table, "zz"); err == nil {
		t.Error("a range without a leaseholder must be an error")
	}
}

func TestLeadersInCountsRangesWithKeysOfClients(t *testing.T) {
	led := `{"ranges":[{"kind":"meta","leader":1},{"kind":"data","leader":1},{"kind":"data","leader":3},{"kind":"data","leader":1}]}`
	leaders, err := leadersIn([]byte(led), 3)
	if err != nil || leaders[0] != 2 || leaders[1] != 0 || leaders[2] != 1 {
		t.Errorf("got %v, %v; want [2 0 1]", leaders, err)
	}
	if _, err := leadersIn([]byte(`{"ranges":[{"kind":"data","leader":0}]}`), 3); err == nil {
		t.Error("a range without a leaseholder must be an error")
	}
}
