package conns

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

	"rollcall/internal/sample"
	"rollcall/server/reply"
)

const (
	// acceptPause is the first pause after a failed accept; each further one is twice as long, up
	// to maxAcceptPause.
	acceptPause    = 5 * time.Millisecond
	maxAcceptPause = time.Second

	// lingerTime bounds how long input is read and dropped behind the answer to a request that was
	// not read.
	lingerTime = time.Second

	// AnswerTimeout bounds an answer written outside fasthttp. It fits into a socket's empty
	// buffer: no wait is normal.
	AnswerTimeout = 100 * time.Millisecond

	// maxRefused is how many refused connections are kept at a time until the client has read why.
	maxRefused = 256
)

// passing are the errors of accept after which the listener still works: the process or the kernel
// lacks a resource, or the client has closed already.
var passing = []error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED,
}

// retrying is a listener whose Accept outlives passing errors (P6). One goroutine accepts; any may
// close. Two listeners on one port (SO_REUSEPORT) accept no faster on two cores: BenchmarkAccept
// has 13 to 14 thousand connections with a request per second for one, 12 to 15 for two.
type retrying struct {
	net.Listener
	logger  *slog.Logger
	logged  sample.Second
	retries atomic.Uint64 // accepts that were tried again

	closing sync.Once
	closed  chan struct{}
	err     error // of the first Close
}

// Retry makes a listener whose Accept outlives passing errors (P6).
func Retry(ln net.Listener, logger *slog.Logger) net.Listener { return retry(ln, logger) }

func retry(ln net.Listener, logger *slog.Logger) *retrying {
	return &retrying{Listener: ln, logger: logger, closed: make(chan struct{})}
}

// Accept waits for the next connection. After a passing error it pauses and tries again:
// connections wait in the kernel's queue meanwhile.
func (l *retrying) Accept() (net.Conn, error) {
	for pause := acceptPause; ; pause = min(2*pause, maxAcceptPause) {
		c, err := l.Listener.Accept()
		if err == nil || !isPassing(err) {
			return c, err
		}
		l.retries.Add(1)
		if l.logged.Take() {
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

// Close closes the listener once; Conns.Close and fasthttp both call it.
func (l *retrying) Close() error {
	l.closing.Do(func() {
		close(l.closed)
		l.err = l.Listener.Close()
	})
	return l.err
}

// listener admits the connections of a public listener. One goroutine accepts; any may close.
type listener struct {
	*retrying
	counts       *counts
	refuser      *refuser
	idle         *idle // suspends its connections; nil: none is suspended
	writeTimeout time.Duration
}

// Accept waits for the next connection that is within the limits.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.retrying.Accept()
		if err != nil {
			return nil, err
		}
		peer, refusal := l.counts.admit(addrOf(c.RemoteAddr()))
		if refusal != reply.None {
			l.refuser.refuse(c, refusal)
			continue
		}
		own := &conn{Conn: c, counts: l.counts, peer: peer, writeTimeout: l.writeTimeout}
		if l.idle.takes(c) {
			own.idle = l.idle
		}
		return own, nil
	}
}

// refuser answers connections over a limit.
type refuser struct {
	answer  func(reply.Reply) []byte
	waiting atomic.Int64 // connections whose client has not read the answer yet
}

// refuse answers a connection and closes it. It runs in the accept loop and must not wait: the
// answer fits into the socket's buffer. The request may be on its way, so that closing would reset
// the connection: some clients at a time are given the time to read the answer first; past
// maxRefused, a client may see a reset instead.
func (r *refuser) refuse(c net.Conn, refusal reply.Reply) {
	text := r.answer(refusal)
	if secure, ok := c.(*tls.Conn); ok { // to answer, it would have to wait for the handshake
		_ = secure.NetConn().Close()
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(AnswerTimeout))
	_, _ = c.Write(text)
	if r.waiting.Add(1) > maxRefused {
		r.waiting.Add(-1)
		_ = c.Close()
		return
	}
	go func() {
		defer r.waiting.Add(-1)
		drainInput(c)
		_ = c.Close()
	}()
}

// drainInput ends the server's side of a connection and drops input until the client ends its own,
// lingerTime at most.
func drainInput(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, c)
	}
}
