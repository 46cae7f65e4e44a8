package server

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp/fasthttputil"

	"rollcall/cursor"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/internal/testwire"
	"rollcall/server/reply"
	"rollcall/wire"
)

const (
	testUser   = testwire.User
	testDevice = testwire.Device
	testIngest = "ingest"
	testKey    = "signing"
)

// testNow is the wall clock of the tests.
var testNow = time.UnixMilli(1_700_000_000_000)

// testInstant is the reading of both clocks.
var testInstant = engine.Instant{Nanos: 1_000, WallMS: uint64(testNow.UnixMilli())}

// fakePresence answers as its fields say and remembers the heartbeats.
type fakePresence struct {
	heartbeat func(*engine.Heartbeat) engine.Result // nil: Accepted
	take      func(net.Conn) (broadcast.Conn, error)
	subscribe error
	stale     bool
	settle    error
	ready     error
	records   []engine.Device
	users     map[uuid.UUID][]engine.Device
	changedAt uint64 // of each user
	history   *cursor.History
	renew     func(id broadcast.StreamID, expires int64, fits broadcast.Fits) error
	streams   int
	kicks     atomic.Int64

	mu         sync.Mutex
	heartbeats []engine.Heartbeat // guarded by mu

	subscriptions chan broadcast.Subscription
}

func newFake() *fakePresence {
	history := cursor.New(cursor.Options{
		Secret:    []byte("secret"),
		Hash:      func(user uuid.UUID) uint64 { return binary.BigEndian.Uint64(user[:]) },
		Committed: func() uint64 { return 1000 },
	})
	if err := history.Begin(77, 1, func([]byte) error { return nil }); err != nil {
		panic(err)
	}
	return &fakePresence{
		subscriptions: make(chan broadcast.Subscription, 16), history: history,
	}
}

func (f *fakePresence) History() *cursor.History { return f.history }

func (f *fakePresence) Renew(name string, expires int64, fits broadcast.Fits) error {
	id, err := strconv.ParseUint(name, 16, 64)
	if err != nil {
		return broadcast.ErrNoStream
	}
	return f.renew(broadcast.StreamID(id), expires, fits)
}

func (f *fakePresence) Heartbeat(hb *engine.Heartbeat) engine.Result {
	if f.heartbeat != nil {
		return f.heartbeat(hb)
	}
	kept := *hb
	kept.Source = slices.Clone(hb.Source)
	f.mu.Lock()
	f.heartbeats = append(f.heartbeats, kept)
	f.mu.Unlock()
	return engine.Result{}
}

// last returns the last heartbeat that was applied and forgets all.
func (f *fakePresence) last() (hb engine.Heartbeat, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.heartbeats); n > 0 {
		hb, ok, f.heartbeats = f.heartbeats[n-1], true, nil
	}
	return hb, ok
}

func (f *fakePresence) Retry() time.Duration { return testRetry }

// testRetry is when a refused stream is told to come back.
const testRetry = 12_345 * time.Millisecond

func (f *fakePresence) Kick() { f.kicks.Add(1) }

func (f *fakePresence) NewGroup() engine.Group { return nil } // there are no loops
func (f *fakePresence) NewLater() engine.Later { return nil }

func (f *fakePresence) NewBatch() engine.Batch {
	b := fakeBatches.Get().(*fakeBatch)
	*b = fakeBatch{f: f, rejections: b.rejections[:0]}
	return b
}

var fakeBatches = sync.Pool{New: func() any { return new(fakeBatch) }}

// fakeBatch is an engine.Batch of a fakePresence.
type fakeBatch struct {
	f          *fakePresence
	counts     engine.Counts
	full       int // 0: not
	rejections []engine.Rejection
}

func (b *fakeBatch) Add(hbs []engine.Heartbeat) {
	for i := range hbs {
		r := engine.Result{Outcome: engine.Unavailable, LogFull: true}
		if b.full == 0 {
			r = b.f.Heartbeat(&hbs[i])
		}
		if r.LogFull && b.full == 0 {
			b.full = hbs[i].Index
		}
		switch r.Outcome {
		case engine.Accepted:
			b.counts.Accepted++
			continue
		case engine.Stale:
			b.counts.Stale++
		case engine.Unavailable:
			b.counts.Unavailable++
			b.counts.Err = r.Err
		}
		if len(b.rejections) < engine.MaxRejections {
			b.rejections = append(b.rejections, engine.Rejection{Index: hbs[i].Index, Result: r})
		}
	}
}

