package loadgen

import (
	"errors"
	"net/netip"
	"time"
)

// sockets is a worker's view of the network: non-blocking connections and one place to wait for all
// of them. Linux has epoll (sockets_linux.go); elsewhere a goroutine per connection does the same
// slower (sockets_portable.go). Only the worker calls it.
type sockets interface {
	// open begins to connect. The socket is reported ready for output when it is connected or has
	// failed; connected says which. An invalid source lets the system choose; receiveBuffer 0 too.
	open(id socketID, target netip.AddrPort, source netip.Addr, receiveBuffer int) (socket, error)
	// wait appends what is ready to ready, waiting at most timeout for the first.
	wait(timeout time.Duration, ready []readiness) ([]readiness, error)
	close()
}

// socket is one connection. read and write return errAgain when they would block; read returns 0,
// nil at the end.
type socket interface {
	connected() error
	// watch chooses what is reported from now on. A new socket is watched for both.
	watch(in, out bool) error
	read(p []byte) (int, error)
	write(p []byte) (int, error)
	// close gives the descriptor back. abort resets the connection.
	close(abort bool)
}

var errAgain = errors.New("loadgen: would block")

// turnEvents is how many sockets are served between two looks at the schedule. At some 10 µs each,
// the schedule is looked at more than once a millisecond.
const turnEvents = 64

// socketID names a connection of a worker: its place and how often the place was used before, so
// that a late report of a closed connection is recognised.
type socketID uint64

type readiness struct {
	id      socketID
	in, out bool
}
