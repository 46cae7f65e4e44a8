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

// Create creates a directory and the missing ones above it, for their owner alone, and makes the
// new entries durable. It returns those that it made, the lowest first, with an error too.
func Create(fsys vfs.FS, dir string) (made []string, err error) {
	parents := []string{fsys.PathDir(dir)} // whose entries may be new
	for path := dir; ; path = fsys.PathDir(path) {
		if _, err := fsys.Stat(path); err == nil || path == fsys.PathDir(path) {
			break
		}
		made = append(made, path)
		parents = append(parents, fsys.PathDir(path))
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return made, err
	}
	for _, parent := range parents {
		// An existing directory may have a parent that this process may not open. Its creator
		// has synced it.
		err := Sync(fsys, parent)
		if err != nil && !(len(made) == 0 && errors.Is(err, fs.ErrPermission)) {
			return made, err
		}
	}
	return made, nil
}
