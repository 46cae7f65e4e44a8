package epoll_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/internal/epoll"
)

// pair returns the two ends of a connection.
func pair(t *testing.T) (here, there int) {
	t.Helper()
	const kind = unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fds, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func newEpoll(t *testing.T) *epoll.Epoll {
	t.Helper()
	e, err := epoll.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// reports waits once and returns the events by id.
func reports(t *testing.T, e *epoll.Epoll) map[uint64]uint32 {
	t.Helper()
	got := make(map[uint64]uint32)
	if err := e.Wait(func(id uint64, events uint32) { got[id] = events }); err != nil {
		t.Fatal(err)
	}
	return got
}

// expectNothing waits with a deadline that has passed.
func expectNothing(t *testing.T, e *epoll.Epoll) {
	t.Helper()
	if err := e.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	err := e.Wait(func(id uint64, events uint32) { t.Errorf("%x is reported with %x", id, events) })
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Wait at its deadline: %v", err)
	}
	if err := e.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}

func add(t *testing.T, e *epoll.Epoll, fd int, events uint32, id uint64) {
	t.Helper()
	if err := e.Add(fd, events, id); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestReportsNameTheIDAndNotTheDescriptor(t *testing.T) {
	e := newEpoll(t)
	const low, high = 1, 0xfedcba9876543210
	quiet, _ := pair(t)
	loud, other := pair(t)
	add(t, e, quiet, unix.EPOLLIN, low)
	add(t, e, loud, unix.EPOLLIN, high)
	expectNothing(t, e)
	write(t, other)
	if got := reports(t, e); len(got) != 1 || got[high] != unix.EPOLLIN {
		t.Errorf("reported %x, want %x readable", got, uint64(high))
	}
}

func TestInputThatIsThereIsReported(t *testing.T) {
	e := newEpoll(t)
	fd, other := pair(t)
	write(t, other)
	add(t, e, fd, unix.EPOLLIN|unix.EPOLLONESHOT, 7)
	if got := reports(t, e); got[7] != unix.EPOLLIN {
		t.Errorf("reported %x, want 7 readable", got)
	}
	expectNothing(t, e) // once
}

func TestEdgesAreReportedOnce(t *testing.T) {
	e := newEpoll(t)
	fd, other := pair(t)
	add(t, e, fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLET, 7)
	write(t, other)
	reports(t, e)
	expectNothing(t, e)
	write(t, other)
	if got := reports(t, e); got[7]&unix.EPOLLIN == 0 {
		t.Errorf("reported %x, want 7 readable again", got)
	}
	if err := unix.Shutdown(other, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if got := reports(t, e); got[7]&epoll.HangUp == 0 {
		t.Errorf("reported %x, want 7 hung up", got)
	}
}

func TestRemove(t *testing.T) {
	e := newEpoll(t)
	fd, other := pair(t)
	add(t, e, fd, unix.EPOLLIN, 7)
	if err := e.Remove(fd); err != nil {
		t.Fatal(err)
	}
	write(t, other)
	expectNothing(t, e)
	if err := e.Remove(fd); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Remove of what is not watched: %v", err)
	}
	add(t, e, fd, unix.EPOLLIN, 8)
	if got := reports(t, e); got[8] == 0 {
		t.Errorf("reported %x, want 8", got)
	}
}

func TestCloseEndsWait(t *testing.T) {
	e := newEpoll(t)
	fd, other := pair(t)
	add(t, e, fd, unix.EPOLLIN|unix.EPOLLET, 7)
	ended, waiting := make(chan error), make(chan struct{})
	go func() {
		write(t, other)
		err := e.Wait(func(uint64, uint32) { close(waiting) })
		for err == nil {
			err = e.Wait(func(id uint64, _ uint32) { t.Errorf("%d is reported", id) })
		}
		ended <- err
	}()
	<-waiting
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait ended with %v", err)
	}
	if err := e.Add(fd, unix.EPOLLIN, 8); err == nil {
		t.Error("a closed epoll takes a descriptor")
	}
}

func TestMoreThanOneWaitCanTake(t *testing.T) {
	e := newEpoll(t)
	const n = 300
	for id := range uint64(n) {
		fd, other := pair(t)
		write(t, other)
		add(t, e, fd, unix.EPOLLIN|unix.EPOLLET, id)
	}
	seen := make(map[uint64]int)
	for len(seen) < n {
		for id := range reports(t, e) {
			seen[id]++
		}
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%d was reported %d times", id, times)
		}
	}
}
