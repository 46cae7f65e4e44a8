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
