package loadgen

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epollPwait2 is epoll_wait with a timeout in nanoseconds, which golang.org/x/sys does not wrap. A sender that sleeps in
// whole milliseconds would either be late or spin. With nothing to wait for, the call cannot block and the Go scheduler
// need not be told.
func epollPwait2(fd int, events []unix.EpollEvent, patience time.Duration) (int, unix.Errno) {
	timeout := unix.NsecToTimespec(patience.Nanoseconds())
	a, b := uintptr(unsafe.Pointer(&events[0])), uintptr(unsafe.Pointer(&timeout))
	if patience == 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(fd), a, uintptr(len(events)), b, 0, 0)
		return int(n), errno
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(fd), a, uintptr(len(events)), b, 0, 0)
	return int(n), errno
}
