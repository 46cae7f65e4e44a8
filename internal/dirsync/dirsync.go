// Package dirsync makes entries of directories durable.
package dirsync

import (
	"errors"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sync makes the entries of a directory durable.
func Sync(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Create creates a directory and the missing ones above it, and makes the new entries durable.
func Create(fsys vfs.FS, dir string) error {
	parents := []string{fsys.PathDir(dir)} // whose entries may be new
	existed := true
	for path := dir; ; path = fsys.PathDir(path) {
		if _, err := fsys.Stat(path); err == nil || path == fsys.PathDir(path) {
			break
		}
		existed = false
		parents = append(parents, fsys.PathDir(path))
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, parent := range parents {
		// An existing directory may have a parent that this process may not open. Its creator
		// has synced it.
		err := Sync(fsys, parent)
		if err != nil && !(existed && errors.Is(err, fs.ErrPermission)) {
			return err
		}
	}
	return nil
}
