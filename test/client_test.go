package test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/client"
	"rollcall/internal/testwait"
)

// The Go client against the server as it is, in real time. Its own tests have every fault; here are
// the meetings of the two: a restart, a drain, a token's end, a seq that is taken. They are here
// since client imports nothing of ours.

// startDaemon starts a client.Daemon that speaks to addr.
func startDaemon(t *testing.T, addr string, change func(o *client.DaemonOptions)) (*client.Daemon,
	client.DaemonOptions) {
	t.Helper()
	o := client.DaemonOptions{
		URL:      "http://" + addr,
		Token:    client.StaticToken(ingestToken),
		UserID:   uuid.NewString(),
		DeviceID: uuid.NewString(),
		TTL:      30 * time.Second,
		Interval: 50 * time.Millisecond,
	}
	change(&o)
	d, err := client.StartDaemon(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // a test that ends with offline says it itself
		d.Close(ctx)
	})
	return d, o
}

// watchUser follows a user and hands on what the watch yields, until the test ends.
func watchUser(t *testing.T, addr, user string, token client.TokenFunc) (events <-chan client.Event,
	interruptions <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	evs, errs, done := make(chan client.Event, 1000), make(chan error, 1000), make(chan struct{})
	go func() {
		defer close(done)
		o := client.WatchOptions{URL: "http://" + addr, UserID: user, Token: token, MaxBackoff: time.Second}
		for ev, err := range client.Watch(ctx, o) {
			if err != nil {
				errs <- err
			} else {
				evs <- ev
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return evs, errs
}

func mint(user string, ttl time.Duration) client.TokenFunc {
	return func(context.Context) (string, error) { return tokenFor(user, ttl), nil }
}

func receive[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(testwait.Limit):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

// await reads events until ok says yes.
func await(t *testing.T, events <-chan client.Event, what string,
	ok func(client.Event) bool) client.Event {
	t.Helper()
	for {
		if ev := receive(t, events, what); ok(ev) {
			return ev
		}
	}
}

// forwarder keeps one address for a server that comes back on another.
type forwarder struct {
	net.Listener
	to atomic.Value // string
}

func forward(t *testing.T, to string) *forwarder {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{Listener: ln}
	f.to.Store(to)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f.join(c)
		}
	}()
	return f
}

// join copies both ways until one side ends; then both are cut.
func (f *forwarder) join(c net.Conn) {
	defer c.Close()
	server, err := net.Dial("tcp", f.to.Load().(string))
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		io.Copy(server, c)
		server.Close()
	}()
	io.Copy(c, server)
}

// TestClientOverRestarts: the server is killed, comes back, drains, comes back; daemon and watch
// find it again by themselves, nothing that was acknowledged is missing, and the device never looks
// offline.
func TestClientOverRestarts(t *testing.T) {
	t.Parallel()
	r := startServer(t, "--drain-timeout=100ms")
	f := forward(t, r.addr)
	d, o := startDaemon(t, f.Addr().String(), func(*client.DaemonOptions) {})
	events, interruptions := watchUser(t, f.Addr().String(), o.UserID, mint(o.UserID, time.Hour))
	await(t, events, "the first heartbeat",
		func(ev client.Event) bool { return ev.Transition && ev.Status == client.Online })

	restart := func(stop func(), want string) {
		stop()
		acked := d.Seq()
		interruption := receive(t, interruptions, "the interruption: "+want)
		if planned := errors.Is(interruption, client.ErrEnded); planned != (want == "planned") {
			t.Errorf("interrupted by %v, want it %s", interruption, want)
		}
		r.start()
		f.to.Store(r.addr)
		await(t, events, "a heartbeat after the restart", func(ev client.Event) bool {
			if ev.Status != client.Online || ev.Transition {
				t.Fatalf("after the restart: %+v", ev)
			}
			return ev.Seq > acked
		})
		// tries while the server was away; the watch is connected again, no more of them come
		for len(interruptions) > 0 {
			<-interruptions
		}
	}
	restart(r.kill, "unplanned")
	restart(r.terminate, "planned")

	ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		t.Fatal(err)
	}
	last := await(t, events, "offline", func(ev client.Event) bool { return ev.Transition })
	if last.Status != client.Offline || last.Seq != d.Seq() {
		t.Errorf("after Close: %+v, want offline with seq %d", last, d.Seq())
	}
}

// TestClientResumesSeq: the server stands above the daemon's clock; its 409 says where to go on.
func TestClientResumesSeq(t *testing.T) {
	t.Parallel()
	r := startServer(t)
	const last = 1 << 52
	taken := newBeat().with("seq", uint64(last))
	r.mustBeat(taken)
	user := taken["user_id"].(string)
	events, _ := watchUser(t, r.addr, user, mint(user, time.Hour))
	receive(t, events, "the snapshot")
	startDaemon(t, r.addr, func(o *client.DaemonOptions) {
		o.UserID, o.DeviceID = user,
			taken["device_id"].(string)
	})
	if ev := receive(t, events, "the daemon's first heartbeat"); ev.Seq != last+1 {
		t.Errorf("went on with seq %d, want %d", ev.Seq, uint64(last+1))
	}
}

// TestClientRenewsTokens: the watch outlives its tokens.
func TestClientRenewsTokens(t *testing.T) {
	t.Parallel()
	r := startServer(t)
	_, o := startDaemon(t, r.addr, func(*client.DaemonOptions) {})
	minted := make(chan int, 1000)
	count := 0
	events, _ := watchUser(t, r.addr, o.UserID, func(context.Context) (string, error) {
		count++
		minted <- count
		return tokenFor(o.UserID, time.Second), nil
	})
	for range 4 {
		receive(t, minted, "a renewal")
		receive(t, events, "a heartbeat on the renewed stream")
	}
}

// TestClientRefused: a wrong token is told to the caller, by both.
func TestClientRefused(t *testing.T) {
	t.Parallel()
	r := startServer(t)
	errs := make(chan error, 100)
	_, o := startDaemon(t, r.addr, func(o *client.DaemonOptions) {
		o.Token = client.StaticToken("wrong")
		o.OnError = func(err error) { errs <- err }
	})
	_, interruptions := watchUser(t, r.addr, o.UserID, client.StaticToken("wrong"))
	for want, from := range map[int]<-chan error{401: errs, 403: interruptions} {
		var refusal *client.StatusError
		if err := receive(t, from, "a refusal"); !errors.As(err, &refusal) ||
			refusal.Status != want || refusal.Code == "" {
			t.Errorf("told %v, want a %d", err, want)
		}
	}
}
