package checkpoint

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/testwait"
)

// What Pebble cannot survive is an error of the store, for the caller that met it and for every
// later one, and never the end of the process.
func TestFailure(t *testing.T) {
	for name, kind := range map[string]errorfs.OpKind{
		"sync of a directory": errorfs.OpFileSync, "write of the manifest": errorfs.OpFileWrite,
	} {
		t.Run(name, func(t *testing.T) {
			on := new(atomic.Bool)
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				own := op.Path == "checkpoint" || strings.Contains(op.Path, "MANIFEST")
				if on.Load() && own && op.Kind == kind {
					return syscall.EIO
				}
				return nil
			}))
			s := openStore(t, fs)
			if err := s.Err(); err != nil {
				t.Fatal(err)
			}
			on.Store(true)
			if err := s.Commit(5); !errors.Is(err, ErrFailed) || s.LSN() != 0 {
				t.Errorf("Commit: %v, as of %d", err, s.LSN())
			}
			testwait.For(t, "the store says that it failed", s.Failed())
			on.Store(false)
			for name, err := range map[string]error{
				"Commit": s.Commit(6), "Err": s.Err(), "Close": s.Close(), "SetCursor": s.SetCursor("a", 1),
			} {
				if !errors.Is(err, ErrFailed) {
					t.Errorf("%s afterwards: %v", name, err)
				}
			}
		})
	}
}

// Damage is a *DamagedError that names the file, whether opening or reading meets it.
func TestDamage(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs)
	replace(t, s, "", "", "key", strings.Repeat("value", 100))
	if err := errors.Join(s.Commit(1), s.Close()); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List("checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := fs.OpenReadWrite("checkpoint/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{0xff}, 5); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	o := Options{FS: fs, Logger: slog.New(slog.DiscardHandler)}
	s, err = Open("checkpoint", o)
	if err == nil {
		err = errors.Join(s.Load(nil, nil, func(_, _ []byte) error { return nil }), s.Close())
	}
	var damaged *DamagedError
	if !errors.As(err, &damaged) || !strings.HasSuffix(damaged.Path, ".sst") || damaged.Err == nil {
		t.Errorf("%v", err)
	}
}

// Room refuses when less than what is wanted and SpareBytes is free.
func TestRoom(t *testing.T) {
	fs := smallDisk{vfs.NewMem()}
	o := Options{FS: fs, SpareBytes: 100, Logger: slog.New(slog.DiscardHandler)}
	s := startStore(t, o)
	defer s.Close()
	if err := s.Room(900); err != nil {
		t.Errorf("900 of 1000 bytes: %v", err)
	}
	if err := s.Room(901); !errors.Is(err, ErrNoSpace) {
		t.Errorf("901 of 1000 bytes: %v", err)
	}
	if s.Bytes() == 0 {
		t.Error("the store has no size")
	}
}

// smallDisk has 1000 bytes left.
type smallDisk struct{ vfs.FS }

func (smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: 1000}, nil
}

func TestOptions(t *testing.T) {
	if err := (Options{}).Check(); err != nil {
		t.Error(err)
	}
	if err := (Options{SpareBytes: -1}).Check(); err == nil {
		t.Error("a negative SpareBytes is accepted")
	}
	if _, err := Open("checkpoint", Options{FS: vfs.NewMem(), SpareBytes: -1}); err == nil {
		t.Error("Open accepts what Check does not")
	}
}
