package wal

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// renamedFS is a file system whose files' errors name the path under which they were opened, as
// those of the kernel's do.
type renamedFS struct {
	vfs.FS
	broken *bool
}

type renamedFile struct {
	vfs.File
	path   string
	broken *bool
}

func (f renamedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return renamedFile{file, name, f.broken}, err
}

func (f renamedFile) WriteAt(p []byte, offset int64) (int, error) {
	if *f.broken {
		return 0, &fs.PathError{Op: "write", Path: f.path, Err: syscall.EIO}
	}
	return f.File.WriteAt(p, offset)
}

// A failed write names the segment by its number, not by the name that its file had when it was
// made.
func TestFailedWriteNamesNoOldFile(t *testing.T) {
	broken := false
	l := start(t, small(renamedFS{vfs.NewMem(), &broken}))
	commit(t, l, "a")
	broken = true
	err := l.Wait(add(t, l, "b"))
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "segment 1") ||
		strings.Contains(err.Error(), freshName) {
		t.Errorf("%v", err)
	}
	_ = l.Close()
}
