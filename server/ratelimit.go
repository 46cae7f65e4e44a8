package server

import (
	"net"
	"net/netip"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// limiter bounds the heartbeats per second of each source address. It remembers a bounded number of addresses; a
// forgotten one begins with a full burst again, which is the price of the bound (S6). Any goroutine may use it.
type limiter struct {
	rate      rate.Limit
	burst     int
	addresses *lru.Cache[netip.Prefix, *rate.Limiter]
}

func newLimiter(perSecond float64, burst, addresses int) (*limiter, error) {
	cache, err := lru.New[netip.Prefix, *rate.Limiter](addresses)
	if err != nil {
		return nil, err
	}
	return &limiter{rate: rate.Limit(perSecond), burst: burst, addresses: cache}, nil
}

// allow counts one heartbeat of addr and reports whether it is within the rate.
func (l *limiter) allow(addr net.Addr) bool {
	source := sourceOf(addr)
	bucket, ok := l.addresses.Get(source)
	if !ok {
		bucket = rate.NewLimiter(l.rate, l.burst)
		if other, ok, _ := l.addresses.PeekOrAdd(source, bucket); ok {
			bucket = other // another request of the address came first
		}
	}
	return bucket.Allow()
}

// sourceOf is whom a limit counts for: one IPv4 address or one IPv6 /64, which is what one customer is given. All that
// come without an IP address, as over a Unix socket, count as one.
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
