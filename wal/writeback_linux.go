package wal

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// writeBack has the operating system begin to write a part of a file, and does not wait for it. It
// promises nothing: what it fails to write is found by the sync (W5).
func writeBack(f vfs.File, offset, n int64) {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		_ = unix.SyncFileRange(int(fd), offset, n, unix.SYNC_FILE_RANGE_WRITE) // see above
	}
}