func (b *fakeBatch) AroundWaits(_, _ func())        {}
func (b *fakeBatch) Full() (int, bool)              { return b.full, b.full > 0 }
func (b *fakeBatch) Settle() error                  { return b.f.settle }
func (b *fakeBatch) Counts() engine.Counts          { return b.counts }
func (b *fakeBatch) Rejections() []engine.Rejection { return b.rejections }
func (b *fakeBatch) Release()                       { fakeBatches.Put(b) }

func (f *fakePresence) Stale(*engine.Heartbeat) bool { return f.stale }

func (f *fakePresence) Take(c net.Conn) (broadcast.Conn, error) {
	if f.take != nil {
		return f.take(c)
	}
	return fakeConn{conn: c}, nil
}

func (f *fakePresence) Subscribe(s broadcast.Subscription) error {
	if f.subscribe != nil {
		return f.subscribe
	}
	if _, err := s.Conn.Write(s.Head); err != nil {
		return err
	}
	f.subscriptions <- s
	return nil
}

func (f *fakePresence) Devices(uuid.UUID, uuid.UUID, int) ([]engine.Device, bool, error) {
	return f.records, false, f.ready
}
func (f *fakePresence) Users(ids []uuid.UUID, limit int, fn func(*engine.User)) error {
	for _, id := range ids {
		u := engine.User{ID: id, Devices: f.users[id]}
		for i := range u.Devices {
			if u.Devices[i].Status == engine.Online {
				u.Online++
			}
			u.SeenAtMS = max(u.SeenAtMS, u.Devices[i].SeenAtMS)
		}
		if limit -= len(u.Devices); limit < 0 {
			return engine.ErrTooManyDevicesAsked
		}
		fn(&u)
	}
	return f.ready
}

func (f *fakePresence) Turned(uuid.UUID) (uint64, bool) { return f.changedAt, false }

func (f *fakePresence) Streams(uuid.UUID) int { return f.streams }

func (f *fakePresence) Recent(context.Context, engine.UserQuery) ([]engine.ListedUser, error) {
	return nil, nil
}
func (f *fakePresence) Ready() error { return f.ready }

// fakeConn is a broadcast.Conn over any net.Conn; it only writes and closes.
type fakeConn struct {
	broadcast.Conn
	conn net.Conn
}

func (c fakeConn) Write(p []byte) (int, error) { return c.conn.Write(p) }
func (c fakeConn) Held() int                   { return 0 }
func (c fakeConn) CloseWrite() error           { return nil }
func (c fakeConn) Close() error                { return c.conn.Close() }

// running is a server on listeners in memory.
type running struct {
	*Server
	presence *fakePresence
	public   *fasthttputil.InmemoryListener
}

func testOptions() Options {
	return Options{
		IngestTokens: []string{"older", testIngest},
		SigningKeys:  []string{testKey, "older"},
		Clock:        func() engine.Instant { return testInstant },
		Logger:       slog.New(slog.DiscardHandler),
	}
}

func start(t testing.TB, change func(*Options, *fakePresence)) *running {
	t.Helper()
	o, fake := testOptions(), newFake()
	if change != nil {
		change(&o, fake)
	}
	s, err := New(fake, o)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, presence: fake, public: fasthttputil.NewInmemoryListener()}
	served := make(chan error, 1)
	go func() { served <- s.Serve(r.public) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testwait.Limit)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

// response is an answer as a client sees it.
type response struct {
	closes bool // the connection closes behind it
	status int
	header http.Header
	body   string
}

// send writes a whole request, given as text, on a new connection and reads one answer.
func (r *running) send(t testing.TB, request string) response {
	t.Helper()
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// the server may answer before it has read all
	go func() { _, _ = io.WriteString(c, request) }()
	_ = c.SetReadDeadline(time.Now().Add(testwait.Limit))
	return readResponse(t, bufio.NewReader(c), method(request))
}

