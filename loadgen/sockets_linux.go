package loadgen

import (
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epoll is sockets on one level-triggered epoll. A connection costs a descriptor and nothing of the
// Go runtime.
type epoll struct {
	fd     int
	events []unix.EpollEvent
	coarse bool // the kernel has no epoll_pwait2: waits are whole milliseconds, rounded down
}

func newSockets() (sockets, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &epoll{fd: fd, events: make([]unix.EpollEvent, turnEvents)}, nil
}

func (e *epoll) open(id socketID, target netip.AddrPort, source netip.Addr,
	receiveBuffer int) (socket, error) {
	family := unix.AF_INET
	if !target.Addr().Unmap().Is4() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &epollSocket{loop: e, fd: fd, id: id}
	if err := s.connect(target, source, receiveBuffer); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *epollSocket) connect(target netip.AddrPort, source netip.Addr, receiveBuffer int) error {
	_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if receiveBuffer > 0 {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if source.IsValid() {
		// The port is chosen at connect, when the whole quadruple is known: one address then gives
		// 28,000 ports per target.
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err := unix.Bind(s.fd, sockaddr(netip.AddrPortFrom(source, 0))); err != nil {
			return fmt.Errorf("bind %s: %w", source, err)
		}
	}
	if err := unix.Connect(s.fd, sockaddr(target)); err != nil && err != unix.EINPROGRESS {
		return os.NewSyscallError("connect", err)
	}
	return s.control(unix.EPOLL_CTL_ADD, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLOUT)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func (e *epoll) wait(timeout time.Duration, ready []readiness) ([]readiness, error) {
	n, err := e.pwait(timeout)
	if err != nil {
		return ready, err
	}
	for _, ev := range e.events[:n] {
		ready = append(ready, readiness{
			id: socketID(uint32(ev.Fd)) | socketID(uint32(ev.Pad))<<32,
			in: ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0,
			// An error makes a socket writable too, so that the owner sees a failed connect.
			out: ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0,
		})
	}
	return ready, nil
}

func (e *epoll) pwait(timeout time.Duration) (int, error) {
	for !e.coarse {
		n, errno := epollPwait2(e.fd, e.events, max(0, timeout))
		switch errno {
		case 0:
			return n, nil
		case unix.EINTR:
			return 0, nil
		case unix.ENOSYS, unix.EPERM: // an old kernel, or a sandbox that does not know the call
			e.coarse = true
		default:
			return 0, os.NewSyscallError("epoll_pwait2", errno)
		}
	}
	n, err := unix.EpollWait(e.fd, e.events, int(max(0, timeout).Milliseconds()))
	if err == unix.EINTR {
		return 0, nil
	}
	return max(n, 0), os.NewSyscallError("epoll_wait", err)
}

// epollPwait2 is epoll_wait with a timeout in nanoseconds, which golang.org/x/sys does not wrap. A
// sender that sleeps in whole milliseconds would either be late or spin. With nothing to wait for,
// the call cannot block, and the Go scheduler need not know of it.
func epollPwait2(fd int, events []unix.EpollEvent, timeout time.Duration) (int, unix.Errno) {
	spec := unix.NsecToTimespec(timeout.Nanoseconds())
	a, b := uintptr(unsafe.Pointer(&events[0])), uintptr(unsafe.Pointer(&spec))
	if timeout == 0 {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2,
			uintptr(fd), a, uintptr(len(events)), b, 0, 0)
		return int(n), errno
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2,
		uintptr(fd), a, uintptr(len(events)), b, 0, 0)
	return int(n), errno
}

func (e *epoll) close() { unix.Close(e.fd) }

type epollSocket struct {
	loop *epoll
	fd   int
	id   socketID
}

func (s *epollSocket) control(op int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(uint32(s.id)), Pad: int32(uint32(s.id >> 32))}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(s.loop.fd, op, s.fd, &ev))
}

func (s *epollSocket) watch(in, out bool) error {
	var events uint32
	if in {
		events = unix.EPOLLIN | unix.EPOLLRDHUP
	}
	if out {
		events |= unix.EPOLLOUT
	}
	return s.control(unix.EPOLL_CTL_MOD, events)
}

func (s *epollSocket) connected() error {
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return os.NewSyscallError("connect", err)
}

func (s *epollSocket) read(p []byte) (int, error) {
	n, err := unix.Read(s.fd, p)
	return ioResult(n, err)
}

func (s *epollSocket) write(p []byte) (int, error) {
	n, err := unix.Write(s.fd, p)
	return ioResult(n, err)
}

func ioResult(n int, err error) (int, error) {
	switch err {
	case nil:
		return n, nil
	case unix.EAGAIN, unix.EINTR:
		return 0, errAgain
	}
	return 0, err
}

func (s *epollSocket) close(abort bool) {
	if abort { // a reset leaves nothing in TIME_WAIT, so that ports do not run out
		_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Close(s.fd)
}

// fineTimers lets the calling thread's sleeps end within a microsecond; the kernel would allow
// itself 50.
func fineTimers() {
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // without it the lag is larger, and shown
}
