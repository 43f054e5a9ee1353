package conformance

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// watchWait is how long a script waits for an answer on a watch stream that must come.
const watchWait = 5 * time.Second

// WatchStream is one stream with its watchers. What arrives is kept until it is asked for.
type WatchStream struct {
	script  *Script
	stream  pb.Watch_WatchClient
	arrived chan *pb.WatchResponse
	ended   chan error
	cancel  context.CancelFunc
	// pending has arrived but was not asked for yet.
	pending []*pb.WatchResponse
}

// Watch opens a stream. It is closed at the end of the script.
func (s *Script) Watch() *WatchStream {
	ctx, cancel := context.WithCancel(context.Background())
	w := &WatchStream{script: s, arrived: make(chan *pb.WatchResponse, 1000), ended: make(chan error, 1), cancel: cancel}
	stream, err := s.side.watch.Watch(ctx)
	if err != nil {
		cancel()
		s.record("Watch", nil, err)
		w.ended <- err
		return w
	}
	w.stream = stream
	s.cleanups = append(s.cleanups, cancel)
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				w.ended <- err
				return
			}
			w.arrived <- response
		}
	}()
	return w
}

// Create sends a create request and records its answer. It returns the watcher's id.
func (w *WatchStream) Create(request *pb.WatchCreateRequest) int64 {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}})
	response := w.take("created", func(r *pb.WatchResponse) bool { return r.Created })
	w.record("Watch create "+brief(request), response)
	return response.GetWatchId()
}

// Prefix watches all keys that begin with the name, from now on.
func (w *WatchStream) Prefix(name string) int64 {
	return w.Create(&pb.WatchCreateRequest{Key: w.script.Key(name), RangeEnd: w.script.End(name)})
}

// Cancel ends one watcher and records the answer.
func (w *WatchStream) Cancel(id int64) {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
	w.Canceled(id)
}