// sendPart writes a request that does not become whole and reads the answer. A connection on which
// nothing came in time is closed without one: then the machine was busy, and it is sent again.
func (r *running) sendPart(t testing.TB, part string) (got response) {
	t.Helper()
	testwait.Until(t, "a part of a request is answered", func() bool {
		c, err := r.public.Dial()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() { _, _ = io.WriteString(c, part) }()
		_ = c.SetReadDeadline(time.Now().Add(testwait.Limit))
		in := bufio.NewReader(c)
		if _, err := in.Peek(1); err == io.EOF {
			return false
		}
		got = readResponse(t, in, method(part))
		return true
	})
	return got
}

func method(request string) string {
	m, _, _ := strings.Cut(request, " ")
	return m
}

func readResponse(t testing.TB, r *bufio.Reader, method string) response {
	t.Helper()
	res, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read the answer: %v", err)
	}
	if res.StatusCode == 100 {
		return readResponse(t, r, method)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read the body: %v", err)
	}
	return response{res.Close, res.StatusCode, res.Header, string(body)}
}

// text writes a request. A header line may be given with each argument.
func text(line, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s HTTP/1.1\r\nHost: test\r\n", line)
	for _, h := range headers {
		fmt.Fprintf(&b, "%s\r\n", h)
	}
	if body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

func errorBody(code, details string) string {
	return fmt.Sprintf(`{"error":%q,"details":%q}`, code, details)
}

// checkCommon checks what every answer has.
func checkCommon(t testing.TB, r response) {
	t.Helper()
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin":  "*",
		"Access-Control-Allow-Methods": "GET, POST, OPTIONS",
		"Server":                       "",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("header %s = %q, want %q", name, got, want)
		}
	}
	if list := r.header.Get("Access-Control-Allow-Headers"); list != wire.AllowedHeaders &&
		list != wire.AllowedStreamHeaders {
		t.Errorf("allowed are %q", list)
	}
	wantType := ""
	if r.status >= 400 {
		wantType = "application/json"
	}
	if got := r.header.Get("Content-Type"); got != wantType {
		t.Errorf("Content-Type = %q, want %q", got, wantType)
	}
	if (r.header.Get("Retry-After") != "") != (r.header.Get("Access-Control-Expose-Headers") == "Retry-After") {
		t.Errorf("Retry-After and whether pages may read it: %v", r.header)
	}
	if r.status == 401 && r.header.Get("WWW-Authenticate") != "Bearer" {
		t.Error("a 401 without WWW-Authenticate: Bearer")
	}
}

func (r response) check(t testing.TB, status int, body string) {
	t.Helper()
	checkCommon(t, r)
	if r.status != status || r.body != body {
		t.Errorf("answer %d %s\n  want %d %s", r.status, r.body, status, body)
	}
}

func TestRoutes(t *testing.T) {
	r := start(t, nil)
	notFound := errorBody("unavailable", "Route not found")
	wrongMethod := errorBody("unavailable", "Method not allowed")
	for _, test := range []struct {
		line, allow string
		status      int
		body        string
	}{
		{"GET /", "", 404, notFound},
		{"GET /nope", "", 404, notFound},
		{"HEAD /nope", "", 404, ""},
		{"POST " + wire.HeartbeatPath + "/", "", 404, notFound},
		{"POST " + strings.ToUpper(wire.HeartbeatPath), "", 404, notFound},
		{"POST /" + wire.HeartbeatPath, "", 404, notFound},
		{"POST /api/v1/x/../daemon/presence/heartbeat", "", 404, notFound},
		{"POST /api/v1/daemon/presence/%68eartbeat", "", 404, notFound},
		{"GET /debug/presence", "", 404, notFound},
		{"GET /metrics", "", 404, notFound},
		{"GET " + wire.HeartbeatPath, "OPTIONS, POST", 405, wrongMethod},
		{"HEAD " + wire.HeartbeatPath, "OPTIONS, POST", 405, ""},
		{"PUT " + wire.HeartbeatPath, "OPTIONS, POST", 405, wrongMethod},
		{"BREW " + wire.HeartbeatPath, "OPTIONS, POST", 405, wrongMethod},
		{"POST " + wire.StreamPath, "GET, OPTIONS", 405, wrongMethod},
		{"HEAD " + wire.StreamPath, "GET, OPTIONS", 405, ""},
		{"OPTIONS " + wire.HeartbeatPath, "", 204, ""},
		{"OPTIONS " + wire.StreamPath, "", 204, ""},
		{"OPTIONS /nope", "", 204, ""},
		{"OPTIONS *", "", 204, ""},
	} {
		t.Run(test.line, func(t *testing.T) {
			got := r.send(t, text(test.line, ""))
			got.check(t, test.status, test.body)
			if allow := got.header.Get("Allow"); allow != test.allow {
				t.Errorf("Allow = %q, want %q", allow, test.allow)
			}
		})
	}
}

