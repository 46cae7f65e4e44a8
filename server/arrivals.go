package server

import (
	"errors"
	"hash/maphash"
	"log/slog"
	"math"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/internal/sample"
	"rollcall/server/conns"
	"rollcall/server/reply"
)

// arrivals bounds how many new devices each address may bring. Any goroutine may use it.
type arrivals struct {
	clients  *clients
	rate     *conns.Rate
	counters *reply.Counters
	logger   *slog.Logger
	logged   sample.Second
}

// sender is the engine.Sender of one request. It lives in what is pooled for the request, so that
// no heartbeat allocates one (S5). The zero value admits everything, and is not to be passed on.
type sender struct {
	arrivals *arrivals
	ctx      *fasthttp.RequestCtx
}

// of makes the sender of a request out of s and returns it; nil: there is no bound.
func (a *arrivals) of(ctx *fasthttp.RequestCtx, s *sender) engine.Sender {
	if a == nil {
		return nil
	}
	*s = sender{a, ctx}
	return s
}

// AdmitsNew implements engine.Sender.
func (s *sender) AdmitsNew() bool {
	return s.arrivals.admits(s.arrivals.clients.addr(s.ctx))
}

// admits counts a new device of an address, and reports whether it may come in.
func (a *arrivals) admits(addr netip.Addr) bool {
	if a.rate.Allow(addr) {
		return true
	}
	refused := a.counters.Heartbeats[reply.TooManyNewDevices].Add(1)
	if a.logged.Take() {
		a.logger.Warn("new devices of an address are refused: it brings too many; known ones go on",
			"address", addr, "refused", refused)
	}
	return false
}

// addressSender is the engine.Sender of the heartbeats of an address that a loop has submitted.
// They are on their way while the loop reads others, so that it outlives its request.
type addressSender struct {
	arrivals *arrivals
	addr     netip.Addr
}

// AdmitsNew implements engine.Sender.
func (s *addressSender) AdmitsNew() bool { return s.arrivals.admits(s.addr) }

// addressSenders are those of the addresses that a loop has heard of last, so that no heartbeat
// allocates one (S5). Single owner: the loop.
type addressSenders struct {
	seed maphash.Seed
	kept [256]*addressSender
}

func (s *addressSenders) of(a *arrivals, addr netip.Addr) engine.Sender {
	k := &s.kept[maphash.Comparable(s.seed, addr)%uint64(len(s.kept))]
	if *k == nil || (*k).addr != addr {
		*k = &addressSender{a, addr}
	}
	return *k
}

// ErrLongTTL says that a device asked to be online for more than a day after its last heartbeat. It
// is served.
var ErrLongTTL = errors.New("a device asks for a ttl_ms of more than 24 hours: " +
	"without a word it stays online for as long, and is not forgotten meanwhile")

const longTTLMS = uint64(24 * time.Hour / time.Millisecond)

// ttls judges TTLs. Any goroutine may use it.
type ttls struct {
	maxMS  uint64 // Options.MaxTTL; math.MaxUint64: no limit
	logger *slog.Logger

	long   atomic.Uint64 // heartbeats with a TTL above longTTLMS that were not refused for it
	logged sample.Hour
}

func newTTLs(o *Options) *ttls {
	t := &ttls{maxMS: math.MaxUint64, logger: o.Logger}
	if o.MaxTTL > 0 {
		t.maxMS = uint64(o.MaxTTL.Milliseconds())
	}
	return t
}

// check is the last check of a heartbeat's fields.
func (t *ttls) check(hb *engine.Heartbeat) reply.Reply {
	if hb.TTLMS > t.maxMS {
		return reply.InvalidTTLMS
	}
	if hb.TTLMS > longTTLMS {
		if n := t.long.Add(1); t.logged.Take() {
			t.logger.Warn("a very long TTL", "error", ErrLongTTL, "ttl_ms", hb.TTLMS,
				"user", hb.User, "device", hb.Device, "heartbeats", n)
		}
	}
	return reply.None
}

// wholeSeconds is the Retry-After of a limit of so many per second.
func wholeSeconds(perSecond float64) string {
	return strconv.Itoa(int(math.Ceil(min(1/perSecond, 3600))))
}