// CancelSilently asks for the end of a watcher that is not there: no answer is expected.
func (w *WatchStream) CancelSilently(id int64) {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

// Canceled waits for the end of a watcher and records it.
func (w *WatchStream) Canceled(id int64) {
	response := w.take("canceled", func(r *pb.WatchResponse) bool { return r.Canceled && r.WatchId == id })
	w.record(fmt.Sprintf("Watch canceled %d", id), response)
}

// Progress asks for the progress of the whole stream until it has reached the revision,
// and records the answer. A server may stay silent while a watcher catches up.
func (w *WatchStream) Progress(revision int64) {
	deadline := time.Now().Add(watchWait)
	for time.Now().Before(deadline) {
		w.RequestProgress()
		response := w.within(200*time.Millisecond, isProgress)
		if response != nil && response.Header.Revision >= revision {
			w.record("Watch progress", response)
			return
		}
	}
	w.script.Note("Watch progress", "did not reach %s", w.script.render.revision(revision))
}

func isProgress(r *pb.WatchResponse) bool {
	return !r.Created && !r.Canceled && len(r.Events) == 0
}

// RequestProgress only sends the request.
func (w *WatchStream) RequestProgress() {
	w.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// NextProgress waits for one progress answer and records it.
func (w *WatchStream) NextProgress() {
	w.record("Watch progress", w.take("progress", isProgress))
}

// Events waits for so many events of one watcher and records them by revision. How many
// revisions share a response is the server's choice; that one revision is never split
// over two is recorded.
func (w *WatchStream) Events(id int64, count int) []*mvccpb.Event {
	recorded := step{asked: fmt.Sprintf("Watch %d: %d events", id, count)}
	var events []*mvccpb.Event
	var lastRevision int64
	for len(events) < count {
		response := w.within(watchWait, func(r *pb.WatchResponse) bool { return r.WatchId == id && len(r.Events) > 0 })
		if response == nil {
			recorded.add("missing", "%d of %d events came", len(events), count)
			break
		}
		first, last := response.Events[0].Kv.ModRevision, response.Events[len(response.Events)-1].Kv.ModRevision
		if first == lastRevision {
			recorded.add("split", "revision %s came in two responses", w.script.render.revision(first))
		}
		if response.Header.GetRevision() < last {
			recorded.add("header", "its revision is below that of the events it brings")
		}
		lastRevision = last
		events = append(events, response.Events...)
	}
	for i, event := range events {
		w.script.render.message(&recorded, fmt.Sprintf("events[%d].", i), event)
	}
	w.script.steps = append(w.script.steps, recorded)
	return events
}

// Fragments waits for one revision that comes in fragments and records how.
func (w *WatchStream) Fragments(id int64, count int, limitBytes int) {
	recorded := step{asked: fmt.Sprintf("Watch %d: %d events in fragments", id, count)}
	events, responses := 0, 0
	for events < count {
		response := w.within(watchWait, func(r *pb.WatchResponse) bool { return r.WatchId == id && len(r.Events) > 0 })
		if response == nil {
			recorded.add("missing", "%d of %d events came", events, count)
			break
		}
		size := 0
		for _, event := range response.Events {
			size += len(event.Kv.Key) + len(event.Kv.Value)
		}
		if size > limitBytes && len(response.Events) > 1 {
			recorded.add("size", "a fragment of %d events holds %d bytes", len(response.Events), size)
		}
		events += len(response.Events)
		responses++
		if last := events >= count; response.Fragment == last {
			recorded.add("fragment", "fragment=%v after %d of %d events", response.Fragment, events, count)
		}
	}
	recorded.add("more than one response", "%v", responses > 1)
	recorded.add("events", "%d", events)
	w.script.steps = append(w.script.steps, recorded)
}

// Nothing listens for a while and records whatever comes although nothing should.
func (w *WatchStream) Nothing() {
	recorded := step{asked: "Watch: nothing"}
	for {
		response := w.within(quietTime, func(*pb.WatchResponse) bool { return true })
		if response == nil {
			break
		}
		w.script.render.message(&recorded, "", response)
	}
	w.script.steps = append(w.script.steps, recorded)
}

// Close ends the stream as a client does that goes away.
func (w *WatchStream) Close() { w.cancel() }

func (w *WatchStream) send(request *pb.WatchRequest) {
	if w.stream != nil {
		_ = w.stream.Send(request) // a broken stream is seen by whoever waits for the answer
	}
}

func (w *WatchStream) record(asked string, response *pb.WatchResponse) {
	if response == nil {
		w.script.Note(asked, "no answer%s", w.waiting())
		return
	}
	w.script.record(asked, response, nil)
}

// waiting tells what else is there, to help find out why an answer did not come.
func (w *WatchStream) waiting() string {
	var others []string
	for _, response := range w.pending {
		others = append(others, brief(response))
	}
	if len(others) == 0 {
		return ""
	}
	return "; not asked for: " + strings.Join(others, " ")
}

func (w *WatchStream) take(_ string, wanted func(*pb.WatchResponse) bool) *pb.WatchResponse {
	return w.within(watchWait, wanted)
}

// within returns the first response that is wanted, or nil if the time is over or the stream ends.
func (w *WatchStream) within(limit time.Duration, wanted func(*pb.WatchResponse) bool) *pb.WatchResponse {
	for i, response := range w.pending {
		if wanted(response) {
			w.pending = append(w.pending[:i:i], w.pending[i+1:]...)
			return response
		}
	}
	deadline := time.After(limit)
	for {
		select {
		case response := <-w.arrived:
			if wanted(response) {
				return response
			}
			w.pending = append(w.pending, response)
		case err := <-w.ended:
			w.ended <- err
			// Whatever arrived before the end still counts.
			select {
			case response := <-w.arrived:
				if wanted(response) {
					return response
				}
				w.pending = append(w.pending, response)
				continue
			default:
				return nil
			}
		case <-deadline:
			return nil
		}
	}
}
