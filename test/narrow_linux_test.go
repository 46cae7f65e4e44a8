package test

import (
	"context"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"rollcall/internal/testwait"
)

// dialNarrow connects so that the kernels hold little for the connection, on both sides: the
// server's buffer follows the segment size that the client asks for.
func dialNarrow(t *testing.T, addr string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Timeout: testwait.Limit,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			if e := raw.Control(func(fd uintptr) {
				if err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG,
					536); err == nil {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048)
				}
			}); e != nil {
				return e
			}
			return err
		}}
	c, err := dialer.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
