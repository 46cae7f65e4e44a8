package conns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/server/reply"
)

// conn is one connection while it is fasthttp's. It is closed, released to become a stream, or
// enters a loop, once; one that comes back from a loop does so in another conn. fasthttp's Shutdown
// closes idle ones from another goroutine.
type conn struct {
	net.Conn
	raw          net.Conn // the kernel's: Conn, or what is below TLS
	counts       *counts
	loops        *loops   // it may enter; nil: it never does
	refuser      *refuser // counts it; nil: counts does
	writeTimeout time.Duration
	linger       atomic.Bool // see Close
	enters       atomic.Bool // Close has it enter a loop. Read stores it
	gone         atomic.Bool // closed, released or in a loop, and no longer this conn's

	// interrupted makes every Read time out. Interrupt stores it before it moves the deadline, and
	// readMore loads it after it set one, so that one of the two ends the wait.
	interrupted atomic.Bool

	joining sync.Mutex
	// peer is changed by the goroutine that serves the connection, with joining held: Close, from
	// any goroutine, takes what it says off the counts.
	peer peer

	// A ring of strangers. guarded by strangers.mu
	strangePrev, strangeNext *conn
	strangeSince             time.Duration // since strangers.began: when its wait began
	evicted                  bool

	// Single owner: the goroutine that serves the connection.
	phase            phase
	headed           bool        // a PROXY header comes first
	refusal          reply.Reply // the limit that it is over
	refusedUntil     time.Time   // when it is answered even without a request
	reading, writing deadline
	ended            bool // a Read found the end of the client's side

	plain   bool  // the last request was one that a loop could have served
	plains  uint8 // how many were in a row
	returns uint8 // how often it came back from a loop, see maxReturns

	prefix       []byte    // what a loop has read of it
	requestUntil time.Time // when the reading of the request in prefix must end; zero: as asked
}

// phase says what fasthttp reads of a connection.
type phase uint8

const (
	opening phase = iota // the first request of all
	resumed              // the first bytes of the next request, or the end: they are there
	active               // the rest of a request
	waiting              // the first bytes of the next request: they may take their time
)

// Follow tells a connection what fasthttp reads of it. It is fasthttp's ConnState.
func Follow(c net.Conn, state fasthttp.ConnState) {
	own, ok := c.(*conn)
	if !ok {
		return
	}
	switch state { // the others do not come from the goroutine that serves it
	case fasthttp.StateActive:
		own.phase = active
		own.plain = false
		own.writing.asked = time.Time{} // the last answer's, and perhaps long over
	case fasthttp.StateIdle:
		own.phase = waiting
		own.requestUntil = time.Time{}
		if !own.plain {
			own.plains = 0
		}
		if !own.peer.known {
			own.counts.strangers.waits(own)
		}
	}
}

// deadlineSlack is how much earlier than asked a connection's deadline may be.
const deadlineSlack = time.Second

// deadline postpones setting a connection's deadline until a read or write needs it. fasthttp sets
// three for each request, a timer of the runtime each time, and replaces nearly all of them before
// anything waits. On a keep-alive connection a deadline is mostly that of the request before, moved
// by the time between: the one that is set stays until it would be deadlineSlack too early.
type deadline struct {
	asked, set time.Time
	early      bool // set is when to suspend, which is no deadline of a request
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

// SetReadDeadline remembers the deadline for Read. A stranger waits less than others for its next
// request.
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.phase == waiting {
		t = t.Add(-c.cut())
	}
	if c.refusal != reply.None && t.After(c.refusedUntil) {
		t = c.refusedUntil
	}
	if !c.requestUntil.IsZero() && t.After(c.requestUntil) {
		t = c.requestUntil
	}
	c.reading.asked = t
	return nil
}

// cut is how much earlier than IdleTimeout the connection's wait ends.
func (c *conn) cut() time.Duration {
	if c.peer.known {
		return 0
	}
	return c.counts.strangerCut
}

// SetWriteDeadline remembers the deadline for Write.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writing.asked = t
	return nil
}

// SetDeadline remembers both deadlines.
func (c *conn) SetDeadline(t time.Time) error {
	c.reading.asked, c.writing.asked = t, t
	return nil
}

