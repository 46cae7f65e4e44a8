package rootfs

import (
	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/eintr"
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

func (f *file) Sync() error { return f.names.user(eintr.Retry(f.File.Sync)) }

func (f *file) SyncData() error { return f.names.user(eintr.Retry(f.File.SyncData)) }

func (f *file) SyncTo(length int64) (fullSync bool, err error) {
	err = eintr.Retry(func() (err error) {
		fullSync, err = f.File.SyncTo(length)
		return err
	})
	return fullSync, f.names.user(err)
}
