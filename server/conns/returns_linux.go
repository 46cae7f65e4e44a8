package conns

import (
	"net"
	"os"
	"sync"
	"time"
)

// returned is a connection that goes back to fasthttp.
type returned struct {
	fd   int
	peer peer
	text []byte // what a loop has read of it
	// until is when the request in text must be there, since the loops began.
	until   time.Duration
	returns uint8
}

// returns is the listener through which connections come back to fasthttp, which takes them for
// new. There are no more in it than there are connections. One goroutine accepts; any may add.
type returns struct {
	loops *loops

	mu     sync.Mutex
	some   sync.Cond  // with mu: there are some, or it is closed
	queue  []returned // guarded by mu
	closed bool       // guarded by mu
}

func newReturns(ls *loops) *returns {
	r := &returns{loops: ls}
	r.some.L = &r.mu
	return r
}

func (r *returns) add(c returned) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, c)
	if len(r.queue) == 1 {
		r.some.Signal()
	}
}

// Accept waits for the next connection.
func (r *returns) Accept() (net.Conn, error) {
	for {
		c, ok := r.next()
		if !ok {
			return nil, net.ErrClosed
		}
		if own := r.loops.resume(c); own != nil {
			return own, nil
		}
	}
}

func (r *returns) next() (c returned, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && !r.closed {
		r.some.Wait()
	}
	if len(r.queue) == 0 {
		return c, false
	}
	c = r.queue[0]
	r.queue[0] = returned{}
	if r.queue = r.queue[1:]; len(r.queue) == 0 {
		r.queue = nil
	}
	return c, true
}

// resume makes a conn of a connection again. Nil: it could not, and the connection is closed.
func (ls *loops) resume(c returned) *conn {
	file := os.NewFile(uintptr(c.fd), "connection")
	back, err := net.FileConn(file) // has a descriptor of its own, in Go's poller
	_ = file.Close()
	if err != nil {
		ls.unwatched(err)
		ls.counts.leave(c.peer, false)
		return nil
	}
	own := &conn{
		Conn: back, raw: back, counts: ls.counts, loops: ls, peer: c.peer,
		writeTimeout: ls.writeTimeout, phase: resumed, returns: c.returns,
		prefix: c.text, requestUntil: ls.began.Add(c.until),
	}
	if !own.peer.known {
		ls.counts.strangers.addAnswered(own)
	}
	return own
}

// Close ends Accept, when those that have come back are through.
func (r *returns) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.some.Broadcast()
	return nil
}

// Addr is a name: each connection has its own address.
func (r *returns) Addr() net.Addr { return &net.UnixAddr{Name: "loops", Net: "unix"} }
