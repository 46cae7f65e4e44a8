package admin

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// MaxConns is how many connections operators may have. One more closes another one, so that no
	// flood keeps a probe out. It has to stay well below the descriptors that are kept from the
	// clients: the log wants some of those.
	MaxConns = 64

	// slowWrite is how long a write of an answer takes before its connection may be closed for
	// another one.
	slowWrite = time.Second

	// writePiece is how much of an answer one WriteTimeout is for: a long answer to a slow operator
	// takes as long as it has to, and one who takes nothing is cut off.
	writePiece = 64 << 10
)

// Conns are the connections of the operators' listener. Any goroutine may use it.
type Conns struct {
	writeTimeout time.Duration
	refused      *Refused

	mu   sync.Mutex
	open map[*conn]struct{} // guarded by mu
	turn uint64             // guarded by mu: counts changes of state, for their order
}

// NewConns makes the connections of a listener. An operator who takes nothing of an answer for
// writeTimeout is cut off.
func NewConns(writeTimeout time.Duration, r *Refused) *Conns {
	return &Conns{writeTimeout: writeTimeout, refused: r, open: map[*conn]struct{}{}}
}

// Open is how many connections there are.
func (c *Conns) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// Attach makes a server tell its connections' states. It is called before the server serves.
func (c *Conns) Attach(s *http.Server) {
	s.ConnContext = func(ctx context.Context, own net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, own)
	}
	s.ConnState = func(own net.Conn, now http.ConnState) {
		switch now {
		case http.StateActive: // the first byte of a request came
			c.move(own.(*conn), asking)
		case http.StateIdle:
			c.move(own.(*conn), idle)
		case http.StateClosed, http.StateHijacked:
			c.remove(own.(*conn))
		}
	}
}

// Listen returns ln with room for MaxConns connections.
func (c *Conns) Listen(ln net.Listener) net.Listener { return &listener{ln, c} }

type listener struct {
	net.Listener
	conns *Conns
}

// Accept waits for the next connection. Where there are MaxConns, it closes one of them.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		own := &conn{Conn: raw, writeTimeout: l.conns.writeTimeout}
		if l.conns.admit(own) {
			return own, nil
		}
		_ = raw.Close()
	}
}

// state is what a connection is doing.
type state uint8

const (
	asking    state = iota // its request is not whole
	idle                   // it waits for a next request
	answering              // a handler runs
)

// conn is an operator's connection.
type conn struct {
	net.Conn
	writeTimeout time.Duration

	state state  // guarded by Conns.mu
	since uint64 // guarded by Conns.mu: turn at which the state began

	// writing is the uptime in nanoseconds at which the write that is going on began, else 0. Write
	// stores it, victim loads it.
	writing atomic.Int64
}

// started is what uptime counts from.
var started = time.Now()

func uptime() time.Duration { return time.Since(started) }

// CloseWrite ends this side, so that an operator whose body was not read can read the answer.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Write writes an answer in pieces, each within the timeout.
func (c *conn) Write(p []byte) (written int, err error) {
	for {
		piece := p[written:min(len(p), written+writePiece)]
		if err := c.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
			return written, err
		}
		c.writing.Store(int64(uptime()))
		n, err := c.Conn.Write(piece)
		c.writing.Store(0)
		if written += n; err != nil || written == len(p) {
			return written, err
		}
	}
}

// admit adds a connection. Where there are enough, it takes the place of another one, which is
// closed; false: every one is being answered.
func (c *Conns) admit(own *conn) bool {
	c.mu.Lock()
	full := len(c.open) >= MaxConns
	var gone *conn
	if full {
		if gone = c.victim(); gone != nil {
			delete(c.open, gone)
		}
	}
	admitted := !full || gone != nil
	if admitted {
		c.turn++
		own.since = c.turn
		c.open[own] = struct{}{}
	}
	c.mu.Unlock()
	if full {
		c.refused.add(TooManyConns)
	}
	if gone != nil {
		_ = gone.Conn.Close() // its handler, if there is one, was reading or writing
	}
	return admitted
}

// victim returns the connection to close for another one: the one that is idle for the longest; if
// none is, the one that has been asking for the longest; if none does, one whose operator does not
// take the answer. Nil: every request is being worked on. c.mu is held.
func (c *Conns) victim() (found *conn) {
	rank := func(own *conn) int {
		switch own.state {
		case idle:
			return 0
		case asking:
			return 1
		}
		if began := own.writing.Load(); began != 0 && uptime()-time.Duration(began) > slowWrite {
			return 2
		}
		return 3
	}
	best := 3
	for own := range c.open {
		r := rank(own)
		if r < best || r == best && found != nil && own.since < found.since {
			found, best = own, r
		}
	}
	return found
}

// move notes what a connection does now.
func (c *Conns) move(own *conn, to state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn++
	own.state, own.since = to, c.turn
}

func (c *Conns) remove(own *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, own)
}

type connKey struct{}

// moveOf is move for the connection of a request, which tests may lack.
func (c *Conns) moveOf(r *http.Request, to state) {
	if own, ok := r.Context().Value(connKey{}).(*conn); ok {
		c.move(own, to)
	}
}
