//go:build !linux

package conns

import (
	"net"
	"time"
)

// poll is nothing here: connections are not suspended.
type poll struct{}

func newPoll(time.Duration) (*poll, error) { return nil, nil }

func (*poll) add(net.Conn, uint64) error { return nil }

func (*poll) remove(net.Conn) {}

func (*poll) wait() ([]report, error) { return nil, net.ErrClosed }

func (*poll) close() {}

func hasInput(net.Conn) bool { return false }
