package wal

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// storeFS is the file system that Pebble gets. Two things are different in it.
//
// A file called marker.manifest.… names the manifest that counts, and Pebble makes both durable with one sync of their directory:
// on a file system that may keep the one entry and lose the other, a crash in between leaves a store that cannot be opened. So
// what is there is synced before a marker is made.
//
// When the sync of a directory fails Pebble panics, on whatever goroutine it is. Here it is a failure of the store.
type storeFS struct {
	vfs.FS
	fatal *storeFailure
}

func (f storeFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := syncDir(f.FS, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return f.FS.Create(name, category)
}

func (f storeFS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return storeDir{dir, f.fatal}, nil
}

// Unwrap is how Pebble looks for the file system below.
func (f storeFS) Unwrap() vfs.FS { return f.FS }

// storeDir is a directory whose Sync succeeds or does not return.
type storeDir struct {
	vfs.File
	fatal *storeFailure
}

func (d storeDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.fatal.Fatalf("sync of its directory: %v", err)
	}
	return nil
}
