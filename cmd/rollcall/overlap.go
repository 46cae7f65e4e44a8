package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// overlaps reports whether one of two directories lies within the other, or they are the same, by
// whatever names: links are followed, and directories are compared as the system does. The target
// need not exist. A data directory of which a part is linked to another disk lies there, too.
func overlaps(target, dir string) (bool, error) {
	at, err := realPath(target)
	if err != nil {
		return false, err
	}
	parts, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // which is reported when it is opened
	}
	if err != nil {
		return false, err
	}
	paths := []string{dir}
	for _, part := range parts {
		if part.Type()&fs.ModeSymlink != 0 {
			paths = append(paths, filepath.Join(dir, part.Name()))
		}
	}
	for _, path := range paths {
		real, err := realPath(path)
		if err != nil {
			return false, err
		}
		if within(at, real) || within(real, at) {
			return true, nil
		}
	}
	return false, nil
}

// realPath is the absolute path without links, of which the end need not exist.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if parent := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && parent != path {
		real, err = realPath(parent)
		return filepath.Join(real, filepath.Base(path)), err
	}
	return real, err
}

// within reports whether a path is a directory or lies in it.
func within(path, dir string) bool {
	want, err := os.Stat(dir)
	if err != nil {
		return false // nothing lies in what is not there
	}
	for {
		if info, err := os.Stat(path); err == nil && os.SameFile(info, want) {
			return true
		}
		parent := filepath.Dir(path)
		if parent == path {
			return false
		}
		path = parent
	}
}
