//go:build !linux && !darwin && !freebsd

package dirlock

// inode is none on this system.
type inode struct{}

func (l *Lock) lockFile() error { return l.lockName() }

// Check returns nil: on this system a path cannot be compared with what is open.
func (l *Lock) Check() error { return nil }

// Holder returns 0: on this system a lock does not tell its holder.
func Holder(dir, name string) (pid int, err error) { return 0, nil }

func holder(dir, name string) int { return 0 }
