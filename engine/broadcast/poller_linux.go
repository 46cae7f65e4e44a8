package broadcast

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller watches all sockets through one epoll, edge-triggered. The epoll descriptor itself is watched by Go's own
// poller, so that the poller's goroutine parks like any other and holds no thread while nothing happens.
type poller struct {
	notifier Notifier
	fd       int
	file     *os.File // owns fd
	closed   atomic.Bool
	done     chan struct{} // the goroutine has ended
}

func newPoller(n Notifier) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("broadcast: create epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // tells os.NewFile to let Go's poller watch it
		unix.Close(fd)
		return nil, fmt.Errorf("broadcast: set epoll non-blocking: %w", err)
	}
	p := &poller{notifier: n, fd: fd, file: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{})}
	if err := p.file.SetReadDeadline(time.Time{}); err != nil { // fails when it is not watched
		p.file.Close()
		return nil, fmt.Errorf("broadcast: watch epoll: %w", err)
	}
	raw, err := p.file.SyscallConn()
	if err != nil {
		p.file.Close()
		return nil, fmt.Errorf("broadcast: watch epoll: %w", err)
	}
	go p.run(raw)
	return p, nil
}

// run reports readiness until the poller is closed.
func (p *poller) run(raw syscall.RawConn) {
	defer close(p.done)
	events := make([]unix.EpollEvent, 256)
	raw.Read(func(fd uintptr) bool { // false: park until the epoll has something, or is closed
		for {
			n, err := unix.EpollWait(int(fd), events, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				panic(fmt.Sprintf("bug: epoll_wait: %v", err)) // only for a bad descriptor or buffer
			}
			if n == 0 || p.closed.Load() {
				return p.closed.Load()
			}
			for i := range events[:n] {
				p.report(&events[i])
			}
		}
	})
}

func (p *poller) report(e *unix.EpollEvent) {
	var r Readiness
	if e.Events&unix.EPOLLIN != 0 {
		r |= Readable
	}
	if e.Events&unix.EPOLLOUT != 0 {
		r |= Writable
	}
	if e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		r |= HangUp
	}
	p.notifier.Ready(StreamID(uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32), r)
}

// watch adds a socket. The kernel hands the id back with each event: never the descriptor, which may be another
// stream's by then.
func (p *poller) watch(fd int, id StreamID) error {
	e := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(uint32(id)),
		Pad:    int32(uint32(id >> 32)),
	}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("broadcast: watch a socket: %w", err)
	}
	return nil
}

// close ends the goroutine. Sockets are no longer reported; they are to be closed before.
func (p *poller) close() {
	p.closed.Store(true)
	p.file.Close()
	<-p.done
}

// take makes a socket of a TCP or Unix connection; ok is false for others. c is closed: its descriptor is duplicated, so
// that the runtime's state of it goes too.
func (p *poller) take(c net.Conn, timeout time.Duration) (conn Conn, ok bool, err error) {
	var raw syscall.RawConn
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	default:
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("broadcast: take a connection: %w", err)
	}
	fd := -1
	if e := raw.Control(func(original uintptr) {
		fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0)
	}); e != nil {
		err = e
	}
	if err != nil {
		return nil, false, fmt.Errorf("broadcast: duplicate a descriptor: %w", err)
	}
	if _, tcp := c.(*net.TCPConn); tcp {
		// For a peer that is dead while what it was sent still fits the kernel's buffer, so that no write is ever refused.
		// A little later than WriteTimeout, lest slow streams be counted as gone. A kernel that cannot, does without.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int((timeout + lingerTime).Milliseconds()))
	}
	c.Close() // of a descriptor that is open elsewhere: nothing is sent, and there is nothing to do about an error
	return &socket{fd: fd, poller: p}, true, nil
}

// socket is a Conn on a descriptor of its own.
type socket struct {
	poller *poller
	fd     int
}

func (s *socket) Attach(n Notifier, id StreamID) error {
	if n != s.poller.notifier {
		panic("bug: a socket attached to a broadcaster that did not take it")
	}
	return s.poller.watch(s.fd, id)
}

// Write stops at the first short write: the kernel reports room after one as it does after EAGAIN.
func (s *socket) Write(p []byte) (int, error) {
	for {
		n, err := unix.Write(s.fd, p)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, err
		}
	}
}

func (s *socket) Discard(buf []byte) (total int, gone bool) {
	for total <= inputLimit {
		n, err := unix.Read(s.fd, buf)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return total, false
		case err != nil || n == 0:
			return total, true
		default:
			total += n
		}
	}
	return total, false
}

func (s *socket) CloseWrite() error {
	if err := unix.Shutdown(s.fd, unix.SHUT_WR); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return err
	}
	return nil
}

func (s *socket) Close() error { return unix.Close(s.fd) }
