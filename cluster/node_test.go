package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// startNodes starts a cluster of so many nodes in this process.
func startNodes(t testing.TB, count, partitions int) []*Node {
	t.Helper()
	peers := make([]string, count)
	for i := range peers {
		peers[i] = testport.Address(t)
	}
	logger := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	nodes := make([]*Node, count)
	for i := range nodes {
		n, err := New(Options{
			Node: fmt.Sprintf("n%d", i+1), Dir: t.TempDir(), Listen: peers[i], Peers: peers,
			Bootstrap: count, Partitions: partitions, Logger: logger.With("node", i+1),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		nodes[i] = n
		t.Cleanup(func() { n.Close(context.Background()) })
	}
	return nodes
}

// allOwned waits until each node knows an owner of each partition.
func allOwned(t testing.TB, nodes []*Node) {
	t.Helper()
	testwait.Until(t, "all partitions have owners", func() bool {
		for _, n := range nodes {
			for p := range n.o.Partitions {
				if n.directory.owner(p) == "" {
					return false
				}
			}
		}
		return true
	})
}

// TestThreeNodes: a heartbeat through any node is answered, and each node answers questions.
func TestThreeNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("three log servers")
	}
	nodes := startNodes(t, 3, 6)
	allOwned(t, nodes)
	for i := range 30 {
		hb := new(engine.Heartbeat)
		hb.User, hb.Device, hb.Status, hb.Source = uuid.New(), uuid.New(), engine.Online, []byte("d")
		hb.SentAtMS, hb.TTLMS = uint64(time.Now().UnixMilli()), 60_000
		for seq := range 3 {
			hb.Seq = uint64(seq + 1)
			if r := nodes[(i+seq)%3].Heartbeat(hb); r.Outcome != engine.Accepted {
				t.Fatalf("heartbeat %d: %+v", i, r)
			}
			if r := nodes[(i+seq+1)%3].Heartbeat(hb); r.Outcome != engine.Stale ||
				r.LastSeq != hb.Seq {
				t.Fatalf("heartbeat %d again: %+v", i, r)
			}
		}
		for _, n := range nodes {
			online := 0
			err := n.Users([]uuid.UUID{hb.User}, 10, func(u *engine.User) { online += u.Online })
			if err != nil || online != 1 {
				t.Fatalf("%d devices online, %v", online, err)
			}
		}
	}
}

// TestDrainOfANode: when it is done the others own all that it led, and its lead of the cluster
// goes to another node.
func TestDrainOfANode(t *testing.T) {
	if testing.Short() {
		t.Skip("three log servers")
	}
	nodes := startNodes(t, 3, 12)
	allOwned(t, nodes)
	var n *Node
	testwait.Until(t, "a node leads the cluster", func() bool {
		i := slices.IndexFunc(nodes, func(n *Node) bool { return n.server.LeadsMeta() })
		if i >= 0 {
			n = nodes[i]
		}
		return i >= 0
	})
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit)
	defer cancel()
	if err := n.Drain(ctx, 0); err != nil {
		t.Fatal(err)
	}
	for p := range n.o.Partitions {
		if owner := n.directory.owner(p); owner == "" || owner == n.o.Node {
			t.Errorf("partition %d is of %q", p, owner)
		}
		if n.server.Leads(streamOf(p)) {
			t.Errorf("the node leads the log of partition %d", p)
		}
	}
	testwait.Until(t, "another node leads the cluster", func() bool {
		return !n.server.LeadsMeta() // its answer comes before it steps down
	})
}
