package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
	"github.com/launchdarkly/eventsource"
	"github.com/tmaxmax/go-sse"

	"rollcall/internal/testlog"
	"rollcall/internal/testport"
	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
)

// TestInteropRestarts: clients of other authors, direct and through proxies, over HTTP/1.1 and h2,
// live through a server that drains while they come, one that is full, drains with an instant
// restart, and a kill. None is lost for good, none delivers an event that is no event, and each has
// its snapshot and the next frame after every restart. What is not installed is left out and said,
// unless ROLLCALL_NO_SKIP is set. ROLLCALL_DRAINS is how many drains, 1 by default.
func TestInteropRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute, a browser and three proxies: not with -short")
	}
	t.Parallel()
	drains, each, drain := 1, 2, "--drain-timeout=2s"
	if text := os.Getenv("ROLLCALL_DRAINS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal("ROLLCALL_DRAINS: ", err)
		}
		drains, each, drain = n, 5, "--drain-timeout=5s"
	}
	flags := []string{"--listen=" + testport.Address(t), "--admin-listen=" + testport.Address(t),
		"--stream-query-token", "--stream-keepalive=1s"}
	x := &restarts{t: t, r: startServer(t, append(flags, "--drain-timeout=8s")...),
		told: make(chan heard, 1<<16)}
	id := newIdentity(t, t.TempDir(), "localhost")
	routes := x.routes(id)
	clients := x.clients(id, time.Duration(drains+drains/10+4)*patience)
	streams := make([][]wanted, len(clients)) // of each client
	for i, c := range clients {
		for _, route := range routes {
			if c.takes(route) {
				for range each {
					streams[i] = append(streams[i], x.add(c, route))
				}
			}
		}
	}

	x.begin("drain while they come")
	for range 10 { // one of them ends late
		s := x.r.follow(uuid.NewString())
		go func() {
			io.Copy(io.Discard, s.body)
			s.conn.Close()
		}()
	}
	x.r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	x.r.untilReadyz(http.StatusServiceUnavailable, "draining")
	for i, c := range clients {
		c.start(streams[i])
	}
	if x.page != nil {
		x.page.open()
	}
	x.r.wantExit()

	flags = append(flags, drain)
	x.r.flags = append(flags, "--max-streams-per-user=1")
	x.r.start()
	x.full()
	x.r.flags = flags
	for n := range drains {
		x.begin(fmt.Sprintf("drain %d", n+1))
		x.r.terminate()
		x.r.start()
		x.end()
		if n%10 == 0 {
			x.begin("kill")
			x.r.kill()
			x.r.start()
			x.end()
		}
	}
	x.judge(drains)
}

// leftOut says that something is not installed. With ROLLCALL_NO_SKIP that fails the test.
func leftOut(t *testing.T, what any) {
	t.Helper()
	if os.Getenv("ROLLCALL_NO_SKIP") != "" {
		t.Fatal("with ROLLCALL_NO_SKIP nothing is left out: ", what)
	}
	t.Log("left out: ", what)
}

// restarts is one run. Its methods are called by the test's goroutine alone.
type restarts struct {
	t       *testing.T
	r       *rig
	streams []*interopStream
	left    int // streams that do not have what this round wants
	told    chan heard
	round   string // for messages
	page    *page
}

// heard is what a client says of a stream.
type heard struct {
	ID   int    `json:"id"`
	What string `json:"what"` // open, message, error (it will try again), closed (it will not), thrown
	Text string `json:"text"`
}

// wanted is what a client is asked to follow.
type wanted struct {
	ID    int    `json:"id"`
	URL   string `json:"url"`
	Token string `json:"token"`
}

type phase int

const (
	wantsSnapshot phase = iota
	wantsFrame
	hasBoth
)

// interopStream is a stream of one client, which follows a user of its own.
type interopStream struct {
	client, route string
	beat          beat // the newest that was accepted
	phase         phase
	tries         int      // this round: answers and errors
	lost, bad     []string // why it was closed for good; what was delivered that is no event
}

// interopRoute leads to the server.
type interopRoute struct {
	name, base string
	h2, direct bool
}

