package datadir

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/checkpoint"
	"rollcall/engine"
	"rollcall/engine/enginetest"
	"rollcall/internal/faultfs"
	"rollcall/wal"
)

// TestConformance: log and store of a directory are what an engine needs.
func TestConformance(t *testing.T) {
	enginetest.Run(t, func(*testing.T) enginetest.Medium {
		m := &medium{fs: vfs.NewCrashableMem()}
		m.gate.Holds = func(op errorfs.Op) bool {
			return op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".wal")
		}
		return m
	})
}

// medium is a directory in memory. A life that was broken ends with a crash.
type medium struct {
	fs     *vfs.MemFS
	gate   faultfs.Gate
	broken atomic.Bool
	log    *wal.Log
	store  *checkpoint.Store
}

func (m *medium) Open(t testing.TB) (engine.Log, engine.Store) {
	t.Helper()
	if m.broken.Swap(false) {
		m.fs = m.fs.CrashClone(vfs.CrashCloneCfg{})
	}
	fs := m.gate.Wrap(errorfs.Wrap(m.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if m.broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("broken")
		}
		return nil
	})))
	quiet := slog.New(slog.DiscardHandler)
	var err error
	m.log, m.store, err = Open("data",
		wal.Options{FS: fs, BufferBytes: 64 << 10, SegmentBytes: 256 << 10, Logger: quiet},
		checkpoint.Options{FS: fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return m.log, m.store
}

func (m *medium) Close(t testing.TB) {
	t.Helper()
	if err := errors.Join(m.log.Close(), m.store.Close()); err != nil {
		t.Error(err)
	}
}

func (m *medium) Hold() (release func()) {
	m.gate.Shut()
	return m.gate.Open
}

func (m *medium) Break() { m.broken.Store(true) }
