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

	// maxRefused is how many connections over the limit are served at a time, for the answer that
	// says so. Their descriptors are beyond MaxConns.
	maxRefused = 32

	// refusedTime is how long a connection over a limit has to send a request's head. Then it is
	// answered without.
	refusedTime = time.Second
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
	loops        *loops // its connections may enter; nil: none does
	writeTimeout time.Duration
	tls          *tls.Config // nil: without TLS
	headers      bool        // proxies send a PROXY header
}

// Accept waits for the next connection that is within the limits, or over one and to be told so.
// Nothing of it is read here: a client could keep all others waiting.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.retrying.Accept()
		if err != nil {
			return nil, err
		}
		own := &conn{Conn: c, raw: c, counts: l.counts, writeTimeout: l.writeTimeout}
		own.peer.addr = addrOf(c.RemoteAddr())
		own.headed = l.headers && (l.counts.proxies.None() || l.counts.proxies.Trust(own.peer.addr))
		if !l.admit(own) {
			if !l.refuser.admit() {
				l.refuser.turnAway(own, l.tls != nil || own.headed)
				continue
			}
			own.refuser = l.refuser
		} else if !own.peer.known {
			l.counts.strangers.add(own)
		}
		l.wrap(own)
		return own, nil
	}
}

// admit counts a connection, or refuses it. Its address comes first: one that has enough evicts no
// stranger. An address that is not known yet is counted with the header.
func (l *listener) admit(own *conn) bool {
	if !own.headed && !own.join(own.peer.addr) {
		return false
	}
	if l.counts.admit(l.loops) {
		return true
	}
	l.counts.place(own.peer).Leave()
	own.peer.counted = false
	own.refuse(reply.TooManyConns)
	return false
}

// wrap begins TLS, or says that the connection may enter a loop.
func (l *listener) wrap(own *conn) {
	switch {
	case l.tls != nil && own.headed:
		own.Conn = tls.Server(&belowTLS{own.raw, own}, l.tls)
	case l.tls != nil:
		own.Conn = tls.Server(own.raw, l.tls)
	case l.loops.takes(own.raw):
		own.loops = l.loops
	}
}

// refuser bounds the connections over MaxConns that are served so that their clients read why. Many
// clients report an answer only if it comes behind their request.
type refuser struct {
	answer func(reply.Reply) []byte
	served atomic.Int64
}

// admit counts one more, unless there are maxRefused.
func (r *refuser) admit() bool {
	if r.served.Add(1) > maxRefused {
		r.leave()
		return false
	}
	return true
}

func (r *refuser) leave() { r.served.Add(-1) }

// turnAway answers a connection at once and closes it. It runs in the accept loop and must not
// wait: the answer fits into the socket's buffer. The request may be on its way, so that the client
// may see a reset instead. silent: the client would not understand the answer.
func (r *refuser) turnAway(own *conn, silent bool) {
	text := r.answer(own.refusal)
	if !silent {
		_ = own.raw.SetWriteDeadline(time.Now().Add(AnswerTimeout))
		_, _ = own.raw.Write(text)
	}
	_ = own.raw.Close()
}

// drainInput ends the server's side of a connection and drops input until the client ends its own,
// lingerTime at most.
func drainInput(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = c.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, c)
	}
}