// TestUnreadableRequests: the route and the token come before the size (S2); headers, bodies and
// the time to read them have bounds (S6).
func TestUnreadableRequests(t *testing.T) {
	patient := start(t, nil)
	impatient := start(t, func(o *Options, _ *fakePresence) {
		o.ReadTimeout = 200 * time.Millisecond
	})
	huge := strings.Repeat("x", 17<<10) // over both limits
	tooLarge := errorBody("invalid_payload", "Payload too large")
	auth := "Authorization: Bearer " + testIngest
	chunked := "POST " + wire.HeartbeatPath +
		" HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n" + auth + "\r\n\r\n"
	for _, test := range []struct {
		name, request string
		status        int
		body          string
	}{
		{"no HTTP", "\x16\x03\x01 hello\r\n\r\n", 400, errorBody("invalid_payload",
			"Malformed request")},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, errorBody("invalid_payload",
			"Malformed request")},
		{"bad chunk", chunked + "zz\r\n", 400, errorBody("invalid_payload", "Malformed request")},
		{"header too large", text("GET /", "", "X: "+huge), 431,
			errorBody("invalid_payload", "Request header too large")},
		{"body, token", text("POST "+wire.HeartbeatPath, huge, auth), 413, tooLarge},
		{"body, token, chunked", chunked + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(huge), huge),
			413, tooLarge},
		{"body, token, expecting 100", text("POST "+wire.HeartbeatPath, huge, auth,
			"Expect: 100-continue"), 413, tooLarge},
		{"body, no token", text("POST "+wire.HeartbeatPath, huge), 401,
			errorBody("unauthorized", "Unauthorized")},
		{"body, other method", text("PUT "+wire.HeartbeatPath, huge, auth), 405,
			errorBody("unavailable", "Method not allowed")},
		{"body, no route", text("POST /nope", huge, auth), 404,
			errorBody("unavailable", "Route not found")},
		{"body, preflight", text("OPTIONS /nope", huge), 204, ""},
		{"body, stream", text("GET "+wire.StreamPath, huge), 400,
			errorBody("invalid_payload", "Missing user_id")},
		{"never ends", "POST " + wire.HeartbeatPath + " HTTP/1.1\r\n", 408,
			errorBody("unavailable", "Request timeout")},
		{"body never ends", text("POST "+wire.HeartbeatPath, "", auth, "Content-Length: 9"), 408,
			errorBody("unavailable", "Request timeout")},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got response
			if test.status == 408 {
				got = impatient.sendPart(t, test.request)
			} else { // these may take their time
				got = patient.send(t, test.request)
			}
			got.check(t, test.status, test.body)
			if !got.closes {
				t.Error("the connection is not announced to close")
			}
		})
	}
}

func TestBodyOfExactlyTheLimit(t *testing.T) {
	r := start(t, nil)
	body := validBody + strings.Repeat(" ", wire.MaxBodyBytes-len(validBody))
	r.send(t, heartbeatText(body)).check(t, 204, "")
	r.send(t, heartbeatText(body+" ")).check(t, 413, errorBody("invalid_payload",
		"Payload too large"))
}

// TestSilentConnectionGetsNoAnswer: a connection that sends nothing is closed without a word, since
// a client would take a 408 for the answer to what it sends next.
func TestSilentConnectionGetsNoAnswer(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.ReadTimeout = 50 * time.Millisecond })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Serve(ln) }()
	read := func(sent string) (string, error) {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, sent)
		_ = c.SetReadDeadline(time.Now().Add(testwait.Limit))
		got, err := io.ReadAll(c)
		return string(got), err
	}
	if got, err := read(""); err != nil || got != "" {
		t.Errorf("answered %q, %v", got, err)
	}
	// On a busy machine the byte may come too late.
	testwait.Until(t, "a connection that sent a byte is answered", func() bool {
		got, _ := read("P")
		return strings.HasPrefix(got, "HTTP/1.1 408 ")
	})
}

