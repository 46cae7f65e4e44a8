package client

import (
	"context"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The tests run in the fake time of synctest, where hours pass at once and nothing else runs while
// they do. So client and server are joined by pipes in memory instead of sockets; between them is
// net/http as it is.

const (
	user   = "6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01"
	device = "b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d"
)

// pipes is a listener whose connections are made by dial.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve runs handler until the test ends and returns a client that reaches it.
func serve(t *testing.T, handler http.HandlerFunc) *http.Client {
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	s := &http.Server{Handler: handler}
	go s.Serve(p)
	transport := &http.Transport{DialContext: p.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.Close()
		time.Sleep(24 * time.Hour) // until every handler that a test made slow has returned
	})
	return &http.Client{Transport: transport}
}

// inFakeTime runs f in a bubble.
func inFakeTime(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func wantBetween(t *testing.T, what string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: %v, want %v to %v", what, got, low, high)
	}
}

// TestStandardLibraryOnly: the package can be copied into another repository as it is.
func TestStandardLibraryOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f",
		"{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(string(out)); len(got) != 1 { // itself
		t.Errorf("client imports %v: it may import nothing but the standard library", got)
	}
}