func (x *restarts) routes(id identity) []interopRoute {
	routes := []interopRoute{{name: "direct", base: "http://" + x.r.addr, direct: true}}
	for _, p := range proxies {
		if _, err := exec.LookPath(p.name); err != nil {
			leftOut(x.t, err)
			continue
		}
		routes = append(routes,
			interopRoute{name: p.name, base: "http://" + p.start(x.t, x.r, nil)},
			interopRoute{name: p.name + " h2", base: "https://" + p.start(x.t, x.r, &id), h2: true})
	}
	return routes
}

// interopClient is a client of other authors. start begins to follow streams until the test ends,
// and says into restarts.told what happens.
type interopClient struct {
	name  string
	takes func(interopRoute) bool
	start func(streams []wanted)
}

func (x *restarts) clients(id identity, within time.Duration) (clients []interopClient) {
	all := func(interopRoute) bool { return true }
	http1 := func(r interopRoute) bool { return !r.h2 }
	http2 := func(r interopRoute) bool { return r.h2 }
	roots := &tls.Config{RootCAs: id.pool}
	web := func() *http.Client {
		return &http.Client{Transport: &http.Transport{TLSClientConfig: roots,
			ForceAttemptHTTP2: true}}
	}
	clients = append(clients,
		interopClient{"go tmaxmax/go-sse", all, func(s []wanted) { x.goSSE(web(), s) }},
		interopClient{"go launchdarkly/eventsource", all, func(s []wanted) { x.goEventSource(web(), s) }})

	packages, err := filepath.Abs("interop/node_modules/launchdarkly-eventsource")
	if err == nil {
		_, err = os.Stat(packages)
	}
	if err != nil {
		leftOut(x.t, fmt.Sprint("needs `make interop`: ", err))
		return clients
	}
	if _, err := exec.LookPath("node"); err != nil {
		leftOut(x.t, err)
	} else {
		// Node's own HTTP clients speak HTTP/1.1 alone.
		for _, name := range []string{"eventsource", "fetch-event-source", "event-source-polyfill",
			"launchdarkly-eventsource"} {
			clients = append(clients,
				interopClient{"node " + name, http1, func(s []wanted) { x.node(name, s) }})
		}
	}
	if _, err := exec.LookPath("chromium"); err != nil {
		leftOut(x.t, err)
		return clients
	}
	// All of them are in one page, which has six connections to an address over HTTP/1.1.
	x.page = x.startPage(within)
	clients = append(clients, interopClient{"chromium EventSource", all, x.page.follow("browser")})
	for _, name := range []string{"eventsource", "fetch-event-source", "event-source-polyfill"} {
		clients = append(clients, interopClient{"chromium " + name, http2, x.page.follow(name)})
	}
	return clients
}

// add makes a user with a device, and the stream of it that a client is to follow.
func (x *restarts) add(c interopClient, route interopRoute) wanted {
	s := &interopStream{client: c.name, route: route.name, beat: newBeat().with("ttl_ms", 1<<40)}
	x.r.mustBeat(s.beat)
	x.streams = append(x.streams, s)
	user := s.beat["user_id"].(string)
	return wanted{len(x.streams) - 1, route.base + streamPath + "?user_id=" + user,
		tokenFor(user, 24*time.Hour)}
}

// begin begins a round: every stream has to come again.
func (x *restarts) begin(round string) {
	x.round = round
	for len(x.told) > 0 {
		x.hear(<-x.told)
	}
	x.left = len(x.streams)
	for _, s := range x.streams {
		s.phase, s.tries = wantsSnapshot, 0
	}
}

// end waits until every stream has its snapshot and the frame after it.
func (x *restarts) end() {
	x.t.Helper()
	began := time.Now()
	x.hearUntil(func() bool { return x.left == 0 })
	x.t.Logf("%s: all are back after %v", x.round, time.Since(began).Round(10*time.Millisecond))
}

// patience bounds a round. What clients wait for takes them up to some twenty seconds.
const patience = 2 * testwait.Limit

// hearUntil listens to the clients until a condition holds.
func (x *restarts) hearUntil(holds func() bool) {
	x.t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !holds() {
		select {
		case news := <-x.told:
			x.hear(news)
		case <-late.C:
			for _, s := range x.streams {
				if s.phase != hasBoth {
					x.t.Errorf("%s: %s, %s: phase %d after %d tries, lost %q", x.round, s.client,
						s.route, s.phase, s.tries, s.lost[:min(3, len(s.lost))])
				}
			}
			x.t.Fatalf("%s: %d of %d streams do not come back", x.round, x.left, len(x.streams))
		}
	}
}

