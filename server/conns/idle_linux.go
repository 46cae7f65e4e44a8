package conns

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/internal/epoll"
)

// poll watches the idle connections. Their sockets are in Go's poller, too, in which no goroutine
// waits for them meanwhile.
type poll struct {
	epoll  *epoll.Epoll
	every  time.Duration
	report func(token uint64, events uint32) // note, bound once

	reports []report // of the last wait. Single owner: the goroutine in wait
}

// newPoll makes a poll whose wait ends every so often.
func newPoll(every time.Duration) (*poll, error) {
	e, err := epoll.New()
	if err != nil {
		return nil, err
	}
	p := &poll{epoll: e, every: every}
	p.report = p.note
	if err := e.SetDeadline(time.Now().Add(every)); err != nil {
		_ = e.Close()
		return nil, err
	}
	return p, nil
}

// add watches a connection until it is reported, once. Input or a hang-up that is there already is
// reported too (P2).
func (p *poll) add(c net.Conn, token uint64) error {
	return control(c, func(fd int) error {
		return p.epoll.Add(fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLONESHOT, token)
	})
}

// remove ends the watch of a connection that was reported. It would be watched still by the
// descriptor that a stream makes of it, and could not be added again.
func (p *poll) remove(c net.Conn) {
	_ = control(c, p.epoll.Remove) // fails only when the epoll is closed
}

// control holds on to a connection's descriptor: a closed one could be another file's by now.
func control(c net.Conn, change func(fd int) error) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	closed := raw.Control(func(fd uintptr) { failed = change(int(fd)) })
	return errors.Join(closed, failed)
}

// wait returns the next reports, which are good until the next wait; none when it is time for a
// sweep. An error says that the poll is closed.
func (p *poll) wait() ([]report, error) {
	p.reports = p.reports[:0]
	err := p.epoll.Wait(p.report)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, p.epoll.SetDeadline(time.Now().Add(p.every))
	}
	return p.reports, err
}

func (p *poll) note(token uint64, events uint32) {
	p.reports = append(p.reports, report{token: token, hungUp: events&epoll.HangUp != 0})
}

// close ends the wait. Connections are no longer reported.
func (p *poll) close() { _ = p.epoll.Close() }

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
