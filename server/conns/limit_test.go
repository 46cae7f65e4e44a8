package conns

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"rollcall/server/reply"
)

func tcpAddr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

func TestSourcesAreCounted(t *testing.T) {
	p := &counts{sources: newSources(2), proxies: Proxies{}}
	first, ok := p.join(netip.MustParseAddr("192.0.2.1"))
	if !ok {
		t.Fatal("the first connection is refused")
	}
	for addr, want := range map[string]bool{"::ffff:192.0.2.1": true, "192.0.2.2": true} {
		if _, ok := p.join(addrOf(tcpAddr(addr))); ok != want {
			t.Errorf("%s let in: %v", addr, ok)
		}
	}
	if _, ok := p.join(addrOf(tcpAddr("192.0.2.1"))); ok {
		t.Error("a third connection of one address is let in, one of them mapped to IPv6")
	}
	p.place(first).Leave()
	if _, ok := p.join(addrOf(tcpAddr("192.0.2.1"))); !ok {
		t.Error("refused in the place of one that has left")
	}
	for i, addr := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::3"} {
		if _, ok := p.join(addrOf(tcpAddr(addr))); ok != (i != 2) {
			t.Errorf("%s let in: %v", addr, ok)
		}
	}
	for range 5 {
		if peer, ok := p.join(addrOf(&net.UnixAddr{})); !ok || peer.counted {
			t.Error("a Unix socket is limited")
		}
	}
}

func TestRateSources(t *testing.T) {
	source := func(ip string) string {
		return sourceOf(addrOf(tcpAddr(ip))).String()
	}
	for ip, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1/32",
		"::ffff:192.0.2.1":    "192.0.2.1/32",
		"2001:db8:1:2:3:4::1": "2001:db8:1:2::/64",
	} {
		if got := source(ip); got != want {
			t.Errorf("%s counts as %s, want %s", ip, got, want)
		}
	}
	l, err := NewRate(1, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		l.Allow(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	if n := l.Addresses(); n != 2 {
		t.Errorf("%d addresses are remembered, want 2", n)
	}
}

// TestRefusedAreBounded: at most maxRefused connections over the limit are served, and the others
// are answered at once.
func TestRefusedAreBounded(t *testing.T) {
	r := refuser{answer: func(r reply.Reply) []byte { return []byte(r.Details()) }}
	for range maxRefused {
		if !r.admit() {
			t.Fatal("not served")
		}
	}
	if r.admit() {
		t.Error("one too many is served")
	}
	here, there := net.Pipe()
	own := &conn{Conn: there, raw: there, refusal: reply.TooManyConns}
	go r.turnAway(own, false)
	if text, err := io.ReadAll(here); string(text) != reply.TooManyConns.Details() || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	r.leave()
	if !r.admit() {
		t.Error("not served in the place of one that has left")
	}
}
