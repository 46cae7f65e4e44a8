package conns

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/internal/sample"
)

// sweepEvery is how often the sweep closes connections that waited too long. A connection may be
// closed up to sweepEvery and IdleAfter later than IdleTimeout.
const sweepEvery = time.Second

// idle has the connections that are suspended between two requests. fasthttp gives a goroutine, a
// reader and a request to each connection that it serves; a suspended one has none of them, only
// its net.Conn and what is in idleConn. To fasthttp this is a listener: a connection that goes on
// comes out of its Accept and is served like a new one. P1 to P5 of doc.go are kept here.
//
//	fasthttp ► conn.Read waits in vain ► io.EOF ► conn.Close ► suspend ► epoll
//	    ▲                                                                  │
//	    └───────────────────────── Accept ◄── resume ◄─────────────────────┘ input
//
// One goroutine accepts; any may suspend and close.
type idle struct {
	counts         *counts
	after, timeout time.Duration // IdleAfter and IdleTimeout
	writeTimeout   time.Duration
	logger         *slog.Logger
	logged         sample.Second // of connections that could not be suspended
	poll           *poll
	began          time.Time
	done           chan struct{} // fasthttp accepts no more
	ending         sync.Once

	reports []report // of the last wait, not handled yet. Single owner: the goroutine that accepts

	mu    sync.Mutex
	conns map[uint64]*idleConn // by token; nil once closed. guarded by mu
	token uint64               // the last one given out. guarded by mu
	// The rings, next being the oldest and prev the newest. guarded by mu
	oldest, strange idleConn // strangers have a ring of their own, since they wait less
}

// idleConn is one suspended connection. There may be a million, so it is small.
type idleConn struct {
	net.Conn
	peer       peer
	until      time.Duration // since idle.began: when it has waited too long
	token      uint64
	prev, next *idleConn // guarded by idle.mu
}

// report is what the epoll says of a suspended connection.
type report struct {
	token  uint64
	hungUp bool // the client has ended its side, or the connection broke; input may be there
}

// newIdle makes the idle connections of a server. Nil: this platform has no epoll.
func newIdle(counts *counts, c *Config) (*idle, error) {
	p, err := newPoll(sweepEvery)
	if p == nil {
		return nil, err
	}
	i := &idle{
		counts:       counts,
		after:        c.IdleAfter,
		timeout:      c.IdleTimeout,
		writeTimeout: c.WriteTimeout,
		logger:       c.Logger,
		poll:         p,
		began:        counts.strangers.began,
		done:         make(chan struct{}),
		conns:        make(map[uint64]*idleConn),
	}
	i.emptyLocked()
	return i, nil
}

// serve lets fasthttp serve those that are resumed, until Close.
func (i *idle) serve(by *fasthttp.Server) {
	defer close(i.done)
	_ = by.Serve(i) // nil: Accept has no error but that of Close
}

// takes reports whether a connection may be suspended: one of the kernel's, with nothing above it
// that could hold bytes back, as TLS does.
func (i *idle) takes(c net.Conn) bool {
	if i == nil {
		return false
	}
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// suspend keeps a connection until it has input or its wait is over. False: the connection is still
// the caller's, who closes it.
func (i *idle) suspend(c net.Conn, peer peer, until time.Time) bool {
	s := &idleConn{Conn: c, peer: peer, until: until.Sub(i.began)}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.conns == nil {
		return false
	}
	i.token++
	s.token = i.token
	if err := i.poll.add(c, s.token); err != nil { // a report of it waits for mu
		if i.logged.Take() {
			i.logger.Warn("an idle connection cannot be watched and is closed", "error", err)
		}
		return false
	}
	i.conns[s.token] = s
	ring := &i.oldest
	if !peer.known {
		ring = &i.strange
	}
	s.prev, s.next = ring.prev, ring
	s.prev.next, s.next.prev = s, s
	return true
}

// evict closes the stranger that is suspended for the longest time if its wait began before an
// instant, which counts from began (P8). A nil idle has none.
func (i *idle) evict(before time.Duration) bool {
	if i == nil {
		return false
	}
	s := i.oldestOf(&i.strange, before+i.timeout-i.counts.strangerCut)
	if s == nil {
		return false
	}
	i.drop(s)
	return true
}

// oldestOf takes the oldest connection of a ring out if its wait ends until an instant. Nil: it
// does not.
func (i *idle) oldestOf(ring *idleConn, until time.Duration) *idleConn {
	i.mu.Lock()
	defer i.mu.Unlock()
	if s := ring.next; s != ring && s.until <= until {
		return i.takeLocked(s)
	}
	return nil
}

func (i *idle) emptyLocked() {
	i.oldest.prev, i.oldest.next = &i.oldest, &i.oldest
	i.strange.prev, i.strange.next = &i.strange, &i.strange
}

// take takes a suspended connection out, which is the caller's from now on (P1). Nil: it is not
// suspended any more.
func (i *idle) take(token uint64) *idleConn {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.takeLocked(i.conns[token])
}

func (i *idle) takeLocked(s *idleConn) *idleConn {
	if s == nil {
		return nil
	}
	delete(i.conns, s.token)
	s.prev.next, s.next.prev = s.next, s.prev
	s.prev, s.next = nil, nil
	return s
}

// stats returns how many connections are suspended, and how often one was.
func (i *idle) stats() (now int, ever uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.conns), i.token
}

// Accept waits for a suspended connection that has input.
func (i *idle) Accept() (net.Conn, error) {
	for {
		for len(i.reports) > 0 {
			r := i.reports[0]
			i.reports = i.reports[1:]
			if c := i.resume(r); c != nil {
				return c, nil
			}
		}
		reports, err := i.poll.wait()
		if err != nil {
			return nil, net.ErrClosed
		}
		if i.reports = reports; len(reports) == 0 {
			i.sweep(time.Since(i.began))
		}
	}
}

// resume makes a conn of a suspended connection again. Nil: it has ended.
func (i *idle) resume(r report) net.Conn {
	s := i.take(r.token)
	if s == nil {
		return nil
	}
	i.poll.remove(s.Conn)
	if r.hungUp && !hasInput(s.Conn) {
		i.drop(s)
		return nil
	}
	own := &conn{
		Conn: s.Conn, raw: s.Conn, counts: i.counts, idle: i, peer: s.peer,
		writeTimeout: i.writeTimeout, phase: resumed,
	}
	if !own.peer.known {
		i.counts.strangers.addAnswered(own)
	}
	return own
}

// sweep closes those that waited too long (P5).
func (i *idle) sweep(now time.Duration) {
	for _, ring := range []*idleConn{&i.oldest, &i.strange} {
		for s := i.oldestOf(ring, now); s != nil; s = i.oldestOf(ring, now) {
			i.drop(s)
		}
	}
}

// drop closes a connection that was taken out and takes it off the counts (P4).
func (i *idle) drop(s *idleConn) {
	_ = s.Close()
	i.counts.leave(s.peer, false)
}

// Close closes all that are suspended. From now on none can be, and none is resumed.
func (i *idle) Close() error {
	i.ending.Do(func() {
		i.mu.Lock()
		all := i.conns
		i.conns = nil
		i.emptyLocked()
		i.mu.Unlock()
		i.poll.close()
		for _, s := range all {
			i.drop(s)
		}
	})
	return nil
}

// Addr is a name: each connection has its own address.
func (i *idle) Addr() net.Addr { return &net.UnixAddr{Name: "idle", Net: "unix"} }
