package conns

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"rollcall/server/reply"
)

// counts are the open connections, and their limits. Any goroutine may use it.
type counts struct {
	open    atomic.Int64 // without streams
	max     int          // with streams
	streams func() int
	sources *sources // nil: no limit
}

// admit counts a connection from an address, or says which limit is reached. source is for leave.
func (c *counts) admit(from net.Addr) (source netip.Prefix, refusal reply.Reply) {
	if c.open.Add(1)+int64(c.streams()) > int64(c.max) {
		c.open.Add(-1)
		return source, reply.TooManyConns
	}
	source, ok := c.sources.join(from)
	if !ok {
		c.open.Add(-1)
		return source, reply.TooManyConnsOfAddress
	}
	return source, reply.None
}

// leave takes a closed connection off both counts.
func (c *counts) leave(source netip.Prefix) {
	c.sources.leave(source)
	c.open.Add(-1)
}

// sources counts the open connections of each source address, streams included, from the accept
// until the descriptor is closed. It remembers only addresses with a connection, so it is never
// larger than MaxConns. Any goroutine may use it; a nil one has no limit.
type sources struct {
	limit int
	mu    sync.Mutex
	open  map[netip.Prefix]int // guarded by mu
}

func newSources(limit int) *sources {
	return &sources{limit: limit, open: make(map[netip.Prefix]int)}
}

// join counts one more connection of addr, unless it has as many as it may. What has no address, as
// over a Unix socket, is not counted: a proxy is at the other end. source is for leave.
func (s *sources) join(addr net.Addr) (source netip.Prefix, ok bool) {
	if s == nil {
		return source, true
	}
	if source = sourceOf(addr); !source.IsValid() {
		return source, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[source] >= s.limit {
		return netip.Prefix{}, false
	}
	s.open[source]++
	return source, true
}

// leave takes a connection off the count of its source.
func (s *sources) leave(source netip.Prefix) {
	if s == nil || !source.IsValid() {
		return
	}
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
func (p Place) Counted() bool { return p.sources != nil && p.source.IsValid() }

// Leave takes the connection off the count. Its owner calls it once.
func (p Place) Leave() { p.sources.leave(p.source) }

// sourceOf is what a limit counts for: one IPv4 address or one IPv6 /64, which is what one customer
// is given. All connections without an IP address, as over a Unix socket, count as one.
func sourceOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	source, _ := ip.Prefix(bits) // the zero Prefix for the zero address
	return source
}
