package conns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are the peers that say for whom they speak. The zero value has none. It is not changed
// after ParseProxies, so any goroutine may use it.
type Proxies struct {
	networks []netip.Prefix
	unix     bool // the peers over a Unix socket
}

// unixProxies is the word for the peers over a Unix socket, which have no address.
const unixProxies = "unix"

// ParseProxies reads a list of addresses, networks in CIDR notation and the word "unix". It reports
// every problem at once.
func ParseProxies(list []string) (p Proxies, err error) {
	var problems []error
	for _, text := range list {
		text = strings.TrimSpace(text)
		if text == unixProxies {
			p.unix = true
			continue
		}
		network, err := netip.ParsePrefix(text)
		if addr, e := netip.ParseAddr(text); e == nil {
			network, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			problems = append(problems, fmt.Errorf(
				"%q is no address, no network such as 10.0.0.0/8, and not %q", text, unixProxies))
			continue
		}
		if at := network.Addr(); at.Is4In6() && network.Bits() >= 96 {
			network = netip.PrefixFrom(at.Unmap(), network.Bits()-96)
		}
		p.networks = append(p.networks, network.Masked())
	}
	return p, errors.Join(problems...)
}

// None reports whether the list is empty.
func (p *Proxies) None() bool { return !p.unix && len(p.networks) == 0 }

// Trust reports whether the peer at an address is one of them. The zero address is a peer over a
// Unix socket.
func (p *Proxies) Trust(addr netip.Addr) bool {
	if !addr.IsValid() {
		return p.unix
	}
	return slices.ContainsFunc(p.networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// addrOf returns the IP address of one end of a connection: an IPv4 one as such, and without a
// zone. Zero: it has none, as over a Unix socket.
func addrOf(end net.Addr) netip.Addr {
	tcp, ok := end.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// sourceOf is what a limit counts for: one IPv4 address or one IPv6 /64, which is what one customer
// is given. All connections without an IP address, as over a Unix socket, count as one.
func sourceOf(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	source, _ := addr.Prefix(bits) // the zero Prefix for the zero address
	return source
}
