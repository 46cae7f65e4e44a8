package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/filelock"
)

const anyCategory = vfs.WriteCategoryUnspecified

// open returns the file system of a new directory.
func open(t testing.TB) (f *FS, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	f = New(dir)
	t.Cleanup(func() { _ = f.Close() })
	if err := f.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return f, dir
}

func write(t *testing.T, f vfs.FS, path, text string) {
	t.Helper()
	file, err := f.Create(path, anyCategory)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.Write([]byte(text))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		t.Fatal(err)
	}
}

func needsDescriptorPaths(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has paths through a descriptor")
	}
}

// TestFollowsTheDirectory: every operation goes to the directory that was opened, wherever it is
// now, and none to what is in its place.
func TestFollowsTheDirectory(t *testing.T) {
	needsDescriptorPaths(t)
	f, dir := open(t)
	write(t, f, dir+"/a", "old")
	kept, err := f.OpenReadWrite(dir+"/a", anyCategory)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	away := dir + ".away"
	if err := errors.Join(os.Rename(dir, away), os.Mkdir(dir, 0o700),
		os.WriteFile(dir+"/a", []byte("new"), 0o600)); err != nil {
		t.Fatal(err)
	}
	write(t, f, dir+"/b", "b")
	dirFile, err := f.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := f.Lock(dir + "/LOCK")
	if err != nil {
		t.Fatal(err)
	}
	reused, err := f.ReuseForWrite(dir+"/b", dir+"/c", anyCategory)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		dirFile.Sync(), dirFile.Close(), lock.Close(), reused.Close(),
		f.Link(dir+"/c", dir+"/d"),
		f.Rename(dir+"/a", dir+"/e"),
		f.MkdirAll(dir+"/sub/sub", 0o700),
		f.RemoveAll(dir+"/sub/sub"),
		f.Remove(dir+"/c"),
	); err != nil {
		t.Fatal(err)
	}
	names, err := f.List(dir)
	slices.Sort(names)
	if want := []string{"LOCK", "d", "e", "sub"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the directory holds %q, %v, not %q", names, err, want)
	}
	if _, err := f.Stat(dir + "/e"); err != nil {
		t.Error(err)
	}
	if _, err := f.GetDiskUsage(dir); err != nil {
		t.Error(err)
	}
	there, err := os.ReadDir(away)
	if err != nil || len(there) != len(names) {
		t.Errorf("what was moved away holds %v, %v", there, err)
	}
	there, err = os.ReadDir(dir)
	text, readErr := os.ReadFile(dir + "/a")
	if err := errors.Join(err, readErr); err != nil || len(there) != 1 || string(text) != "new" {
		t.Errorf("what is in its place holds %v, %q, %v", there, text, err)
	}
	// Made again, it is opened anew.
	if err := f.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if names, err := f.List(dir); err != nil || !slices.Equal(names, []string{"a"}) {
		t.Errorf("the new directory holds %q, %v", names, err)
	}
}

// Paths elsewhere are taken as they are, also one that begins with the same letters.
func TestLeavesOtherPathsAlone(t *testing.T) {
	f, dir := open(t)
	if err := f.MkdirAll(dir+"base", 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, f, dir+"base/x", "x")
	if _, err := os.Stat(dir + "base/x"); err != nil {
		t.Error(err)
	}
	for _, c := range [][4]string{
		{"/a", "/a", "/proc/self/fd/3", "/proc/self/fd/3"},
		{"/a/b", "/a", "/proc/self/fd/3", "/proc/self/fd/3/b"},
		{"/a/../a/b", "/a", "/x", "/x/b"},
		{"/ab", "/a", "/x", "/ab"},
		{"/", "/a", "/x", "/"},
		{"/b", "/", "/x", "/x/b"},
		{"/", "/", "/x", "/x"},
	} {
		if got := swap(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%s with %s for %s is %s, not %s", c[0], c[2], c[1], got, c[3])
		}
	}
}

// TestErrorsNameThePathOfTheUser: no error has the path through the descriptor.
func TestErrorsNameThePathOfTheUser(t *testing.T) {
	f, dir := open(t)
	write(t, f, dir+"/file", "")
	_, created := f.Create(dir+"/none/a", anyCategory)
	_, opened := f.Open(dir + "/none")
	_, openedDir := f.OpenDir(dir + "/none")
	_, rw := f.OpenReadWrite(dir+"/none/a", anyCategory)
	_, reused := f.ReuseForWrite(dir+"/none", dir+"/b", anyCategory)
	_, locked := f.Lock(dir + "/none/LOCK")
	_, listed := f.List(dir + "/none")
	_, stat := f.Stat(dir + "/none")
	file, err := f.Open(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	_, written := file.Write([]byte("x"))
	_, writtenAt := file.WriteAt([]byte("x"), 0)
	closed := errors.Join(file.Close(), file.Close())
	_, read := file.Read(make([]byte, 1))
	_, readAt := file.ReadAt(make([]byte, 1), 0)
	_, fstat := file.Stat()
	for name, err := range map[string]error{
		"Create": created, "Open": opened, "OpenDir": openedDir, "OpenReadWrite": rw,
		"ReuseForWrite": reused, "Lock": locked, "List": listed, "Stat": stat,
		"Write": written, "WriteAt": writtenAt, "Close": closed, "Read": read,
		"ReadAt": readAt, "File.Stat": fstat, "Sync": file.Sync(),
		"Rename": f.Rename(dir+"/none", dir+"/b"), "Link": f.Link(dir+"/none", dir+"/b"),
		"Remove": f.Remove(dir + "/none"), "MkdirAll": f.MkdirAll(dir+"/file/a", 0o700),
	} {
		if err == nil || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "/proc/") {
			t.Errorf("%s: %v does not name %s", name, err, dir)
		}
	}
	if !errors.Is(stat, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", stat)
	}
}

