package server

import (
	"net"
	"net/netip"
	"sync"

	"rollcall/engine/broadcast"
)

// perSource counts the open connections of each source address, streams included, from the accept until the descriptor is
// closed. It remembers only addresses with a connection, so it is never larger than MaxConns. Any goroutine may use it; a
// nil one counts nobody.
type perSource struct {
	limit int
	mu    sync.Mutex
	open  map[netip.Prefix]int // guarded by mu
}

func newPerSource(limit int) *perSource {
	return &perSource{limit: limit, open: make(map[netip.Prefix]int)}
}

// join counts one more connection of addr, unless it has as many as it may. What has no address, as over a Unix socket, is
// not counted: a proxy is at the other end. source is for leave.
func (p *perSource) join(addr net.Addr) (source netip.Prefix, ok bool) {
	if p == nil {
		return source, true
	}
	if source = sourceOf(addr); !source.IsValid() {
		return source, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[source] >= p.limit {
		return netip.Prefix{}, false
	}
	p.open[source]++
	return source, true
}

// leave takes a connection off the count of its source.
func (p *perSource) leave(source netip.Prefix) {
	if p == nil || !source.IsValid() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.open[source]; n > 1 {
		p.open[source] = n - 1
	} else {
		delete(p.open, source)
	}
}

// hold makes a stream's connection keep its place in the count until the broadcaster closes it.
func (p *perSource) hold(c broadcast.Conn, source netip.Prefix) broadcast.Conn {
	if p == nil || !source.IsValid() {
		return c
	}
	return held{c, p, source}
}

// held is a stream's connection that counts for its source. Its Close is called once, whatever becomes of the stream.
type held struct {
	broadcast.Conn
	counts *perSource
	source netip.Prefix
}

func (h held) Close() error {
	defer h.counts.leave(h.source)
	return h.Conn.Close()
}
