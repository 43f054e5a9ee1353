package conformance

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// step is one answer, flattened to its fields.
type step struct {
	// asked says what was asked, for people.
	asked string
	// lines are the fields of the answer that are set, in the order of the protocol.
	lines []fieldLine
}

type fieldLine struct{ path, value string }

func (s step) String() string {
	text := s.asked
	for _, line := range s.lines {
		text += "\n        " + line.path + " = " + line.value
	}
	return text
}

func (s *step) add(path, format string, values ...any) {
	s.lines = append(s.lines, fieldLine{path, fmt.Sprintf(format, values...)})
}

// renderer turns answers into text that must be equal on both sides. What may differ by
// nature (ids, terms, sizes, the revisions before the script began) is replaced by a
// word that only says that it is there.
type renderer struct {
	// base is the revision of the store when the script began.
	base int64
	// leases gives the ids of client leases the names that the script knows them by.
	leases map[int64]string
}

// identity fields have a value of each cluster's own. That they are set is compared.
var identity = map[string]bool{
	"etcdserverpb.ResponseHeader.cluster_id":        true,
	"etcdserverpb.ResponseHeader.member_id":         true,
	"etcdserverpb.ResponseHeader.raft_term":         true,
	"etcdserverpb.StatusResponse.version":           true,
	"etcdserverpb.StatusResponse.storageVersion":    true,
	"etcdserverpb.StatusResponse.dbSize":            true,
	"etcdserverpb.StatusResponse.dbSizeInUse":       true,
	"etcdserverpb.StatusResponse.dbSizeQuota":       true,
	"etcdserverpb.StatusResponse.leader":            true,
	"etcdserverpb.StatusResponse.raftIndex":         true,
	"etcdserverpb.StatusResponse.raftTerm":          true,
	"etcdserverpb.StatusResponse.raftAppliedIndex":  true,
	"etcdserverpb.HashResponse.hash":                true,
	"etcdserverpb.HashKVResponse.hash":              true,
	"etcdserverpb.Member.ID":                        true,
	"etcdserverpb.Member.name":                      true,
	"etcdserverpb.Member.peerURLs":                  true,
	"etcdserverpb.Member.clientURLs":                true,
	"etcdserverpb.AlarmMember.memberID":             true,
	"etcdserverpb.LeaseTimeToLiveResponse.TTL":      true,
	"etcdserverpb.SnapshotResponse.blob":            true,
	"etcdserverpb.SnapshotResponse.version":         true,
	"etcdserverpb.SnapshotResponse.remaining_bytes": true,
	"etcdserverpb.AuthStatusResponse.authRevision":  true,
	"etcdserverpb.DowngradeResponse.version":        true,
	"etcdserverpb.DowngradeInfo.targetVersion":      true,
}

// revisionField matches the fields that hold a revision of the store.
var revisionField = regexp.MustCompile(`^(revision|create_revision|mod_revision|compact_revision|hash_revision)$`)

// leaseField matches the fields that hold the id of a client lease.
var leaseField = regexp.MustCompile(`^(etcdserverpb\.Lease\w+\.ID|mvccpb\.KeyValue\.lease)$`)

// message adds the fields of an answer to a step.
func (r *renderer) message(s *step, prefix string, message proto.Message) {
	r.fields(s, prefix, message.ProtoReflect())
	if unknown := message.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		s.add(prefix+"unknown fields", "%x", []byte(unknown))
	}
}

// failure adds an error to a step: its code and its text, byte for byte.
func (r *renderer) failure(s *step, err error) {
	answer, _ := status.FromError(err)
	s.add("error", "%s: %s", answer.Code(), answer.Message())
}

func (r *renderer) fields(s *step, prefix string, message protoreflect.Message) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !message.Has(field) {
			continue
		}
		path := prefix + string(field.Name())
		value := message.Get(field)
		if field.IsList() {
			list := value.List()
			for j := range list.Len() {
				r.value(s, fmt.Sprintf("%s[%d]", path, j), field, list.Get(j))
			}
			continue
		}
		r.value(s, path, field, value)
	}
}

func (r *renderer) value(s *step, path string, field protoreflect.FieldDescriptor, value protoreflect.Value) {
	if field.Message() != nil {
		before := len(s.lines)
		r.fields(s, path+".", value.Message())
		if len(s.lines) == before {
			s.add(path, "{}")
		}
		return
	}
	s.add(path, "%s", r.scalar(field, value))
}

func (r *renderer) scalar(field protoreflect.FieldDescriptor, value protoreflect.Value) string {
	name := string(field.FullName())
	switch {
	case identity[name] && field.Kind() == protoreflect.Int64Kind && value.Int() < 0:
		return fmt.Sprint(value.Int()) // a TTL of -1 means that there is no such lease
	case identity[name]:
		return "set"
	case revisionField.MatchString(string(field.Name())):
		return r.revision(value.Int())
	case leaseField.MatchString(name):
		return r.lease(value.Int())
	case field.Kind() == protoreflect.BytesKind:
		return shortened(value.Bytes())
	case field.Kind() == protoreflect.EnumKind:
		return string(field.Enum().Values().ByNumber(value.Enum()).Name())
	default:
		return fmt.Sprint(value.Interface())
	}
}

// revision counts from the start of the script, so that what was written before it does not matter.
func (r *renderer) revision(revision int64) string {
	if revision <= 0 {
		return fmt.Sprint(revision)
	}
	return fmt.Sprintf("base%+d", revision-r.base)
}

func (r *renderer) lease(id int64) string {
	if name, known := r.leases[id]; known {
		return name
	}
	return fmt.Sprintf("unknown lease %x", id)
}

// text replaces in free text what may differ by nature: endpoints are the caller's to replace.
func (r *renderer) text(text string) string {
	for id, name := range r.leases {
		text = strings.ReplaceAll(text, fmt.Sprintf("%016x", id), name)
		text = strings.ReplaceAll(text, fmt.Sprintf("%x", id), name)
		text = strings.ReplaceAll(text, fmt.Sprintf("%d", id), name)
	}
	return text
}

// shortened shows a value whole if a person can read it, else its size and its hash.
func shortened(bytes []byte) string {
	if len(bytes) <= 100 {
		return fmt.Sprintf("%q", bytes)
	}
	return fmt.Sprintf("%d bytes, sha256 %x", len(bytes), sha256.Sum256(bytes))
}
