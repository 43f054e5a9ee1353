package cluster

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the CPU times in /proc/PID/stat: 1/100 s on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// CPUTime is the user and system time that all node processes together have used so far.
func CPUTime(c Cluster) (time.Duration, error) {
	var total time.Duration
	for node := range c.Nodes() {
		pid, err := c.Pid(node)
		if err != nil {
			return 0, err
		}
		used, err := processCPUTime(pid)
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

func processCPUTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in brackets and may hold spaces; count from its end.
	_, after, found := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if !found || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	return time.Duration(user+system) * clockTick, nil
}

// MemoryBytes is the memory of the node that has most: all that is resident, and of that
// what is not backed by a file and so cannot be dropped.
func MemoryBytes(c Cluster) (resident, anonymous int64, err error) {
	for node := range c.Nodes() {
		pid, err := c.Pid(node)
		if err != nil {
			return 0, 0, err
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, 0, err
		}
		var size, all, fileBacked int64
		if _, err := fmt.Sscan(string(text), &size, &all, &fileBacked); err != nil {
			return 0, 0, fmt.Errorf("/proc/%d/statm has an unknown form: %w", pid, err)
		}
		page := int64(os.Getpagesize())
		resident = max(resident, all*page)
		anonymous = max(anonymous, (all-fileBacked)*page)
	}
	return resident, anonymous, nil
}