// full is the round of a server that has room for one stream of a user, and that room is taken:
// each client is turned away, and comes back when there is room.
func (x *restarts) full() {
	x.t.Helper()
	x.round = "full"
	var holders []*follower
	for _, s := range x.streams {
		user := s.beat["user_id"].(string)
		holders = append(holders, x.r.followRaw(request("GET", streamPath+"?user_id="+user, "",
			bearer(tokenFor(user, time.Hour)))))
		s.tries = 0
	}
	x.hearUntil(func() bool {
		return !slices.ContainsFunc(x.streams, func(s *interopStream) bool { return s.tries == 0 })
	})
	for _, h := range holders {
		h.conn.Close()
	}
	x.end()
}

// hear takes what a client says.
func (x *restarts) hear(news heard) {
	if news.What == "thrown" {
		x.t.Errorf("thrown: %s", news.Text)
		return
	}
	s := x.streams[news.ID]
	switch news.What {
	case "closed":
		s.tries++
		s.lost = append(s.lost, x.round+": "+news.Text)
	case "message":
		x.message(s, news.Text)
	default:
		s.tries++
	}
}

// message takes a payload. An empty one is what some clients make of the retry line at a planned
// end; anywhere else it is wrong.
func (x *restarts) message(s *interopStream, text string) {
	ev, ok := parseFrame("data: " + text)
	switch {
	case text == "" && s.phase == wantsSnapshot:
	case !ok || len(ev) != 8 || ev["user_id"] != s.beat["user_id"]:
		s.bad = append(s.bad, text)
	case ev.number("seq") != int64(s.beat["seq"].(int)):
		if s.phase != wantsFrame || ev.number("seq") != int64(s.beat["seq"].(int))-1 { // came twice
			s.bad = append(s.bad, fmt.Sprintf("seq is not %v: %s", s.beat["seq"], text))
		}
	case s.phase == wantsSnapshot:
		s.phase = wantsFrame
		s.beat = s.beat.with("seq", s.beat["seq"].(int)+1)
		x.r.mustBeat(s.beat)
	case s.phase == wantsFrame:
		s.phase = hasBoth
		x.left--
	}
}

// judge fails the test for what was lost, and says what each client went through.
func (x *restarts) judge(drains int) {
	type sum struct{ streams, lost, bad int }
	sums := make(map[string]*sum)
	var names []string
	for _, s := range x.streams {
		name := fmt.Sprintf("%-30s %s", s.client, s.route)
		if sums[name] == nil {
			sums[name] = new(sum)
			names = append(names, name)
		}
		of := sums[name]
		of.streams++
		of.lost += len(s.lost)
		of.bad += len(s.bad)
		if len(s.lost) > 0 || len(s.bad) > 0 {
			x.t.Errorf("%s: closed for good %d times: %q; %d events that are none: %q", name,
				len(s.lost), s.lost[:min(3, len(s.lost))], len(s.bad), s.bad[:min(3, len(s.bad))])
		}
	}
	for _, name := range names {
		of := sums[name]
		x.t.Logf("%-45s %5d drains, lost %d, bad %d", name, of.streams*drains, of.lost, of.bad)
	}
}

// goSSE follows with tmaxmax/go-sse. It follows the standard: any status but 200 ends it. A stream
// that ends in a comment ends it too, without an error; proxies make such ends of a server's death.
func (x *restarts) goSSE(web *http.Client, streams []wanted) {
	for _, w := range streams {
		x.keep(w, func(ctx context.Context, req *http.Request) error {
			c := &sse.Client{HTTPClient: web, OnRetry: func(err error, _ time.Duration) {
				x.told <- heard{w.ID, "error", err.Error()}
			}}
			conn := c.NewConnection(req)
			conn.SubscribeToAll(func(ev sse.Event) { x.told <- heard{w.ID, "message", ev.Data} })
			for {
				if err := conn.Connect(); err != nil {
					return err
				}
				x.told <- heard{w.ID, "error", "ended"}
				rest(ctx)
			}
		})
	}
}

