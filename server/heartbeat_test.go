package server

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/internal/testwire"
	"rollcall/wire"
)

const validBody = testwire.Body

// with is testwire.With.
var with = testwire.With

func heartbeatText(body string, headers ...string) string {
	if headers == nil {
		headers = []string{"Authorization: Bearer " + testIngest}
	}
	return text("POST "+wire.HeartbeatPath, body, headers...)
}

func TestHeartbeatAccepted(t *testing.T) {
	r := start(t, nil)
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
	hb, ok := r.presence.last()
	if !ok || hb.User != uuid.MustParse(testUser) || hb.Device != uuid.MustParse(testDevice) ||
		hb.Status != engine.Online || string(hb.Source) != "daemon-do" ||
		hb.SentAtMS != 1739030400000 || hb.Seq != 42 || hb.TTLMS != 12000 {
		t.Errorf("the engine got %+v", hb)
	}
}

// TestHeartbeatFields: the first check that fails answers, and a refused heartbeat is not applied
// (S2).
func TestHeartbeatFields(t *testing.T) {
	r := start(t, nil)
	for _, test := range testwire.Cases {
		t.Run(test.Name, func(t *testing.T) {
			got := r.send(t, heartbeatText(test.Body))
			_, applied := r.presence.last()
			if test.Refusal == "" {
				got.check(t, 204, "")
			} else {
				got.check(t, 400, errorBody("invalid_payload", test.Refusal))
			}
			if applied != (test.Refusal == "") {
				t.Errorf("applied: %v", applied)
			}
		})
	}
}

func TestHeartbeatSource(t *testing.T) {
	r := start(t, nil)
	for _, test := range []struct{ json, want string }{
		{`"  daemon do\t"`, "daemon do"},
		{"\"\u00a0\ufeffdaemon\u2028\u3000\u1680\u202f\u205f\u2003\"", "daemon"},
		{`"\u00a0\u000b\u000cdaemon\u2029"`, "daemon"},
		{"\"\u0085x\u180e\u200b\"", "\u0085x\u180e\u200b"},
		{`"a<b>&\"\\\/ ` + "\u2028" + `é😀\u0007\u007f"`, "a<b>&\"\\/ \u2028é😀\a\x7f"},
		{`"\ud83d\ude00 \uD83D\uDE00"`, "😀 😀"},
		{`"\b\f\n\r\tx"`, "\b\f\n\r\tx"[0:1] + "\f\n\r\tx"},
	} {
		r.send(t, heartbeatText(with("source", test.json))).check(t, 204, "")
		hb, _ := r.presence.last()
		if string(hb.Source) != test.want {
			t.Errorf("source %s is stored as %q, want %q", test.json, hb.Source, test.want)
		}
	}
}

func TestHeartbeatTransport(t *testing.T) {
	r := start(t, nil)
	auth := "Authorization: Bearer " + testIngest
	for name, request := range map[string]string{
		"query":      text("POST "+wire.HeartbeatPath+"?x=1", validBody, auth),
		"text/plain": heartbeatText(validBody, auth, "Content-Type: text/plain"),
		"form": heartbeatText(validBody, auth,
			"Content-Type: multipart/form-data; boundary=x"),
		"HTTP/1.0":     strings.Replace(heartbeatText(validBody), "HTTP/1.1", "HTTP/1.0", 1),
		"absolute URI": text("POST http://test"+wire.HeartbeatPath, validBody, auth),
		"chunked": fmt.Sprintf("POST %s HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n%s\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
			wire.HeartbeatPath, auth, len(validBody), validBody),
	} {
		t.Run(name, func(t *testing.T) { r.send(t, request).check(t, 204, "") })
	}
}

func TestIngestToken(t *testing.T) {
	r := start(t, nil)
	for _, test := range []struct {
		header string
		status int
	}{
		{"Authorization: Bearer ingest", 204},
		{"Authorization: Bearer older", 204},
		{"authorization: bearer ingest", 204},
		{"Authorization: BEARER ingest", 204},
		{"Authorization: Bearer ingest more words", 204},
		{"Authorization: Bearer ingest  ", 204},
		{"X-None: x", 401},
		{"Authorization: Bearer other", 401},
		{"Authorization: Bearer ingest2", 401},
		{"Authorization: Bearer  ingest", 401},
		{"Authorization: Bearer\tingest", 401},
		{"Authorization: Basic ingest", 401},
		{"Authorization: ingest", 401},
		{"Authorization: Bearer", 401},
		{"Authorization: Bearer ", 401},
		{"Authorization: Bearer ingest\r\nAuthorization: Bearer ingest", 401},
	} {
		t.Run(test.header, func(t *testing.T) {
			body := ""
			if test.status == 401 {
				body = errorBody("unauthorized", "Unauthorized")
			}
			r.send(t, heartbeatText(validBody, test.header)).check(t, test.status, body)
		})
	}
	t.Run("the token comes before the body", func(t *testing.T) {
		r.send(t, heartbeatText("{", "X-None: x")).check(t, 401,
			errorBody("unauthorized", "Unauthorized"))
	})
	t.Run("none configured", func(t *testing.T) {
		r := start(t, func(o *Options, _ *fakePresence) { o.IngestTokens = nil })
		r.send(t, heartbeatText("{", "X-None: x")).check(t, 503,
			errorBody("unavailable", "Ingest token not configured"))
	})
}

