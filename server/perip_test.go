package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/wire"
)

func tcpAddr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

// dialFrom connects from an address, in memory.
func (r *running) dialFrom(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := r.public.DialWithLocalAddr(tcpAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refusesFrom checks that a connection from an address is one too many.
func (r *running) refusesFrom(t *testing.T, addr string) {
	t.Helper()
	c := r.dialFrom(t, addr)
	go func() { _, _ = io.WriteString(c, heartbeatText(validBody)) }()
	readResponse(t, bufio.NewReader(c), "POST").
		check(t, 503, errorBody("unavailable", "Too many connections from this address"))
	c.Close()
}

// TestEventSourceOnAConnectionOverTheLimit: it is told when to come back, since it would never
// after a 503; with StreamRefusalStatus, and for other clients, it is 503.
func TestEventSourceOnAConnectionOverTheLimit(t *testing.T) {
	for _, byStatus := range []bool{false, true} {
		r := start(t, func(o *Options, _ *fakePresence) {
			o.MaxConnsPerIP, o.StreamRefusalStatus = 1, byStatus
		})
		r.dialFrom(t, "192.0.2.1")
		for accept, told := range map[string]bool{"text/event-stream": !byStatus, "*/*": false} {
			c := r.dialFrom(t, "192.0.2.1")
			request := text("GET "+wire.StreamPath+"?user_id="+testUser, "", "Accept: "+accept)
			go func() { _, _ = io.WriteString(c, request) }()
			got := readResponse(t, bufio.NewReader(c), "GET")
			if kind := got.header.Get("Content-Type"); told && (got.status != 200 ||
				kind != wire.EventsType || !strings.HasPrefix(got.body, "retry: ")) {
				t.Errorf("an EventSource is answered %d %s %q", got.status, kind, got.body)
			}
			if !told && got.status != 503 {
				t.Errorf("Accept: %s is answered %d %q", accept, got.status, got.body)
			}
			c.Close()
		}
	}
}

// TestMaxConnsPerIP: refused over the limit, and the count comes back to nothing on every way that
// a connection can go.
func TestMaxConnsPerIP(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxConnsPerIP = 1 })
	request := streamText("?user_id="+testUser, sign(t, testKey, payload("")))
	beat := text("POST "+wire.HeartbeatPath, validBody, "Authorization: Bearer "+testIngest,
		"Connection: close")
	check := func(what string, status int, text string) {
		t.Helper()
		c := r.dialFrom(t, "192.0.2.1")
		r.refusesFrom(t, "192.0.2.1")
		go func() { _, _ = io.WriteString(c, text) }()
		if got := readResponse(t, bufio.NewReader(c), "POST"); got.status != status {
			t.Errorf("%s: %d %s", what, got.status, got.body)
		}
		c.Close()
		// A connection that was to be a stream is off that count before it is off its address's.
		testwait.Until(t, "the address may connect again", func() bool {
			again := r.dialFrom(t, "192.0.2.1")
			defer again.Close()
			go func() { _, _ = io.WriteString(again, beat) }()
			return readResponse(t, bufio.NewReader(again), "POST").status == 204
		})
		testwait.Until(t, "all connections are closed",
			func() bool { return r.conns.Stats().Open == 0 })
	}
	check("a heartbeat", 204, beat)
	check("a refused stream", 403, streamText("?user_id="+testUser, "bad")+"\r\n")
	check("garbage", 400, "garbage\r\n\r\n")
	r.presence.subscribe = broadcast.ErrTooManyOfUser
	check("a stream turned away", 503, request)
	r.presence.subscribe = nil
	r.presence.take = func(net.Conn) (broadcast.Conn, error) { return nil, errors.New("no") }
	check("a stream that cannot be taken over", 503, request)
	r.presence.take = nil
	check("a heartbeat after all", 204, text("POST "+wire.HeartbeatPath, validBody,
		"Authorization: Bearer "+testIngest))
}

// TestStreamCountsForItsAddress: from the takeover until the broadcaster closes it.
func TestStreamCountsForItsAddress(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxConnsPerIP = 1 })
	c := r.dialFrom(t, "192.0.2.1")
	go func() {
		_, _ = io.WriteString(c, streamText("?user_id="+testUser, sign(t, testKey, payload(""))))
	}()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	s := <-r.presence.subscriptions
	if n := r.conns.Stats().Open; n != 0 {
		t.Errorf("%d connections are counted beside the stream", n)
	}
	r.refusesFrom(t, "192.0.2.1")
	_ = s.Conn.Close()
	after := r.dialFrom(t, "192.0.2.1")
	_, _ = io.WriteString(after, heartbeatText(validBody))
	readResponse(t, bufio.NewReader(after), "POST").check(t, 204, "")
}

// TestRefusalOverALimit: each names its limit, and clients that are turned away together are not
// asked to come back together.
func TestRefusalOverALimit(t *testing.T) {
	for refusal, limit := range map[reply.Reply]func(*Options){
		reply.TooManyConns: func(o *Options) {
			o.MaxConns, o.OpenStreams = 1, func() int { return 1 }
		},
		reply.TooManyConnsOfAddress: func(o *Options) { o.MaxConnsPerIP = 1 },
	} {
		r := start(t, func(o *Options, _ *fakePresence) { limit(o) })
		if refusal == reply.TooManyConnsOfAddress {
			r.dialFrom(t, "192.0.2.1")
		}
		seen := make(map[string]bool)
		for range 100 {
			c := r.dialFrom(t, "192.0.2.1")
			go func() { _, _ = io.WriteString(c, heartbeatText(validBody)) }()
			got := readResponse(t, bufio.NewReader(c), "GET")
			got.check(t, 503, errorBody("unavailable", refusal.Details()))
			if n, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || n < 1 ||
				n > 10 {
				t.Errorf("Retry-After = %q", got.header.Get("Retry-After"))
			}
			seen[got.header.Get("Retry-After")] = true
			c.Close()
		}
		if len(seen) < 2 { // by chance: once in 10^99
			t.Error("all are asked to come back together")
		}
		if n := r.counters.Answers[refusal].Load(); n != 100 {
			t.Errorf("%d refusals counted", n)
		}
	}
}

// TestTurnedAwayReadsWhy: a client that has sent its request already is answered, not reset.
func TestTurnedAwayReadsWhy(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) {
		o.MaxConns, o.OpenStreams = 1, func() int { return 1 }
	})
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
		readResponse(t, bufio.NewReader(c), "POST").check(t, 503,
			errorBody("unavailable", "Too many connections"))
		c.Close()
	}
	_ = r.Close(context.Background())
	<-served
}
