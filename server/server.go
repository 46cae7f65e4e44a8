package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/cursor"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/server/admin"
	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/wire"
)

// ErrClosed is returned by Serve and ServeAdmin after Close.
var ErrClosed = errors.New("server: closed")

// ErrHeadTooLarge is logged, once a second at most, when requests are refused because their line
// and headers are larger than MaxHeaderBytes.
var ErrHeadTooLarge = errors.New("server: the head of a request is too large")

// Presence is what the server needs of the engine. All methods may be called from any goroutine.
type Presence interface {
	// Heartbeat applies a heartbeat and returns when the answer may be given. It keeps nothing of
	// hb.
	Heartbeat(hb *engine.Heartbeat) engine.Result
	// NewBatch returns an empty batch. One goroutine has it until its Release.
	NewBatch() engine.Batch
	// Kick has what batches applied so far committed, and does not wait for it.
	Kick()
	// NewGroup returns what applies heartbeats for one event loop, or nil: NewLater may do that.
	NewGroup() engine.Group
	// NewLater returns what takes the heartbeats of one event loop, or nil. Without either there
	// are no loops.
	NewLater() engine.Later
	// Stale reports whether a heartbeat would be refused as stale now; nothing is applied.
	Stale(hb *engine.Heartbeat) bool
	// Take takes the socket out of a connection.
	Take(c net.Conn) (broadcast.Conn, error)
	// Subscribe starts a stream. On an error, those of package broadcast among them, the caller
	// still owns the connection.
	Subscribe(s broadcast.Subscription) error
	// Renew moves the end of a stream, whose id is as in its head, if fits says that it may be. The
	// errors are broadcast.ErrNoStream and ErrUnfit, and engine.ErrNotMine: another node may have
	// it.
	Renew(name string, expiresNanos int64, fits broadcast.Fits) error
	// History says which cursors are honoured.
	History() *cursor.History
	// Retry is when a client whose stream was refused should come back.
	Retry() time.Duration
	// Devices returns what is known of the user's devices with the lowest ids above after, at most
	// limit, and whether there are more.
	Devices(user, after uuid.UUID, limit int) (page []engine.Device, more bool, err error)
	// Users calls fn for each of the users in their order; nothing may be shown before it returns
	// nil. fn keeps nothing of u. engine.ErrTooManyDevicesAsked: they have more than limit devices.
	Users(ids []uuid.UUID, limit int, fn func(u *engine.User)) error
	// Turned returns when the number of a user's devices online changed last, in unix milliseconds,
	// 0 for never, and whether one is online.
	Turned(user uuid.UUID) (atMS uint64, online bool)
	// Recent lists users by their last change, and is over early when ctx is.
	Recent(ctx context.Context, q engine.UserQuery) ([]engine.ListedUser, error)
	// Streams is how many streams follow a user now.
	Streams(user uuid.UUID) int
	// Ready returns nil, or why the engine does not serve.
	Ready() error
}

// Server answers daemons, watchers and operators. Make one with New. It joins the handlers, and any
// goroutine may call its methods.
type Server struct {
	presence Presence
	secrets  secrets
	counters reply.Counters
	conns    *conns.Conns
	places   *places
	memory   *slabs // of answers to queries
	recent   *recentLists
	logger   *slog.Logger
	draining atomic.Bool // Close has begun; /readyz says so

	public *fasthttp.Server
	admin  *http.Server

	adminConns *admin.Conns
}

const (
	// AdminConns is how many connections operators may have.
	AdminConns = admin.MaxConns
	// maxAdminHeader bounds the head of an operator's request, in bytes.
	maxAdminHeader = 16 << 10
)

