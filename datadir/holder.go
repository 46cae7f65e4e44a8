package datadir

import (
	"fmt"

	"rollcall/internal/dirlock"
	"rollcall/wal"
)

// Holder returns the process that holds a directory's lock; 0: none does, or it cannot be told. It
// takes nothing and leaves nothing.
func Holder(dir string) (pid int, err error) {
	if pid, err = dirlock.Holder(dir, wal.LockName); err != nil {
		return 0, fmt.Errorf("datadir: holder of %s: %w", dir, err)
	}
	return pid, nil
}