// goEventSource follows with launchdarkly/eventsource. It tries again whatever the status, the
// first time too if it is told to.
func (x *restarts) goEventSource(web *http.Client, streams []wanted) {
	for _, w := range streams {
		x.keep(w, func(ctx context.Context, req *http.Request) error {
			onError := func(err error) eventsource.StreamErrorHandlerResult {
				if ctx.Err() == nil {
					x.told <- heard{w.ID, "error", err.Error()}
				}
				return eventsource.StreamErrorHandlerResult{CloseNow: ctx.Err() != nil}
			}
			s, err := eventsource.SubscribeWithRequestAndOptions(req,
				eventsource.StreamOptionHTTPClient(web),
				eventsource.StreamOptionCanRetryFirstConnection(-1),
				eventsource.StreamOptionErrorHandler(onError))
			if err != nil {
				return err
			}
			for ev := range s.Events {
				x.told <- heard{w.ID, "message", ev.Data()}
			}
			return errors.New("closed")
		})
	}
}

// keep follows a stream with a client until the test ends, and anew after it was closed for good,
// so that a run goes on and can count.
func (x *restarts) keep(w wanted, follow func(ctx context.Context, req *http.Request) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	x.t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, "GET", w.URL, nil)
			if err != nil {
				panic(err)
			}
			req.Header.Set("Authorization", "Bearer "+w.Token)
			if err = follow(ctx, req); ctx.Err() != nil {
				return
			}
			x.told <- heard{w.ID, "closed", fmt.Sprint(err)}
			rest(ctx)
		}
	}()
}

// rest is what a client waits that connects anew.
func rest(ctx context.Context) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

// node follows with a client in Node.
func (x *restarts) node(client string, streams []wanted) {
	cmd := exec.Command("node", "interop/clients/node.mjs", client)
	in, err := cmd.StdinPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	said := new(testlog.Output)
	process := testproc.Start(x.t, cmd, said)
	if err := json.NewEncoder(in).Encode(streams); err != nil {
		x.t.Fatal(err)
	}
	go func() {
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break
			}
			var news heard
			if err := json.Unmarshal(line, &news); err != nil {
				news = heard{-1, "thrown", fmt.Sprintf("%s: %q: %v", client, line, err)}
			}
			x.told <- news
		}
		<-process.Exited
		if x.t.Context().Err() == nil {
			x.told <- heard{-1, "thrown", fmt.Sprintf("%s: %v\n%s", client, process.Err, said)}
		}
	}()
}

// page is the clients' page in Chromium.
type page struct {
	x       *restarts
	browser *browser
	origin  string
	streams map[string][]wanted // of each client
}

// startPage starts Chromium and serves the page. It is there for at most this long.
func (x *restarts) startPage(within time.Duration) *page {
	p := &page{x: x, streams: make(map[string][]wanted)}
	mux := http.NewServeMux()
	mux.Handle("GET /node_modules/", modules(http.Dir("interop")))
	mux.Handle("GET /clients/", http.FileServer(http.Dir("interop")))
	mux.HandleFunc("GET /clients/streams", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(p.streams)
	})
	mux.HandleFunc("POST /clients/told", func(_ http.ResponseWriter, req *http.Request) {
		var news []heard
		if err := json.NewDecoder(req.Body).Decode(&news); err != nil {
			news = []heard{{-1, "thrown", "the page's news: " + err.Error()}}
		}
		for _, n := range news {
			x.told <- n
		}
	})
	front := httptest.NewServer(mux)
	x.t.Cleanup(front.Close)
	p.origin = front.URL
	p.browser = startBrowserFor(x.t, within, chromedp.IgnoreCertErrors)
	return p
}

// modules serves packages. The files of some import others without saying `.js`.
func modules(dir http.Dir) http.Handler {
	files := http.FileServer(dir)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if filepath.Ext(req.URL.Path) == "" {
			req.URL.Path += ".js"
		}
		files.ServeHTTP(w, req)
	})
}

// follow notes what a client of the page is to follow; open opens the page, and they begin.
func (p *page) follow(client string) func([]wanted) {
	return func(streams []wanted) { p.streams[client] = streams }
}

func (p *page) open() {
	p.browser.do(chromedp.Navigate(p.origin + "/clients/browser.html"))
}
