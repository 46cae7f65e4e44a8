package cluster

import (
	"context"
	"net/http"
	"net/http/httptest"
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
	testwait.Until(t, "the node has left", func() bool {
		d, ok, err := nodes[1].operator.members.Last(context.Background())
		if err == nil && ok && d.Done && d.Failed != "" {
			t.Fatalf("%+v", d)
		}
		return err == nil && ok && d.Done
	})
	testwait.For(t, "the node ends", joined.Failed())
	allOwned(t, nodes)
}
