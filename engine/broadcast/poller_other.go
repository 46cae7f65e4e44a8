//go:build !linux

package broadcast

import (
	"net"
	"time"
)

// poller is nothing here: connections are held with goroutines.
type poller struct{}

func newPoller(Notifier) (*poller, error) { return nil, nil }

func (*poller) take(net.Conn, time.Duration) (Conn, bool, error) { return nil, false, nil }

func (*poller) close() {}

// system is the socket under a connection.
type system struct{ limited bool }

func newSystem(c net.Conn) system {
	buffered, ok := c.(interface{ SetWriteBuffer(bytes int) error })
	return system{ok && buffered.SetWriteBuffer(plainBufferBytes) == nil}
}

// held is what the system may hold: it does not tell more.
func (s system) held() int {
	if s.limited {
		return plainBufferBytes
	}
	return 0
}
