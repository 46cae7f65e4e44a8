//go:build linux || darwin || freebsd

// Package filelock locks open files against other openers of the same file, in this process or
// another. The locks belong to open files, not to processes (flock).
//
// A file that is in no file system of the kernel's, such as vfs.MemFS, has no lock: every request
// for one is granted.
package filelock

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"rollcall/internal/eintr"
)

// Share takes a lock that excludes Exclusive, until f is closed. False: f is locked exclusively.
func Share(f vfs.File) bool { return try(f, unix.LOCK_SH) != unix.EWOULDBLOCK }

// Exclusive takes a lock that excludes every other one, until Unlock. False: it is not to be had.
func Exclusive(f vfs.File) bool { return try(f, unix.LOCK_EX) == nil }

// Claim takes a lock that excludes every other one, until f is closed. False: another opener has
// one. A file system that has no such locks for f, as NFS has none for a directory, grants it.
func Claim(f vfs.File) bool { return try(f, unix.LOCK_EX) != unix.EWOULDBLOCK }

// Unlock gives back the lock of Exclusive.
func Unlock(f vfs.File) {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		_ = unix.Flock(int(fd), unix.LOCK_UN)
	}
}

func try(f vfs.File, how int) error {
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return nil
	}
	return eintr.Retry(func() error { return unix.Flock(int(fd), how|unix.LOCK_NB) })
}
