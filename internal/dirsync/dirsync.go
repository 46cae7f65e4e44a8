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

// createTries bounds how often Create begins again. Each time another process made or removed one
// of the directories between two system calls of this one.
const createTries = 10

// Create creates a directory and the missing ones above it, for their owner alone, and makes the
// new entries durable. It returns those that it made, the lowest first, with an error too. Other
// processes may make and remove the same directories meanwhile.
func Create(fsys vfs.FS, dir string) (made []string, err error) {
	for range createTries {
		// An earlier try may have made what is there now.
		if absent := missing(fsys, dir); len(absent) > len(made) {
			made = absent
		}
		err = create(fsys, dir, made)
		// MkdirAll finds a directory of another process in its way and, when it looks, gone.
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return made, err
}

// missing returns the directory and those above it that do not exist, the lowest first.
func missing(fsys vfs.FS, dir string) (paths []string) {
	for path := dir; ; path = fsys.PathDir(path) {
		if _, err := fsys.Stat(path); err == nil || path == fsys.PathDir(path) {
			return paths
		}
		paths = append(paths, path)
	}
}

func create(fsys vfs.FS, dir string, made []string) error {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries := made // that may be new
	if len(made) == 0 {
		entries = []string{dir}
	}
	for _, path := range entries {
		// An existing directory may have a parent that this process may not open. Its creator
		// has synced it.
		err := Sync(fsys, fsys.PathDir(path))
		if err != nil && !(len(made) == 0 && errors.Is(err, fs.ErrPermission)) {
			return err
		}
	}
	return nil
}
