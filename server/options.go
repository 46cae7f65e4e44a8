package server

import (
	"crypto/tls"
	"log/slog"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/engine"
	"rollcall/internal/option"
	"rollcall/server/conns"
)

// minHeaderBytes is the least MaxHeaderBytes that is of use.
const minHeaderBytes = 512

// maxUsersPerStream bounds Options.MaxUsersPerStream: a body may have 64 bytes for each.
const maxUsersPerStream = 10_000

// Options of a Server. Its zero value works, but answers no heartbeat and no stream.
type Options struct {
	// IngestTokens are the bearer tokens that a heartbeat may carry; several while a token is
	// rotated. SetSecrets replaces them and the keys. Default: none, and heartbeats are answered
	// 503.
	IngestTokens []string
	// SigningKeys verify stream tokens; any may have signed. Default: none, and streams are
	// answered 503.
	SigningKeys []string
	// TokenExpiryIgnore lets a stream outlive its token. An expired token still opens none.
	TokenExpiryIgnore bool
	// Clock is the engine's clock: a stream ends with its token at an instant of it. Required with
	// SigningKeys, now or later, unless TokenExpiryIgnore is set. Default: a clock of its own.
	Clock engine.Clock

	// StreamQueryToken also takes a stream's token from the query, access_token=, when there is no
	// Authorization header: a browser's EventSource cannot set one. URLs end in the logs of
	// proxies; ours has none of them.
	StreamQueryToken bool
	// StreamRefusalStatus answers 503 also to an EventSource whose stream is refused for now: while
	// draining, over a limit. By default it is answered 200 with the time to come back and the end
	// of the stream, since an EventSource that gets another status never comes back.
	StreamRefusalStatus bool
	// CORSOrigins are the web origins whose pages may read the answers, as browsers send them:
	// scheme://host[:port]. Default: all, as with "*" alone.
	CORSOrigins []string

	// AdminTokens are the bearer tokens of which an operator's request needs one, but for the
	// probes. Default: none, and every request that reaches the operators' listener is answered.
	AdminTokens []string
	// AdminHosts are names under which the operators' routes may be asked for, without ports,
	// beside addresses and localhost. Any other name may be one that a web site points here.
	// Default: none.
	AdminHosts []string
	// MetricsOpen opens /metrics to requests without an admin token, for a scraper that has none.
	MetricsOpen bool
	// MintOpen gives the page stream tokens though there is no admin token. For development.
	MintOpen bool

	// Cluster answers operators at /clusterz. Default: none, and it is answered 404.
	Cluster http.Handler

	// TLS is what the public listeners speak; handshakes are made by the connections' goroutines,
	// under ReadTimeout. Default: HTTP without it.
	TLS *tls.Config
	// Production switches /debug/presence, /debug/users and /debug/token off.
	Production bool

	// TrustedProxies are the proxies in front of the server: addresses, networks such as
	// 10.0.0.0/8, and "unix" for the peers over a Unix socket. The address of a request from one of
	// them is the rightmost of its X-Forwarded-For, or Forwarded, that is not of the list. Default:
	// none, and the address is the peer's.
	TrustedProxies []string

	// ProxyProtocol says that the proxies send a PROXY protocol header, version 1 or 2, in front of
	// each connection: TrustedProxies, or every peer where none is given. A connection without one
	// is closed. Default: connections begin with a request, or with TLS.
	ProxyProtocol bool

	// RatePerIP is how many heartbeats per second one source address may send, an IPv6 /64 being
	// one address. Behind a proxy it needs TrustedProxies, else the proxy is the source of
	// everything. Default: no limit.
	RatePerIP float64
	// NewDevicesPerIP is how many devices that are not known yet one source address may bring per
	// second, and, rounded up, at once; an IPv6 /64 is one address. One more is answered 429. Known
	// devices go on. Default: no limit.
	NewDevicesPerIP float64
	// MaxTTL is the longest TTL of a heartbeat; one with more is answered 400. Default: 0, no
	// limit; the first TTL above 24 hours in an hour is logged.
	MaxTTL time.Duration
	// RateBurst is how many heartbeats an address may send at once. Raise it where many daemons
	// share an address. Default: RatePerIP rounded up.
	RateBurst int
	// UnpackRatePerIP is how many bytes per second the packed bodies of one source address may
	// unpack to; once they are more, packed ones are answered 429 until it is even again. A
	// second's worth may come at once, or one batch. Bodies that are not packed do not count.
	// Default: no limit.
	UnpackRatePerIP int
	// RateAddresses is how many addresses each limiter remembers; the least recently seen one is
	// forgotten first and begins anew. Default: 65,536, some 20 MB.
	RateAddresses int

	// MaxBatch is how many heartbeats one batch may have. An answer waits for all of them, so more
	// make it later. Default: 10,000.
	MaxBatch int

	// MaxUsersPerStream is how many users one stream may follow, 10,000 at most. A longer list is
	// answered 413. Default: 1,000.
	MaxUsersPerStream int

	// MaxConns is how many connections there may be, streams included if OpenStreams is set; one
	// more is answered 503. One that is not a stream costs some 0.3 KB while it waits in a
	// loop, else 18 KB. Keep it below the descriptor limit: what the log needs must be left.
	// Default: 262,144.
	MaxConns int
	// MaxConnsPerIP is how many connections, streams included, one source address may have, an IPv6
	// /64 being one address. The connections of TrustedProxies do not count, the streams over them
	// count for their clients' addresses. Default: no limit.
	MaxConnsPerIP int
	// Loops is how many event loops serve plain heartbeats: whole, valid ones, on connections that
	// have sent one before. Each wants a thread of its own, so raise GOMAXPROCS by as many. Less
	// than 0: none does, and each request has a goroutine. Elsewhere than on Linux there are none.
	// Default: DefaultLoops.
	Loops int
	// OpenStreams is how many streams there are now. Default: they are not counted.
	OpenStreams func() int
	// MaxHeaderBytes bounds a request's line and headers; a larger head is answered 431. It is the
	// read buffer of each connection that is not idle. Raise it when cookies or a proxy need more.
	// At least 512. Default: 16,384.
	MaxHeaderBytes int
	// ReadTimeout bounds the reading of one request, from its first byte on (of a new connection
	// from the accept on). Default: 10s.
	ReadTimeout time.Duration
	// WriteTimeout bounds the writing of one answer; it does not concern streams. Default: 10s.
	WriteTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request, up to two seconds more
	// when it is suspended meanwhile. Set it above the daemons' interval. Default: 3m.
	IdleTimeout time.Duration
	// StrangerTimeout is how long it is for a connection that has shown no valid token, where that
	// is shorter. Default: 10s.
	StrangerTimeout time.Duration
	idleAfter       time.Duration // conns.DefaultIdleAfter but in tests
	maxBodies       int           // the constant but in tests
	bodyGrace       time.Duration // the constant but in tests
	maxSlabs        int           // the constant but in tests

	// Registry gets the server's metrics and is what /metrics shows. Default: a new one.
	Registry *prometheus.Registry
	// Logger takes what operators should know. Default: slog.Default().
	Logger *slog.Logger
}