// Read reads under the deadline that was asked for, or one up to deadlineSlack earlier. Bytes come
// without io.EOF: that is left for a Read that wants more than there is (Ended).
func (c *conn) Read(p []byte) (n int, err error) {
	c.writing.asked = time.Time{} // of what was written before, and perhaps over when this returns
	switch {
	case len(c.prefix) > 0:
		n = copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	case c.phase == resumed:
		n, err = c.readNext(p)
	case c.phase == waiting && c.loops != nil:
		n, err = c.readOrEnter(p)
	default:
		n, err = c.readMore(p)
	}
	if err == io.EOF {
		if n > 0 {
			return n, nil
		}
		c.ended = true
	}
	return n, err
}

// Ended reports that more was read of a connection than the client had sent before it ended its
// side. Only the goroutine that serves the connection may ask. fasthttp takes a chunked body that
// is cut between two chunks for a whole one; behind a whole one it reads no further.
func Ended(c net.Conn) bool {
	own, ok := c.(*conn)
	return ok && own.ended
}

// Interrupt ends a Read of a request and every later one with a timeout. Any goroutine may call it
// while the request is served; the connection is of no use afterwards.
func Interrupt(c net.Conn) {
	if own, ok := c.(*conn); ok {
		own.interrupted.Store(true)
		_ = own.Conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// readMore reads the rest of a request.
func (c *conn) readMore(p []byte) (int, error) {
	if c.reading.due() {
		if err := c.Conn.SetReadDeadline(c.reading.set); err != nil {
			return 0, err
		}
	}
	if c.interrupted.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	if c.headed {
		return c.readHeaded(p)
	}
	return c.Conn.Read(p)
}

// readHeaded reads the first bytes behind a PROXY header. A connection without one ends without a
// word: who is at the other end is not known.
func (c *conn) readHeaded(p []byte) (int, error) {
	if c.Conn == c.raw && c.learn() != nil {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p) // TLS reads from belowTLS, which learns
	if c.headed {
		return 0, io.EOF
	}
	return n, err
}

// learn reads the PROXY header, which says who is at the other end, and counts the connection for
// that address.
func (c *conn) learn() error {
	addr, err := readHeader(c.raw)
	if err != nil {
		if err != io.EOF {
			c.counts.noHeader(c.peer.addr, err)
		}
		return err
	}
	c.headed = false
	if !addr.IsValid() {
		addr = c.peer.addr
	}
	c.join(addr)
	if c.peer.known {
		c.counts.strangers.remove(c)
	}
	return nil
}

// join counts the connection for the address of its client. Over the limit it is refused.
func (c *conn) join(addr netip.Addr) (ok bool) {
	c.joining.Lock()
	defer c.joining.Unlock()
	if c.refuser != nil || c.gone.Load() { // not counted, or no longer
		c.peer.addr = addr
		return true
	}
	if c.peer, ok = c.counts.join(addr); !ok {
		c.refuse(reply.TooManyConnsOfAddress)
	}
	return ok
}

// refuse has the connection answered so, once its request is there or refusedTime is over.
func (c *conn) refuse(why reply.Reply) {
	c.refusal, c.refusedUntil = why, time.Now().Add(refusedTime)
	if c.reading.asked.After(c.refusedUntil) {
		c.reading.asked = c.refusedUntil
	}
}

// Refused returns the reply that says which limit a connection is over, None if it is over none.
// The handler of its request, or of the failure to read one, gives it and closes the connection.
func Refused(c net.Conn) reply.Reply {
	if own, ok := c.(*conn); ok {
		return own.refusal
	}
	return reply.None
}

// Prove notes that a connection has shown a valid token: it does not have to make room for another
// (P8). The handler of its request calls it.
func Prove(c net.Conn) {
	own, ok := c.(*conn)
	if !ok || own.peer.known {
		return
	}
	own.joining.Lock()
	own.peer.known = true
	own.joining.Unlock()
	own.counts.strangers.remove(own)
}

// readNext reads the first bytes of a request of a resumed connection. fasthttp believes that it is
// the connection's first request and would answer an error; it does not answer io.EOF, so that is
// what every end becomes (P7).
func (c *conn) readNext(p []byte) (int, error) {
	n, err := c.readMore(p)
	if n == 0 && err != nil {
		err = io.EOF
	}
	return n, err
}

// readOrEnter waits for the first bytes of the next request, IdleAfter at most, or not at all where
// a loop is to serve it. When none came, it says io.EOF: fasthttp lets go of the connection without
// a word and closes it, which has it enter a loop. A busy connection sets its deadline, which is a
// timer of the runtime, once per half of IdleAfter.
func (c *conn) readOrEnter(p []byte) (int, error) {
	if c.plain && c.plains>>min(c.returns, maxReturns) > 0 {
		c.enters.Store(true)
		return 0, io.EOF
	}
	after := c.loops.after
	if after == 0 {
		return c.readMore(p)
	}
	if c.reading.dueEarly(c.reading.asked.Add(c.cut()+after-c.loops.timeout), after/2) {
		if err := c.Conn.SetReadDeadline(c.reading.set); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		c.enters.Store(true)
		err = io.EOF
	}
	return n, err
}

// maxReturns bounds how long a connection whose requests are mostly not plain stays with fasthttp:
// until it has sent 2^n plain ones in a row, where n is how often it came back from a loop.
const maxReturns = 6

// Plain notes that the request was one that a loop could have served: a loop is to serve the next
// one. The handler calls it.
func Plain(c net.Conn) {
	own, ok := c.(*conn)
	if !ok || own.loops == nil || !own.loops.servesPlain() {
		return
	}
	own.plain = true
	if own.plains < 1<<maxReturns {
		own.plains++
	}
}

// Write writes under the deadline that was asked for, or one up to deadlineSlack earlier. fasthttp
// asks for none before it tells a client to go on with its body.
func (c *conn) Write(p []byte) (int, error) {
	if c.writing.asked.IsZero() {
		c.writing.asked = time.Now().Add(c.writeTimeout)
	}
	if c.writing.due() {
		if err := c.Conn.SetWriteDeadline(c.writing.set); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// Close has the connection enter a loop if it is to, else it closes it. When linger is set, the
// client may still be sending a body that the server does not read: the answer goes out with a FIN
// behind it, and input is dropped for a while, because closing at once would send a reset, which
// may destroy the answer before the client has read it (RFC 9112, section 9.6).
func (c *conn) Close() error {
	if c.gone.Swap(true) {
		return net.ErrClosed
	}
	if c.enters.Load() && c.enter() {
		return nil
	}
	defer c.leave() // a lingering connection still counts
	if c.linger.Load() {
		drainInput(c.Conn)
	}
	return c.Conn.Close()
}

// Silent reports whether a connection has not sent a byte yet. The goroutine that serves it may
// ask.
func Silent(c net.Conn) bool {
	own, ok := c.(*conn)
	return ok && own.phase == opening
}

// enter makes the connection a loop's. Only the goroutine that serves it has set enters, and closes
// it.
func (c *conn) enter() bool {
	if c.counts.strangers.remove(c) {
		return false
	}
	return c.loops.enter(c.Conn, c.peer, c.reading.asked, c.returns)
}

// leave takes the connection off all counts.
func (c *conn) leave() {
	if c.refuser != nil {
		c.refuser.leave()
		return
	}
	c.joining.Lock()
	peer := c.peer
	c.joining.Unlock()
	c.counts.leave(peer, c.counts.strangers.remove(c))
}

// Linger makes the close of a connection wait until its client can have read the answer: see Close.
func Linger(c net.Conn) {
	if own, ok := c.(*conn); ok {
		own.linger.Store(true)
	}
}

// Peer returns the address at the other end of a connection of this package. Zero: it has none, as
// over a Unix socket. The goroutine that serves the connection may ask.
func Peer(c net.Conn) netip.Addr {
	if own, ok := c.(*conn); ok {
		return own.peer.addr
	}
	return addrOf(c.RemoteAddr())
}

// Release gets the connection below fasthttp's and this package's: what they keep, a 4 KB reader
// above all, would stay for as long as a stream. It is the caller's from now on and no longer
// counted, but keeps its place in the count of its address. A connection of a proxy gets a place in
// that of addr, the address of the proxy's client; not ok says that this has as many as it may.
// Bytes that fasthttp's reader holds are lost.
func Release(c net.Conn, addr netip.Addr) (raw net.Conn, place Place, ok bool) {
	if hijacked, ok := c.(interface{ UnsafeConn() net.Conn }); ok {
		c = hijacked.UnsafeConn()
	}
	own, ok := c.(*conn)
	if !ok {
		return c, place, true
	}
	ok = true
	if !own.gone.Swap(true) { // else Close came first, and took it off both counts
		if own.counts.strangers.remove(own) {
			own.counts.strangers.left(&own.counts.open)
		} else {
			own.counts.open.Add(-1)
		}
		peer := own.peer
		if !peer.counted {
			peer, ok = own.counts.join(addr)
		}
		place = own.counts.place(peer)
	}
	_ = own.Conn.SetDeadline(time.Time{})
	return own.Conn, place, ok
}
