package server

import (
	"encoding/binary"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// receiveQueue tells how much of a TCP connection the process at its other end has not read yet:
// sock_diag(7) knows it of every socket of this machine.
type receiveQueue struct{ netlink int }

func newReceiveQueue(t testing.TB) *receiveQueue {
	t.Helper()
	const kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC
	fd, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_INET_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &receiveQueue{fd}
}

// of is how many bytes the other end of c has not read; false: it is gone.
func (q *receiveQueue) of(t testing.TB, c net.Conn) (unread uint32, open bool) {
	t.Helper()
	const header, request = 16, 56
	m := make([]byte, header+request)
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], 20) // SOCK_DIAG_BY_FAMILY
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	body := m[header:]
	body[0], body[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], ^uint32(0)) // all states
	own, other := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
	id := body[8:]
	binary.BigEndian.PutUint16(id, uint16(other.Port))
	binary.BigEndian.PutUint16(id[2:], uint16(own.Port))
	copy(id[4:], other.IP.To4())
	copy(id[20:], own.IP.To4())
	binary.NativeEndian.PutUint64(id[40:], ^uint64(0)) // any cookie
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Sendto(q.netlink, m, 0, kernel); err != nil {
		t.Fatal(err)
	}
	var answer [4096]byte
	n, _, err := unix.Recvfrom(q.netlink, answer[:], 0)
	if err != nil {
		t.Fatal(err)
	}
	if n < header+60 || binary.NativeEndian.Uint16(answer[4:]) != 20 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(answer[header+56:]), true
}

// await waits until the other end has read everything, is gone, or has something else to do: it
// need not read behind what it refuses.
func (q *receiveQueue) await(t testing.TB, c net.Conn) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 5*time.Millisecond; runtime.Gosched() {
		if unread, open := q.of(t, c); unread == 0 || !open {
			return
		}
	}
}