// Check reports every problem of the options at once, as New does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults fills what is unset and reports every problem at once.
func (o Options) withDefaults() (Options, error) {
	p := option.Problems{Package: "server"}
	o.check(&p)
	if o.Clock == nil {
		o.Clock = engine.NewClock()
	}
	if o.OpenStreams == nil {
		o.OpenStreams = func() int { return 0 }
	}
	option.Default(&o.RateBurst, int(math.Ceil(min(o.RatePerIP, math.MaxInt32))))
	option.Default(&o.RateAddresses, 1<<16)
	option.Default(&o.Loops, DefaultLoops(runtime.GOMAXPROCS(0)))
	option.Default(&o.MaxBatch, 10_000)
	option.Default(&o.MaxUsersPerStream, 1000)
	option.Default(&o.MaxConns, 1<<18)
	option.Default(&o.MaxHeaderBytes, 16<<10)
	option.Default(&o.ReadTimeout, 10*time.Second)
	option.Default(&o.WriteTimeout, 10*time.Second)
	option.Default(&o.IdleTimeout, 3*time.Minute)
	option.Default(&o.StrangerTimeout, 10*time.Second)
	option.Default(&o.idleAfter, conns.DefaultIdleAfter)
	option.Default(&o.maxBodies, maxBodies)
	option.Default(&o.bodyGrace, bodyGrace)
	option.Default(&o.maxSlabs, maxSlabs)
	option.Default(&o.Logger, slog.Default())
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	return o, p.Err()
}

