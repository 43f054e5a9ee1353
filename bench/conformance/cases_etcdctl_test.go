package conformance

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast.dev/bench/internal/cluster"
)

// Ctl runs etcdctl against this node and records what it prints and how it ends.
func (s *Script) Ctl(arguments ...string) string { return s.ctl("", arguments...) }

// ctl runs etcdctl with something on its standard input.
func (s *Script) ctl(input string, arguments ...string) string {
	recorded := step{asked: "etcdctl " + strings.Join(arguments, " ")}
	defer func() { s.steps = append(s.steps, recorded) }()
	output, failure, err := runCtl(s.side.Endpoint, input, arguments...)
	recorded.add("exit", "%v", err)
	recorded.add("output", "%s", s.readable(output))
	recorded.add("errors", "%s", s.readable(lastError(failure)))
	return output
}

func runCtl(endpoints, input string, arguments ...string) (output, failure string, err error) {
	binaries, err := cluster.BuiltBinaries()
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, binaries.Etcdctl, append([]string{"--endpoints", endpoints}, arguments...)...)
	command.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err = command.Run()
	return stdout.String(), stderr.String(), err
}

// lastError drops etcdctl's own log lines, which hold times and addresses.
func lastError(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "{") && !strings.Contains(line, "\t") {
			kept = append(kept, strings.TrimSpace(line))
		}
	}
	return strings.Join(kept, "\n")
}

var (
	revisionInText = regexp.MustCompile(`("?(?:[rR]evision|create_revision|mod_revision|CreateRevision|ModRevision)"?\s*:\s*|compacted revision )(\d+)`)
	identityInText = regexp.MustCompile(`("?(?:cluster_id|member_id|raft_term|ClusterID|MemberID|RaftTerm|raft_index|ID)"?\s*:\s*)("?[0-9a-f]+"?)`)
	durationInText = regexp.MustCompile(`\d+(\.\d+)?(µs|ms|s)\b`)
)

// readable replaces in etcdctl's text what may differ by nature.
func (s *Script) readable(text string) string {
	text = s.render.text(text)
	for i, endpoint := range s.side.All {
		text = strings.ReplaceAll(text, endpoint, fmt.Sprintf("endpoint-%d", i+1))
	}
	text = revisionInText.ReplaceAllStringFunc(text, func(found string) string {
		parts := revisionInText.FindStringSubmatch(found)
		revision, err := strconv.ParseInt(parts[2], 10, 64)
		if err != nil {
			return found
		}
		return parts[1] + s.render.revision(revision)
	})
	text = identityInText.ReplaceAllString(text, "${1}set")
	return durationInText.ReplaceAllString(text, "TIME")
}

