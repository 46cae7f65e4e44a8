package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/internal/testwait"
	"rollcall/wal"
)

// whole is a server with an engine and a log of its own, on a port.
type whole struct {
	*Server
	engine *engine.Engine
	log    *wal.Log
	addr   *net.TCPAddr
	stop   func() // closes all; the test's end does it, too
}

// wholeOptions are those of a whole. The zero value is a server with its loops.
type wholeOptions struct {
	fs     vfs.FS // default: one in memory
	server func(*Options)
	engine engine.Options
	far    bool   // heartbeats of loops are answered from elsewhere
	begins func() // is called when fasthttp has the first bytes of a request
}

// farPresence is an engine that answers heartbeats of loops later.
type farPresence struct{ *engine.Engine }

func (farPresence) NewGroup() engine.Group { return nil }

func (p farPresence) NewLater() engine.Later {
	return &goLater{engine: p.Engine, told: make(chan engine.LaterResult), end: make(chan struct{})}
}

// goLater has a goroutine for each heartbeat.
type goLater struct {
	engine *engine.Engine
	told   chan engine.LaterResult
	end    chan struct{}
}

func (l *goLater) Submit(hbs []engine.Heartbeat, tokens []uint64) {
	for i := range hbs {
		hb, token := hbs[i], tokens[i]
		hb.Source = bytes.Clone(hb.Source)
		go func() {
			select {
			case l.told <- engine.LaterResult{Token: token, Result: l.engine.Heartbeat(&hb)}:
			case <-l.end:
			}
		}()
	}
}

func (l *goLater) Collect(spare []engine.LaterResult) []engine.LaterResult {
	select {
	case r := <-l.told:
		return append(spare, r)
	case <-l.end:
		return nil
	}
}

func (l *goLater) Close() { close(l.end) }

// startWhole starts a whole server. Its clock stands still.
func startWhole(t testing.TB, o wholeOptions) *whole {
	t.Helper()
	if o.fs == nil {
		o.fs = vfs.NewMem()
	}
	options := testOptions()
	if o.server != nil {
		o.server(&options)
	}
	logger := slog.New(slog.DiscardHandler)
	log, err := wal.Open("log", wal.Options{
		FS: o.fs, BufferBytes: 64 << 10, SegmentBytes: 256 << 10, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	o.engine.Clock, o.engine.Logger, o.engine.Shards = options.Clock, logger, 4
	e, err := engine.New(log, o.engine)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Recover(); err != nil {
		t.Fatal(err)
	}
	if err := log.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	options.OpenStreams = e.OpenStreams
	var p Presence = e
	if o.far {
		p = farPresence{e}
	}
	s, err := New(p, options)
	if err != nil {
		t.Fatal(err)
	}
	if o.begins != nil {
		follow := s.public.ConnState
		s.public.ConnState = func(c net.Conn, state fasthttp.ConnState) {
			if follow(c, state); state == fasthttp.StateActive {
				o.begins()
			}
		}
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	w := &whole{Server: s, engine: e, log: log, addr: ln.Addr().(*net.TCPAddr)}
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		ctx, cancel := context.WithTimeout(context.Background(), testwait.Limit)
		defer cancel()
		_ = e.Drain(ctx, 0)
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		if err := e.Close(ctx); err != nil {
			t.Errorf("close the engine: %v", err)
		}
		if err := log.Close(); err != nil {
			t.Errorf("close the log: %v", err)
		}
	}
	t.Cleanup(w.stop)
	return w
}

// TestLoopForgetsSecrets: a head that a loop has found good is judged anew under other secrets.
func TestLoopForgetsSecrets(t *testing.T) {
	w := startWhole(t, wholeOptions{server: func(o *Options) { o.Loops = 1 }})
	all := w.daemons(t, 3)
	all[0].write(all[0].beatText(3))
	all[0].answeredWith(204)
	if err := w.SetSecrets([]string{"another"}, []string{testKey}, nil); err != nil {
		t.Fatal(err)
	}
	all[0].write(all[0].beatText(4))
	all[0].answeredWith(401)
	all[1].write(strings.Replace(all[1].beatText(3), "Bearer "+testIngest, "Bearer another", 1))
	all[1].answeredWith(204)
	if err := w.SetSecrets([]string{testIngest}, []string{testKey}, nil); err != nil {
		t.Fatal(err)
	}
	all[2].write(all[2].beatText(3))
	all[2].answeredWith(204)
}

// TestLoopKeepsPlaces: a connection in a loop has its place among those of its address, and gives
// it back.
func TestLoopKeepsPlaces(t *testing.T) {
	w := startWhole(t, wholeOptions{server: func(o *Options) { o.Loops, o.MaxConnsPerIP = 2, 2 }})
	for range 20 {
		all := w.daemons(t, 2)
		d := dial(t, w.addr)
		d.write(seqText(1))
		if got := readResponse(t, d.in, "POST"); got.status != 503 {
			t.Fatalf("a third connection of an address: %d %s", got.status, got.body)
		}
		d.Close()
		for _, l := range all {
			l.Close()
		}
		testwait.Until(t, "the connections are off the counts", func() bool {
			return w.conns.Stats().Open == 0
		})
	}
}