// A client still sends its body when the refusal comes: it must be able to read it.
func TestRefusalOutlivesUnreadInput(t *testing.T) {
	r := start(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Serve(ln) }()
	for range 20 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, heartbeatText(strings.Repeat("x", 2<<20))); err != nil {
			t.Fatalf("the server reset the connection: %v", err)
		}
		readResponse(t, bufio.NewReader(c), "POST").check(t, 413,
			errorBody("invalid_payload", "Payload too large"))
		_ = c.Close()
	}
}

// TestMaxConns: one connection too many is answered, and the others are served on (S6).
func TestMaxConns(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxConns = 1 })
	first, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(first)
	exchange := func() {
		t.Helper()
		_, _ = io.WriteString(first, heartbeatText(validBody))
		readResponse(t, in, "POST").check(t, 204, "")
	}
	exchange()
	second, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(second, heartbeatText(validBody)) }()
	got := readResponse(t, bufio.NewReader(second), "POST")
	got.check(t, 503, errorBody("unavailable", "Too many connections"))
	if got.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	exchange()
	first.Close()
	testwait.Until(t, "the connection is closed", func() bool { return r.conns.Stats().Open == 0 })
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
}

func TestCloseAnswersHeartbeatsInFlight(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	r := start(t, func(_ *Options, f *fakePresence) {
		f.heartbeat = func(*engine.Heartbeat) engine.Result {
			close(arrived)
			<-proceed
			return engine.Result{}
		}
	})
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, heartbeatText(validBody))
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- r.Close(context.Background()) }()
	testwait.Until(t, "Close has begun", func() bool { // no connection is accepted
		c, err := r.public.Dial()
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case err := <-stopped:
		t.Fatalf("Close returned (%v) with a heartbeat in flight", err)
	default:
	}
	close(proceed)
	readResponse(t, bufio.NewReader(c), "POST").check(t, 204, "")
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := r.Serve(fasthttputil.NewInmemoryListener()); !errors.Is(err, ErrClosed) {
		t.Errorf("Serve after Close: %v", err)
	}
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	r := start(t, func(_ *Options, f *fakePresence) {
		f.heartbeat = func(*engine.Heartbeat) engine.Result {
			close(arrived)
			<-proceed
			return engine.Result{}
		}
	})
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, heartbeatText(validBody))
	<-arrived
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close: %v", err)
	}
	close(proceed)
}

func TestOptionsReportEveryProblem(t *testing.T) {
	_, err := New(newFake(), Options{
		IngestTokens: []string{"fine", "two words", ""},
		SigningKeys:  []string{""},
		RatePerIP:    -1,
		MaxConns:     -1,
	})
	for _, want := range []string{"ingest token 2", "ingest token 3", "signing key 1", "Clock",
		"RatePerIP", "MaxConns"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %s: %v", want, err)
		}
	}
	if _, err := New(newFake(), Options{}); err != nil {
		t.Errorf("the zero Options: %v", err)
	}
}

// TestHeadOfExactlyTheLimit: cookies and what proxies add fit into 16 KiB. A larger head is
// answered 431, counted, and told to the operator once a second at most, without a byte of it.
func TestHeadOfExactlyTheLimit(t *testing.T) {
	var logged testlog
	r := start(t, func(o *Options, _ *fakePresence) {
		o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	})
	const limit = 16 << 10
	without := len(heartbeatText(validBody, testAuth, "Cookie: ")) - len(validBody)
	cookie := "Cookie: " + strings.Repeat("x", limit-without)
	r.send(t, heartbeatText(validBody, testAuth, cookie)).check(t, 204, "")
	r.send(t, text("GET "+wire.StreamPath+"?user_id="+testUser, "", cookie)).check(t, 401,
		errorBody("unauthorized", "Unauthorized"))
	for range 3 {
		r.send(t, heartbeatText(validBody, testAuth, cookie+"y")).check(t, 431,
			errorBody("invalid_payload", "Request header too large"))
	}
	if got := r.counters.Answers[reply.HeaderTooLarge].Load(); got != 3 {
		t.Errorf("counted %d times, not 3", got)
	}
	text := logged.String()
	if !strings.Contains(text, ErrHeadTooLarge.Error()) || strings.Contains(text, "xxx") ||
		strings.Contains(text, testIngest) {
		t.Errorf("the log has\n%s", text)
	}
}

// testlog takes a log. Any goroutine may use it.
type testlog struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *testlog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *testlog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
