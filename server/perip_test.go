package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"testing"

	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/wire"
)

// addressed is a connection that says it comes from an address.
type addressed struct {
	net.Conn
	from net.Addr
}

func (c addressed) RemoteAddr() net.Addr { return c.from }

func tcpAddr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

func TestPerSourceCounts(t *testing.T) {
	p := newPerSource(2)
	first, ok := p.join(tcpAddr("192.0.2.1"))
	if !ok {
		t.Fatal("the first connection is refused")
	}
	for addr, want := range map[string]bool{"::ffff:192.0.2.1": true, "192.0.2.2": true} {
		if _, ok := p.join(tcpAddr(addr)); ok != want {
			t.Errorf("%s let in: %v", addr, ok)
		}
	}
	if _, ok := p.join(tcpAddr("192.0.2.1")); ok {
		t.Error("a third connection of one address is let in, one of them mapped to IPv6")
	}
	p.leave(first)
	if _, ok := p.join(tcpAddr("192.0.2.1")); !ok {
		t.Error("refused in the place of one that has left")
	}
	for i, addr := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::3"} {
		if _, ok := p.join(tcpAddr(addr)); ok != (i != 2) {
			t.Errorf("%s let in: %v", addr, ok)
		}
	}
	for range 5 {
		if source, ok := p.join(&net.UnixAddr{}); !ok || source.IsValid() {
			t.Error("a Unix socket is limited")
		}
	}
}

// TestMaxConnsPerIP: refused over the limit, and the count comes back to nothing on every way that a connection can go.
func TestMaxConnsPerIP(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxConnsPerIP = 1 })
	request := streamText("?user_id="+testUser, sign(t, testKey, payload("")))
	empty := func() bool {
		r.perSource.mu.Lock()
		defer r.perSource.mu.Unlock()
		return len(r.perSource.open) == 0
	}
	// The listener in memory has no addresses, so the connection is served without it.
	serve := func(text string) response {
		t.Helper()
		ours, theirs := net.Pipe()
		c, refusal := r.letIn(addressed{theirs, tcpAddr("192.0.2.1")})
		if refusal != none {
			t.Fatalf("refused: %s", answers[refusal].details)
		}
		if _, refusal := r.letIn(addressed{theirs, tcpAddr("192.0.2.1")}); refusal != tooManyConnsOfAddress {
			t.Errorf("a second connection: %s", answers[refusal].details)
		}
		done := make(chan struct{})
		go func() {
			_ = r.Server.public.ServeConn(c)
			close(done)
		}()
		go func() { _, _ = io.WriteString(ours, text) }()
		answer := readResponse(t, bufio.NewReader(ours), "POST")
		ours.Close()
		<-done
		return answer
	}
	check := func(what string, status int, text string) {
		t.Helper()
		if got := serve(text); got.status != status {
			t.Errorf("%s: %d %s", what, got.status, got.body)
		}
		testwait.Until(t, "all connections are closed", func() bool { return empty() && r.conns.Load() == 0 })
	}
	check("a heartbeat", 204, text("POST "+wire.HeartbeatPath, validBody, "Authorization: Bearer "+testIngest, "Connection: close"))
	check("a refused stream", 403, streamText("?user_id="+testUser, "bad")+"\r\n")
	check("garbage", 400, "garbage\r\n\r\n")
	r.presence.subscribe = broadcast.ErrTooManyOfUser
	check("a stream turned away", 503, request)
	r.presence.subscribe, r.presence.take = nil, func(net.Conn) (broadcast.Conn, error) { return nil, errors.New("no") }
	check("a stream that cannot be taken over", 503, request)
}

// TestStreamCountsForItsAddress: from the takeover until the broadcaster closes it.
func TestStreamCountsForItsAddress(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxConnsPerIP = 1 })
	ours, theirs := net.Pipe()
	c, _ := r.letIn(addressed{theirs, tcpAddr("192.0.2.1")})
	go func() { _ = r.Server.public.ServeConn(c) }()
	go func() {
		_, _ = io.WriteString(ours, streamText("?user_id="+testUser, sign(t, testKey, payload(""))))
	}()
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	s := <-r.presence.subscriptions
	if n := r.conns.Load(); n != 0 {
		t.Errorf("%d connections are counted beside the stream", n)
	}
	if _, refusal := r.letIn(addressed{theirs, tcpAddr("192.0.2.1")}); refusal != tooManyConnsOfAddress {
		t.Errorf("a connection beside the stream: %s", answers[refusal].details)
	}
	_ = s.Conn.Close()
	if _, refusal := r.letIn(addressed{theirs, tcpAddr("192.0.2.1")}); refusal != none {
		t.Errorf("a connection after the stream: %s", answers[refusal].details)
	}
}

// TestRefusalOverALimit: each names its limit, and those turned away together are not told to come back together.
func TestRefusalOverALimit(t *testing.T) {
	r := start(t, nil)
	for refusal, details := range map[reply]string{
		tooManyConns:          "Too many connections",
		tooManyConnsOfAddress: "Too many connections from this address",
	} {
		seen := make(map[string]bool)
		for range 100 {
			ours, theirs := net.Pipe()
			go r.turnAwayConn(theirs, refusal)
			got := readResponse(t, bufio.NewReader(ours), "GET")
			got.check(t, 503, errorBody("unavailable", details))
			if n, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || n < 1 || n > 10 {
				t.Errorf("Retry-After = %q", got.header.Get("Retry-After"))
			}
			seen[got.header.Get("Retry-After")] = true
		}
		if len(seen) < 2 { // by chance: once in 10^99
			t.Error("all are told to come back together")
		}
		if n := r.metrics.answers[refusal].Load(); n != 100 {
			t.Errorf("%d refusals counted", n)
		}
	}
}

// TestTurnedAwayReadsWhy: a client that has sent its request already is answered, not reset.
func TestTurnedAwayReadsWhy(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxConns = 1 })
	r.conns.Add(1)
	defer r.conns.Add(-1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.Serve(ln) }()
	for range 20 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, heartbeatText(validBody)); err != nil {
			t.Fatal(err)
		}
		readResponse(t, bufio.NewReader(c), "POST").check(t, 503, errorBody("unavailable", "Too many connections"))
		c.Close()
	}
	_ = r.Shutdown(context.Background())
	<-served
	testwait.Until(t, "no connection is being turned away", func() bool { return r.turnedAway.Load() == 0 })
}
