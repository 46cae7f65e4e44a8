//go:build linux || darwin || freebsd

package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rollcall/wal"
)

// Holder returns the process that holds a directory's lock, 0 when none does. It takes nothing and
// leaves nothing. A lock of the calling process does not show.
func Holder(dir string) (pid int, err error) {
	f, err := os.Open(filepath.Join(dir, wal.LockName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // no process ever locked it
	}
	if err != nil {
		return 0, fmt.Errorf("datadir: holder of %s: %w", dir, err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("datadir: holder of %s: %w", dir, err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}
