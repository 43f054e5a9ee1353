package load

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"holdfast.dev/bench/internal/cluster"
)

// Kind is the client library that sends the load.
type Kind string

const (
	// Official is etcd's Go client, as Kubernetes and etcd's own load tool use it.
	Official Kind = "clientv3"
	// Raw is the generated gRPC stub alone: it costs less, so that the servers show more.
	Raw Kind = "raw"
)

// Client sends single requests over one connection to one node.
type Client interface {
	Put(ctx context.Context, key, value string) error
	// Get gives the value, empty if there is none.
	Get(ctx context.Context, key string, serializable bool) (string, error)
	Close() error
}

// Connect opens one connection to one endpoint.
func Connect(kind Kind, endpoint string) (Client, error) {
	switch kind {
	case Official:
		client, err := NewOfficial(endpoint)
		return official{client}, err
	case Raw:
		conn, err := cluster.Dial(endpoint)
		if err != nil {
			return nil, err
		}
		return raw{conn, pb.NewKVClient(conn)}, nil
	default:
		return nil, fmt.Errorf("unknown kind of client %q: clientv3 or raw", kind)
	}
}

// NewOfficial opens etcd's Go client with one endpoint and a silent log: what fails is
// counted by the caller.
func NewOfficial(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
}

type official struct{ client *clientv3.Client }

func (o official) Put(ctx context.Context, key, value string) error {
	_, err := o.client.Put(ctx, key, value)
	return err
}

func (o official) Get(ctx context.Context, key string, serializable bool) (string, error) {
	var options []clientv3.OpOption
	if serializable {
		options = append(options, clientv3.WithSerializable())
	}
	answer, err := o.client.Get(ctx, key, options...)
	if err != nil || len(answer.Kvs) == 0 {
		return "", err
	}
	return string(answer.Kvs[0].Value), nil
}

func (o official) Close() error { return o.client.Close() }

type raw struct {
	conn *grpc.ClientConn
	kv   pb.KVClient
}

func (r raw) Put(ctx context.Context, key, value string) error {
	_, err := r.kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	return err
}

func (r raw) Get(ctx context.Context, key string, serializable bool) (string, error) {
	answer, err := r.kv.Range(ctx, &pb.RangeRequest{Key: []byte(key), Serializable: serializable})
	if err != nil || len(answer.Kvs) == 0 {
		return "", err
	}
	return string(answer.Kvs[0].Value), nil
}

func (r raw) Close() error { return r.conn.Close() }
