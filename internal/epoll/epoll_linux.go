package epoll

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HangUp are the events that say that the other side has closed, or that the descriptor is broken.
const HangUp = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR

// Epoll is a set of watched descriptors. One goroutine calls Wait; the other methods may be called
// from any goroutine.
type Epoll struct {
	file *os.File        // owns the descriptor
	raw  syscall.RawConn // of file

	// Single owner: the goroutine in Wait.
	events [256]unix.EpollEvent
	n      int                // events of the last poll
	poll   func(uintptr) bool // pollOnce, bound once: Wait allocates nothing
}

// New makes an epoll that watches nothing yet.
func New() (*Epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: create: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // makes os.NewFile use Go's poller
		unix.Close(fd)
		return nil, fmt.Errorf("epoll: set non-blocking: %w", err)
	}
	e := &Epoll{file: os.NewFile(uintptr(fd), "epoll")}
	e.poll = e.pollOnce
	err = e.SetDeadline(time.Time{}) // fails when Go's poller does not watch the descriptor
	if err == nil {
		e.raw, err = e.file.SyscallConn()
	}
	if err != nil {
		e.file.Close()
		return nil, fmt.Errorf("epoll: let the runtime watch it: %w", err)
	}
	return e, nil
}

// Add watches a descriptor for events, EPOLL bits of the kernel. The kernel hands the id back with
// each report. An id must not be used again: a report may come late, when the descriptor's number
// belongs to another file.
func (e *Epoll) Add(fd int, events uint32, id uint64) error {
	return e.control(unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: events,
		Fd:     int32(uint32(id)),
		Pad:    int32(uint32(id >> 32)),
	})
}

// Remove ends the watch of a descriptor. Closing the descriptor does so too, unless a duplicate of
// it stays open.
func (e *Epoll) Remove(fd int) error { return e.control(unix.EPOLL_CTL_DEL, fd, nil) }

// control changes the set. It holds on to the epoll's descriptor: after Close, its number may
// belong to another file.
func (e *Epoll) control(op, fd int, event *unix.EpollEvent) error {
	var failed error
	closed := e.raw.Control(func(epoll uintptr) {
		failed = unix.EpollCtl(int(epoll), op, fd, event)
	})
	return errors.Join(closed, failed)
}

// Wait parks until a descriptor is ready, calls report for each that is, and returns nil. It
// returns os.ErrDeadlineExceeded at the deadline and os.ErrClosed after Close.
func (e *Epoll) Wait(report func(id uint64, events uint32)) error {
	err := e.raw.Read(e.poll)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return os.ErrDeadlineExceeded
	}
	if err != nil {
		return os.ErrClosed
	}
	for i := range e.events[:e.n] {
		event := &e.events[i]
		report(uint64(uint32(event.Fd))|uint64(uint32(event.Pad))<<32, event.Events)
	}
	return nil
}

// pollOnce asks the kernel. False makes the goroutine park until the epoll has something to report.
func (e *Epoll) pollOnce(fd uintptr) bool {
	for {
		n, err := unix.EpollWait(int(fd), e.events[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			panic(fmt.Sprintf("bug: epoll_wait: %v", err)) // only for a bad descriptor or buffer
		}
		e.n = n
		return n > 0
	}
}

// SetDeadline sets the instant from which on Wait returns os.ErrDeadlineExceeded. Zero: never.
func (e *Epoll) SetDeadline(t time.Time) error { return e.file.SetReadDeadline(t) }

// Close ends Wait. The watched descriptors stay open and are no longer reported.
func (e *Epoll) Close() error { return e.file.Close() }
