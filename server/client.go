package server

import (
	"bytes"
	"net/netip"

	"github.com/valyala/fasthttp"

	"rollcall/server/conns"
)

// clients tells who sent a request, for limits and log lines. Any goroutine may use it.
type clients struct{ proxies conns.Proxies }

// addr returns the address of the client of a request. Zero: it has none, as over a Unix socket.
//
// It is the peer's, unless the peer is a trusted proxy. A proxy appends the address of its own peer
// to X-Forwarded-For or Forwarded (RFC 7239), and anything to the left of it came with the request:
// so the list is read from its right end, past those that are trusted too, to the first that is
// not. Where it cannot be read it ends. A request that has both headers, and for two clients, has
// one of them from the client itself, and counts as the proxy's own.
func (c *clients) addr(ctx *fasthttp.RequestCtx) netip.Addr {
	return c.of(conns.Peer(ctx.Conn()), &ctx.Request.Header)
}

// of is addr for a request from a peer with these headers.
func (c *clients) of(peer netip.Addr, h *fasthttp.RequestHeader) netip.Addr {
	if !c.proxies.Trust(peer) {
		return peer
	}
	client, given := c.farthest(h.PeekAll(fasthttp.HeaderXForwardedFor), parseNode)
	other, alsoGiven := c.farthest(h.PeekAll(fasthttp.HeaderForwarded), parseForwarded)
	if !given {
		client = other
	}
	if !client.IsValid() || given && alsoGiven && client != other {
		return peer
	}
	return client
}

// farthest follows the hops of a header from its right end, as far as proxies are trusted. Zero:
// there is no header, which is not given then, or its last hop cannot be read.
func (c *clients) farthest(values [][]byte, parse func([]byte) (netip.Addr, bool)) (
	client netip.Addr, given bool) {
	for n := len(values) - 1; n >= 0; n-- {
		for rest, more := values[n], true; more; {
			hop := rest
			comma := bytes.LastIndexByte(rest, ',')
			if more = comma >= 0; more {
				rest, hop = rest[:comma], rest[comma+1:]
			}
			addr, ok := parse(bytes.TrimSpace(hop))
			if !ok {
				return client, true
			}
			if client = addr; !c.proxies.Trust(addr) {
				return client, true
			}
		}
	}
	return client, len(values) > 0
}

// parseForwarded reads the for= of one element of Forwarded.
func parseForwarded(element []byte) (addr netip.Addr, ok bool) {
	for pair := range bytes.SplitSeq(element, []byte(";")) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(pair), []byte("="))
		if !bytes.EqualFold(name, []byte("for")) {
			continue
		}
		if ok { // twice
			return netip.Addr{}, false
		}
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		if addr, ok = parseNode(value); !ok {
			return addr, false
		}
	}
	return addr, ok
}

// parseNode reads an address, with or without a port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1,
// [2001:db8::1] and [2001:db8::1]:80. Names, such as unknown, are none.
func parseNode(node []byte) (netip.Addr, bool) {
	const longest = len("[1234:5678:1234:5678:1234:5678:255.255.255.255]:65535")
	if len(node) > longest {
		return netip.Addr{}, false
	}
	text := string(node)
	addr, err := netip.ParseAddr(text)
	if err != nil {
		if n := len(text); n > 2 && text[0] == '[' && text[n-1] == ']' {
			text += ":0"
		}
		var withPort netip.AddrPort
		withPort, err = netip.ParseAddrPort(text)
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone(""), err == nil
}
