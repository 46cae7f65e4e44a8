package conns

import (
	"net/netip"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Rate bounds how often each source address may do something. It remembers a bounded number of
// addresses; a forgotten one begins with a full burst again, which is the price of the bound. Any
// goroutine may use it.
type Rate struct {
	limit     rate.Limit
	burst     int
	addresses *lru.Cache[netip.Prefix, *rate.Limiter]
}

// NewRate allows perSecond, and burst at once, for as many addresses as it remembers.
func NewRate(perSecond float64, burst, addresses int) (*Rate, error) {
	cache, err := lru.New[netip.Prefix, *rate.Limiter](addresses)
	if err != nil {
		return nil, err
	}
	return &Rate{limit: rate.Limit(perSecond), burst: burst, addresses: cache}, nil
}

// Allow counts one of a client, by its address (a whole /64 of IPv6 counts as one), and reports
// whether it is within the rate. All clients without an address count as one.
func (r *Rate) Allow(addr netip.Addr) bool {
	source := sourceOf(addr)
	bucket, ok := r.addresses.Get(source)
	if !ok {
		bucket = rate.NewLimiter(r.limit, r.burst)
		if other, ok, _ := r.addresses.PeekOrAdd(source, bucket); ok {
			bucket = other // another request of the address came first
		}
	}
	return bucket.Allow()
}

// Addresses returns how many addresses are remembered.
func (r *Rate) Addresses() int { return r.addresses.Len() }
