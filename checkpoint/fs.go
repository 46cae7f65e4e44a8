package checkpoint

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
)

// storeFS is the file system that Pebble gets. It does two things differently.
//
// A file called marker.manifest.… names the manifest that counts, and Pebble makes both durable
// with one sync of their directory: on a file system that may keep the one entry and lose the
// other, a crash in between leaves a store that cannot be opened. So storeFS syncs what is there
// before it makes a marker.
//
// When the sync of a directory fails Pebble panics, on any goroutine. Here it is a failure of the
// store.
type storeFS struct {
	vfs.FS
	failure *failure
}

func (f storeFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := dirsync.Sync(f.FS, f.PathDir(name)); err != nil {
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
	return storeDir{dir, f.failure}, nil
}

// Unwrap is how Pebble looks for the file system below.
func (f storeFS) Unwrap() vfs.FS { return f.FS }

// storeDir is a directory whose Sync succeeds or does not return.
type storeDir struct {
	vfs.File
	failure *failure
}

func (d storeDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.failure.Fatalf("sync of its directory: %v", err)
	}
	return nil
}
