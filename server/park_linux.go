package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poll watches the parked connections through one epoll, of which Go's own poller watches the descriptor: whoever waits holds
// no thread. The sockets are in Go's poller too, which nobody asks while they are parked.
type poll struct {
	file  *os.File
	raw   syscall.RawConn // of file
	every time.Duration

	// Single owner: who waits.
	events  [128]unix.EpollEvent
	reports [128]report
}

// newPoll makes a poll whose wait ends every so often.
func newPoll(every time.Duration) (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // tells os.NewFile to let Go's poller watch it
		unix.Close(fd)
		return nil, fmt.Errorf("set epoll non-blocking: %w", err)
	}
	p := &poll{file: os.NewFile(uintptr(fd), "epoll"), every: every}
	err = p.file.SetReadDeadline(time.Now().Add(every)) // fails when it is not watched
	if err == nil {
		p.raw, err = p.file.SyscallConn()
	}
	if err != nil {
		p.file.Close()
		return nil, fmt.Errorf("watch epoll: %w", err)
	}
	return p, nil
}

// add watches a connection until it is reported, once. Input or a hang-up that is there already is reported too (P2).
func (p *poll) add(c net.Conn, token uint64) error {
	e := unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT,
		Fd:     int32(uint32(token)),
		Pad:    int32(uint32(token >> 32)),
	}
	return p.control(c, unix.EPOLL_CTL_ADD, &e)
}

// remove ends the watch of a connection that was reported. It would be watched still by the descriptor that a stream makes
// of it, and could not be added again.
func (p *poll) remove(c net.Conn) {
	_ = p.control(c, unix.EPOLL_CTL_DEL, nil) // fails only when the epoll is closed
}

// control changes the epoll, holding on to both descriptors: closed ones could be other files' by now.
func (p *poll) control(c net.Conn, op int, e *unix.EpollEvent) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var closed, failed error
	err = p.raw.Control(func(epoll uintptr) {
		closed = raw.Control(func(fd uintptr) { failed = unix.EpollCtl(int(epoll), op, int(fd), e) })
	})
	return errors.Join(err, closed, failed)
}

// wait returns the next reports, which are good until the next wait; none when it is time for a sweep. An error says that the
// poll is closed.
func (p *poll) wait() ([]report, error) {
	n := 0
	err := p.raw.Read(func(fd uintptr) bool { // false: park until the epoll has something
		var err error
		for n, err = unix.EpollWait(int(fd), p.events[:], 0); err == unix.EINTR; {
			n, err = unix.EpollWait(int(fd), p.events[:], 0)
		}
		if err != nil {
			panic(fmt.Sprintf("bug: epoll_wait: %v", err)) // only for a bad descriptor or buffer
		}
		return n > 0
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, p.file.SetReadDeadline(time.Now().Add(p.every))
	}
	if err != nil {
		return nil, err
	}
	for i, e := range p.events[:n] {
		p.reports[i] = report{
			token:  uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32,
			hungUp: e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0,
		}
	}
	return p.reports[:n], nil
}

// close ends the wait. Connections are no longer reported.
func (p *poll) close() { p.file.Close() }

// hasInput reports whether there is something to read before the end of a connection.
func hasInput(c net.Conn) (has bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		has = n > 0 && err == nil
	})
	return has
}
