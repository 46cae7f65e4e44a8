package wal

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// markersLast is the file system that Pebble gets. A file called marker.manifest.… names the manifest that counts, and Pebble
// makes both durable with one sync of their directory: on a file system that may keep the one entry and lose the other, a crash
// in between leaves a store that cannot be opened. So what is there is synced before a marker is made.
type markersLast struct{ vfs.FS }

func (f markersLast) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := syncDir(f.FS, f.PathDir(name)); err != nil {
			return nil, err
		}
	}
	return f.FS.Create(name, category)
}

// Unwrap is how Pebble looks for the file system below.
func (f markersLast) Unwrap() vfs.FS { return f.FS }
