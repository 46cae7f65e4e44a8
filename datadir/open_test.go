package datadir

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/checkpoint"
)

const storeDir = dir + "/" + CheckpointDir

// dump returns every file below a directory by path.
func dump(t testing.TB, fs *vfs.MemFS, dir string) map[string][]byte {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			maps.Copy(found, dump(t, fs, path))
			continue
		}
		b, err := fs.UnsafeGetFileDataBuffer(path)
		if err != nil {
			t.Fatal(err)
		}
		found[path] = bytes.Clone(b)
	}
	return found
}

// putStore makes the checkpoint's directory that of another file system, or takes it away.
func putStore(t testing.TB, to, from *vfs.MemFS) {
	t.Helper()
	if err := to.RemoveAll(storeDir); err != nil || from == nil {
		return
	}
	if _, err := vfs.Clone(from, to, storeDir, storeDir); err != nil {
		t.Fatal(err)
	}
}

// begun is a directory with so many records in each round, and a checkpoint as of the last one.
func begun(t testing.TB, rounds ...int) (fs *vfs.MemFS) {
	t.Helper()
	fs = vfs.NewMem()
	goOn(t, fs, rounds...)
	return fs
}

// goOn appends as many records in each round, and takes a checkpoint behind each. It returns the
// directory as it was after the first one.
func goOn(t testing.TB, fs *vfs.MemFS, rounds ...int) (first *vfs.MemFS) {
	t.Helper()
	l, c := startBoth(t, dir, fs)
	if _, err := c.Secret(func() []byte { return []byte("the secret of " + c.ID().String()) }); err != nil {
		t.Fatal(err)
	}
	for _, n := range rounds {
		through := uint64(0)
		for range n {
			through = commit(t, l, strings.Repeat("r", 1200))
		}
		if err := errors.Join(c.Replace(nil, nil, func(yield func(k, v []byte) bool) {
			yield([]byte("device"), fmt.Append(nil, through))
		}), c.Commit(through), l.TruncateBefore(through+1)); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = vfs.NewMem()
			if _, err := vfs.Clone(fs, first, dir, dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(c.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	return first
}

// Parts that do not belong together are refused wherever they are looked at, with what to do, and
// nothing is changed.
func TestForeignParts(t *testing.T) {
	for name, c := range map[string]struct {
		make    func(t *testing.T, fs *vfs.MemFS)
		foreign bool
		want    []string
	}{
		"another server's checkpoint": {func(t *testing.T, fs *vfs.MemFS) {
			goOn(t, fs, 3)
			putStore(t, fs, begun(t, 3))
		}, true, []string{"different servers", "Put the part back", "backup"}},
		"another one's, newer": {func(t *testing.T, fs *vfs.MemFS) {
			goOn(t, fs, 3)
			putStore(t, fs, begun(t, 60))
		}, true, []string{"different servers"}},
		"an older one, log shortened": {func(t *testing.T, fs *vfs.MemFS) {
			putStore(t, fs, goOn(t, fs, 60, 60))
		}, false, []string{"as of record 60", "older", "record 120", "Restore", "empty one"}},
		"none, log shortened": {func(t *testing.T, fs *vfs.MemFS) {
			goOn(t, fs, 60)
			putStore(t, fs, nil)
		}, false, []string{storeDir, "every device as of record 60", "it is missing", "empty one"}},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			c.make(t, fs)
			before := dump(t, fs, dir)
			l, s, err := Open(dir, small(fs), checkpoint.Options{FS: fs, Logger: quiet})
			if err == nil {
				s.Close()
				l.Close()
			}
			v := view(t, fs)
			defer v.Close()
			for by, err := range map[string]error{
				"Open": err, "Copy": Copy(v, "copy", quiet, new(Copied)), "Walk": v.Walk(quiet, new(Copied)),
			} {
				var foreign *ForeignError
				var damaged *checkpoint.DamagedError
				if c.foreign != errors.As(err, &foreign) || c.foreign == errors.As(err, &damaged) {
					t.Errorf("%s: %v", by, err)
					continue
				}
				for _, want := range c.want {
					if text := Advise(err).Error(); !strings.Contains(text, want) {
						t.Errorf("%s: %q is not in: %s", by, want, text)
					}
				}
			}
			if after := dump(t, fs, dir); !maps.EqualFunc(before, after, bytes.Equal) {
				t.Errorf("changed: %v, now %v", slices.Sorted(maps.Keys(before)),
					slices.Sorted(maps.Keys(after)))
			}
		})
	}
}

// A checkpoint that was moved away, or is not the newest one, is no loss while the log reaches back
// to it: a warning says that there was another one. So do the next starts, until there is a new
// checkpoint. The new one is of the same directory.
func TestStartFromTheLog(t *testing.T) {
	for name, c := range map[string]struct {
		older   bool // the first checkpoint is put back, instead of none
		records int
		warning string
	}{
		"missing": {false, 3, "the checkpoint is missing"},
		"older":   {true, 1, "the checkpoint is not the newest one"},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			first := goOn(t, fs, 2, 1)
			if !c.older {
				first = nil
			}
			putStore(t, fs, first)
			for start := range 2 {
				var out bytes.Buffer
				o := checkpoint.Options{FS: fs, Logger: slog.New(slog.NewTextHandler(&out, nil))}
				l, s, err := Open(dir, small(fs), o)
				if err != nil {
					t.Fatalf("start %d: %v", start, err)
				}
				n := 0
				replayed := l.Replay(s.LSN(), func(uint64, []byte) error { n++; return nil })
				err = errors.Join(replayed, s.Start(), l.Start(nil))
				if err != nil || n != c.records {
					t.Fatalf("start %d: %d records, %v", start, n, err)
				}
				if start == 0 && !strings.Contains(out.String(), c.warning) ||
					!strings.Contains(out.String(), "the checkpoint is") {
					t.Errorf("start %d logged: %s", start, out.String())
				}
				if l.ID() != s.ID() || l.ID() == uuid.Nil {
					t.Errorf("the ids are %s and %s", l.ID(), s.ID())
				}
				if err := errors.Join(s.Close(), l.Close()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Opening a directory changes nothing in it, neither a new one nor one with both parts; a start
// that began with one of the parts, and went no further, leaves parts that belong together.
func TestOpenOnlyReads(t *testing.T) {
	for _, records := range []int{0, 3, 60} {
		fs := vfs.NewMem()
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if records > 0 {
			goOn(t, fs, records)
		}
		before := dump(t, fs, dir)
		l, s := openBoth(t, dir, fs)
		id := l.ID()
		if id == uuid.Nil || id != s.ID() {
			t.Errorf("%d records: the ids are %s and %s", records, id, s.ID())
		}
		if err := errors.Join(s.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		if after := dump(t, fs, dir); !maps.EqualFunc(before, after, bytes.Equal) {
			t.Errorf("%d records: changed: %v, now %v", records, slices.Sorted(maps.Keys(before)),
				slices.Sorted(maps.Keys(after)))
		}
		for _, part := range []string{"store", "log"} {
			half := vfs.NewMem()
			if _, err := vfs.Clone(fs, half, dir, dir); err != nil {
				t.Fatal(err)
			}
			l, s := openBoth(t, dir, half)
			id := l.ID()
			started := s.Start
			if part == "log" {
				started = func() error { return l.Start(nil) }
			}
			if err := errors.Join(started(), s.Close(), l.Close()); err != nil {
				t.Fatal(err)
			}
			l, s = startBoth(t, dir, half)
			if l.ID() != id || s.ID() != id || s.LSN() != uint64(records) {
				t.Errorf("%d records, the %s started: ids %s and %s, were %s; as of %d",
					records, part, l.ID(), s.ID(), id, s.LSN())
			}
			if err := errors.Join(s.Close(), l.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