// After Close nothing is reached, since the descriptor's number may be another file's.
func TestClosed(t *testing.T) {
	f, dir := open(t)
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	_, err := f.Create(dir+"/a", anyCategory)
	for _, err := range []error{
		err, f.Remove(dir), f.MkdirAll(dir, 0o700), f.MkdirAll(dir+"/b", 0o700),
	} {
		if !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), dir) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestPebble: the store of checkpoints works on it, and its files have descriptors, which locks,
// preallocation and read-ahead need.
func TestPebble(t *testing.T) {
	f, dir := open(t)
	db, err := pebble.Open(dir+"/checkpoint", &pebble.Options{FS: f, Logger: noLog{}})
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(db.Set([]byte("k"), []byte("v"), pebble.Sync), db.Flush(), db.Close())
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, dir+"/a", "")
	a, err := f.Open(dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := f.Open(dir+"/a", vfs.SequentialReadsOption)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if a.Fd() == vfs.InvalidFd || !filelock.Share(a) || filelock.Exclusive(b) {
		t.Error("a file has no lock")
	}
	if vfs.Root(f) != vfs.Default {
		t.Error("the file system below is not the kernel's")
	}
}

type noLog struct{}

func (noLog) Infof(string, ...any)      {}
func (noLog) Errorf(string, ...any)     {}
func (noLog) Fatalf(f string, a ...any) { panic(f) }

// interrupted is a file system whose syncs are interrupted some times, and then end with an error.
type interrupted struct {
	vfs.FS
	times int
	err   error
	calls int
}

type interruptedFile struct {
	vfs.File
	fs *interrupted
}

func (f *interrupted) OpenDir(name string) (vfs.File, error) {
	inner, err := f.FS.OpenDir(name)
	return &interruptedFile{inner, f}, err
}

func (f *interrupted) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	inner, err := f.FS.Create(name, c)
	return &interruptedFile{inner, f}, err
}

func (f *interrupted) call() error {
	if f.calls++; f.calls <= f.times {
		return &fs.PathError{Op: "sync", Path: "x", Err: syscall.EINTR}
	}
	return f.err
}

func (f *interruptedFile) Sync() error                { return f.fs.call() }
func (f *interruptedFile) SyncData() error            { return f.fs.call() }
func (f *interruptedFile) SyncTo(int64) (bool, error) { err := f.fs.call(); return err == nil, err }

// TestInterruptedSyncIsTriedAgain: EINTR is not a failed sync. A failed one is returned, and is not
// tried a second time.
func TestInterruptedSyncIsTriedAgain(t *testing.T) {
	base := &interrupted{FS: vfs.Default}
	dir := t.TempDir()
	f := over(base, dir)
	file, err := f.Create(dir+"/a", anyCategory)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d, err := f.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	syncTo := func() error {
		full, err := file.SyncTo(1)
		if full != (err == nil) {
			t.Errorf("SyncTo says %v, %v", full, err)
		}
		return err
	}
	for name, sync := range map[string]func() error{
		"Sync": file.Sync, "SyncData": file.SyncData, "SyncTo": syncTo, "directory": d.Sync,
	} {
		for _, want := range []error{nil, syscall.EIO} {
			base.times, base.err, base.calls = 3, want, 0
			if err := sync(); !errors.Is(err, want) || base.calls != 4 {
				t.Errorf("%s, interrupted 3 times, then %v: %v after %d calls", name, want, err, base.calls)
			}
		}
	}
}

// BenchmarkWrite is one block of the log: a write in place, with and without the file system.
func BenchmarkWrite(b *testing.B) {
	rooted, dir := open(b)
	for _, c := range []struct {
		name string
		fs   vfs.FS
	}{{"fs=kernel", vfs.Default}, {"fs=root", rooted}} {
		b.Run(c.name, func(b *testing.B) {
			f, err := c.fs.Create(dir+"/a", anyCategory)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			block := make([]byte, 512)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.WriteAt(block, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
