package server

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// conn is one connection of the public side while it is fasthttp's. It is closed, parked or released to become a stream, once;
// a parked one that goes on does so in another conn. fasthttp's Shutdown closes idle ones from another goroutine.
type conn struct {
	net.Conn
	server *Server
	lot    *lot         // where it is parked; nil: nowhere
	source netip.Prefix // whom it counts for, when connections per address are limited
	linger atomic.Bool  // see Close
	rests  atomic.Bool  // nothing was read and nothing will be: Close parks. Read stores it
	gone   atomic.Bool  // closed, parked or released, and no longer this conn's

	// Single owner: the goroutine that serves the connection.
	phase            phase
	reading, writing deadline
}

// phase says what fasthttp reads of a connection.
type phase uint8

const (
	opening phase = iota // the first request of all
	awoken               // the first bytes of the next request, after it was parked: they are there, or its end is
	active               // the rest of a request
	waiting              // the first bytes of the next request: they may take their time
)

// followConn tells a conn what fasthttp reads of it.
func followConn(c net.Conn, state fasthttp.ConnState) {
	own, ok := c.(*conn)
	if !ok {
		return
	}
	switch state { // the others do not come from the goroutine that serves it
	case fasthttp.StateActive:
		own.phase = active
		own.writing.asked = time.Time{} // the last answer's, and perhaps long over
	case fasthttp.StateIdle:
		own.phase = waiting
	}
}

// deadlineSlack is how much earlier than asked a connection's deadline may be.
const deadlineSlack = time.Second

// deadline puts off setting a connection's deadline until it matters. fasthttp sets three for each request, a timer of the
// runtime each time; nearly all of them are replaced before anybody waits. Most of a keep-alive connection's are those of
// the request before, moved on by the time between: these are left as they are for a while.
type deadline struct {
	asked, set time.Time
	early      bool // set is when to park, which is no deadline of a request
}

// due reports whether the deadline must be set for real before waiting.
func (d *deadline) due() bool {
	if !d.early && d.asked.IsZero() == d.set.IsZero() && within(d.asked.Sub(d.set), deadlineSlack) {
		return false
	}
	d.set, d.early = d.asked, false
	return true
}

// dueEarly is due for a wait that ends before what was asked, at until.
func (d *deadline) dueEarly(until time.Time, slack time.Duration) bool {
	if d.early && within(until.Sub(d.set), slack) {
		return false
	}
	d.set, d.early = until, true
	return true
}

func within(early, slack time.Duration) bool { return 0 <= early && early < slack }

// SetReadDeadline remembers the deadline for Read.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.reading.asked = t
	return nil
}

// SetWriteDeadline remembers the deadline for Write.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writing.asked = t
	return nil
}

// SetDeadline remembers both.
func (c *conn) SetDeadline(t time.Time) error {
	c.reading.asked, c.writing.asked = t, t
	return nil
}

// Read reads under the deadline that was asked for, or one up to deadlineSlack earlier.
func (c *conn) Read(p []byte) (int, error) {
	switch c.phase {
	case awoken:
		return c.readNext(p)
	case waiting:
		if c.lot != nil {
			return c.readOrRest(p)
		}
	}
	return c.read(p)
}

func (c *conn) read(p []byte) (int, error) {
	if c.reading.due() {
		if err := c.Conn.SetReadDeadline(c.reading.set); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// readNext reads the first bytes of a request that is not the connection's first, which fasthttp does not know once it was
// parked: an error would be answered. io.EOF is not, whatever the end was.
func (c *conn) readNext(p []byte) (int, error) {
	n, err := c.read(p)
	if n == 0 && err != nil {
		err = io.EOF
	}
	return n, err
}

// readOrRest waits for the first bytes of the next request, parkAfter at most. When none came, it says io.EOF: fasthttp lets
// go of the connection without a word and closes it, which is when it is parked. A busy connection sets its deadline, which
// is a timer of the runtime, once per half of parkAfter.
func (c *conn) readOrRest(p []byte) (int, error) {
	o := &c.server.opts
	if c.reading.dueEarly(c.reading.asked.Add(o.parkAfter-o.IdleTimeout), o.parkAfter/2) {
		if err := c.Conn.SetReadDeadline(c.reading.set); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		c.rests.Store(true)
		err = io.EOF
	}
	return n, err
}

// Write writes under the deadline that was asked for, or one up to deadlineSlack earlier. fasthttp asks for none before it
// tells a client to go on with its body.
func (c *conn) Write(p []byte) (int, error) {
	if c.writing.asked.IsZero() {
		c.writing.asked = time.Now().Add(c.server.opts.WriteTimeout)
	}
	if c.writing.due() {
		if err := c.Conn.SetWriteDeadline(c.writing.set); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// Close parks the connection if it rests, else it closes it. When linger is set, the client may still be sending what nobody
// reads: the answer goes out with a FIN behind it, and input is dropped for a while, because closing at once would send a
// reset, which may destroy the answer before the client has read it (RFC 9112, section 9.6).
func (c *conn) Close() error {
	if c.gone.Swap(true) {
		return net.ErrClosed
	}
	if c.rests.Load() && c.lot.park(c.Conn, c.source, c.reading.asked) {
		return nil
	}
	defer c.server.conns.Add(-1) // a lingering connection still counts
	defer c.server.perSource.leave(c.source)
	if c.linger.Load() {
		drainInput(c.Conn)
	}
	return c.Conn.Close()
}

// release returns the connection below, which is the caller's from now on and no longer counted. It still counts for
// source: the caller takes it off that count.
func (c *conn) release() (raw net.Conn, source netip.Prefix) {
	if !c.gone.Swap(true) { // else Close came first, and took it off both counts
		c.server.conns.Add(-1)
		source = c.source
	}
	_ = c.Conn.SetDeadline(time.Time{})
	return c.Conn, source
}
