package dirsync

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// otherFS is a file system on which another process works too: mkdir and openDir are what it does
// before MkdirAll and OpenDir, or what these return because of it.
type otherFS struct {
	vfs.FS
	mkdir, openDir func() error
}

func (f *otherFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := f.mkdir(); err != nil {
		return err
	}
	return f.FS.MkdirAll(dir, perm)
}

func (f *otherFS) OpenDir(name string) (vfs.File, error) {
	if err := f.openDir(); err != nil {
		return nil, err
	}
	return f.FS.OpenDir(name)
}

// TestCreateBesideAnother: a directory that another process makes or removes between two system
// calls is no error. Create returns what it made, in all tries together.
func TestCreateBesideAnother(t *testing.T) {
	none := func() error { return nil }
	for name, other := range map[string]func(dir string) *otherFS{
		"it made one and removed it": func(string) *otherFS {
			return &otherFS{mkdir: times(createTries-1, fs.ErrExist), openDir: none}
		},
		"it removed the one above": func(string) *otherFS {
			return &otherFS{mkdir: times(createTries-1, fs.ErrNotExist), openDir: none}
		},
		"it removed what this one made": func(dir string) *otherFS {
			remove := func() error { return os.RemoveAll(filepath.Dir(dir)) }
			return &otherFS{mkdir: none, openDir: first(remove)}
		},
		"it removed the lower one": func(dir string) *otherFS {
			remove := func() error {
				return errors.Join(os.Remove(dir), fs.ErrNotExist)
			}
			return &otherFS{mkdir: none, openDir: first(remove)}
		},
	} {
		dir := filepath.Join(t.TempDir(), "a", "data")
		fsys := other(dir)
		fsys.FS = vfs.Default
		made, err := Create(fsys, dir)
		if want := []string{dir, filepath.Dir(dir)}; err != nil || !slices.Equal(made, want) {
			t.Errorf("%s: made %v, %v; want %v", name, made, err, want)
		}
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCreateWhereNoneCanBe: an error that stays is returned as it is.
func TestCreateWhereNoneCanBe(t *testing.T) {
	dangling := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dangling+"/nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(vfs.Default, dangling); err == nil {
		t.Error("it was made through a link that leads nowhere")
	}
	broken := errors.New("broken")
	calls := 0
	fsys := &otherFS{FS: vfs.Default, mkdir: func() error { calls++; return broken }}
	if _, err := Create(fsys, dangling); !errors.Is(err, broken) || calls != 1 {
		t.Errorf("%v after %d calls, want one", err, calls)
	}
}

// times returns a function that returns an error n times.
func times(n int, err error) func() error {
	return func() error {
		if n--; n < 0 {
			return nil
		}
		return err
	}
}

// first returns a function that calls fn the first time.
func first(fn func() error) func() error {
	called := false
	return func() error {
		if called {
			return nil
		}
		called = true
		return fn()
	}
}
