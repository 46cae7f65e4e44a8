package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

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
}

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
	s, err := New(e, options)
	if err != nil {
		t.Fatal(err)
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
