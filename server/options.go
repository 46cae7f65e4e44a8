package server

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options of a Server. Every zero value is the default that its comment names.
type Options struct {
	// IngestTokens are the bearer tokens that a heartbeat may carry; several while a token is rotated. None: heartbeats
	// are answered 503. SetSecrets replaces them and the keys.
	IngestTokens []string
	// SigningKeys verify stream tokens; any may have signed. None: streams are answered 503.
	SigningKeys []string
	// TokenExpiryIgnore lets a stream outlive its token. An expired token still opens none.
	TokenExpiryIgnore bool
	// NowNanos is the engine's clock, monotonic nanoseconds, for the instant at which a stream's token ends. Required
	// with SigningKeys, now or later, unless TokenExpiryIgnore is set.
	NowNanos func() int64
	// Now is the wall clock that tokens are judged by: time.Now.
	Now func() time.Time

	// StreamQueryToken also takes a stream's token from the query, access_token=, when there is no Authorization header:
	// a browser's EventSource cannot set one. URLs end in the logs of proxies; ours has none of them.
	StreamQueryToken bool
	// CORSOrigins are the web origins whose pages may read the answers, as browsers send them: scheme://host[:port]. None,
	// or "*" alone: all.
	CORSOrigins []string

	// TLS says that the public listeners speak it, so that the page asks there for the stream.
	TLS bool
	// Production switches /debug/presence and /debug/token off.
	Production bool

	// RatePerIP is how many heartbeats per second one source address may send, an IPv6 /64 being one address: 0, any
	// number. Leave it off behind a proxy, which is the source of everything.
	RatePerIP float64
	// RateBurst is how many heartbeats an address may send at once: RatePerIP rounded up. Raise it where many daemons
	// share an address.
	RateBurst int
	// RateAddresses is how many addresses the limiter remembers; the least recently seen one is forgotten first and
	// begins anew: 65,536, some 20 MB.
	RateAddresses int

	// MaxBatch is how many heartbeats one batch may have: 10,000. An answer waits for all of them, so more make it later.
	MaxBatch int

	// MaxConns is how many connections there may be, streams included if OpenStreams is set; one more is answered 503:
	// 262,144. One that is not a stream costs some 2.5 KB while it is parked, else 18 KB. Keep it below the descriptor limit:
	// what the log needs must be left.
	MaxConns int
	// MaxConnsPerIP is how many connections, streams included, one source address may have, an IPv6 /64 being one
	// address: 0, any number. Leave it off behind a proxy, which is the source of everything.
	MaxConnsPerIP int
	// OpenStreams is how many streams there are now. Nil: they are not counted.
	OpenStreams func() int
	// MaxHeaderBytes bounds a request's line and headers, and is each connection's read buffer: 4,096. Raise it when a
	// proxy adds more.
	MaxHeaderBytes int
	// ReadTimeout bounds the reading of one request, from its first byte on (of a new connection from the accept on):
	// 10 s.
	ReadTimeout time.Duration
	// WriteTimeout bounds the writing of one answer; it does not concern streams: 10 s.
	WriteTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request, up to two seconds more when it is parked: 3 min.
	// Set it above the daemons' interval.
	IdleTimeout time.Duration
	parkAfter   time.Duration // defaultParkAfter; tests are in a hurry. From IdleTimeout on nothing is parked

	// Registry gets the server's metrics and is what /metrics shows: a new one.
	Registry *prometheus.Registry
	// Logger: slog.Default().
	Logger *slog.Logger
}

// withDefaults fills what is unset and reports every problem at once.
func (o Options) withDefaults() (Options, error) {
	err := o.Check()
	setDefault(&o.Now, time.Now, o.Now == nil)
	setDefault(&o.RateBurst, int(math.Ceil(min(o.RatePerIP, math.MaxInt32))), o.RateBurst == 0)
	setDefault(&o.RateAddresses, 1<<16, o.RateAddresses == 0)
	setDefault(&o.OpenStreams, func() int { return 0 }, o.OpenStreams == nil)
	setDefault(&o.MaxBatch, 10_000, o.MaxBatch == 0)
	setDefault(&o.MaxConns, 1<<18, o.MaxConns == 0)
	setDefault(&o.MaxHeaderBytes, 4096, o.MaxHeaderBytes == 0)
	setDefault(&o.ReadTimeout, 10*time.Second, o.ReadTimeout == 0)
	setDefault(&o.WriteTimeout, 10*time.Second, o.WriteTimeout == 0)
	setDefault(&o.IdleTimeout, 3*time.Minute, o.IdleTimeout == 0)
	setDefault(&o.parkAfter, defaultParkAfter, o.parkAfter == 0)
	setDefault(&o.Registry, prometheus.NewRegistry(), o.Registry == nil)
	setDefault(&o.Logger, slog.Default(), o.Logger == nil)
	return o, err
}

func setDefault[T any](field *T, value T, unset bool) {
	if unset {
		*field = value
	}
}

// Check reports every problem of the options at once, as New does.
func (o Options) Check() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf("server: "+format, args...))
		}
	}
	if !slices.Equal(o.CORSOrigins, []string{"*"}) {
		for _, origin := range o.CORSOrigins {
			errs = append(errs, checkOrigin(origin))
		}
	}
	refuse(len(o.SigningKeys) > 0 && o.NowNanos == nil && !o.TokenExpiryIgnore, "Options.NowNanos is missing")
	refuse(!(o.RatePerIP >= 0) || math.IsInf(o.RatePerIP, 1), "RatePerIP cannot be %v", o.RatePerIP)
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"RateBurst", int64(o.RateBurst)}, {"RateAddresses", int64(o.RateAddresses)}, {"MaxBatch", int64(o.MaxBatch)},
		{"MaxConns", int64(o.MaxConns)}, {"MaxConnsPerIP", int64(o.MaxConnsPerIP)},
		{"MaxHeaderBytes", int64(o.MaxHeaderBytes)}, {"ReadTimeout", int64(o.ReadTimeout)},
		{"WriteTimeout", int64(o.WriteTimeout)}, {"IdleTimeout", int64(o.IdleTimeout)},
	} {
		refuse(f.value < 0, "%s cannot be negative", f.name)
	}
	return errors.Join(append(errs, checkSecrets(o.IngestTokens, o.SigningKeys))...)
}
