package server

import (
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// conn is one connection of the public side while it is fasthttp's. It is closed, or released to become a stream, once;
// fasthttp's Shutdown closes idle ones from another goroutine.
type conn struct {
	net.Conn
	server *Server
	source netip.Prefix // whom it counts for, when connections per address are limited
	linger atomic.Bool  // see Close
	gone   atomic.Bool  // closed or released, and no longer counted

	// Single owner: the goroutine that serves the connection.
	reading, writing deadline
}

// deadlineSlack is how much earlier than asked a connection's deadline may be.
const deadlineSlack = time.Second

// deadline puts off setting a connection's deadline until it matters. fasthttp sets three for each request, a timer of the
// runtime each time; nearly all of them are replaced before anybody waits. Most of a keep-alive connection's are those of
// the request before, moved on by the time between: these are left as they are for a while.
type deadline struct {
	asked, set time.Time
}

// due reports whether the deadline must be set for real before waiting.
func (d *deadline) due() bool {
	early := d.asked.Sub(d.set)
	if d.asked.IsZero() == d.set.IsZero() && 0 <= early && early < deadlineSlack {
		return false
	}
	d.set = d.asked
	return true
}

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
	if c.reading.due() {
		if err := c.Conn.SetReadDeadline(c.reading.set); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write writes under the deadline that was asked for, or one up to deadlineSlack earlier.
func (c *conn) Write(p []byte) (int, error) {
	if c.writing.due() {
		if err := c.Conn.SetWriteDeadline(c.writing.set); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// Close closes the connection. When linger is set, the client may still be sending what nobody reads: the answer goes out
// with a FIN behind it, and input is dropped for a while, because closing at once would send a reset, which may destroy
// the answer before the client has read it (RFC 9112, section 9.6).
func (c *conn) Close() error {
	if c.gone.Swap(true) {
		return net.ErrClosed
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
