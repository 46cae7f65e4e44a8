package jslog_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"rollcall/engine"
	"rollcall/engine/enginetest"
	"rollcall/jslog"
	"rollcall/jslog/jslogtest"
)

// TestConformance: the log and its store are what an engine needs, on a stream in memory and on a
// NATS server (C2 to C4).
func TestConformance(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		enginetest.Run(t, func(*testing.T) enginetest.Medium {
			return &medium{stream: jslogtest.New().As("owner")}
		})
	})
	t.Run("NATS", func(t *testing.T) {
		nc := serve(t)
		enginetest.Run(t, func(t *testing.T) enginetest.Medium {
			return &medium{stream: jslog.NATS(nc, addStream(t, nc))}
		})
	})
}

// medium is a stream that can hang and fail. Each life is another owner's.
type medium struct {
	stream jslog.Stream
	log    *jslog.Log
	faults *faults
}

func (m *medium) Open(t testing.TB) (engine.Log, engine.Store) {
	t.Helper()
	m.faults = &faults{Stream: m.stream}
	l, err := jslog.Claim(t.Context(), m.faults, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	m.log = l
	return l, l.Store()
}

func (m *medium) Close(testing.TB) { m.log.Close() }

func (m *medium) Hold() (release func()) {
	f := m.faults
	f.held.Lock()
	return f.held.Unlock
}

func (m *medium) Break() { m.faults.broken.Store(true) }

// faults makes a stream hang and fail, as one owner sees it.
type faults struct {
	jslog.Stream
	held   sync.RWMutex
	broken atomic.Bool
}

func (f *faults) Publish(ctx context.Context, expect uint64, data []byte) (uint64, error) {
	f.held.RLock()
	defer f.held.RUnlock()
	if f.broken.Load() {
		return 0, errors.New("broken")
	}
	return f.Stream.Publish(ctx, expect, data)
}
