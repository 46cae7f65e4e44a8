package server

import (
	"bytes"
	"fmt"
	"net"
	"syscall"
	"testing"
)

// Serve itself goes on through a shortage: the heartbeat behind it is answered.
func TestServeOutlivesEMFILE(t *testing.T) {
	r := start(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Serve(&shortListener{Listener: ln}) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(heartbeatText(validBody))); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 512)
	if n, err := c.Read(answer); err != nil || !bytes.HasPrefix(answer[:n],
		[]byte("HTTP/1.1 204 ")) {
		t.Fatalf("answer %q, %v", answer[:n], err)
	}
	if r.conns.Stats().AcceptRetries != 2 {
		t.Errorf("%d retries counted, want 2", r.conns.Stats().AcceptRetries)
	}
}

// shortListener is short of descriptors twice.
type shortListener struct {
	net.Listener
	accepts int
}

func (l *shortListener) Accept() (net.Conn, error) {
	if l.accepts++; l.accepts <= 2 {
		return nil, fmt.Errorf("accept: %w", syscall.EMFILE)
	}
	return l.Listener.Accept()
}
