// Package rootfs is the kernel's file system with one directory held open: what lies in it is
// reached through the directory's descriptor. When the directory is moved away, the process that
// works on it follows, and touches nothing that is put in its place.
//
//	FS.Create("/srv/data/7.wal") ──► open("/proc/self/fd/5/7.wal")     5: /srv/data, since MkdirAll
//	FS.Create("/srv/other")      ──► open("/srv/other")
//
// Only Linux has such paths (proc_pid_fd(5)). Elsewhere, and where /proc is not mounted, the
// directory is reached by its path.
//
// Its files sync again when a signal interrupts a sync: FUSE and network file systems return EINTR
// then, with nothing lost. Any other error of a sync is returned, and no sync that failed is tried
// again: it could succeed for pages that the kernel has dropped.
package rootfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is a vfs.FS with one directory held open. Its methods may be called from any goroutine.
type FS struct {
	base vfs.FS
	dir  string // clean

	mu     sync.RWMutex // held for reading by each operation, so that Close waits for them
	open   *os.File     // guarded by mu; the directory; nil before MkdirAll
	names  names        // guarded by mu; empty while paths are taken as they are
	closed bool         // guarded by mu
}

// New returns a file system for the directory with an absolute path, which need not exist. MkdirAll
// of it opens it; until then it is reached by its path. Close it when nothing uses it any more.
func New(dir string) *FS { return over(vfs.Default, dir) }

func over(base vfs.FS, dir string) *FS { return &FS{base: base, dir: filepath.Clean(dir)} }

// Close closes the directory. Every later operation is an error.
func (f *FS) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return f.closeLocked()
}

func (f *FS) closeLocked() error {
	f.names = names{}
	if f.open == nil {
		return nil
	}
	err := f.open.Close()
	f.open = nil
	return err
}

// MkdirAll implements vfs.FS. Of the file system's directory it also opens what the path leads to,
// in place of what is open.
func (f *FS) MkdirAll(dir string, perm os.FileMode) error {
	if !f.isDir(dir) {
		return f.do("mkdir", dir, func(path string) error { return f.base.MkdirAll(path, perm) })
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return closedError("mkdir", dir)
	}
	if err := f.base.MkdirAll(dir, perm); err != nil {
		return err
	}
	fresh, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := f.closeLocked(); err != nil {
		return errors.Join(err, fresh.Close())
	}
	f.open = fresh
	if at, ok := descriptorPath(fresh); ok {
		f.names = names{users: f.dir, kernels: at}
	}
	return nil
}

// names are a directory's two names: the path that the user gave, and the one through its
// descriptor.
type names struct{ users, kernels string }

// kernel returns the path to use for a name.
func (n names) kernel(name string) string {
	if n.kernels == "" {
		return name
	}
	return swap(name, n.users, n.kernels)
}

// user makes an error name what the user knows. The error is of the call that just returned, so no
// other goroutine has it.
func (n names) user(err error) error {
	if err == nil || n.kernels == "" {
		return err
	}
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		path.Path = swap(path.Path, n.kernels, n.users)
	}
	if link := (*os.LinkError)(nil); errors.As(err, &link) {
		link.Old = swap(link.Old, n.kernels, n.users)
		link.New = swap(link.New, n.kernels, n.users)
	}
	return err
}

// swap replaces the directory at the beginning of a path, if that is where the path begins.
func swap(path, from, to string) string {
	const separator = string(filepath.Separator)
	path = filepath.Clean(path)
	if path == from {
		return to
	}
	below, ok := strings.CutPrefix(path, strings.TrimSuffix(from, separator)+separator)
	if !ok {
		return path
	}
	return filepath.Join(to, below)
}

func closedError(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: os.ErrClosed}
}

// do calls fn with the path to use for a name.
func (f *FS) do(op, name string, fn func(path string) error) error {
	_, err := with(f, op, name, func(path string) (struct{}, error) { return struct{}{}, fn(path) })
	return err
}

