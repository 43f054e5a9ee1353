package conformance

import (
	"fmt"
	"path"
	"strings"
)

// Difference is one field of one answer that is not the same on both sides.
type Difference struct {
	// Step counts the answers of the script from 1.
	Step int
	// Asked is what was asked.
	Asked string
	// Path of the field; Want is etcd's value and Got the target's, or "(absent)".
	Path, Want, Got string
}

func (d Difference) String() string {
	return fmt.Sprintf("step %d, %s\n    %s\n      etcd:   %s\n      target: %s", d.Step, d.Asked, d.Path, d.Want, d.Got)
}

const absent = "(absent)"

// compare lists what differs between two recordings of one script.
func compare(want, got []step) []Difference {
	var differences []Difference
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) {
			longer, side := want, "the target did not get this far"
			if i >= len(want) {
				longer, side = got, "etcd did not get this far"
			}
			differences = append(differences, Difference{Step: i + 1, Asked: longer[i].asked, Path: "steps", Want: side, Got: side})
			break
		}
		differences = append(differences, compareStep(i+1, want[i], got[i])...)
	}
	return differences
}

func compareStep(number int, want, got step) []Difference {
	wantError, gotError := want.find("error"), got.find("error")
	if (wantError == absent) != (gotError == absent) {
		// One side refused: its error says it all, the fields of the other's answer would only hide it.
		return []Difference{{number, want.asked, "error", orAnswer(wantError, want), orAnswer(gotError, got)}}
	}
	var differences []Difference
	seen := map[string]bool{}
	for _, line := range append(append([]fieldLine(nil), want.lines...), got.lines...) {
		if seen[line.path] {
			continue
		}
		seen[line.path] = true
		wantValue, gotValue := want.find(line.path), got.find(line.path)
		if wantValue != gotValue {
			differences = append(differences, Difference{number, want.asked, line.path, wantValue, gotValue})
		}
	}
	return differences
}

// find joins all values of a path: a note may use one more than once.
func (s step) find(path string) string {
	var values []string
	for _, line := range s.lines {
		if line.path == path {
			values = append(values, line.value)
		}
	}
	if len(values) == 0 {
		return absent
	}
	return strings.Join(values, "; ")
}

func orAnswer(failure string, answer step) string {
	if failure != absent {
		return failure
	}
	var fields []string
	for _, line := range answer.lines {
		fields = append(fields, line.path+"="+line.value)
	}
	return "no error: " + strings.Join(fields, " ")
}

// Allowance is a difference that is known and wanted.
type Allowance struct {
	// Case and Path are patterns as in path.Match; Got is a part of the target's value. Empty means any.
	Case, Path, Got string
	// Reason says why the difference is right, and until when.
	Reason string
}

func (a Allowance) covers(name string, d Difference) bool {
	matches := func(pattern, text string) bool {
		if pattern == "" {
			return true
		}
		matched, err := path.Match(pattern, text)
		return err == nil && matched
	}
	return matches(a.Case, name) && matches(a.Path, d.Path) && strings.Contains(d.Got, a.Got)
}

// split separates the differences that are allowed, with their reasons, from the rest.
func split(name string, differences []Difference, allowances []Allowance) (wrong []Difference, reasons map[string]int) {
	reasons = map[string]int{}
next:
	for _, difference := range differences {
		for _, allowance := range allowances {
			if allowance.covers(name, difference) {
				reasons[allowance.Reason]++
				continue next
			}
		}
		wrong = append(wrong, difference)
	}
	return wrong, reasons
}
