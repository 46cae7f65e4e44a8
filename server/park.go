package server

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// defaultParkAfter is how long a connection waits for its next request before it is parked, half of it at least. A daemon
	// that beats every 30 s spends less than a hundredth of its time unparked, at some 18 KB; and one that sends its next
	// request when it has the answer to the last is never parked, however far away it is. What parks in vain costs some
	// microseconds.
	defaultParkAfter = 250 * time.Millisecond

	// sweepEvery is how often the parked are looked through for those that waited too long: so much later than IdleTimeout,
	// and parkAfter more, a parked connection may be closed.
	sweepEvery = time.Second
)

// lot is where connections are parked between two requests. fasthttp gives a goroutine, a reader and a request to each
// connection that it serves; a parked one has none of them, only its net.Conn and what is in parked. To fasthttp the lot is a
// listener: a connection that goes on comes out of its Accept and is served like a new one.
//
//	fasthttp ► conn.Read waits in vain ► io.EOF ► conn.Close ► lot.park ► epoll
//	    ▲                                                                   │
//	    └──────────────────────── lot.Accept ◄── awaken ◄───────────────────┘ input
//
// What is kept:
//
//   - P1 A connection is parked exactly while it is in the map. Whoever takes it out, under mu, owns it: Accept to awaken it or
//     because it hung up, the sweep because it waited too long, Close because all end. The others then find it gone.
//
//   - P2 No byte is lost. A connection parks only when fasthttp's reader is empty, and the epoll reports what is there when
//     it is added, not only what comes then:
//
//     conn                              client
//     Read ends for want of input
//     .                                 sends a request
//     park ► epoll: input is there
//
//   - P3 A token is used once. A late report, of a connection that was closed or awoken and whose descriptor is another's
//     now, has a token that nobody has.
//
//   - P4 A parked connection counts, for MaxConns and for its address, until it is closed; awaking changes no count.
//
//   - P5 The ring is in the order of parking, which is that of the ends of the wait but for parkAfter. So a sweep looks at
//     those that it closes and at one more, however many are parked.
//
// One goroutine accepts; any may park and close.
type lot struct {
	server *Server
	poll   *poll
	began  time.Time
	done   chan struct{} // fasthttp accepts no more
	ending sync.Once

	reports []report // single owner: the goroutine that accepts. What is not handled yet of the last wait

	mu     sync.Mutex
	parked map[uint64]*parked // by token; nil once closed. guarded by mu
	token  uint64             // the last one given out. guarded by mu
	oldest parked             // the head of the ring: next is the oldest, before it the newest. guarded by mu
}

// parked is one parked connection. There may be a million: it has no more than it needs.
type parked struct {
	net.Conn
	source     netip.Prefix  // whom it counts for
	until      time.Duration // since lot.began: when it has waited too long
	token      uint64
	prev, next *parked // guarded by lot.mu
}

// report is what the epoll says of a parked connection.
type report struct {
	token  uint64
	hungUp bool // the client has ended its side, or the connection is broken; input may be there nevertheless
}

// newLot makes the server's lot. Nil: nothing is parked, on this platform or because connections are closed before that.
func newLot(s *Server) (*lot, error) {
	if s.opts.parkAfter >= s.opts.IdleTimeout {
		return nil, nil
	}
	p, err := newPoll(sweepEvery)
	if p == nil {
		return nil, err
	}
	l := &lot{server: s, poll: p, began: time.Now(), done: make(chan struct{}), parked: make(map[uint64]*parked)}
	l.oldest.prev, l.oldest.next = &l.oldest, &l.oldest
	return l, nil
}

// serve lets fasthttp serve those that awake, until Close.
func (l *lot) serve(by *fasthttp.Server) {
	defer close(l.done)
	_ = by.Serve(l) // there is no error but that of a closed listener, which it keeps to itself
}

// takes reports whether a connection may be parked: one of the kernel's, with nothing above it that could hold bytes back, as
// TLS does.
func (l *lot) takes(c net.Conn) bool {
	if l == nil {
		return false
	}
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

// park keeps a connection until there is input, or until its wait is over. When it returns false, the connection is still the
// caller's, to be closed.
func (l *lot) park(c net.Conn, source netip.Prefix, until time.Time) bool {
	p := &parked{Conn: c, source: source, until: until.Sub(l.began)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parked == nil {
		return false
	}
	l.token++
	p.token = l.token
	if err := l.poll.add(c, p.token); err != nil { // a report of it waits for mu
		if l.server.unparked.now() {
			l.server.opts.Logger.Warn("an idle connection could not be parked and is closed", "error", err)
		}
		return false
	}
	l.parked[p.token] = p
	p.prev, p.next = l.oldest.prev, &l.oldest
	p.prev.next, p.next.prev = p, p
	return true
}

// take takes a parked connection out, which is the caller's from now on (P1). Nil: somebody else did.
func (l *lot) take(token uint64) *parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takeLocked(l.parked[token])
}

func (l *lot) takeLocked(p *parked) *parked {
	if p == nil {
		return nil
	}
	delete(l.parked, p.token)
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
	return p
}

// len is how many connections are parked.
func (l *lot) len() int {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.parked)
}

// Accept waits for a parked connection that has input.
func (l *lot) Accept() (net.Conn, error) {
	for {
		for len(l.reports) > 0 {
			r := l.reports[0]
			l.reports = l.reports[1:]
			if c := l.awaken(r); c != nil {
				return c, nil
			}
		}
		reports, err := l.poll.wait()
		if err != nil {
			return nil, net.ErrClosed
		}
		if l.reports = reports; len(reports) == 0 {
			l.sweep(time.Since(l.began))
		}
	}
}

// awaken makes a conn of a parked connection again. Nil: it has ended.
func (l *lot) awaken(r report) net.Conn {
	p := l.take(r.token)
	if p == nil {
		return nil
	}
	l.poll.remove(p.Conn)
	if r.hungUp && !hasInput(p.Conn) {
		l.drop(p)
		return nil
	}
	return &conn{Conn: p.Conn, server: l.server, lot: l, source: p.source, phase: awoken}
}

// sweep closes those that waited too long (P5).
func (l *lot) sweep(now time.Duration) {
	late := func() *parked {
		l.mu.Lock()
		defer l.mu.Unlock()
		if p := l.oldest.next; p != &l.oldest && p.until <= now {
			return l.takeLocked(p)
		}
		return nil
	}
	for p := late(); p != nil; p = late() {
		l.drop(p)
	}
}

// drop closes a connection that was taken out and takes it off the counts (P4).
func (l *lot) drop(p *parked) {
	_ = p.Close()
	l.server.perSource.leave(p.source)
	l.server.conns.Add(-1)
}

// Close closes all that are parked. From now on nothing can be parked, and nothing awakes.
func (l *lot) Close() error {
	l.ending.Do(func() {
		l.mu.Lock()
		all := l.parked
		l.parked, l.oldest.prev, l.oldest.next = nil, &l.oldest, &l.oldest
		l.mu.Unlock()
		l.poll.close()
		for _, p := range all {
			l.drop(p)
		}
	})
	return nil
}

// Addr is of no connection: each has its own.
func (l *lot) Addr() net.Addr { return &net.UnixAddr{Name: "parked", Net: "unix"} }
