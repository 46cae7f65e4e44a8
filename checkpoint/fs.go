package checkpoint

import (
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
)

// storeFS is the file system that Pebble gets. It does three things differently.
//
// A file called marker.manifest.… names the manifest that counts, and Pebble makes both durable
// with one sync of their directory: on a file system that may keep the one entry and lose the
// other, a crash in between leaves a store that cannot be opened. So storeFS syncs what is there
// before it makes a marker.
//
// When the sync of a directory fails Pebble panics, on any goroutine. Here it is a failure of the
// store.
//
// And it tells the keeper how much of which manifest is durable.
type storeFS struct {
	vfs.FS
	failure *failure
	keeper  *keeper
}

func (f storeFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := dirsync.Sync(f.FS, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return f.keeper.creating(f.PathBase(name), file), nil
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

// manifestFile is a manifest that Pebble appends to. Pebble writes and syncs it from one goroutine
// at a time.
type manifestFile struct {
	vfs.File
	name    string
	written int64
	synced  atomic.Int64 // how much is on stable storage. Only grows
}

func (f *manifestFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	f.written += int64(n)
	return n, err
}

func (f *manifestFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		return err
	}
	f.synced.Store(f.written)
	return nil
}
