package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports of a node, as `holdfast-node dev` lays them out: clients, then peers, then HTTP.
const (
	portsPerNode   = 3
	nodePortStride = 10
)

// freeBasePort finds a client port from which every node of a cluster finds its ports
// free. It stays below the ports that the kernel hands out to outgoing connections.
func freeBasePort(nodes int) (int, error) {
	for range 200 {
		base := 20000 + rand.IntN(11000)
		if allFree(base, nodes) {
			return base, nil
		}
	}
	return 0, fmt.Errorf("no free ports for %d nodes between 20000 and 31000", nodes)
}

func allFree(base, nodes int) bool {
	for node := range nodes {
		for port := range portsPerNode {
			listener, err := net.Listen("tcp", address(base+nodePortStride*node+port))
			if err != nil {
				return false
			}
			listener.Close()
		}
	}
	return true
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