// check collects the problems of the options as they were given.
func (o Options) check(p *option.Problems) {
	if !slices.Equal(o.CORSOrigins, []string{"*"}) {
		for _, origin := range o.CORSOrigins {
			p.Add(checkOrigin(origin))
		}
	}
	p.When(len(o.SigningKeys) > 0 && o.Clock == nil && !o.TokenExpiryIgnore,
		"Clock is missing: streams end with their tokens by the engine's clock")
	option.NotNegative(p, "RatePerIP", o.RatePerIP)
	p.When(math.IsInf(o.RatePerIP, 1), "RatePerIP is %v: it must have an end", o.RatePerIP)
	option.NotNegative(p, "NewDevicesPerIP", o.NewDevicesPerIP)
	p.When(math.IsInf(o.NewDevicesPerIP, 1), "NewDevicesPerIP is %v: it must have an end",
		o.NewDevicesPerIP)
	option.NotNegative(p, "MaxTTL", o.MaxTTL)
	p.When(0 < o.MaxTTL && o.MaxTTL < time.Millisecond,
		"MaxTTL is %v: a TTL has a millisecond at least", o.MaxTTL)
	option.NotNegative(p, "RateBurst", o.RateBurst)
	option.NotNegative(p, "UnpackRatePerIP", o.UnpackRatePerIP)
	option.NotNegative(p, "RateAddresses", o.RateAddresses)
	option.NotNegative(p, "MaxBatch", o.MaxBatch)
	option.NotNegative(p, "MaxUsersPerStream", o.MaxUsersPerStream)
	p.When(o.MaxUsersPerStream > maxUsersPerStream, "MaxUsersPerStream is %d: it may be %d",
		o.MaxUsersPerStream, maxUsersPerStream)
	option.NotNegative(p, "MaxConns", o.MaxConns)
	option.NotNegative(p, "MaxConnsPerIP", o.MaxConnsPerIP)
	p.When(o.MaxHeaderBytes != 0 && o.MaxHeaderBytes < minHeaderBytes,
		"MaxHeaderBytes is %d: a heartbeat's head needs %d", o.MaxHeaderBytes, minHeaderBytes)
	option.NotNegative(p, "ReadTimeout", o.ReadTimeout)
	option.NotNegative(p, "WriteTimeout", o.WriteTimeout)
	option.NotNegative(p, "IdleTimeout", o.IdleTimeout)
	option.NotNegative(p, "StrangerTimeout", o.StrangerTimeout)
	_, err := conns.ParseProxies(o.TrustedProxies)
	p.When(err != nil, "TrustedProxies: %w", err)
	p.Add(checkSecrets(o.IngestTokens, o.SigningKeys, o.AdminTokens))
	for _, host := range o.AdminHosts {
		p.When(host == "" || strings.ContainsAny(host, "/:*@ \t"),
			"AdminHosts has %q: names are meant, without scheme, port or wildcard", host)
	}
}
