package conns

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"rollcall/internal/testwait"
	"rollcall/server/reply"
)

func tcpAddr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

func TestSourcesAreCounted(t *testing.T) {
	p := &counts{sources: newSources(2), proxies: &Proxies{}}
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

// TestRefusedReadsWhy: at most maxRefused connections are kept until their clients have read why,
// and none for long.
func TestRefusedReadsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // what is kept has its time, on a busy machine too
		r := refuser{answer: func(reply.Reply) []byte { return []byte("no") }}
		var clients []net.Conn
		for range maxRefused + 1 {
			ours, theirs := net.Pipe()
			clients = append(clients, ours)
			go func() { _, _ = io.ReadFull(ours, make([]byte, 2)) }()
			r.refuse(halfOpen{theirs}, reply.TooManyConns)
		}
		if n := r.waiting.Load(); n != maxRefused {
			t.Errorf("%d are waiting, want %d", n, maxRefused)
		}
		if _, err := clients[maxRefused].Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("one too many: %v, want its end", err)
		}
		for _, c := range clients {
			c.Close()
		}
		testwait.Until(t, "no connection is kept", func() bool { return r.waiting.Load() == 0 })
	})
}

// halfOpen is a connection whose one side can be closed.
type halfOpen struct{ net.Conn }

func (halfOpen) CloseWrite() error { return nil }
