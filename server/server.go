package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/wire"
)

// ErrClosed is returned by Serve and ServeAdmin after Shutdown.
var ErrClosed = errors.New("server: closed")

// Presence is what the server needs of the engine. All methods may be called from any goroutine.
type Presence interface {
	// Heartbeat applies a heartbeat and returns when the answer may be given. It keeps nothing of hb.
	Heartbeat(hb *engine.Heartbeat) engine.Result
	// NewBatch returns an empty batch of heartbeats.
	NewBatch() engine.Batch
	// Stale tells whether a heartbeat would be refused as stale now; nothing is applied.
	Stale(hb *engine.Heartbeat) bool
	// Take takes the socket out of a connection.
	Take(c net.Conn) (broadcast.Conn, error)
	// Subscribe starts a stream. On an error, those of package broadcast and engine.ErrNotMine among
	// them, the caller still owns the connection.
	Subscribe(s broadcast.Subscription) error
	// Records returns what is known of a user's devices.
	Records(user uuid.UUID) ([]engine.Record, error)
	// Streams is how many streams follow a user now.
	Streams(user uuid.UUID) int
	// Ready returns nil, or why the engine does not serve.
	Ready() error
}

// Server answers daemons, watchers and operators. Make one with New. Its methods may be called from any goroutine.
type Server struct {
	opts     Options
	presence Presence

	// secrets is never nil. SetSecrets stores it; each check of a request loads it.
	secrets    atomic.Pointer[secrets]
	origins    originSet
	limiter    *limiter   // nil: no limit
	perSource  *perSource // nil: no limit
	retryAfter string     // of a heartbeat over the rate, seconds
	metrics    metrics
	refusals   seldom // when the last refused heartbeat was logged
	unparked   seldom // when the last connection that could not be parked was

	public *fasthttp.Server
	admin  *http.Server

	conns      atomic.Int64 // open connections of the public listeners
	turnedAway atomic.Int64 // of those over a limit, how many are still reading so
	unpacking  atomic.Int64 // compressed batches that are being read
	draining   atomic.Bool  // Shutdown began; /readyz tells

	mu        sync.Mutex
	listeners []*listener // guarded by mu
	lot       *lot        // made by the first Serve, if anything can be parked; guarded by mu
	closed    bool        // guarded by mu
}

