package test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// nodeSet is a cluster of three nodes on loopback, each a process with addresses of its own that
// stay over restarts.
type nodeSet struct {
	t      *testing.T
	rigs   []*rig
	names  []string
	routes []string  // where each listens for the others
	net    *routeNet // between them; nil: they connect directly

	partitions int
	turn       atomic.Int64
}

const (
	testNodes      = 3
	testPartitions = 6
)

// newNodes makes the nodes and starts none.
func newNodes(t *testing.T, net *routeNet, flags ...string) *nodeSet {
	t.Helper()
	n := &nodeSet{t: t, net: net, partitions: testPartitions}
	for range testNodes {
		n.routes = append(n.routes, testport.Address(t))
	}
	for i := range testNodes {
		var peers []string
		for j, to := range n.routes {
			if net != nil && i != j {
				to = net.proxy(t, way{i, j}, to)
			}
			if i != j {
				peers = append(peers, to)
			}
		}
		r := &rig{t: t, dir: t.TempDir(), listen: testport.Address(t),
			adminListen: testport.Address(t), env: slices.Clone(secretsEnv)}
		r.addr, r.admin = r.listen, r.adminListen
		n.names = append(n.names, fmt.Sprintf("n%d", i+1))
		r.flags = append(slices.Clone(flags), "--cluster-node="+n.names[i],
			"--cluster-listen="+n.routes[i], "--cluster-peers="+strings.Join(peers, ","),
			fmt.Sprintf("--cluster-bootstrap=%d", testNodes),
			fmt.Sprintf("--cluster-partitions=%d", testPartitions))
		n.rigs = append(n.rigs, r)
	}
	return n
}

// start starts all nodes and returns when every partition has an owner.
func (n *nodeSet) start() {
	n.t.Helper()
	for _, r := range n.rigs {
		r.launch()
	}
	for _, r := range n.rigs {
		r.serves()
	}
	testwait.Until(n.t, "all nodes are ready and every partition is owned", n.whole)
}

// whole reports whether all nodes are ready and each says that every partition has an owner.
func (n *nodeSet) whole() bool {
	for _, r := range n.rigs {
		if status, _ := r.ask("/readyz"); status != 200 || len(r.owners()) != n.partitions {
			return false
		}
	}
	return true
}

// next is each node by turns.
func (n *nodeSet) next() *rig { return n.rigs[int(n.turn.Add(1))%len(n.rigs)] }

// ask gets an admin route; status 0: no answer within two seconds.
func (r *rig) ask(path string) (status int, body []byte) {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get("http://" + r.adminListen + path)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return 0, nil
	}
	return resp.StatusCode, body
}

// owners is which node owns which partition, as this node knows it.
func (r *rig) owners() map[int]string {
	status, body := r.ask("/clusterz")
	if status != 200 {
		return nil
	}
	var told struct {
		Partitions []struct {
			Partition int    `json:"partition"`
			Owner     string `json:"owner"`
		} `json:"partitions"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		return nil
	}
	owners := map[int]string{}
	for _, p := range told.Partitions {
		if p.Owner != "" {
			owners[p.Partition] = p.Owner
		}
	}
	return owners
}

// busiest is the node that owns most partitions, and who owns what.
func (n *nodeSet) busiest() (node int, owners map[int]string) {
	owned := map[string]int{}
	for _, r := range n.rigs {
		if owners = r.owners(); len(owners) == n.partitions {
			break
		}
	}
	for _, name := range owners {
		owned[name]++
	}
	for i, name := range n.names {
		if owned[name] > owned[n.names[node]] {
			node = i
		}
	}
	return node, owners
}

// logs are the last lines that each node printed.
func (n *nodeSet) logs() string {
	const most = 120
	var b strings.Builder
	for i, r := range n.rigs {
		lines := strings.Split(r.logs(), "\n")
		fmt.Fprintf(&b, "--- %s\n%s\n", n.names[i],
			strings.Join(lines[max(0, len(lines)-most):], "\n"))
	}
	return b.String()
}
