package conns

import (
	"net/netip"
	"time"

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
func (r *Rate) Allow(addr netip.Addr) bool { return r.Bucket(addr).limiter.Allow() }

// Bucket returns what counts for a client's address.
func (r *Rate) Bucket(addr netip.Addr) Bucket {
	source := sourceOf(addr)
	limiter, ok := r.addresses.Get(source)
	if !ok {
		limiter = rate.NewLimiter(r.limit, r.burst)
		if other, ok, _ := r.addresses.PeekOrAdd(source, limiter); ok {
			limiter = other // another request of the address came first
		}
	}
	return Bucket{limiter}
}

// Addresses returns how many addresses are remembered.
func (r *Rate) Addresses() int { return r.addresses.Len() }

// Bucket counts what one address does when it is known only afterwards how much that is: Spend may
// lead into debt, and Debt says for how long. Any goroutine may use it; the zero value has no
// limit.
type Bucket struct{ limiter *rate.Limiter }

// Spend counts n, which is at most the burst.
func (b Bucket) Spend(n int) {
	if b.limiter != nil {
		b.limiter.ReserveN(time.Now(), n)
	}
}

// Has reports whether n may be spent without leading into debt.
func (b Bucket) Has(n int) bool { return b.limiter == nil || b.limiter.Tokens() >= float64(n) }

// Debt is how long it takes until more may be spent; 0: it may now.
func (b Bucket) Debt() time.Duration {
	if b.limiter == nil {
		return 0
	}
	if tokens := b.limiter.Tokens(); tokens < 0 {
		return time.Duration(-tokens / float64(b.limiter.Limit()) * float64(time.Second))
	}
	return 0
}
