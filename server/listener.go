package server

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
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

// retrying is a listener whose Accept outlives passing errors (S7). One goroutine accepts; any may close. Two listeners on one port
// (SO_REUSEPORT) accept no faster on two cores: BenchmarkAccept has 13 to 14 thousand connections with a request per second for
// one, 12 to 15 for two.
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
	lot    *lot // where its connections are parked; nil: nowhere
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
			if l.lot.takes(c) {
				own.lot = l.lot
			}
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
