package embed

import (
	"log/slog"
	"testing"
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
