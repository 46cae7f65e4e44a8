package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// again makes a node of another one's options.
func again(t *testing.T, n *Node, change func(o *Options)) *Node {
	t.Helper()
	o := n.o
	o.Engine.Clock, o.Engine.DeviceBudget = nil, nil
	change(&o)
	fresh, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fresh.Close(context.Background()) })
	return fresh
}

// TestOnlyTheSameDirectoryComesBack: a node that stopped starts with its own directory and the
// options with which the cluster was made, and with nothing else.
func TestOnlyTheSameDirectoryComesBack(t *testing.T) {
	if testing.Short() {
		t.Skip("three log servers")
	}
	nodes := startNodes(t, 3, 4)
	allOwned(t, nodes)
	for _, n := range nodes {
		testwait.Until(t, "the nodes know each other", func() bool {
			return len(n.identity.get().Cluster) > 0 && n.known("n3") != ""
		})
	}
	last := nodes[2]
	last.Close(t.Context())

	empty := again(t, last, func(o *Options) { o.Dir = t.TempDir() })
	if err := empty.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	testwait.For(t, "an end", empty.Failed())
	if err := empty.Err(); !errors.Is(err, ErrKnownNode) {
		t.Fatal("an empty directory under a known name:", err)
	}
	for name, change := range map[string]func(o *Options){
		"Partitions is 8": func(o *Options) { o.Partitions = 8 },
		"Replicas is 1":   func(o *Options) { o.Replicas = 1 },
		"Node is":         func(o *Options) { o.Node = "n4" },
	} {
		err := again(t, last, change).Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	back := again(t, last, func(o *Options) {})
	if err := back.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	allOwned(t, append(nodes[:2:2], back))
	back.Close(t.Context())

	if err := os.RemoveAll(filepath.Join(last.o.Dir, "js")); err != nil {
		t.Fatal(err)
	}
	if err := again(t, last, func(*Options) {}).Start(t.Context()); !errors.Is(err, ErrNoLogs) {
		t.Fatal("a marker without logs:", err)
	}
}

// waiting starts a node that waits for others, which never come.
func waiting(t *testing.T, change func(o *Options)) (*Node, error) {
	t.Helper()
	o := Options{
		Node: "n1", Dir: t.TempDir(), Listen: testport.Address(t), Bootstrap: 3,
		Peers: []string{testport.Address(t)}, Logger: slog.New(slog.DiscardHandler),
	}
	change(&o)
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n, n.Start(t.Context())
}

// TestPortIsTaken: it is no reason to wait.
func TestPortIsTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = waiting(t, func(o *Options) { o.Listen = ln.Addr().String() })
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "option Listen") {
		t.Error(err)
	}
}

// TestKeysWhileWaiting: a node that waits for others takes up keys, too.
func TestKeysWhileWaiting(t *testing.T) {
	n, err := waiting(t, func(o *Options) { o.Keys = []string{"old"} })
	if err != nil {
		t.Fatal(err)
	}
	other := n.o
	other.Peers, other.Keys = []string{n.o.Listen}, []string{"new"}
	takes := func(want error) func() bool {
		return func() bool {
			found := ProbePeers(t.Context(), other)
			return found[0].Node != "" && errors.Is(found[0].Err, want)
		}
	}
	testwait.Until(t, "the new key is refused", takes(ErrKey))
	n.SetKeys([]string{"old", "new"})
	testwait.Until(t, "the new key is taken", takes(nil))
}
