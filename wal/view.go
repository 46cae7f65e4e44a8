package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const lockName = "LOCK" // of the lock's file, here and in Pebble

// CheckpointDir is the name of the checkpoint's directory within that of the log.
const CheckpointDir = "checkpoint"

// View is a data directory to look at: a stopped server's, a backup, or one that a server works on meanwhile, which does
// not notice. It is a file system that only reads, through which the same code reads that recovery uses.
//
// All of its files are open, so that none can go away. They belong together, since nothing was removed or replaced while they
// were being opened, or it was tried again:
//
//	the checkpoint's manifest did not change   ► every table that it names was there, and is open
//	... and so neither did the checkpoint's LSN ► no segment was removed that it needs
//	segments were opened after the manifest     ► they hold every record that the checkpoint has seen: the log is synced
//	                                              past a table's content before the manifest names it
//
// What a server writes to the segments afterwards may be seen or not: blocks come in order, and reading stops at the first
// that is not there. A block that calls others durable was written after them.
type View struct {
	base  vfs.FS
	dir   string
	files map[string]*viewFile // by path
}

// errMoved: the directory changed while its files were being opened.
var errMoved = errors.New("it changed while it was being opened")

const (
	viewPatience = 30 * time.Second // to find a directory at rest for the moment that opening takes
	viewPause    = 5 * time.Millisecond
)

// OpenView opens a data directory for reading only. fsys nil: vfs.Default.
func OpenView(dir string, fsys vfs.FS) (*View, error) {
	if fsys == nil {
		fsys = vfs.Default
	}
	for began := time.Now(); ; time.Sleep(viewPause) {
		v, err := tryView(dir, fsys)
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, errMoved) || time.Since(began) > viewPatience {
			return nil, fmt.Errorf("wal: look at %s: %w", dir, err)
		}
	}
}

func tryView(dir string, fsys vfs.FS) (_ *View, err error) {
	v := &View{base: fsys, dir: fsys.PathJoin(dir), files: make(map[string]*viewFile)}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	before, err := v.stamp()
	if err != nil {
		return nil, err
	}
	store := v.PathJoin(dir, CheckpointDir)
	if err := v.open(store, func(name string) bool { return name != lockName && !strings.HasSuffix(name, ".tmp") }); err != nil {
		return nil, err
	}
	if err := v.open(dir, func(name string) bool { _, ok := parseSegmentName(name); return ok }); err != nil {
		return nil, err
	}
	after, err := v.stamp()
	if err != nil {
		return nil, err
	}
	if before != after {
		return nil, errMoved
	}
	return v, nil
}

// stamp names the segments, and the checkpoint's manifests with their sizes: a manifest only grows, by each change.
func (v *View) stamp() (string, error) {
	segments, err := v.base.List(v.dir)
	if err != nil {
		return "", err
	}
	stamp := slices.DeleteFunc(segments, func(name string) bool { _, ok := parseSegmentName(name); return !ok })
	store := v.PathJoin(v.dir, CheckpointDir)
	names, err := v.listOptional(store)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "marker."):
			stamp = append(stamp, name)
		case strings.HasPrefix(name, "MANIFEST-"):
			info, err := v.base.Stat(v.PathJoin(store, name))
			if errors.Is(err, fs.ErrNotExist) {
				return "", errMoved
			}
			if err != nil {
				return "", err
			}
			stamp = append(stamp, fmt.Sprintf("%s %d", name, info.Size()))
		}
	}
	slices.Sort(stamp)
	return strings.Join(stamp, "\n"), nil
}

// listOptional lists a directory that need not be there.
func (v *View) listOptional(dir string) ([]string, error) {
	names, err := v.base.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// open opens the wanted files of one directory.
func (v *View) open(dir string, want func(name string) bool) error {
	names, err := v.listOptional(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !want(name) {
			continue
		}
		path := v.PathJoin(dir, name)
		file, err := v.base.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return errMoved
		}
		if err != nil {
			return err
		}
		if !readAlong(file) {
			return errors.Join(errMoved, file.Close())
		}
		info, err := file.Stat()
		if err != nil {
			return errors.Join(err, file.Close())
		}
		v.files[path] = &viewFile{file, info}
	}
	return nil
}

// Log returns the log in the view, on which only Replay, Survey, Replayed, First and Close may be called. Segments behind
// damage that is plain from their headers are left out; Replay comes to it last and returns it.
func (v *View) Log(logger *slog.Logger) (*Log, error) {
	o, err := Options{FS: v, Logger: logger}.withDefaults()
	if err != nil {
		return nil, err
	}
	l := newLog(v.dir, o, noLock{})
	var corrupt *CorruptionError
	if err := l.findSegments(); errors.As(err, &corrupt) {
		l.damage = err
	} else if err != nil {
		return nil, err
	}
	return l, nil
}

// Checkpoint returns the checkpoint in the view, from which only may be read; nil when none was ever begun.
func (v *View) Checkpoint(logger *slog.Logger) (*Checkpoint, error) {
	dir := v.PathJoin(v.dir, CheckpointDir)
	if names, err := v.List(dir); err != nil || len(names) == 0 {
		return nil, err
	}
	return openCheckpoint(dir, CheckpointOptions{FS: v, Logger: logger}, true)
}

