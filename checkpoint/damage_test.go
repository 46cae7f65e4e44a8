package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/testseed"
)

// dump returns every file of a directory by name.
func dump(t testing.TB, fsys *vfs.MemFS, dir string) map[string][]byte {
	t.Helper()
	names, err := fsys.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, name := range names {
		b, err := fsys.UnsafeGetFileDataBuffer(fsys.PathJoin(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		found[name] = bytes.Clone(b)
	}
	return found
}

// diskOf returns a file system with these files in the store's directory.
func diskOf(t testing.TB, files map[string][]byte) *vfs.MemFS {
	t.Helper()
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("checkpoint", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		f, err := fsys.Create("checkpoint/"+name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(bytes.Clone(b)); err != nil { // a vfs.File may change what it writes
			t.Fatal(err)
		}
		f.Close()
	}
	return fsys
}

// filled is a store as a running server leaves it, closed or killed, after a second start.
func filled(t testing.TB, closed bool) map[string][]byte {
	t.Helper()
	fsys := vfs.NewCrashableMem()
	o := Options{FS: fsys, Logger: slog.New(slog.DiscardHandler)}
	for start := range 2 {
		s, err := Open("checkpoint", o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Secret(func() []byte { return []byte("secret") }); err != nil {
			t.Fatal(err)
		}
		err = s.Start()
		for i := range 3 {
			lo, hi := []byte{byte('a' + i)}, []byte{byte('b' + i)}
			err = errors.Join(err, s.Replace(lo, hi, func(yield func(k, v []byte) bool) {
				for n := range 5 {
					key := append(slices.Clone(lo), fmt.Sprint(n)...)
					if !yield(key, fmt.Appendf(nil, "device %d of start %d", n, start)) {
						return
					}
				}
			}))
		}
		if err = errors.Join(err, s.SetCursor("feed", 3), s.Commit(uint64(5+start))); err != nil {
			t.Fatal(err)
		}
		if start == 1 && !closed {
			defer s.Close()
			// All of one moment: Pebble removes files in the background.
			killed := fsys.CrashClone(vfs.CrashCloneCfg{
				UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))})
			return dump(t, killed, "checkpoint")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dump(t, fsys, "checkpoint")
}

// readAll opens a store and reads all of it, as recovery does. It checks that nothing is changed.
func readAll(t testing.TB, files map[string][]byte) (content []string, err error) {
	t.Helper()
	fsys := diskOf(t, files)
	s, err := Open("checkpoint", Options{FS: fsys, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		content = append(content, fmt.Sprint(s.LSN(), s.ID(), string(s.secret)))
		err = s.Load(nil, nil, func(k, v []byte) error {
			content = append(content, string(k)+"="+string(v))
			return nil
		})
		err = errors.Join(err, s.Close())
	}
	if after := dump(t, fsys, "checkpoint"); !maps.EqualFunc(after, files, bytes.Equal) {
		t.Errorf("the store was changed: %v, %v", slices.Sorted(maps.Keys(files)),
			slices.Sorted(maps.Keys(after)))
	}
	return content, err
}

// leftovers are the files whose loss takes nothing away: what Pebble has replaced and not yet
// removed, what it never reads, and its lock.
func leftovers(t testing.TB, files map[string][]byte) (names []string) {
	t.Helper()
	s, err := Open("checkpoint",
		Options{FS: diskOf(t, files), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	levels, err := s.db.Load().SSTables()
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Sorted(maps.Keys(files))
	live := []string{filesFile}
	for _, prefix := range []string{manifestPrefix, markerPrefix, formatPrefix, optionsPrefix} {
		live = append(live, newest(all, prefix))
	}
	for _, tables := range levels {
		for _, table := range tables {
			live = append(live, fmt.Sprintf("%06d%s", table.BackingSSTNum, tableSuffix))
		}
	}
	return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(live, name) })
}

// Every damage of a file is refused by the file's name, and nothing is changed: a file that is
// missing, or was cut, or in which a bit is another.
func TestDamageOfEveryFile(t *testing.T) {
	rng := testseed.Rand(t)
	for name, closed := range map[string]bool{"closed": true, "killed": false} {
		t.Run(name, func(t *testing.T) {
			whole := filled(t, closed)
			want, err := readAll(t, whole)
			if err != nil || len(want) != 16 {
				t.Fatalf("%q, %v", want, err)
			}
			left := leftovers(t, whole)
			refused := func(name, what string, b []byte) {
				t.Helper()
				files := maps.Clone(whole)
				if files[name] = b; b == nil {
					delete(files, name)
				}
				got, err := readAll(t, files)
				var damaged *DamagedError
				switch {
				case err == nil && !slices.Equal(got, want):
					t.Errorf("%s of %s: silently %q", what, name, got)
				case err == nil && slices.Contains(left, name):
				case err == nil:
					t.Errorf("%s of %s: not noticed", what, name)
				case !errors.As(err, &damaged):
					t.Errorf("%s of %s: %v", what, name, err)
				case damaged.Path != "checkpoint/"+name || damaged.What == "":
					t.Errorf("%s of %s is told as: %v", what, name, err)
				}
			}
			// Options of a later start, which FILES does not know yet.
			refused("OPTIONS-999999", "nothing", []byte{})
			refused("OPTIONS-999999", "zeros", make([]byte, 2779))
			for name, b := range whole {
				refused(name, "absence", nil)
				if len(b) == 0 {
					continue
				}
				refused(name, "first half", b[:len(b)/2])
				refused(name, "nothing", []byte{})
				refused(name, "all but a byte", b[:len(b)-1])
				step := 7
				if testing.Short() {
					step = 97
				}
				for at := rng.IntN(step); at < len(b); at += step {
					flipped := bytes.Clone(b)
					flipped[at] ^= 1 << rng.IntN(8)
					refused(name, fmt.Sprint("a flip at ", at), flipped)
				}
			}
		})
	}
}