// New makes a server on p. It reports every problem of the options at once.
func New(p Presence, o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{presence: p, logger: o.Logger}
	if err := s.SetSecrets(o.IngestTokens, o.SigningKeys, o.AdminTokens); err != nil {
		return nil, err
	}
	a := &answers{
		counters:  &s.counters,
		headBytes: o.MaxHeaderBytes,
		origins:   newOrigins(o.CORSOrigins),
		draining:  &s.draining,
		clock:     o.Clock,
		logger:    o.Logger,
	}
	proxies, err := conns.ParseProxies(o.TrustedProxies)
	if err != nil {
		return nil, fmt.Errorf("server: TrustedProxies: %w", err)
	}
	var rate, unpacks *conns.Rate
	if o.RatePerIP > 0 {
		a.retryAfter = wholeSeconds(o.RatePerIP)
		if rate, err = conns.NewRate(o.RatePerIP, o.RateBurst, o.RateAddresses); err != nil {
			return nil, fmt.Errorf("server: rate limiter: %w", err)
		}
	}
	if n := o.UnpackRatePerIP; n > 0 {
		burst := max(n, wire.MaxBatchBytes)
		if unpacks, err = conns.NewRate(float64(n), burst, o.RateAddresses); err != nil {
			return nil, fmt.Errorf("server: rate limiter: %w", err)
		}
	}
	s.places = newPlaces(o.maxBodies, o.bodyGrace, p.Kick)
	s.memory = newSlabs(o.maxSlabs)
	s.recent = newRecentLists(maxRecentBytes)
	who := &clients{proxies}
	one := &heartbeats{
		presence: p, secrets: &s.secrets, answers: a, clients: who, rate: rate, unpacks: unpacks,
		ttls: newTTLs(&o),
	}
	if o.NewDevicesPerIP > 0 {
		a.newAfter = wholeSeconds(o.NewDevicesPerIP)
		one.arrivals = &arrivals{clients: who, counters: &s.counters, logger: o.Logger}
		burst := int(math.Ceil(min(o.NewDevicesPerIP, math.MaxInt32)))
		one.arrivals.rate, err = conns.NewRate(o.NewDevicesPerIP, burst, o.RateAddresses)
		if err != nil {
			return nil, fmt.Errorf("server: limiter of new devices: %w", err)
		}
	}
	s.conns = conns.New(conns.Config{
		Loops: s.loops(&o),
		NewRequests: func() conns.Requests {
			return newPlain(p.NewGroup(), p.NewLater(), one, o.MaxHeaderBytes)
		},
		ReadTimeout:  o.ReadTimeout,
		WriteTimeout: o.WriteTimeout,
		IdleTimeout:  o.IdleTimeout,
		IdleAfter:    o.idleAfter,
		Refuse:       a.overLimit,
		Logger:       o.Logger,
		MaxConns:     o.MaxConns,
		OpenStreams:  o.OpenStreams,
		MaxPerIP:     o.MaxConnsPerIP,
		Proxies:      proxies,
		Headers:      o.ProxyProtocol,
		TLS:          o.TLS,

		StrangerTimeout: o.StrangerTimeout,
	})
	a.refusedTokens.logger, a.refusedTokens.clients = o.Logger, who
	serve, expect := s.handlers(&o, a, who, one)
	s.public = newPublic(&o, a, serve, expect)
	refused := new(admin.Refused)
	s.adminConns = admin.NewConns(o.WriteTimeout, refused)
	s.admin = &http.Server{
		Handler:           s.operators(&o, refused),
		ReadHeaderTimeout: o.ReadTimeout,
		IdleTimeout:       o.IdleTimeout,
		MaxHeaderBytes:    maxAdminHeader,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	s.adminConns.Attach(s.admin)
	metrics := &admin.Metrics{
		Counters: &s.counters, Conns: s.conns, MaxConns: o.MaxConns, Rate: rate, Ready: s.ready,
		Batches: s.places.count, MaxBatches: o.maxBodies,
		QueryBytes: s.memory.bytes, MaxQueryBytes: o.maxSlabs * slabBytes,
		AdminConns: s.adminConns, AdminRefused: refused,
		LongTTLs: one.ttls.long.Load,
	}
	if err := o.Registry.Register(metrics); err != nil {
		return nil, fmt.Errorf("server: metrics: %w", err)
	}
	return s, nil
}

// Loops is how many event loops serve plain heartbeats.
func (s *Server) Loops() int { return s.conns.Loops() }

// loops is how many there are to be.
func (s *Server) loops(o *Options) int {
	if o.Loops < 0 || s.presence.NewGroup() == nil && s.presence.NewLater() == nil {
		return 0
	}
	return o.Loops
}

// DefaultLoops is how many event loops serve plain heartbeats on so many processors. Beside the
// clients, one does better than two on two processors; on more it leaves half of them to streams,
// batches and the network.
func DefaultLoops(processors int) int { return max(1, processors/2) }

// handlers joins the handlers of the public routes.
func (s *Server) handlers(o *Options, a *answers, who *clients, one *heartbeats) (
	serve fasthttp.RequestHandler, expect func(*fasthttp.RequestCtx) int) {
	many := &batches{presence: s.presence, single: one, maxLines: o.MaxBatch, places: s.places}
	follow := &streams{
		presence:       s.presence,
		secrets:        &s.secrets,
		answers:        a,
		clients:        who,
		clock:          o.Clock,
		queryToken:     o.StreamQueryToken,
		expiryIgnore:   o.TokenExpiryIgnore,
		refuseByStatus: o.StreamRefusalStatus,
		logger:         o.Logger,
	}
	readers := &readers{
		secrets: &s.secrets, answers: a, bodies: newPlaces(maxLists, o.bodyGrace, func() {}),
	}
	ask := &queries{
		presence: s.presence, readers: readers, answers: a, clock: o.Clock, memory: s.memory,
		devices: maxDevicesAsked,
	}
	lists := &listStreams{
		streams: follow, readers: readers, presence: s.presence, mostUsers: o.MaxUsersPerStream,
		resumes: resumes{s.presence, s.recent, o.Clock},
	}
	return routes(a, one, many, follow, ask, lists)
}

// operators joins the operators' routes.
func (s *Server) operators(o *Options, refused *admin.Refused) http.Handler {
	var hosts []string
	for _, host := range o.AdminHosts {
		hosts = append(hosts, strings.ToLower(strings.TrimSuffix(host, ".")))
	}
	return admin.New(admin.Config{
		Presence:    s.presence,
		Ready:       s.ready,
		SigningKeys: s.secrets.signing,
		PublicAddrs: s.conns.Addrs,
		TLS:         o.TLS != nil,
		Production:  o.Production,
		Now:         o.Clock.Wall,
		Registry:    o.Registry,
		Tokens:      s.secrets.admin,
		MintOpen:    o.MintOpen,
		MetricsOpen: o.MetricsOpen,
		Hosts:       hosts,
		Cluster:     o.Cluster,
		BodyTimeout: o.ReadTimeout,
		Conns:       s.adminConns,
		Refused:     refused,
		Logger:      o.Logger,
	})
}

// SetSecrets replaces the tokens and the signing keys for every request from now on. An open
// stream goes on until its token ends, even if the key that signed it is gone. On an error, which
// says all that is wrong, the old ones stay.
func (s *Server) SetSecrets(ingestTokens, signingKeys, adminTokens []string) error {
	return s.secrets.set(ingestTokens, signingKeys, adminTokens)
}

// Refused returns how many heartbeats were refused before the engine saw them, since New.
func (s *Server) Refused() reply.Refused { return s.counters.Refused() }

// Serve answers daemons and watchers on ln, which it closes, until Close or a failure of the
// listener.
func (s *Server) Serve(ln net.Listener) error {
	err := s.conns.Serve(s.public, ln)
	if errors.Is(err, net.ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("server: accept: %w", err)
}

// ServeAdmin answers operators on ln, which it closes, until Close or a failure of the listener.
func (s *Server) ServeAdmin(ln net.Listener) error {
	err := s.admin.Serve(s.adminConns.Listen(conns.Retry(ln, s.logger)))
	if errors.Is(err, http.ErrServerClosed) {
		return ErrClosed
	}
	return fmt.Errorf("server: accept: %w", err)
}

// ready is why /readyz answers 503, nil when it does not.
func (s *Server) ready() error {
	if err := s.presence.Ready(); err != nil {
		return err
	}
	if s.draining.Load() {
		return engine.ErrDraining
	}
	return nil
}

// Close stops accepting, closes the idle connections, answers the requests in flight and closes the
// other connections; then it closes the operators' listener. Streams are the engine's: drain it
// first. An error is ctx's: requests are still in flight.
func (s *Server) Close(ctx context.Context) error {
	s.draining.Store(true)
	return errors.Join(s.conns.Close(ctx), s.public.ShutdownWithContext(ctx), s.admin.Shutdown(ctx))
}