// etcdctlCases show that the tool people use prints the same.
func etcdctlCases() []Case {
	return []Case{
		{"etcdctl/put-get-del", func(s *Script) {
			s.Ctl("put", s.key("a"), "1")
			s.Ctl("put", s.key("a"), "2", "--prev-kv")
			s.Ctl("get", s.key("a"))
			s.Ctl("get", s.key("a"), "-w", "json")
			s.Ctl("get", s.key("a"), "-w", "fields")
			s.Ctl("del", s.key("a"), "--prev-kv")
			s.Ctl("del", s.key("a"))
			s.Ctl("get", s.key("a"))
		}},
		{"etcdctl/get-options", func(s *Script) {
			s.history()
			s.Ctl("get", s.key(""), "--prefix")
			s.Ctl("get", s.key(""), "--prefix", "--keys-only")
			s.Ctl("get", s.key(""), "--prefix", "--count-only", "-w", "fields")
			s.Ctl("get", s.key(""), "--prefix", "--limit", "2", "--order", "DESCEND", "--sort-by", "MODIFY")
			s.Ctl("get", s.key("a"), "--rev", fmt.Sprint(s.Rev(3)))
			s.Ctl("get", s.key("a"), "--rev", fmt.Sprint(s.Rev(300)))
			s.Ctl("get", s.key("b"), s.key("d"))
			s.Ctl("get", s.key("c"), "--from-key")
			s.Ctl("get", s.key("a"), "--consistency", "s")
			s.Ctl("get", "")
		}},
		{"etcdctl/put-options", func(s *Script) {
			s.Ctl("put", s.key("a"), "--ignore-value")
			s.Ctl("put", s.key("a"), "1", "--lease", "7f00")
			s.ctl("from standard input", "put", s.key("a"))
			s.Ctl("get", s.key("a"))
		}},
		{"etcdctl/del-options", func(s *Script) {
			s.Puts("a", "b", "c", "d")
			s.Ctl("del", s.key("a"), s.key("c"))
			s.Ctl("del", s.key(""), "--prefix")
		}},
		{"etcdctl/txn", func(s *Script) {
			s.Put("a", "1")
			txn := fmt.Sprintf("value(\"%[1]s\") = \"1\"\n\nput %[2]s then\nget %[1]s\n\nput %[2]s else\n\n", s.key("a"), s.key("b"))
			s.ctl(txn, "txn")
			s.Put("a", "2")
			s.ctl(txn, "txn")
			s.Get("b")
		}},
		{"etcdctl/compaction", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Ctl("compaction", fmt.Sprint(s.Rev(2)), "--physical")
			s.Ctl("compaction", fmt.Sprint(s.Rev(200)))
			s.Ctl("get", s.key("a"), "--rev", fmt.Sprint(s.Rev(1)))
		}},
		{"etcdctl/lease", func(s *Script) {
			s.Ctl("lease", "revoke", fmt.Sprintf("%x", s.LeaseID(1)))
			s.Grant(&pb.LeaseGrantRequest{ID: s.LeaseID(1), TTL: 600})
			s.Ctl("put", s.key("a"), "1", "--lease", fmt.Sprintf("%x", s.LeaseID(1)))
			s.Ctl("lease", "keep-alive", "--once", fmt.Sprintf("%x", s.LeaseID(1)))
			s.Ctl("lease", "timetolive", fmt.Sprintf("%x", s.LeaseID(2)))
			s.Ctl("lease", "revoke", fmt.Sprintf("%x", s.LeaseID(1)))
			s.Ctl("get", s.key("a"))
		}},
		{"etcdctl/watch", func(s *Script) {
			s.Put("a", "1")
			s.Put("a", "2")
			s.Delete("a")
			output := s.watchOutput(s.key(""), "--prefix", "--prev-kv", "--rev", fmt.Sprint(s.Rev(1)))
			s.Note("output", "%s", output)
		}},
		{"etcdctl/endpoint-health", func(s *Script) { s.Ctl("endpoint", "health") }},
		{"etcdctl/endpoint-health-of-all", func(s *Script) {
			output, _, err := runCtl(strings.Join(s.side.All, ","), "", "endpoint", "health")
			s.Note("healthy", "%d %v", strings.Count(output, "is healthy"), err)
			output, _, err = runCtl(s.side.Endpoint, "", "endpoint", "health", "--cluster")
			s.Note("healthy by the member list", "%d %v", strings.Count(output, "is healthy"), err)
		}},
		{"etcdctl/endpoint-status", func(s *Script) {
			output, _, err := runCtl(strings.Join(s.side.All, ","), "", "endpoint", "status")
			s.Note("status", "%d lines, %v", strings.Count(output, "\n"), err)
			s.Note("leaders", "%d", strings.Count(output, ", true, false,"))
		}},
		{"etcdctl/endpoint-hashkv", func(s *Script) {
			s.Put("a", "1")
			_, _, err := runCtl(strings.Join(s.side.All, ","), "", "endpoint", "hashkv")
			s.Note("hashkv", "%v", err)
		}},
		{"etcdctl/member-list", func(s *Script) {
			output, _, err := runCtl(s.side.Endpoint, "", "member", "list")
			s.Note("members", "%d started, %v", strings.Count(output, ", started, "), err)
		}},
		{"etcdctl/alarm-list", func(s *Script) { s.Ctl("alarm", "list") }},
		{"etcdctl/defrag", func(s *Script) {
			_, _, err := runCtl(s.side.Endpoint, "", "defrag")
			s.Note("defrag", "%v", err)
		}},
		{"etcdctl/lock", func(s *Script) {
			output, _, err := runCtl(s.side.Endpoint, "", "lock", s.key("lock"), "echo", "held")
			s.Note("lock", "%s %v", output, err)
		}},
		{"etcdctl/version", func(s *Script) { s.Ctl("version") }},
	}
}

// watchOutput runs `etcdctl watch` until it has printed three events.
func (s *Script) watchOutput(arguments ...string) string {
	binaries, err := cluster.BuiltBinaries()
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchWait)
	defer cancel()
	command := exec.CommandContext(ctx, binaries.Etcdctl, append([]string{"--endpoints", s.side.Endpoint, "watch"}, arguments...)...)
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err.Error()
	}
	if err := command.Start(); err != nil {
		return err.Error()
	}
	var output strings.Builder
	buffer := make([]byte, 4096)
	// The deletion comes last, with four lines: the key and its previous value, the key and no value.
	whole := func() bool {
		_, deletion, found := strings.Cut(output.String(), "DELETE\n")
		return found && strings.Count(deletion, "\n") >= 4
	}
	for !whole() {
		read, err := stdout.Read(buffer)
		output.Write(buffer[:read])
		if err != nil {
			break
		}
	}
	_ = command.Process.Kill()
	_ = command.Wait() // killed on purpose
	return s.readable(output.String())
}