// New makes a server on p. It reports every problem of the options at once.
func New(p Presence, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, presence: p, origins: newOriginSet(o.CORSOrigins)}
	if err := s.SetSecrets(o.IngestTokens, o.SigningKeys); err != nil {
		return nil, err
	}
	if o.RatePerIP > 0 {
		s.retryAfter = strconv.Itoa(int(math.Ceil(min(1/o.RatePerIP, 3600))))
		if s.limiter, err = newLimiter(o.RatePerIP, o.RateBurst, o.RateAddresses); err != nil {
			return nil, fmt.Errorf("server: rate limiter: %w", err)
		}
	}
	if o.MaxConnsPerIP > 0 {
		s.perSource = newPerSource(o.MaxConnsPerIP)
	}
	if err := o.Registry.Register(collector{s}); err != nil {
		return nil, fmt.Errorf("server: metrics: %w", err)
	}
	s.public = &fasthttp.Server{
		Handler:            s.routes(),
		ErrorHandler:       s.refuse,
		Logger:             debugLogger{o.Logger},
		ReadBufferSize:     o.MaxHeaderBytes,
		ReadTimeout:        o.ReadTimeout,
		WriteTimeout:       o.WriteTimeout,
		IdleTimeout:        o.IdleTimeout,
		MaxRequestBodySize: wire.MaxBodyBytes,
		Concurrency:        2*o.MaxConns + 1024, // never reached: the listener answers above MaxConns, in JSON

		StreamRequestBody:            true, // so that the route and the token come before the body (S2)
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		LazyRequestTime:              true,
		KeepHijackedConns:            true,
		CloseOnShutdown:              true,
		ConnState:                    followConn,
	}
	s.admin = &http.Server{
		Handler:           s.adminRoutes(),
		ReadHeaderTimeout: o.ReadTimeout,
		IdleTimeout:       o.IdleTimeout,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Serve answers daemons and watchers on ln, which it closes, until Shutdown or a failure of the listener. ln may be a
// tls.Listener: handshakes are made by the connections' goroutines, under ReadTimeout.
func (s *Server) Serve(ln net.Listener) error {
	l := newListener(ln, s)
	if err := s.track(l); err != nil {
		return err
	}
	if err := s.public.Serve(l); err != nil {
		return fmt.Errorf("server: accept: %w", err)
	}
	return ErrClosed
}

// ServeAdmin answers operators on ln, which it closes, until Shutdown or a failure of the listener.
func (s *Server) ServeAdmin(ln net.Listener) error {
	err := s.admin.Serve(retryListener(ln, s.opts.Logger))
	if errors.Is(err, http.ErrServerClosed) {
		return ErrClosed
	}
	return fmt.Errorf("server: accept: %w", err)
}

// track notes a listener for Shutdown to close, and gives it the lot, which all listeners share. With an error, ErrClosed after
// Shutdown, it closes the listener.
func (s *Server) track(l *listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = l.Close()
		return ErrClosed
	}
	if s.lot == nil {
		lot, err := newLot(s)
		if err != nil {
			_ = l.Close()
			return fmt.Errorf("server: park idle connections: %w", err)
		}
		if lot != nil {
			s.lot = lot
			go lot.serve(s.public)
		}
	}
	l.lot = s.lot
	s.listeners = append(s.listeners, l)
	return nil
}

// Shutdown stops accepting, closes the parked connections, answers the requests in flight and closes the other connections;
// then the operators' listener goes too. Streams are the engine's: drain it first. An error is ctx's: requests are still in
// flight.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	s.closed = true
	for _, l := range s.listeners { // fasthttp would miss one whose Serve has just begun
		_ = l.Close()
	}
	lot := s.lot
	s.mu.Unlock()
	if lot != nil {
		_ = lot.Close()
		defer func() { <-lot.done }()
	}
	return errors.Join(s.public.ShutdownWithContext(ctx), s.admin.Shutdown(ctx))
}

// refuse answers a request that fasthttp could not read. The connection is closed afterwards.
func (s *Server) refuse(ctx *fasthttp.RequestCtx, err error) {
	s.allow(ctx)
	s.answer(ctx, unreadable(err))
	hangUp(ctx)
}

// unreadable is the reply to a request that could not be read to its end.
func unreadable(err error) reply {
	var timeout interface{ Timeout() bool }
	var small *fasthttp.ErrSmallBuffer
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return requestTimeout
	case errors.As(err, &small):
		return headerTooLarge
	}
	return malformedRequest
}

// hangUp closes the connection behind the answer, but so that a client that is still sending can read it.
func hangUp(ctx *fasthttp.RequestCtx) {
	ctx.SetConnectionClose()
	if c, ok := ctx.Conn().(*conn); ok {
		c.linger.Store(true)
	}
}

// debugLogger takes fasthttp's own messages. They tell of clients, not of us, and every connection can cause one. Its
// errors quote what they could not read, SecureErrorLogMessage or not, and that may be a line with a token: they end at
// the quote.
type debugLogger struct{ *slog.Logger }

func (l debugLogger) Printf(format string, args ...any) {
	if !l.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if err, ok := arg.(error); ok {
			args[i], _, _ = strings.Cut(err.Error(), `"`)
		}
	}
	l.Debug(fmt.Sprintf(format, args...), "from", "fasthttp")
}

// seldom lets one through per second. Any goroutine may use it.
type seldom struct{ last atomic.Int64 }

func (s *seldom) now() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last >= int64(time.Second) && s.last.CompareAndSwap(last, now)
}