func TestHeartbeatOutcomes(t *testing.T) {
	var result engine.Result
	r := start(t, func(_ *Options, f *fakePresence) {
		f.heartbeat = func(*engine.Heartbeat) engine.Result { return result }
	})
	result = engine.Result{Outcome: engine.Stale, LastSeq: 9007199254740991}
	r.send(t, heartbeatText(validBody)).check(t, 409,
		`{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":9007199254740991}`)
	result = engine.Result{Outcome: engine.Unavailable, Err: errors.New("no \"room\"")}
	r.send(t, heartbeatText(validBody)).check(t, 503, errorBody("unavailable",
		"Heartbeat not stored"))
	result = engine.Result{Outcome: engine.Unavailable, Err: engine.ErrTooManyDevices}
	r.send(t, heartbeatText(validBody)).check(t, 503, errorBody("unavailable", "Too many devices"))
	result.Err = engine.ErrTooManyDevicesOfUser
	over := r.send(t, heartbeatText(validBody))
	over.check(t, 429, errorBody("rate_limited", "Too many devices of this user"))
	if after := over.header.Get("Retry-After"); after != "60" {
		t.Errorf("Retry-After = %q, want 60", after)
	}
	result = engine.Result{Outcome: engine.Unavailable, Err: fmt.Errorf("p7: %w", engine.ErrNotMine)}
	got := r.send(t, heartbeatText(validBody))
	got.check(t, 503, errorBody("unavailable", "The owner of this user is not in reach"))
	if after := got.header.Get("Retry-After"); after != "1" {
		t.Errorf("Retry-After = %q, want 1", after)
	}
}

// TestNothingOfARequestIsKept: a request's buffers are overwritten behind its handler, as fasthttp
// does with the next request's bytes, and what the server has learned from it is the same (S1).
func TestNothingOfARequestIsKept(t *testing.T) {
	scribble := func(text []byte) {
		for i := range text {
			text[i] = 'x'
		}
	}
	var d wire.Decoder
	for seq := range 20 {
		body := []byte(with("seq", strconv.Itoa(seq)))
		var hb wire.Heartbeat
		if problem := d.Decode(body, &hb); problem != wire.Valid || hb.Seq != uint64(seq) ||
			string(hb.Source) != "daemon-do" {
			t.Fatalf("heartbeat %d: %q, %+v", seq, problem.Details(), hb)
		}
		scribble(body)
	}
	set := newOrigins([]string{ownOrigin})
	header := []byte(ownOrigin)
	allowed := set.allowed(header)
	scribble(header)
	if allowed != ownOrigin {
		t.Errorf("the allowed origin has become %q", allowed)
	}
}

func TestRateLimit(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.RatePerIP, o.RateBurst = 0.001, 2 })
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
	r.send(t, heartbeatText("{}")).check(t, 400, errorBody("invalid_payload", "Missing user_id"))
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
	got := r.send(t, heartbeatText(validBody))
	got.check(t, 429, errorBody("rate_limited", "Too many heartbeats from this address"))
	if got.header.Get("Retry-After") != "1000" {
		t.Errorf("Retry-After = %q", got.header.Get("Retry-After"))
	}
	r.presence.stale = true
	r.presence.heartbeat = func(*engine.Heartbeat) engine.Result {
		return engine.Result{Outcome: engine.Stale}
	}
	if got := r.send(t, heartbeatText(validBody)); got.status != 409 {
		t.Errorf("a stale heartbeat over the rate: %d, want 409", got.status)
	}
}

// prepared is a heartbeat as fasthttp hands it to the handler.
type prepared struct {
	ctx  fasthttp.RequestCtx
	body strings.Reader
}

func prepare() *prepared {
	p := new(prepared)
	p.ctx.Init(new(fasthttp.Request), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, nil)
	p.ctx.Request.Header.SetMethod("POST")
	p.ctx.Request.SetRequestURI(wire.HeartbeatPath)
	p.ctx.Request.Header.Set("Authorization", "Bearer "+testIngest)
	return p
}

// send runs the handler and returns the answer's status.
func (p *prepared) send(s *Server) int {
	p.body.Reset(validBody)
	p.ctx.Request.SetBodyStream(&p.body, len(validBody))
	p.ctx.Response.Reset()
	s.public.Handler(&p.ctx)
	return p.ctx.Response.StatusCode()
}

// TestHeartbeatDoesNotAllocate counts allocations of the handler in the steady state (S5).
func TestHeartbeatDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for want, result := range map[int]engine.Result{
		204: {},
		409: {Outcome: engine.Stale, LastSeq: 9007199254740991},
	} {
		r := start(t, func(o *Options, f *fakePresence) {
			o.RatePerIP, o.RateBurst, o.NewDevicesPerIP = 1, 1<<30, 1
			f.heartbeat = func(*engine.Heartbeat) engine.Result { return result }
		})
		p := prepare()
		if n := testing.AllocsPerRun(1000, func() {
			if got := p.send(r.Server); got != want {
				t.Fatalf("answer %d, want %d", got, want)
			}
		}); n != 0 {
			t.Errorf("%d: %v allocations, want none: run BenchmarkHeartbeat/handler with -memprofile", want, n)
		}
	}
}

func BenchmarkHeartbeat(b *testing.B) {
	r := start(b, func(_ *Options, f *fakePresence) {
		f.heartbeat = func(*engine.Heartbeat) engine.Result { return engine.Result{} }
	})
	b.Run("handler", func(b *testing.B) {
		p := prepare()
		b.ReportAllocs()
		for b.Loop() {
			if p.send(r.Server) != 204 {
				b.Fatal("refused")
			}
		}
	})
	// From a client's socket through fasthttp and back. The one allocation is fasthttp's: it looks
	// whether a body that it streamed was left unread.
	b.Run("socket", func(b *testing.B) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go func() { _ = r.Serve(ln) }()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		request, answer := []byte(heartbeatText(validBody)), make([]byte, 4096)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Write(request); err != nil {
				b.Fatal(err)
			}
			if _, err := c.Read(answer); err != nil { // an answer this small comes whole
				b.Fatal(err)
			}
		}
	})
}
