// Package readonly has a file system through which nothing can be changed: a look at a directory
// writes nothing, and has no way to.
package readonly

import (
	"errors"
	"io"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Err is what every operation returns that would change something.
var Err = errors.New("this file system is only read")

// FS reads from the file system below and refuses everything else. Lock takes nothing, since
// nothing is written.
type FS struct{ Base vfs.FS }

// File is an open file of an FS.
type File struct{ vfs.File }

// Write and the methods after it are those of vfs.File that would change something.
func (File) Write([]byte) (int, error)          { return 0, Err }
func (File) WriteAt([]byte, int64) (int, error) { return 0, Err }
func (File) Preallocate(int64, int64) error     { return Err }
func (File) Sync() error                        { return Err }
func (File) SyncData() error                    { return Err }
func (File) SyncTo(int64) (bool, error)         { return false, Err }

// openDir is an open directory: Pebble opens it to sync it, and has nothing to sync.
type openDir struct{ File }

func (openDir) Sync() error { return nil }

// lock is what Lock returns.
type lock struct{}

func (lock) Close() error { return nil }

// Open implements vfs.FS.
func (f FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.Base.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return File{file}, nil
}

// OpenDir implements vfs.FS.
func (f FS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.Base.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return openDir{File{dir}}, nil
}

// List implements vfs.FS.
func (f FS) List(dir string) ([]string, error) { return f.Base.List(dir) }

// Stat implements vfs.FS.
func (f FS) Stat(name string) (vfs.FileInfo, error) { return f.Base.Stat(name) }

// Lock implements vfs.FS.
func (FS) Lock(string) (io.Closer, error) { return lock{}, nil }

// Create implements vfs.FS.
func (FS) Create(string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, Err }

// OpenReadWrite implements vfs.FS.
func (FS) OpenReadWrite(string, vfs.DiskWriteCategory, ...vfs.OpenOption) (vfs.File, error) {
	return nil, Err
}

// ReuseForWrite implements vfs.FS.
func (FS) ReuseForWrite(string, string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, Err }

// Link implements vfs.FS.
func (FS) Link(string, string) error { return Err }

// Remove implements vfs.FS.
func (FS) Remove(string) error { return Err }

// RemoveAll implements vfs.FS.
func (FS) RemoveAll(string) error { return Err }

// Rename implements vfs.FS.
func (FS) Rename(string, string) error { return Err }

// MkdirAll implements vfs.FS.
func (FS) MkdirAll(string, os.FileMode) error { return Err }

// GetDiskUsage implements vfs.FS.
func (f FS) GetDiskUsage(path string) (vfs.DiskUsage, error) { return f.Base.GetDiskUsage(path) }

// PathBase implements vfs.FS.
func (f FS) PathBase(path string) string { return f.Base.PathBase(path) }

// PathJoin implements vfs.FS.
func (f FS) PathJoin(elem ...string) string { return f.Base.PathJoin(elem...) }

// PathDir implements vfs.FS.
func (f FS) PathDir(path string) string { return f.Base.PathDir(path) }

// Unwrap implements vfs.FS. There is nothing to reach below: it is only read.
func (FS) Unwrap() vfs.FS { return nil }
