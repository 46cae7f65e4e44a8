package server

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// acceptPause is the first pause after a failed accept; each further one is twice as long, up to maxAcceptPause.
	acceptPause    = 5 * time.Millisecond
	maxAcceptPause = time.Second

	// lingerTime bounds how long input is read and dropped behind the answer to a request that was not read.
	lingerTime = time.Second

	// answerPatience bounds an answer written outside fasthttp. It fits into a socket's empty buffer: no wait is normal.
	answerPatience = 100 * time.Millisecond

	// maxTurnedAway is how many connections over a limit are kept at a time until they have read so.
	maxTurnedAway = 256
)

// passing are the errors of accept that say nothing of the listener: the process or the kernel is short of something, or
// the client has gone again.
var passing = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED,
}

// retrying is a listener whose Accept outlives passing errors (S7). One goroutine accepts; any may close.
type retrying struct {
	net.Listener
	logger *slog.Logger
	seldom seldom
	failed atomic.Uint64 // accepts that were tried again

	closing sync.Once
	closed  chan struct{}
	err     error // of the first Close
}

func retryListener(ln net.Listener, logger *slog.Logger) *retrying {
	return &retrying{Listener: ln, logger: logger, closed: make(chan struct{})}
}

// Accept waits for the next connection. After a passing error it pauses and tries again: connections wait in the
// kernel's queue meanwhile.
func (l *retrying) Accept() (net.Conn, error) {
	for pause := acceptPause; ; pause = min(2*pause, maxAcceptPause) {
		c, err := l.Listener.Accept()
		if err == nil || !isPassing(err) {
			return c, err
		}
		l.failed.Add(1)
		if l.seldom.now() {
			l.logger.Error("cannot accept connections, trying again", "error", err, "pause", pause)
		}
		select {
		case <-time.After(pause):
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
}

func isPassing(err error) bool {
	for _, e := range passing {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close closes the listener once; Shutdown and fasthttp both do.
func (l *retrying) Close() error {
	l.closing.Do(func() {
		close(l.closed)
		l.err = l.Listener.Close()
	})
	return l.err
}

// listener counts the connections of the public side and turns away those over Options.MaxConns (S6).
type listener struct {
	*retrying
	server *Server
}

func newListener(ln net.Listener, s *Server) *listener {
	return &listener{retrying: retryListener(ln, s.opts.Logger), server: s}
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.retrying.Accept()
		if err != nil {
			return nil, err
		}
		own, refusal := l.server.letIn(c)
		if refusal == none {
			return own, nil
		}
		l.server.turnAwayConn(c, refusal)
	}
}

// letIn counts a connection, or says which limit is reached.
func (s *Server) letIn(c net.Conn) (*conn, reply) {
	if s.conns.Add(1)+int64(s.opts.OpenStreams()) > int64(s.opts.MaxConns) {
		s.conns.Add(-1)
		return nil, tooManyConns
	}
	source, ok := s.perSource.join(c.RemoteAddr())
	if !ok {
		s.conns.Add(-1)
		return nil, tooManyConnsOfAddress
	}
	return &conn{Conn: c, server: s, source: source}, none
}

// turnAwayConn answers a connection over a limit. It runs in the accept loop and must not wait: the answer fits into the
// socket's buffer. Its request may be on its way, so that closing would reset the connection: some at a time are given
// the time to read the answer first; past maxTurnedAway a client may see a reset instead. Its origin is not known yet.
func (s *Server) turnAwayConn(c net.Conn, refusal reply) {
	s.metrics.answers[refusal].Add(1)
	if secure, ok := c.(*tls.Conn); ok { // to answer, it would have to wait for the handshake
		_ = secure.NetConn().Close()
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(answerPatience))
	_, _ = c.Write(s.wholeAnswer(refusal, s.origins.allowed(nil)))
	if s.turnedAway.Add(1) > maxTurnedAway {
		s.turnedAway.Add(-1)
		_ = c.Close()
		return
	}
	go func() {
		defer s.turnedAway.Add(-1)
		drainInput(c)
		_ = c.Close()
	}()
}

// drainInput ends our side of a connection and drops input for a while, until the client has ended its own.
func drainInput(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, c)
	}
}

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
