package rootfs

import (
	"errors"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// file is an open file or directory. Its descriptor is the inner one's.
type file struct {
	vfs.File
	names names
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	return n, f.names.user(err)
}

func (f *file) ReadAt(p []byte, offset int64) (int, error) {
	n, err := f.File.ReadAt(p, offset)
	return n, f.names.user(err)
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.names.user(err)
}

func (f *file) WriteAt(p []byte, offset int64) (int, error) {
	n, err := f.File.WriteAt(p, offset)
	return n, f.names.user(err)
}

func (f *file) Stat() (vfs.FileInfo, error) {
	info, err := f.File.Stat()
	return info, f.names.user(err)
}

func (f *file) Close() error { return f.names.user(f.File.Close()) }

func (f *file) Sync() error { return f.names.user(uninterrupted(f.File.Sync)) }

func (f *file) SyncData() error { return f.names.user(uninterrupted(f.File.SyncData)) }

func (f *file) SyncTo(length int64) (fullSync bool, err error) {
	err = uninterrupted(func() (err error) {
		fullSync, err = f.File.SyncTo(length)
		return err
	})
	return fullSync, f.names.user(err)
}

// uninterrupted calls fn until no signal interrupts it. The runtime's own signals restart a call
// (SA_RESTART), but signal(7) names some that return EINTR all the same.
func uninterrupted(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
