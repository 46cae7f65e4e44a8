package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// shutSockets shuts every socket of the process down: the peers of connections
// read their end, and listeners refuse.
func shutSockets() {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ENOTSOCK: another kind of descriptor
		}
	}
}
