package conns

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of a loop that cannot wait: the sockets are non-blocking. They do not tell the
// scheduler, which saves a third of their time: a processor that is away for some microseconds is
// as good as one that computes.

// read reads what a socket has.
func read(fd int32, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])),
		uintptr(len(p)))
	return int(n), e
}

// write writes as much as a socket takes.
func write(fd int32, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])),
		uintptr(len(p)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// ready returns how many sockets have something to report now.
func ready(epoll int, events []unix.EpollEvent) int {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll),
		uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}
