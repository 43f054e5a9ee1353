package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// HTTP sends one plain HTTP request to the client port and records status and body.
func (s *Script) HTTP(method, path string) {
	answer, body, err := s.http(method, path, nil)
	recorded := step{asked: method + " " + path}
	if err != nil {
		recorded.add("error", "%v", err)
	} else {
		recorded.add("status", "%d", answer.StatusCode)
		recorded.add("body", "%s", sortedLines(string(body)))
	}
	s.steps = append(s.steps, recorded)
}

// sortedLines evens out the order of the checks in a verbose answer, which etcd takes from a map.
func sortedLines(body string) string {
	lines := strings.Split(strings.TrimRight(body, "\n"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (s *Script) http(method, path string, body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.side.Endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer, text, err
}

// httpCases show what the client port answers to plain HTTP.
func httpCases() []Case {
	plain := func(method, path string) func(s *Script) { return func(s *Script) { s.HTTP(method, path) } }
	gateway := func(path string, body func(s *Script) any) func(s *Script) {
		return func(s *Script) {
			s.Put("a", "1")
			text, err := json.Marshal(body(s))
			if err != nil {
				s.Note("body", "%v", err)
				return
			}
			answer, _, err := s.http("POST", path, text)
			if err != nil {
				s.Note("error", "%v", err)
				return
			}
			s.Note("status", "%d", answer.StatusCode)
			s.Get("a")
		}
	}
	return []Case{
		{"http/health", plain("GET", "/health")},
		{"http/health-serializable", plain("GET", "/health?serializable=true")},
		{"http/health-exclude", plain("GET", "/health?exclude=NOSPACE")},
		{"http/health-post", plain("POST", "/health")},
		{"http/livez", plain("GET", "/livez")},
		{"http/livez-verbose", plain("GET", "/livez?verbose")},
		{"http/livez-one-check", plain("GET", "/livez/serializable_read")},
		{"http/readyz", plain("GET", "/readyz")},
		{"http/readyz-verbose", plain("GET", "/readyz?verbose")},
		{"http/readyz-exclude", plain("GET", "/readyz?exclude=linearizable_read&verbose")},
		{"http/readyz-one-check", plain("GET", "/readyz/linearizable_read")},
		{"http/readyz-unknown-check", plain("GET", "/readyz/nothing")},
		{"http/unknown-path", plain("GET", "/nothing/here")},
		{"http/version", func(s *Script) {
			answer, body, err := s.http("GET", "/version", nil)
			if err != nil {
				s.Note("error", "%v", err)
				return
			}
			var versions map[string]string
			err = json.Unmarshal(body, &versions)
			s.Note("version", "%d %s %v", answer.StatusCode, answer.Header.Get("Content-Type"), err)
			for _, name := range []string{"etcdserver", "etcdcluster", "storage"} {
				s.Note(name, "set: %v", versions[name] != "")
			}
		}},
		{"http/version-post", plain("POST", "/version")},
		{"http/metrics", func(s *Script) {
			answer, body, err := s.http("GET", "/metrics", nil)
			if err != nil {
				s.Note("error", "%v", err)
				return
			}
			s.Note("metrics", "%d, text: %v", answer.StatusCode, strings.HasPrefix(answer.Header.Get("Content-Type"), "text/plain"))
			// What the usual dashboards and alerts for etcd are built on.
			for _, name := range []string{
				"etcd_server_has_leader", "etcd_disk_wal_fsync_duration_seconds_bucket",
				"etcd_server_leader_changes_seen_total", "etcd_mvcc_db_total_size_in_bytes",
			} {
				s.Note(name, "there: %v", bytes.Contains(body, []byte("\n"+name)))
			}
		}},
		{"http/gateway-range", gateway("/v3/kv/range", func(s *Script) any { return map[string]any{"key": s.Key("a")} })},
		{"http/gateway-put", gateway("/v3/kv/put", func(s *Script) any {
			return map[string]any{"key": s.Key("a"), "value": []byte("via json")}
		})},
		{"http/beside-grpc-on-one-port", func(s *Script) {
			s.Put("a", "1")
			s.HTTP("GET", "/health")
			s.Range(&pb.RangeRequest{Key: s.Key("a")})
		}},
	}
}
