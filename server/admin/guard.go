package admin

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"rollcall/server/reply"
	"rollcall/token"
)

const (
	// maxBody bounds the body of a request, in bytes.
	maxBody = 1 << 20
	// lingerTime is how long the body of a request that was answered without it may still come, so
	// that the operator can read the answer.
	lingerTime = time.Second
)

// Reason is why a request or a connection of an operator was refused.
type Reason uint8

// The reasons.
const (
	UnknownHost  Reason = iota // Host is a name that is not ours
	OtherSite                  // another web site's page made the browser ask
	NoToken                    // the admin token is missing or wrong
	TooManyConns               // a connection was closed for another one
	reasons
)

var reasonNames = [reasons]string{"host", "other_site", "token", "too_many_connections"}

// Refused counts refusals by reason. Any goroutine may use it.
type Refused struct{ counts [reasons]atomic.Uint64 }

func (r *Refused) add(why Reason) { r.counts[why].Add(1) }

// access says what a request to a route must have.
type access uint8

const (
	forOperators access = iota // a known Host, no other site behind it, and the token
	forScrapers                // the token only where /metrics is not open
	forAsking                  // no token: the page has no figures, and asks for it
	forAll                     // nothing: probes
)

// entry is a handler and who may come to it.
type entry struct {
	http.Handler
	access access
}

func toOperators(f http.HandlerFunc) entry { return entry{f, forOperators} }
func toScrapers(h http.Handler) entry      { return entry{h, forScrapers} }
func toAsk(h http.Handler) entry           { return entry{h, forAsking} }
func toAll(f http.HandlerFunc) entry       { return entry{f, forAll} }

// guard stands before the operators' routes: it says no to what must not come to them, and reads
// the body of a request within a time and a size. Any goroutine may use it once all is added.
type guard struct {
	routes   map[string]map[string]entry // by path and method
	subtrees []string                    // those of the paths that end in a slash

	tokens      func() token.Shared
	hosts       []string // lower case
	metricsOpen bool
	timeout     time.Duration // for a body
	refused     *Refused
	conns       *Conns
}

// Handle adds a route, "METHOD /path". One that ends in a slash has all paths below it.
func (g *guard) Handle(pattern string, to entry) {
	method, path, _ := strings.Cut(pattern, " ")
	if g.routes == nil {
		g.routes = map[string]map[string]entry{}
	}
	if g.routes[path] == nil {
		g.routes[path] = map[string]entry{}
		if path != "/" && strings.HasSuffix(path, "/") {
			g.subtrees = append(g.subtrees, path)
		}
	}
	g.routes[path][method] = to
}

// ServeHTTP answers one request: the probes to all; else it looks at Host, so that no other name
// for this address works, at the site that asks, and at the token; then at the route. A refusal
// leaves the body unread.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	methods := g.find(r.URL.Path)
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	to, known := methods[method] // else the strictest
	switch refusal := g.check(r, to.access); {
	case refusal == reply.Unauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="rollcall"`)
		g.refuse(w, r, refusal)
	case refusal != reply.None:
		g.refuse(w, r, refusal)
	case methods == nil:
		g.refuse(w, r, reply.RouteNotFound)
	case !known:
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
		g.refuse(w, r, reply.MethodNotAllowed)
	case method == http.MethodGet:
		defer g.leaveBody(w, r)()
		g.conns.moveOf(r, answering)
		to.ServeHTTP(w, r)
	default:
		if refusal := g.readBody(w, r); refusal != reply.None {
			g.refuse(w, r, refusal)
			return
		}
		g.conns.moveOf(r, answering)
		to.ServeHTTP(w, r)
	}
}

// find returns the methods of a path; nil: there is no such path.
func (g *guard) find(path string) map[string]entry {
	if methods := g.routes[path]; methods != nil {
		return methods
	}
	for _, above := range g.subtrees {
		if strings.HasPrefix(path, above) {
			return g.routes[above]
		}
	}
	return nil
}

// check returns why a request is not answered, or None.
func (g *guard) check(r *http.Request, who access) reply.Reply {
	switch {
	case who == forAll:
		return reply.None
	case !g.named(r.Host):
		g.refused.add(UnknownHost)
		return reply.NotByName
	case otherSite(r):
		g.refused.add(OtherSite)
		return reply.OtherSite
	case who == forAsking, who == forScrapers && g.metricsOpen, g.authorized(r):
		return reply.None
	}
	g.refused.add(NoToken)
	return reply.Unauthorized
}

// named reports whether a Host header is an address, localhost or one of the names that were given.
// A web site can point its own name at this listener (DNS rebinding), and its pages then ask as if
// from the same origin; only Host tells.
func (g *guard) named(host string) bool {
	name := hostname(host)
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || slices.Contains(g.hosts, name)
}

// otherSite reports whether a browser sends the request for another site's page, a page of another
// port of this host among them. A browser that does not say so in Sec-Fetch-Site, which it leaves
// out for plain HTTP to other machines, says it in Origin where a page could read the answer or the
// method changes things.
func otherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return false
	case "":
		origin := r.Header.Get("Origin")
		_, host, _ := strings.Cut(origin, "://")
		return origin != "" && !strings.EqualFold(host, r.Host)
	}
	return true
}

// authorized reports whether a request has one of the tokens, where there are any.
func (g *guard) authorized(r *http.Request) bool {
	tokens := g.tokens()
	if tokens.None() {
		return true
	}
	headers := r.Header.Values("Authorization")
	if len(headers) != 1 {
		return false
	}
	scheme, text, _ := strings.Cut(headers[0], " ")
	return strings.EqualFold(scheme, "Bearer") && tokens.Has([]byte(text))
}

// refuse answers a request whose body stays unread.
func (g *guard) refuse(w http.ResponseWriter, r *http.Request, refusal reply.Reply) {
	defer g.leaveBody(w, r)()
	g.conns.moveOf(r, answering)
	write(w, refusal)
}

// leaveBody makes the answer of a request with a body the last one of its connection. What it
// returns is called behind the answer: the server then drops what still comes of the body.
func (g *guard) leaveBody(w http.ResponseWriter, r *http.Request) (answered func()) {
	if r.ContentLength == 0 {
		return func() {}
	}
	w.Header().Set("Connection", "close")
	return func() {
		g.conns.moveOf(r, asking)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTime))
	}
}

// readBody reads the body of a request before its handler runs, so that what waits for a body is
// known.
func (g *guard) readBody(w http.ResponseWriter, r *http.Request) reply.Reply {
	if r.ContentLength == 0 {
		return reply.None
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(g.timeout)) // not in tests without a connection
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return reply.BodyTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reply.RequestTimeout
	case err != nil:
		return reply.MalformedRequest
	}
	_ = control.SetReadDeadline(time.Time{})
	r.Body = io.NopCloser(bytes.NewReader(body))
	return reply.None
}
