package datadir

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/readonly"
)

// viewFS is the file system of a View: the files that it has open, for reading.
type viewFS struct {
	readonly.FS
	files map[string]*viewFile // by path
}

// viewFile is an open file of the size that it had when it was opened.
type viewFile struct {
	readonly.File
	info vfs.FileInfo
}

// frozenFile is an open file whose content was read before.
type frozenFile struct {
	vfs.File
	content *bytes.Reader
}

func (f frozenFile) ReadAt(p []byte, offset int64) (int, error) {
	return f.content.ReadAt(p, offset)
}

// viewHandle is a viewFile with a place to read on from.
type viewHandle struct {
	*viewFile
	offset int64
}

func (h *viewHandle) Close() error                { return nil } // the view closes it
func (h *viewHandle) Stat() (vfs.FileInfo, error) { return h.info, nil }

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

// viewDir is an open directory: Pebble opens it to sync it, and does not.
type viewDir struct{ readonly.File }

func (viewDir) Close() error { return nil }
func (viewDir) Sync() error  { return nil }

// Open implements vfs.FS.
func (v *viewFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
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
func (v *viewFS) OpenDir(string) (vfs.File, error) { return viewDir{}, nil }

// List implements vfs.FS.
func (v *viewFS) List(dir string) (names []string, err error) {
	for path := range v.files {
		if v.PathDir(path) == dir {
			names = append(names, v.PathBase(path))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Stat implements vfs.FS.
func (v *viewFS) Stat(name string) (vfs.FileInfo, error) {
	if f, ok := v.files[name]; ok {
		return f.info, nil
	}
	return nil, &os.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
}
