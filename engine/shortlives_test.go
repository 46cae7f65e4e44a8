package engine

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/checkpoint"
	"rollcall/internal/testwait"
	"rollcall/wal"
)

// TestShortLives: a server that is killed again and again, after a heartbeat each time, takes
// checkpoints, before it serves if need be, and does not fill the disk with segments.
func TestShortLives(t *testing.T) {
	hb := newHeartbeat(0, 60_000)
	fs := vfs.NewCrashableMem()
	largest := int64(0)
	for range 60 {
		e, log, store := startLife(t, fs)
		hb.Seq++
		if res := e.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatalf("%+v", res)
		}
		if got, _ := allDevices(e, hb.User); len(got) != 1 || got[0].Seq != hb.Seq {
			t.Fatalf("the server knows %+v", got)
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		largest = max(largest, logBytes(t, crashed))
		endLife(t, e, log, store)
		fs = crashed
	}
	// Besides the segments of short lives the one that is prepared, of twice the size.
	if most := int64(maxShortLives+3) * 16 << 10; largest > most {
		t.Errorf("the log took up to %d bytes, want %d at most", largest, most)
	}
}

// TestCheckpointSoonAfterAStart that has found more than one segment.
func TestCheckpointSoonAfterAStart(t *testing.T) {
	fs := vfs.NewCrashableMem()
	for life := range 3 {
		e, log, store := startLife(t, fs)
		if life == 2 {
			testwait.Until(t, "a checkpoint is taken", func() bool {
				n, _ := log.Size()
				return store.LSN() > 0 && n == 1
			})
		}
		if res := e.Heartbeat(newHeartbeat(1, 60_000)); res.Outcome != Accepted {
			t.Fatalf("%+v", res)
		}
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		endLife(t, e, log, store)
		fs = crashed
	}
}

// startLife starts a server with all of its loops.
func startLife(t *testing.T, fs vfs.FS) (*Engine, *wal.Log, *checkpoint.Store) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	log, err := wal.Open("data",
		wal.Options{FS: fs, BufferBytes: 4 << 10, SegmentBytes: 64 << 10, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	store, err := checkpoint.Open("data/checkpoint", checkpoint.Options{FS: fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(log, Options{Store: store, Shards: 4, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	return e, log, store
}

func endLife(t *testing.T, e *Engine, log *wal.Log, store *checkpoint.Store) {
	t.Helper()
	if err := errors.Join(e.Close(context.Background()), log.Close(), store.Close()); err != nil {
		t.Fatal(err)
	}
}

// logBytes is the size of the segments.
func logBytes(t *testing.T, mem *vfs.MemFS) (bytes int64) {
	t.Helper()
	names, err := mem.List("data")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, name := range names {
		if info, err := mem.Stat("data/" + name); err == nil && !info.IsDir() {
			bytes += info.Size()
		}
	}
	return bytes
}
