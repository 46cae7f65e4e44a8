package conns

import (
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/sample"
)

// counts are the open connections, and their limits. Any goroutine may use it.
type counts struct {
	open    atomic.Int64 // without streams
	max     int          // with streams
	streams func() int
	sources *sources // nil: no limit
	proxies Proxies  // do not count for their address

	strangers strangers
	// strangerCut is how much earlier than IdleTimeout the wait of a stranger ends.
	strangerCut time.Duration

	badHeaders atomic.Uint64 // connections that were closed for want of a PROXY header
	logger     *slog.Logger
	logged     sample.Second // of badHeaders
}

func newCounts(c *Config) *counts {
	counts := &counts{
		max: c.MaxConns, streams: c.OpenStreams, proxies: c.Proxies, logger: c.Logger,
		strangerCut: max(0, c.IdleTimeout-c.StrangerTimeout),
	}
	counts.strangers.init()
	if c.MaxPerIP > 0 {
		counts.sources = newSources(c.MaxPerIP)
	}
	return counts
}

// admit counts a connection. Where there are as many as there may be, the stranger that waited
// longest makes room (P8); false: there is none.
func (c *counts) admit(loops *loops) bool {
	for {
		over := c.open.Add(1) + int64(c.streams()) - int64(c.max)
		if over <= 0 {
			return true
		}
		if evicting, _ := c.strangers.stats(); over <= int64(evicting) {
			return true
		}
		c.open.Add(-1)
		if !c.strangers.evict(loops) {
			return false
		}
	}
}

// noHeader notes that a connection without a PROXY header is closed.
func (c *counts) noHeader(from netip.Addr, why error) {
	c.badHeaders.Add(1)
	if c.logged.Take() {
		c.logger.Warn("a connection without a PROXY header is closed", "address", from,
			"error", why, "closed", c.badHeaders.Load())
	}
}

// join counts an admitted connection for the address of its client, unless that has as many as it
// may. A connection of a proxy belongs to all of the proxy's clients and is not counted.
func (c *counts) join(addr netip.Addr) (_ peer, ok bool) {
	if c.proxies.Trust(addr) {
		return peer{addr: addr, known: true}, true
	}
	if c.sources == nil || !addr.IsValid() {
		return peer{addr: addr}, true
	}
	ok = c.sources.join(sourceOf(addr))
	return peer{addr: addr, counted: ok}, ok
}

// leave takes a closed connection off both counts. evicted: it was closed to make room.
func (c *counts) leave(peer peer, evicted bool) {
	c.place(peer).Leave()
	if evicted {
		c.strangers.left(&c.open)
	} else {
		c.open.Add(-1)
	}
}

// place is where a peer is counted for its address.
func (c *counts) place(peer peer) (p Place) {
	if peer.counted {
		p = Place{c.sources, sourceOf(peer.addr)}
	}
	return p
}

// peer is what the other end of a connection counts as.
type peer struct {
	addr    netip.Addr // zero: none, as over a Unix socket
	counted bool       // for its address
	known   bool       // it has shown a valid token, or is a trusted proxy: no stranger
}

// sources counts the open connections of each source address, streams included, from the accept
// until the descriptor is closed. It remembers only addresses with a connection, so it is never
// larger than MaxConns. Any goroutine may use it.
type sources struct {
	limit int
	mu    sync.Mutex
	open  map[netip.Prefix]int // guarded by mu
}

func newSources(limit int) *sources {
	return &sources{limit: limit, open: make(map[netip.Prefix]int)}
}

// join counts one more connection of a source, unless it has as many as it may.
func (s *sources) join(source netip.Prefix) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[source] >= s.limit {
		return false
	}
	s.open[source]++
	return true
}

// leave takes a connection off the count of its source.
func (s *sources) leave(source netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.open[source]; n > 1 {
		s.open[source] = n - 1
	} else {
		delete(s.open, source)
	}
}

// Place is the place of a released connection in the count of its source address. The zero Place is
// not counted.
type Place struct {
	sources *sources
	source  netip.Prefix
}

// Counted reports whether there is anything to leave.
func (p Place) Counted() bool { return p.sources != nil }

// Leave takes the connection off the count. Its owner calls it once.
func (p Place) Leave() {
	if p.Counted() {
		p.sources.leave(p.source)
	}
}
