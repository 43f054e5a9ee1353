package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// Binaries are the programs built by bench/build.sh.
type Binaries struct {
	Etcd, Etcdctl, EtcdBenchmark string
	// EtcdVersion is the version of Etcd and Etcdctl: "3.7.3".
	EtcdVersion string
}

// BuiltBinaries builds what is missing (a minute or two the first time) and says where it is.
var BuiltBinaries = sync.OnceValues(func() (Binaries, error) {
	script := filepath.Join(benchFolder(), "build.sh")
	command := exec.Command(script)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("%s: %w\n%s", script, err, stderr.String())
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(output)) {
		name, path, _ := strings.Cut(strings.TrimSpace(line), "=")
		paths[name] = path
	}
	version := strings.TrimPrefix(filepath.Base(filepath.Dir(paths["ETCD"])), "etcd-v")
	return Binaries{
		Etcd:          paths["ETCD"],
		Etcdctl:       paths["ETCDCTL"],
		EtcdBenchmark: paths["ETCD_BENCHMARK"],
		EtcdVersion:   version,
	}, nil
})

// ErrNoHoldfast says that no holdfast-node was built yet.
var ErrNoHoldfast = errors.New("no holdfast-node: build it (cargo build --release) or set HOLDFAST_NODE")

// HoldfastBinary finds holdfast-node: HOLDFAST_NODE, else the release build, else the debug build.
func HoldfastBinary() (string, error) {
	if path := os.Getenv("HOLDFAST_NODE"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("HOLDFAST_NODE: %w", err)
		}
		return path, nil
	}
	target := os.Getenv("CARGO_TARGET_DIR")
	if target == "" {
		target = filepath.Join(benchFolder(), "..", "target")
	}
	for _, profile := range []string{"release", "debug"} {
		path := filepath.Join(target, profile, "holdfast-node")
		if _, err := os.Stat(path); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", ErrNoHoldfast
}

// benchFolder is the folder of this Go module, found from this file's own place.
func benchFolder() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
