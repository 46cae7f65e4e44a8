package broadcast

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/internal/epoll"
)

// poller reports the readiness of all sockets, edge-triggered.
type poller struct {
	notifier Notifier
	epoll    *epoll.Epoll
	done     chan struct{} // the goroutine has ended
	sockets  socketPages
}

func newPoller(n Notifier) (*poller, error) {
	e, err := epoll.New()
	if err != nil {
		return nil, fmt.Errorf("broadcast: watch sockets: %w", err)
	}
	p := &poller{notifier: n, epoll: e, done: make(chan struct{})}
	go p.run()
	return p, nil
}

// run reports readiness until the poller is closed.
func (p *poller) run() {
	defer close(p.done)
	report := p.report // bound once
	for p.epoll.Wait(report) == nil {
	}
}

func (p *poller) report(id uint64, events uint32) {
	var r Readiness
	if events&unix.EPOLLIN != 0 {
		r |= Readable
	}
	if events&unix.EPOLLOUT != 0 {
		r |= Writable
	}
	if events&epoll.HangUp != 0 {
		r |= HangUp
	}
	p.notifier.Ready(StreamID(id), r)
}

// watch adds a socket.
func (p *poller) watch(fd int, id StreamID) error {
	const events = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
	if err := p.epoll.Add(fd, events, uint64(id)); err != nil {
		return fmt.Errorf("broadcast: watch a socket: %w", err)
	}
	return nil
}

// close ends the goroutine. Sockets are no longer reported; close them first.
func (p *poller) close() {
	_ = p.epoll.Close()
	<-p.done
}

// take makes a socket of a TCP or Unix connection; ok is false for others. It duplicates the
// descriptor and closes c, so that the runtime frees its state of it.
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
	_, tcp := c.(*net.TCPConn)
	limitUnsent(fd, tcp)
	if tcp {
		// A dead peer acknowledges nothing, but writes succeed while they fit the kernel's buffer:
		// only this option ends the connection. It is a little longer than WriteTimeout, so that
		// slow streams do not count as gone. Best effort: not every kernel has the option.
		ms := int((timeout + lingerTime).Milliseconds())
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	}
	_ = c.Close() // the duplicate stays open: nothing is sent, and an error changes nothing
	return p.sockets.of(fd), true, nil
}

// limitUnsent keeps the kernel from buffering more for a client that reads slowly than makes a
// difference to one that does not: by itself it takes megabytes. Best effort.
func limitUnsent(fd int, tcp bool) {
	buffer := plainBufferBytes
	if tcp {
		// What was sent and is on its way does not count: a fast client far away is not slower.
		if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes) == nil {
			buffer = sendBufferBytes
		}
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffer)
}

// heldBytes is what was written and not acknowledged, or on a Unix socket not read.
func heldBytes(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

// system is the socket under a connection that is held with goroutines.
type system struct{ raw syscall.RawConn }

func newSystem(c net.Conn) system {
	s, ok := c.(syscall.Conn)
	if !ok {
		return system{}
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return system{}
	}
	_, tcp := c.(*net.TCPConn)
	_ = raw.Control(func(fd uintptr) { limitUnsent(int(fd), tcp) })
	return system{raw}
}

func (s system) held() (n int) {
	if s.raw != nil {
		_ = s.raw.Control(func(fd uintptr) { n = heldBytes(int(fd)) })
	}
	return n
}

// socketPages has a socket for each descriptor, in pages that are never given back. One takes four
// bytes; the heap would allocate sixteen for each stream. Any goroutine may use it.
type socketPages struct {
	mu    sync.Mutex
	pages []*[socketPage]socket // guarded by mu; a page never changes
}

const socketPage = 1024

// of is the Conn of a descriptor.
func (s *socketPages) of(fd int) *socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := fd / socketPage
	for n >= len(s.pages) {
		s.pages = append(s.pages, nil)
	}
	if s.pages[n] == nil {
		page := new([socketPage]socket)
		for i := range page {
			page[i] = socket(n*socketPage + i)
		}
		s.pages[n] = page
	}
	return &s.pages[n][fd%socketPage]
}

// socket is a Conn on a descriptor of its own.
type socket int32

func (s *socket) fd() int { return int(*s) }

func (s *socket) Attach(n Notifier, id StreamID) error {
	return n.(*Broadcaster).poller.watch(s.fd(), id)
}

// Write stops at the first short write: the kernel reports room after one as it does after EAGAIN.
func (s *socket) Write(p []byte) (int, error) {
	for {
		n, err := unix.Write(s.fd(), p)
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

func (s *socket) Held() int { return heldBytes(s.fd()) }

func (s *socket) Discard(buf []byte) (total int, gone bool) {
	for total <= inputLimit {
		n, err := unix.Read(s.fd(), buf)
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
	if err := unix.Shutdown(s.fd(), unix.SHUT_WR); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return err
	}
	return nil
}

func (s *socket) Close() error { return unix.Close(s.fd()) }
