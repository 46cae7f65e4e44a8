package dirlock

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// pathDir is a directory that cannot be locked by flock, as on NFS: an open file of O_PATH cannot.
type pathDir struct {
	vfs.File
	fd int
}

func (d pathDir) Fd() uintptr  { return uintptr(d.fd) }
func (d pathDir) Sync() error  { return nil }
func (d pathDir) Close() error { return unix.Close(d.fd) }

func openPath(name string) (vfs.File, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	return pathDir{fd: fd}, err
}

// TestWithoutFlock: where the file system cannot lock the directory, LOCK alone counts.
func TestWithoutFlock(t *testing.T) {
	dir := t.TempDir()
	fsys := &hookFS{FS: vfs.Default, openDir: openPath}
	l := mustTake(t, fsys, dir)
	_, err := Take(fsys, dir, lockName)
	wantHeld(t, "a second Take", err, unix.Getpid())
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mustTake(t, fsys, dir).Close(); err != nil {
		t.Fatal(err)
	}
}
