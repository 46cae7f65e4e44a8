package checkpoint

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"rollcall/internal/faultfs"
	"rollcall/internal/testseed"
)

// version1 is a store of format version 1: it has no id and no FILES.
func version1(t testing.TB, secret string) *vfs.MemFS {
	t.Helper()
	return older(t, secret, 1)
}

// older is a store of an older format version.
func older(t testing.TB, secret string, version uint64) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	s, err := Open("checkpoint", Options{FS: fs, Logger: slog.New(slog.DiscardHandler)})
	if err == nil && secret != "" {
		_, err = s.Secret(func() []byte { return []byte(secret) })
	}
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(s.Start(), s.Replace([]byte("a"), []byte("b"), func(yield func(k, v []byte) bool) {
		yield([]byte("a"), []byte("1"))
	}), s.Commit(7), s.setNumber(versionKey, version))
	if version == 1 {
		err = errors.Join(err,
			s.setValue(pebble.KeyRange{Start: idKey, End: append(idKey, 0)}, func(yield) {}))
	}
	err = errors.Join(err, s.Close())
	if version == 1 {
		err = errors.Join(err, fs.Remove("checkpoint/"+filesFile))
	}
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// crashes runs do and returns what a crash before each of its operations would have left.
func crashes(t *testing.T, fs *vfs.MemFS, do func(fs vfs.FS)) (left []*vfs.MemFS) {
	t.Helper()
	rng := testseed.Rand(t)
	var mu sync.Mutex
	do(errorfs.Wrap(faultfs.GuardLinks(fs, &mu), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpLink {
			mu.Lock()
			defer mu.Unlock()
			cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(3) * 50, RNG: rng}
			left = append(left, fs.CrashClone(cfg))
		}
		return nil
	})))
	if len(left) < 5 {
		t.Fatalf("%d crashes", len(left))
	}
	return left
}

// An upgrade keeps everything, and the id is the same before it, after it, and after a crash at any
// moment in it.
func TestUpgrade(t *testing.T) {
	for _, version := range []uint64{1, 2} {
		t.Run(fmt.Sprintf("version=%d", version), func(t *testing.T) { upgrades(t, version) })
	}
}

func upgrades(t *testing.T, version uint64) {
	fs := older(t, "the secret", version)
	s, err := Open("checkpoint", Options{FS: fs, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	id := s.ID()
	if id == uuid.Nil || s.version != version || s.SetID(uuid.New()) == nil || s.SetID(id) != nil {
		t.Errorf("the id is %s, the version %d", id, s.version)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left := crashes(t, fs, func(fs vfs.FS) {
		s := openStore(t, fs)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
	for n, crashed := range append(left, fs) {
		s := openStore(t, crashed)
		if s.ID() != id || s.version != formatVersion || s.LSN() != 7 || string(s.secret) != "the secret" {
			t.Errorf("crash %d: id %s, version %d, as of %d", n, s.ID(), s.version, s.LSN())
		}
		want(t, s, "a", "1")
		s.Close()
	}
}

// A store of version 1 without a secret has no id before its start.
func TestUpgradeWithoutSecret(t *testing.T) {
	o := Options{FS: version1(t, ""), Logger: slog.New(slog.DiscardHandler)}
	s, err := Open("checkpoint", o)
	if err != nil || s.ID() != uuid.Nil {
		t.Fatalf("id %s, %v", s.ID(), err)
	}
	id := uuid.New()
	_, secretErr := s.Secret(func() []byte { return []byte("late") })
	if err := errors.Join(s.SetID(id), secretErr, s.Start(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = Open("checkpoint", o); err != nil || s.ID() != id || string(s.secret) != "late" {
		t.Errorf("id %s, secret %q, %v", s.ID(), s.secret, err)
	}
	s.Close()
}

// A crash while a store is made leaves none, or a whole one; what is left under another name is no
// store, and the next start removes it.
func TestCrashWhileAStoreIsMade(t *testing.T) {
	id := uuid.New()
	fs := vfs.NewCrashableMem()
	left := crashes(t, fs, func(fs vfs.FS) {
		s, err := Open("checkpoint", Options{FS: fs, Logger: slog.New(slog.DiscardHandler)})
		if err != nil || s.Exists() {
			t.Fatalf("exists: %v, %v", s.Exists(), err)
		}
		if err := errors.Join(s.SetID(id), s.Start(), s.Close()); err != nil {
			t.Fatal(err)
		}
	})
	made := 0
	for n, crashed := range left {
		s, err := Open("checkpoint", Options{FS: crashed, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Errorf("crash %d: %v", n, err)
			continue
		}
		if s.Exists() {
			made++
			if s.ID() != id {
				t.Errorf("crash %d: id %s", n, s.ID())
			}
		}
		if err := errors.Join(s.Start(), s.Close()); err != nil {
			t.Errorf("crash %d: the next start: %v", n, err)
		}
		names, err := crashed.List("")
		if err != nil || strings.Join(names, " ") != "checkpoint" {
			t.Errorf("crash %d: %v, %v", n, names, err)
		}
	}
	if made == 0 || made == len(left) {
		t.Errorf("%d of %d crashes left a store", made, len(left))
	}
}

// Before Start nothing is written, and what is to be written is kept until then.
func TestOpenOnlyReads(t *testing.T) {
	fs := vfs.NewMem()
	o := Options{FS: fs, Logger: slog.New(slog.DiscardHandler)}
	s, err := Open("checkpoint", o)
	if err != nil || s.Exists() || s.ID() != uuid.Nil || s.Bytes() != 0 {
		t.Fatalf("%v, id %s, %d bytes", err, s.ID(), s.Bytes())
	}
	want(t, s)
	for range 2 {
		if b, err := s.Secret(func() []byte { return []byte("first") }); err != nil || string(b) != "first" {
			t.Errorf("secret %q, %v", b, err)
		}
	}
	for name, write := range map[string]func() error{
		"Commit": func() error { return s.Commit(1) }, "SetCursor": func() error { return s.SetCursor("a", 1) },
		"Replace": func() error { return s.Replace(nil, nil, func(func(k, v []byte) bool) {}) },
	} {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "bug: ") {
					t.Errorf("%s before Start: %v", name, p)
				}
			}()
			t.Errorf("%s before Start: %v", name, write())
		}()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if names, err := fs.List(""); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}

// A directory with a lock alone is as good as none.
func TestEmptyDirectory(t *testing.T) {
	fs := diskOf(t, map[string][]byte{"LOCK": nil, "range.tmp": []byte("x")})
	s := openStore(t, fs)
	if err := errors.Join(s.Commit(3), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, fs)
	defer s.Close()
	if s.LSN() != 3 || !s.Exists() {
		t.Errorf("as of %d", s.LSN())
	}
}