// Empty says that the directory holds neither a log nor a checkpoint.
func (v *View) Empty() bool { return len(v.files) == 0 }

// Bytes is the size of all files.
func (v *View) Bytes() (n int64) {
	for _, f := range v.files {
		n += f.info.Size()
	}
	return n
}

// Close closes the files. Whatever was opened through the view must be closed before.
func (v *View) Close() error {
	var errs []error
	for _, f := range v.files {
		errs = append(errs, f.File.Close())
	}
	return errors.Join(errs...)
}

// viewFile is an open file of the size that it had when it was opened.
type viewFile struct {
	vfs.File
	info vfs.FileInfo
}

// viewHandle is a viewFile with a place to read on from.
type viewHandle struct {
	*viewFile
	offset int64
}

func (h *viewHandle) Close() error                       { return nil } // the view closes it
func (h *viewHandle) Stat() (vfs.FileInfo, error)        { return h.info, nil }
func (h *viewHandle) Write([]byte) (int, error)          { return 0, errReadOnly }
func (h *viewHandle) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (h *viewHandle) Preallocate(int64, int64) error     { return errReadOnly }
func (h *viewHandle) Sync() error                        { return errReadOnly }
func (h *viewHandle) SyncData() error                    { return errReadOnly }
func (h *viewHandle) SyncTo(int64) (bool, error)         { return false, errReadOnly }

func (h *viewHandle) Read(p []byte) (int, error) {
	n, err := h.ReadAt(p, h.offset)
	h.offset += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (h *viewHandle) ReadAt(p []byte, offset int64) (int, error) {
	left := h.info.Size() - offset
	if left <= 0 {
		return 0, io.EOF
	}
	if int64(len(p)) <= left {
		return h.File.ReadAt(p, offset)
	}
	n, err := h.File.ReadAt(p[:left], offset)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// The rest makes a View a vfs.FS.

var errReadOnly = errors.New("wal: a view is only read")

// noLock is the lock of a directory that is only read.
type noLock struct{}

func (noLock) Close() error { return nil }

// viewDir is an open directory: Pebble opens it to sync it, and does not.
type viewDir struct{ vfs.File }

func (viewDir) Close() error { return nil }
func (viewDir) Sync() error  { return nil }

// Open implements vfs.FS.
func (v *View) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, ok := v.files[name]
	if !ok {
		return nil, &os.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	h := &viewHandle{viewFile: f}
	for _, o := range opts {
		o.Apply(h)
	}
	return h, nil
}

// OpenDir implements vfs.FS.
func (v *View) OpenDir(string) (vfs.File, error) { return viewDir{}, nil }

// List implements vfs.FS.
func (v *View) List(dir string) (names []string, err error) {
	for path := range v.files {
		if v.PathDir(path) == dir {
			names = append(names, v.PathBase(path))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Stat implements vfs.FS.
func (v *View) Stat(name string) (vfs.FileInfo, error) {
	if f, ok := v.files[name]; ok {
		return f.info, nil
	}
	return nil, &os.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}

// Lock implements vfs.FS: nothing is locked, since nothing is written.
func (v *View) Lock(string) (io.Closer, error) { return noLock{}, nil }

// Create implements vfs.FS.
func (v *View) Create(string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, errReadOnly }

// OpenReadWrite implements vfs.FS.
func (v *View) OpenReadWrite(string, vfs.DiskWriteCategory, ...vfs.OpenOption) (vfs.File, error) {
	return nil, errReadOnly
}

// ReuseForWrite implements vfs.FS.
func (v *View) ReuseForWrite(string, string, vfs.DiskWriteCategory) (vfs.File, error) {
	return nil, errReadOnly
}

// Link implements vfs.FS.
func (v *View) Link(string, string) error { return errReadOnly }

// Remove implements vfs.FS.
func (v *View) Remove(string) error { return errReadOnly }

// RemoveAll implements vfs.FS.
func (v *View) RemoveAll(string) error { return errReadOnly }

// Rename implements vfs.FS.
func (v *View) Rename(string, string) error { return errReadOnly }

// MkdirAll implements vfs.FS.
func (v *View) MkdirAll(string, os.FileMode) error { return errReadOnly }

// GetDiskUsage implements vfs.FS.
func (v *View) GetDiskUsage(path string) (vfs.DiskUsage, error) { return v.base.GetDiskUsage(path) }

// PathBase implements vfs.FS.
func (v *View) PathBase(path string) string { return v.base.PathBase(path) }

// PathJoin implements vfs.FS.
func (v *View) PathJoin(elem ...string) string { return v.base.PathJoin(elem...) }

// PathDir implements vfs.FS.
func (v *View) PathDir(path string) string { return v.base.PathDir(path) }

// Unwrap implements vfs.FS. There is nothing to reach below: a view only reads.
func (v *View) Unwrap() vfs.FS { return nil }
