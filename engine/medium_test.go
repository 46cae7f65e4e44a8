package engine

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/jslog"
	"rollcall/jslog/jslogtest"
)

// medium is where log and store of an engine are, life after life.
type medium interface {
	open(t *testing.T, o Options, nanos int64) *life
	// crash returns what a crash would leave now.
	crash(rng *rand.Rand) medium
}

// life is an engine on a medium, as disk is.
type life struct {
	*Engine
	now   *atomic.Int64
	after *func() // nil, or called when a checkpoint has replaced a range
	shut  func()
}

// media are a directory, and a stream that many owners share.
func media() map[string]medium {
	return map[string]medium{
		"files":  files{vfs.NewCrashableMem()},
		"stream": stream{jslogtest.New()},
	}
}

type files struct{ fs *vfs.MemFS }

func (f files) open(t *testing.T, o Options, nanos int64) *life {
	t.Helper()
	d := openDisk(t, f.fs, o, nanos)
	return &life{d.Engine, d.now, &d.store.after, d.shut}
}

func (f files) crash(rng *rand.Rand) medium {
	return files{f.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})}
}

type stream struct{ *jslogtest.Stream }

// open is what the next owner of the stream does.
func (s stream) open(t *testing.T, o Options, nanos int64) *life {
	t.Helper()
	log, err := jslog.Claim(t.Context(), s.As("owner"), jslog.Options{
		Secret: make([]byte, 32), Logger: slog.New(slog.DiscardHandler),
		BufferBytes: 4 << 10, // so that a checkpoint has several buckets
	})
	if err != nil {
		t.Fatal(err)
	}
	store := &streamStore{Store: log.Store()}
	o.Store = store
	e, now := newStill(t, log, o)
	e.checkpoints.rangeDevices = 2
	now.Store(nanos)
	if err := e.open(); err != nil {
		t.Fatal(err)
	}
	return &life{e, now, &store.after, func() {
		e.Close(context.Background())
		log.Close()
	}}
}

func (s stream) crash(*rand.Rand) medium {
	crashed := jslogtest.New()
	crashed.Set(s.Messages())
	return stream{crashed}
}

type streamStore struct {
	*jslog.Store
	after func()
}

func (s *streamStore) Replace(lo, hi []byte, items func(yield func(k, v []byte) bool)) error {
	err := s.Store.Replace(lo, hi, items)
	if s.after != nil {
		s.after()
	}
	return err
}
