//go:build linux || darwin

package wal

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// A View reads segments that the server may drop meanwhile. It shares a lock on each file, and a file is used again only by who
// has that lock alone. The locks belong to open files, not to processes (flock), so both may be in one. A file that is in no file
// system of the kernel's is read by nobody else.

// readAlong keeps f from being used again while it is open. False: it is being taken just now.
func readAlong(f vfs.File) bool { return tryLock(f, unix.LOCK_SH) != unix.EWOULDBLOCK }

// takeAlone makes sure that nobody reads f, until giveBack.
func takeAlone(f vfs.File) bool { return tryLock(f, unix.LOCK_EX) == nil }

func giveBack(f vfs.File) {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		_ = unix.Flock(int(fd), unix.LOCK_UN)
	}
}

func tryLock(f vfs.File, how int) error {
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return nil
	}
	for {
		if err := unix.Flock(int(fd), how|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}
