// Package admin answers operators: the page, health, metrics, profiles and what is known of one
// user. Its routes carry no CORS headers: no other site's page has business on this listener.
package admin

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rollcall/engine"
	"rollcall/server/admin/page"
	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

// Config is what the routes need. Every field but the booleans, Hosts and Cluster is required, and
// any goroutine may call the functions.
type Config struct {
	Presence Presence
	// Ready returns nil, or why /readyz answers 503.
	Ready func() error
	// SigningKeys returns the keys of stream tokens; the first signs the page's. None: it gets
	// none.
	SigningKeys func() token.Keys
	// PublicAddrs returns the addresses of the public listeners, and TLS says that they speak it.
	PublicAddrs func() []net.Addr
	TLS         bool
	// Production switches /debug/presence, /debug/users and /debug/token off.
	Production bool
	// Tokens returns the operators' tokens. None: every route is open to all that reach it, and the
	// page gets stream tokens only with MintOpen.
	Tokens   func() token.Shared
	MintOpen bool
	// MetricsOpen opens /metrics to requests without a token.
	MetricsOpen bool
	// Hosts are the names, in lower case, under which the routes answer, beside addresses and
	// localhost.
	Hosts []string
	// Cluster answers /clusterz and what is below it. Nil: the server is no node of a cluster, and
	// there is none.
	Cluster http.Handler
	// BodyTimeout bounds the reading of a request's body.
	BodyTimeout time.Duration
	Conns       *Conns
	Refused     *Refused
	Logger      *slog.Logger
	// Now is the wall clock.
	Now      func() time.Time
	Registry *prometheus.Registry
}

// Presence is what the routes need of the engine.
type Presence interface {
	// Devices returns what is known of the user's devices with the lowest ids above after, at most
	// limit, and whether there are more.
	Devices(user, after uuid.UUID, limit int) (page []engine.Device, more bool, err error)
	// Recent lists users by their last change, and is over early when ctx is.
	Recent(ctx context.Context, q engine.UserQuery) ([]engine.ListedUser, error)
	// Streams is how many streams follow a user now.
	Streams(user uuid.UUID) int
}

// alone answers /clusterz of a server that is no node of a cluster.
func alone(w http.ResponseWriter, _ *http.Request) { write(w, reply.RouteNotFound) }

// New returns the handler of the operators' routes.
func New(c Config) http.Handler {
	p := publicSide{addrs: c.PublicAddrs, tls: c.TLS}
	m := minter{
		keys: c.SigningKeys, now: c.Now, logger: c.Logger, production: c.Production,
		open: func() bool { return c.MintOpen || !c.Tokens().None() },
	}
	g := &guard{
		tokens: c.Tokens, hosts: c.Hosts, metricsOpen: c.MetricsOpen,
		timeout: c.BodyTimeout, refused: c.Refused, conns: c.Conns,
	}
	g.Handle("GET /", toAsk(page.New()))
	g.Handle("GET /page.json", toOperators(func(w http.ResponseWriter, r *http.Request) {
		settings(w, r, p, m)
	}))
	g.Handle("GET /livez", toAll(alive))
	g.Handle("GET /healthz", toAll(alive))
	g.Handle("GET /readyz", toAll(func(w http.ResponseWriter, _ *http.Request) {
		ready(w, c.Ready())
	}))
	g.Handle("GET /metrics", toScrapers(promhttp.HandlerFor(c.Registry,
		promhttp.HandlerOpts{Registry: c.Registry, MaxRequestsInFlight: maxScrapes})))
	clusterz := alone
	if c.Cluster != nil {
		clusterz = c.Cluster.ServeHTTP
	}
	ofCluster := atMost(maxSlow)
	g.Handle("GET /clusterz", toOperators(ofCluster(clusterz)))
	g.Handle("GET /clusterz/deed", toOperators(ofCluster(clusterz)))
	g.Handle("POST /clusterz/balance", toOperators(ofCluster(clusterz)))
	g.Handle("POST /clusterz/leave", toOperators(ofCluster(clusterz)))
	g.Handle("POST /clusterz/replace", toOperators(ofCluster(clusterz)))
	g.Handle("GET /clusterz/devices", toOperators(ofCluster(clusterz)))
	g.Handle("GET /clusterz/export", toOperators(ofCluster(clusterz)))
	g.Handle("POST /clusterz/import", toOperators(ofCluster(clusterz)))
	g.Handle("GET /debug/presence",
		toOperators(atMost(maxSlow)(newDebugPresence(c.Presence, c.Production).ServeHTTP)))
	g.Handle("GET /debug/users", toOperators(atMost(maxSlow)(newDebugUsers(&c).ServeHTTP)))
	g.Handle("POST /debug/token", toOperators(m.serve))
	few := atMost(maxSlow)
	g.Handle("GET /debug/pprof/", toOperators(few(pprof.Index)))
	g.Handle("GET /debug/pprof/cmdline", toOperators(pprof.Cmdline))
	g.Handle("GET /debug/pprof/profile", toOperators(few(pprof.Profile)))
	g.Handle("GET /debug/pprof/symbol", toOperators(pprof.Symbol))
	g.Handle("POST /debug/pprof/symbol", toOperators(pprof.Symbol))
	g.Handle("GET /debug/pprof/trace", toOperators(few(pprof.Trace)))
	return g
}

// maxSlow is how many profiles are taken at a time, and how many requests for presence are answered
// or wait for their turn. One more gets 503: a connection that is being answered cannot be closed
// for a probe, and a profile lasts for as many seconds as its request says.
const maxSlow = 8

// atMost makes handlers that run so many at a time, together.
func atMost(n int) func(http.HandlerFunc) http.HandlerFunc {
	running := make(chan struct{}, n)
	return func(f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			select {
			case running <- struct{}{}:
				defer func() { <-running }()
				f(w, r)
			default:
				writeJSON(w, http.StatusServiceUnavailable, wire.AppendError(nil,
					wire.CodeUnavailable, "Too many such requests at a time: wait for one to end"))
			}
		}
	}
}

// maxScrapes is how many answers of /metrics are made at a time; one more gets 503.
const maxScrapes = 8

// alive answers while the process does.
func alive(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") }

// ready answers whether heartbeats and streams should be sent here, and if not, why.
func ready(w http.ResponseWriter, why error) {
	if why != nil {
		writeText(w, http.StatusServiceUnavailable, why.Error()+"\n")
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}

// userOf reads the user_id of a request. A refusal says that there is none, or that it is no id.
func userOf(r *http.Request) (user uuid.UUID, refusal reply.Reply) {
	text := wire.TrimSpace([]byte(r.URL.Query().Get(wire.UserParam)))
	if len(text) == 0 {
		return user, reply.MissingUserIDParam
	}
	user, form := wire.ParseID(text)
	if form == wire.IDInvalid {
		return user, reply.InvalidUserID
	}
	return user, reply.None
}

func write(w http.ResponseWriter, r reply.Reply) { writeJSON(w, r.Status(), r.Body()) }

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", wire.JSONType)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}
