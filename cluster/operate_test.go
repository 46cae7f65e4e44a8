package cluster

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// TestANodeJoinsAndLeaves: a fourth node joins three and serves; it leaves when an operator asks
// another one, has nothing then, and says that it was removed.
func TestANodeJoinsAndLeaves(t *testing.T) {
	if testing.Short() {
		t.Skip("four log servers")
	}
	nodes := startNodes(t, 3, 4)
	allOwned(t, nodes)
	switchBalance(t, nodes)
	o := nodes[0].o
	o.Node, o.Dir, o.Listen, o.Bootstrap = "n4", t.TempDir(), testport.Address(t), 0
	joined, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := joined.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { joined.Close(context.Background()) })
	testwait.Until(t, "the node has joined", func() bool { return joined.Ready() == nil })
	leave := func() int {
		w := httptest.NewRecorder()
		nodes[0].ServeHTTP(w, httptest.NewRequest("POST", "/clusterz/leave?node=n4", nil))
		return w.Code
	}
	testwait.Until(t, "the node may leave", func() bool { return leave() == http.StatusOK })
	shown := false
	testwait.Until(t, "the node has left", func() bool {
		if d := nodes[1].Status(context.Background()).Deed; d != nil && d.Node == "n4" {
			shown = true
		}
		d, ok, err := nodes[1].operator.members.Last(context.Background())
		if err == nil && ok && d.Done && d.Failed != "" {
			t.Fatalf("%+v", d)
		}
		return err == nil && ok && d.Done
	})
	if !shown {
		t.Error("no other node showed that it was leaving")
	}
	testwait.For(t, "the node ends", joined.Failed())
	allOwned(t, nodes)
}

// switchBalance: what one node is told all know, and nothing is moved by itself meanwhile.
func switchBalance(t *testing.T, nodes []*Node) {
	t.Helper()
	to := func(n *Node, is string) int {
		w := httptest.NewRecorder()
		n.ServeHTTP(w, httptest.NewRequest("POST", "/clusterz/balance?is="+is, nil))
		return w.Code
	}
	if code := to(nodes[0], "perhaps"); code != http.StatusBadRequest {
		t.Errorf("perhaps: %d", code)
	}
	for i, is := range []string{balanceOff, balanceOn} {
		if code := to(nodes[i], is); code != http.StatusOK {
			t.Fatalf("%s: %d", is, code)
		}
		testwait.Until(t, "all nodes know that it is "+is, func() bool {
			return !slices.ContainsFunc(nodes, func(n *Node) bool {
				return n.balance.get() != is
			})
		})
		testwait.Until(t, "and do so", func() bool {
			return !slices.ContainsFunc(nodes, func(n *Node) bool {
				return n.operator.quiet() != (is == balanceOn)
			})
		})
	}
}
