//go:build unix

package loadgen

import (
	"time"

	"golang.org/x/sys/unix"
)

// descriptorLimit returns how many descriptors the process may have open.
func descriptorLimit() (limit uint64, ok bool) {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 0, false
	}
	return uint64(r.Cur), true
}

// ownCPU returns the CPU time of this process, 0 when it is not known.
func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