// with is do for a call that has a result.
func with[T any](f *FS, op, name string, fn func(path string) (T, error)) (result T, err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return result, closedError(op, name)
	}
	got, err := fn(f.names.kernel(name))
	if err != nil {
		return result, f.names.user(err)
	}
	return got, nil
}

// opened is with for a call that opens a file.
func (f *FS) opened(name string, fn func(path string) (vfs.File, error)) (vfs.File, error) {
	return with(f, "open", name, func(path string) (vfs.File, error) {
		inner, err := fn(path)
		if err != nil {
			return nil, err
		}
		return &file{File: inner, names: f.names}, nil
	})
}

// Create implements vfs.FS.
func (f *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.opened(name, func(path string) (vfs.File, error) {
		return f.base.Create(path, category)
	})
}

// Open implements vfs.FS.
func (f *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.opened(name, func(path string) (vfs.File, error) { return f.base.Open(path, opts...) })
}

// OpenReadWrite implements vfs.FS.
func (f *FS) OpenReadWrite(
	name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption,
) (vfs.File, error) {
	return f.opened(name, func(path string) (vfs.File, error) {
		return f.base.OpenReadWrite(path, category, opts...)
	})
}

// OpenDir implements vfs.FS.
func (f *FS) OpenDir(name string) (vfs.File, error) {
	return f.opened(name, f.base.OpenDir)
}

// ReuseForWrite implements vfs.FS.
func (f *FS) ReuseForWrite(
	oldname, newname string, category vfs.DiskWriteCategory,
) (vfs.File, error) {
	return f.opened(oldname, func(from string) (vfs.File, error) {
		return f.base.ReuseForWrite(from, f.names.kernel(newname), category)
	})
}

// Link implements vfs.FS.
func (f *FS) Link(oldname, newname string) error {
	return f.do("link", oldname, func(from string) error {
		return f.base.Link(from, f.names.kernel(newname))
	})
}

// Rename implements vfs.FS.
func (f *FS) Rename(oldname, newname string) error {
	return f.do("rename", oldname, func(from string) error {
		return f.base.Rename(from, f.names.kernel(newname))
	})
}

// Remove implements vfs.FS. Of the directory itself it removes what the path leads to.
func (f *FS) Remove(name string) error {
	return f.do("remove", name, func(path string) error {
		if f.isDir(name) {
			path = name
		}
		return f.base.Remove(path)
	})
}

func (f *FS) isDir(name string) bool { return filepath.Clean(name) == f.dir }

// RemoveAll implements vfs.FS.
func (f *FS) RemoveAll(name string) error { return f.do("remove", name, f.base.RemoveAll) }

// Lock implements vfs.FS.
func (f *FS) Lock(name string) (io.Closer, error) { return with(f, "lock", name, f.base.Lock) }

// List implements vfs.FS.
func (f *FS) List(dir string) ([]string, error) { return with(f, "list", dir, f.base.List) }

// Stat implements vfs.FS. Of the directory itself it tells what the path leads to.
func (f *FS) Stat(name string) (vfs.FileInfo, error) {
	return with(f, "stat", name, func(path string) (vfs.FileInfo, error) {
		if f.isDir(name) {
			path = name
		}
		return f.base.Stat(path)
	})
}

// GetDiskUsage implements vfs.FS.
func (f *FS) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	return with(f, "statfs", path, f.base.GetDiskUsage)
}

// PathBase implements vfs.FS.
func (f *FS) PathBase(path string) string { return f.base.PathBase(path) }

// PathJoin implements vfs.FS.
func (f *FS) PathJoin(elem ...string) string { return f.base.PathJoin(elem...) }

// PathDir implements vfs.FS.
func (f *FS) PathDir(path string) string { return f.base.PathDir(path) }

// Unwrap implements vfs.FS.
func (f *FS) Unwrap() vfs.FS { return f.base }
