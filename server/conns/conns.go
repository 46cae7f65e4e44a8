package conns

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/server/reply"
)

// DefaultIdleAfter is how long a connection waits for its next request before it is suspended, half
// of it at least. A daemon that beats every 30 s spends less than a hundredth of its time in
// between, at some 18 KB; and one that sends its next request when it has the answer to the last is
// never suspended, however far away it is. A connection that was suspended in vain costs some
// microseconds.
const DefaultIdleAfter = 250 * time.Millisecond

// Config is what Conns needs. Every field is required but those with a default.
type Config struct {
	// WriteTimeout bounds a write that fasthttp sets no deadline for.
	WriteTimeout time.Duration
	// ReadTimeout bounds the reading of a request, from its first byte on. It is fasthttp's, too.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request.
	IdleTimeout time.Duration
	// IdleAfter is after how much of this it is suspended: DefaultIdleAfter but for tests. From
	// IdleTimeout on, none is.
	IdleAfter time.Duration
	// Refuse counts the refusal of a connection over a limit that is answered before its request
	// and returns the text of the answer. The others are for the handler: see Refused.
	Refuse func(reply.Reply) []byte
	Logger *slog.Logger

	// Loops is how many loops serve plain requests. Default: none does, and idle connections wait
	// in one.
	Loops int
	// NewRequests makes what serves the plain requests of a loop. Required with Loops.
	NewRequests func() Requests

	// MaxConns is the most connections and streams together.
	MaxConns int
	// OpenStreams is how many streams there are now.
	OpenStreams func() int
	// StrangerTimeout is how long a connection that has shown no valid token may wait for its next
	// request, if that is shorter than IdleTimeout.
	StrangerTimeout time.Duration

	// TLS is what the connections speak. Default: HTTP without it.
	TLS *tls.Config
	// Headers says that Proxies, or every peer where there are none, send a PROXY protocol header
	// in front of each connection. Default: no peer does.
	Headers bool

	// MaxPerIP is the most connections and streams of one source address. Default: no limit.
	MaxPerIP int
	// Proxies do not count for their address; streams over them count for their clients'. Default:
	// none.
	Proxies Proxies
}

// Conns are the connections of the public listeners. Its methods may be called from any goroutine.
type Conns struct {
	config  Config
	counts  *counts
	refuser *refuser

	mu        sync.Mutex
	listeners []*listener // guarded by mu
	loops     *loops      // made by the first Serve, if any connection can enter; guarded by mu
	closed    bool        // guarded by mu
}

// New returns the connections of a server, none yet.
func New(c Config) *Conns {
	if !haveLoops {
		c.Loops = 0
	}
	return &Conns{config: c, counts: newCounts(&c), refuser: &refuser{answer: c.Refuse}}
}

// Serve accepts connections on ln, which it closes, and has by serve them, until Close or a failure
// of the listener. Its error is the failure, or net.ErrClosed after Close.
func (c *Conns) Serve(by *fasthttp.Server, ln net.Listener) error {
	l, err := c.listen(by, ln)
	if err != nil {
		return err
	}
	if err := by.Serve(l); err != nil {
		return err
	}
	return net.ErrClosed
}

// listen notes a listener for Close, and gives it the idle connections, which all listeners share.
// With an error, it closes the listener.
func (c *Conns) listen(by *fasthttp.Server, ln net.Listener) (*listener, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = ln.Close()
		return nil, net.ErrClosed
	}
	if c.loops == nil {
		loops, err := newLoops(c.counts, &c.config, by)
		if err != nil {
			_ = ln.Close()
			return nil, fmt.Errorf("watch idle connections: %w", err)
		}
		c.loops = loops
	}
	l := &listener{
		retrying:     retry(ln, c.config.Logger),
		counts:       c.counts,
		refuser:      c.refuser,
		loops:        c.loops,
		writeTimeout: c.config.WriteTimeout,
		tls:          c.config.TLS,
		headers:      c.config.Headers,
	}
	c.listeners = append(c.listeners, l)
	return l, nil
}

// Close stops accepting, answers what has come in on the connections of the loops, and closes them.
// An error is ctx's: some were closed without an answer that was owed to them. The other
// connections are fasthttp's.
func (c *Conns) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	for _, l := range c.listeners { // fasthttp would miss one whose Serve has just begun
		_ = l.Close()
	}
	loops := c.loops
	c.mu.Unlock()
	return loops.close(ctx)
}

// Loops is how many loops serve plain requests: none where there is no epoll.
func (c *Conns) Loops() int { return c.config.Loops }

// Stats are the counts of a moment.
type Stats struct {
	Open          int    // connections, without streams
	Idle          int    // of these, how many are in a loop
	Suspended     uint64 // how often one entered a loop
	Plain         uint64 // requests that loops served
	Returned      uint64 // how often a connection went back from a loop to fasthttp
	StandIns      uint64 // how often a loop got another reader because a commit took long
	AcceptRetries uint64 // accepts that were tried again
	Evicted       uint64 // strangers that were closed to make room
	BadHeaders    uint64 // connections that were closed for want of a PROXY header
}

// Stats returns the counts of now.
func (c *Conns) Stats() Stats {
	s := Stats{Open: int(c.counts.open.Load()), BadHeaders: c.counts.badHeaders.Load()}
	_, s.Evicted = c.counts.strangers.stats()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.listeners {
		s.AcceptRetries += l.retries.Load()
	}
	c.loops.addStats(&s)
	return s
}

// Addrs returns the addresses of the listeners.
func (c *Conns) Addrs() []net.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	addrs := make([]net.Addr, len(c.listeners))
	for i, l := range c.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}
