//go:build unix

package main

import "golang.org/x/sys/unix"

// descriptorLimit is how many descriptors the process may have open.
func descriptorLimit() (uint64, bool) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return uint64(limit.Cur), true
}
