package embed

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testlog"
)

// TestRoutes: of several peers a server connects to these only; one name stands for more servers,
// which tell each other where they are.
func TestRoutes(t *testing.T) {
	for _, test := range []struct {
		peers  []string
		routes int
		gossip bool
	}{
		{[]string{"nodes:6222"}, 3, true},
		{[]string{"a:6222", "b:6222", "c:6222"}, 3, false},
		{[]string{"10.0.0.1:6222"}, 1, false},
		{[]string{"[::1]:6222"}, 1, false},
		{[]string{"localhost:6222"}, 1, false},
		{nil, 0, false},
	} {
		s := &Server{token: "t"}
		o, err := s.options(&Options{
			Node: "n", Cluster: "c", Listen: ":6222", Peers: test.peers, Expect: 3,
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		gossip := o.Cluster.Advertise != noAddress
		if len(o.Routes) != test.routes || gossip != test.gossip {
			t.Errorf("%q: %d routes, gossip %v", test.peers, len(o.Routes), gossip)
		}
	}
}

// TestStartSaysWhyNot at once.
func TestStartSaysWhyNot(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = Start(Options{
		Node: "n", Cluster: "c", Listen: ln.Addr().String(), Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Error(err)
	}
}

// TestRefusalsAreLoggedOnce in a while, for each host and certificate, and are bounded.
func TestRefusalsAreLoggedOnce(t *testing.T) {
	out := new(testlog.Output)
	l := &logger{to: out.Logger(), refused: map[string]time.Time{}}
	for i := range 10 {
		l.Errorf("10.0.0.1:%d - rid:%d - authentication error - User %q", 4000+i, i, "rollcall")
		l.Errorf("10.0.0.1:%d - rid:%d - TLS route handshake error: x509: certificate has expired: "+
			"current time %d (CN=x SHA-256: 0e)", 4000+i, i, i)
		l.Errorf("Error trying to connect to route (attempt %d): dial tcp 10.0.0.2:6222: connect: "+
			"connection refused", i)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 3 ||
		!strings.Contains(out.String(), ErrKey.Error()) ||
		!strings.Contains(out.String(), "has expired") {
		t.Errorf("%d lines:\n%s", lines, out)
	}
	for i := range 1000 {
		l.Errorf("10.0.%d.%d:4000 - rid:1 - authentication error", i/250, i%250)
	}
	if lines := strings.Count(out.String(), "\n"); lines != maxRefused {
		t.Errorf("%d lines", lines)
	}
}

// TestNamesThatAreMadeUp get no queue each.
func TestNamesThatAreMadeUp(t *testing.T) {
	s, err := Start(Options{
		Node: "n", Cluster: "c", Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := NewBus(s)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	sent := 0
	for i := range 2 * maxQueues {
		if b.Send(fmt.Sprint("n", i), "s", nil) {
			sent++
		}
	}
	if sent != maxQueues {
		t.Errorf("%d nodes have a queue", sent)
	}
	if !b.Send("n1", "s", nil) {
		t.Error("a node that has a queue has it no more")
	}
}
