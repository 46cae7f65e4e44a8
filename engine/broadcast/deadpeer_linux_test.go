package broadcast

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// dropInput makes a connection's kernel drop whatever arrives for it: to the other side it is a
// machine without power, which neither acknowledges nor resets. No privilege and no firewall is
// needed.
func dropInput(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	dropAll := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(dropAll)), Filter: &dropAll[0]})
	}); e != nil {
		err = e
	}
	if err != nil {
		t.Skipf("the kernel attaches no filter to a socket: %v", err)
	}
}

// descriptorOf is the server's end of the only stream.
func descriptorOf(t *testing.T, s *sockets) int {
	t.Helper()
	s.until(t, "the stream is open", func() bool { return s.b.Stats().Opened == 1 })
	for _, w := range s.b.workers {
		if w.in.figures().Streams == 1 {
			return w.slots.at(1).conn.(*socket).fd() // nothing is going on: the worker waits
		}
	}
	t.Fatal("no worker has the stream")
	return -1
}

func socketOption(t *testing.T, fd, level, name int) int {
	t.Helper()
	value, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestDeadPeerIsNoticed: a peer that vanished without a word is found out and freed, by what it is
// sent and does not acknowledge, or without --stream-keepalive by the kernel's own probes. The real
// times are half a minute and more: they are read back, and then shortened.
func TestDeadPeerIsNoticed(t *testing.T) {
	for _, told := range []bool{true, false} {
		name := "by=probe"
		if told {
			name = "by=frame"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &sockets{m: newModel(), now: second}
			s.b = mustNew(t, Options{Codec: s.m})
			defer s.b.Close()
			s.b.Start(s.now)
			s.listen(t, "tcp")
			defer s.l.Close()
			client := s.connect(t)
			defer client.Close()
			fd := descriptorOf(t, s)
			if got := socketOption(t, fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); got != 35_000 {
				t.Errorf("TCP_USER_TIMEOUT is %d ms, want 35,000: longer than WriteTimeout", got)
			}
			probes := socketOption(t, fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			if probes == 0 || socketOption(t, fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) > 60 {
				t.Error("the kernel does not probe a silent connection within a minute")
			}
			dropInput(t, client)
			for name, value := range map[int]int{
				unix.TCP_USER_TIMEOUT: 300, unix.TCP_KEEPIDLE: 1, unix.TCP_KEEPINTVL: 1,
			} {
				if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, name, value); err != nil {
					t.Fatal(err)
				}
			}
			if told {
				s.tell(0)
			}
			s.until(t, "the dead client is noticed", s.closed(ClientGone))
			if n := s.b.Open(); n != 0 {
				t.Errorf("%d streams are still open", n)
			}
		})
	}
}
