package checkpoint

import (
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func wantCursor(t *testing.T, s *Store, name string, lsn uint64, found bool) {
	t.Helper()
	if got, ok, err := s.Cursor(name); err != nil || got != lsn || ok != found {
		t.Errorf("cursor %q is %d, %v, %v, want %d, %v", name, got, ok, err, lsn, found)
	}
}

// A cursor is durable when it is set, is no part of the checkpoint, and goes along with a copy.
func TestCursor(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs)
	defer s.Close()
	wantCursor(t, s, "a", 0, false)
	for _, lsn := range []uint64{3, 7} {
		if err := s.SetCursor("a", lsn); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetCursor("b", 0); err != nil {
		t.Fatal(err)
	}
	replace(t, s, "", "", "k", "v")
	install(t, s)
	crashed := openStore(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	defer crashed.Close()
	copied, err := Open("copy", Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	items := 0
	if err := copied.CopyFrom(crashed, func(_, _ []byte) { items++ }); err != nil || items != 1 {
		t.Fatalf("%d items, %v", items, err)
	}
	for _, s := range []*Store{s, crashed, copied} {
		wantCursor(t, s, "a", 7, true)
		wantCursor(t, s, "b", 0, true)
		wantCursor(t, s, "c", 0, false)
		if s.LSN() != 0 {
			t.Errorf("as of %d", s.LSN())
		}
		want(t, s, "k", "v")
	}
}

// A disk that is nearly full refuses a cursor, which keeps its place, and the store lives on.
func TestCursorWithoutRoom(t *testing.T) {
	mem := vfs.NewMem()
	s := openStore(t, mem)
	err := s.SetCursor("a", 3)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	o := Options{FS: smallDisk{mem}, SpareBytes: 1001, Logger: slog.New(slog.DiscardHandler)}
	s = startStore(t, o)
	defer s.Close()
	if err := s.SetCursor("a", 7); !errors.Is(err, ErrNoSpace) {
		t.Errorf("%v", err)
	}
	wantCursor(t, s, "a", 3, true)
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

// Cursors are set while a checkpoint is written.
func TestCursorBesideACheckpoint(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	var work sync.WaitGroup
	work.Go(func() {
		for lsn := uint64(1); lsn <= 50; lsn++ {
			if err := s.SetCursor("a", lsn); err != nil {
				t.Error(err)
			}
		}
	})
	for lsn := uint64(1); lsn <= 50; lsn++ {
		replace(t, s, "a", "b", "a", "1")
		if err := s.Commit(lsn); err != nil {
			t.Fatal(err)
		}
	}
	work.Wait()
	wantCursor(t, s, "a", 50, true)
	want(t, s, "a", "1")
}
