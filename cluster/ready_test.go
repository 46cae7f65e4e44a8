package cluster

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"rollcall/engine"
)

// TestReady (C9): a node tells of itself; that no partition has an owner is no reason.
func TestReady(t *testing.T) {
	n, err := New(Options{
		Node: "n1", Dir: t.TempDir(), Listen: "127.0.0.1:1", Peers: []string{"127.0.0.1:2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close(t.Context())
	expect := func(want error) {
		t.Helper()
		if err := n.Ready(); !errors.Is(err, want) {
			t.Errorf("%v, not %v", err, want)
		}
	}
	expect(ErrStarting)
	for _, route := range []string{"GET /clusterz/devices", "GET /clusterz/export?partition=0",
		"GET /clusterz/deed", "POST /clusterz/import?partition=0", "POST /clusterz/leave?node=n2"} {
		method, target, _ := strings.Cut(route, " ")
		w := httptest.NewRecorder()
		n.ServeHTTP(w, httptest.NewRequest(method, target, nil))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s of a node that starts: %d %s", route, w.Code, w.Body)
		}
	}
	n.phase.Store(serving)
	expect(nil)
	n.isolated.Store(true)
	expect(ErrIsolated)
	n.isolated.Store(false)
	n.phase.Store(draining)
	expect(engine.ErrDraining)
	failed := errors.New("the disk")
	n.fail(failed)
	expect(failed)
}
