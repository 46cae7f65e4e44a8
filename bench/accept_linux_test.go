package bench

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkAccept is a connection with one request on it, of which the server accepts those of one
// listener or of two on the same port (SO_REUSEPORT). Clients have an address each, or ports would
// run out.
func BenchmarkAccept(b *testing.B) {
	for _, clients := range []int{16, 256} {
		for _, listeners := range []int{1, 2} {
			b.Run(fmt.Sprintf("clients=%d/listeners=%d", clients, listeners), func(b *testing.B) {
				addr, stop := serveOn(b, listeners)
				defer stop()
				answers := make([][512]byte, clients)
				closedLoop(b, clients, func(proc, _ int) error {
					from := net.IPv4(127, 0, 1+byte(proc/200), 1+byte(proc%200))
					d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
					c, err := d.Dial("tcp", addr)
					if err != nil {
						return err
					}
					defer c.Close()
					_ = c.(*net.TCPConn).SetLinger(0) // no port waits
					if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: rollcall\r\n\r\n")); err != nil {
						return err
					}
					_, err = c.Read(answers[proc][:])
					return err
				})
			})
		}
	}
}

// serveOn answers 204 on as many listeners of one port.
func serveOn(b *testing.B, listeners int) (addr string, stop func()) {
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if outer := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); outer != nil {
			return outer
		}
		return err
	}}
	s := bareServer()
	var serving sync.WaitGroup
	addr = "127.0.0.1:0"
	for range listeners {
		ln, err := shared.Listen(context.Background(), "tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		addr = ln.Addr().String()
		serving.Go(func() { _ = s.Serve(ln) }) // until stop
	}
	return addr, func() {
		if err := s.Shutdown(); err != nil {
			b.Error(err)
		}
		serving.Wait()
	}
}
