package server

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
)

const validBody = `{"schema_version":1,"user_id":"` + testUser + `","device_id":"` + testDevice +
	`","status":"online","source":"daemon-do","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000}`

func heartbeatText(body string, headers ...string) string {
	if headers == nil {
		headers = []string{"Authorization: Bearer " + testIngest}
	}
	return text("POST "+heartbeatPath, body, headers...)
}

// with returns validBody with the value of one field replaced; an empty value takes the field out.
func with(field, value string) string {
	start := strings.Index(validBody, `"`+field+`":`)
	end := start + strings.IndexAny(validBody[start:], ",}")
	if value != "" {
		return fmt.Sprintf(`%s"%s":%s%s`, validBody[:start], field, value, validBody[end:])
	}
	if validBody[end] == ',' {
		return validBody[:start] + validBody[end+1:]
	}
	return validBody[:start-1] + validBody[end:]
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

// heartbeatCase is a body and why it is refused; "": it is accepted.
type heartbeatCase struct{ name, body, refusal string }

// heartbeatCases is the table of the single route. The batch route is held to it, too.
func heartbeatCases() []heartbeatCase {
	const (
		noJSON   = "Invalid JSON payload"
		noUser   = "Missing user_id"
		badIDs   = "Invalid user_id or device_id"
		lower    = "Identifiers must be lowercase"
		noSchema = "Invalid schema_version"
	)
	id := func(s string) string { return `"` + s + `"` }
	return []heartbeatCase{
		{"as it should be", validBody, ""},
		{"offline", with("status", `"offline"`), ""},
		{"space around", " \t\r\n" + validBody + "\n ", ""},
		{"unknown fields", `{"extra":{"a":[1,{"b":null}]},` + validBody[1:], ""},
		{"escaped key", strings.Replace(validBody, `"seq"`, `"s\u0065q"`, 1), ""},

		{"schema_version missing", with("schema_version", ""), noSchema},
		{"schema_version null", with("schema_version", "null"), noSchema},
		{"schema_version 2", with("schema_version", "2"), noSchema},
		{"schema_version text", with("schema_version", `"1"`), noSchema},
		{"schema_version true", with("schema_version", "true"), noSchema},
		{"schema_version 1.0", with("schema_version", "1.0"), noSchema},
		{"schema_version 1e0", with("schema_version", "1e0"), noSchema},

		{"user_id missing", with("user_id", ""), noUser},
		{"user_id null", with("user_id", "null"), noUser},
		{"user_id empty", with("user_id", `""`), noUser},
		{"user_id blank", with("user_id", `" \u00a0\ufeff "`), noUser},
		{"user_id number", with("user_id", "123"), badIDs},
		{"user_id true", with("user_id", "true"), badIDs},
		{"user_id array", with("user_id", `["`+testUser+`"]`), badIDs},
		{"user_id object", with("user_id", `{}`), badIDs},
		{"user_id upper case", with("user_id", id(strings.ToUpper(testDevice))), lower},
		{"user_id with space around", with("user_id", id(" "+testUser+" ")), lower},
		{"user_id v7", with("user_id", id("11111111-2222-7222-8222-333333333333")), ""},
		{"user_id bad UTF-8", with("user_id", "\"\xff\""), badIDs},
		{"user_id nil", with("user_id", id(uuid.Nil.String())), badIDs},
		{"user_id max", with("user_id", id(uuid.Max.String())), badIDs},
		{"device_id missing", with("device_id", ""), badIDs},
		{"device_id null", with("device_id", "null"), badIDs},
		{"device_id number", with("device_id", "123"), badIDs},
		{"device_id empty", with("device_id", `""`), badIDs},
		{"device_id no UUID", with("device_id", `"bob"`), badIDs},
		{"device_id upper case", with("device_id", id(strings.ToUpper(testDevice))), lower},
		{"device_id variant c", with("device_id", id("aaaaaaaa-bbbb-4ccc-cddd-eeeeeeeeeeee")), badIDs},
		{"device_id v9", with("device_id", id("aaaaaaaa-bbbb-9ccc-8ddd-eeeeeeeeeeee")), badIDs},
		{"device_id in braces", with("device_id", id("{"+testDevice+"}")), badIDs},
		{"device_id urn", with("device_id", id("urn:uuid:"+testDevice)), badIDs},
		{"device_id no dashes", with("device_id", id(strings.ReplaceAll(testDevice, "-", ""))), badIDs},
		{"user_id upper case, device_id bad", strings.Replace(with("user_id", id(strings.ToUpper(testDevice))), testDevice, "x", 1), badIDs},

		{"status missing", with("status", ""), "Invalid status"},
		{"status null", with("status", "null"), "Invalid status"},
		{"status Online", with("status", `"Online"`), "Invalid status"},
		{"status space", with("status", `"online "`), "Invalid status"},
		{"status number", with("status", "1"), "Invalid status"},
		{"status escaped", with("status", `"\u006fnline"`), ""},

		{"source missing", with("source", ""), "Invalid source"},
		{"source null", with("source", "null"), "Invalid source"},
		{"source number", with("source", "5"), "Invalid source"},
		{"source empty", with("source", `""`), "Invalid source"},
		{"source blank", with("source", `"   "`), "Invalid source"},
		{"source 128 bytes", with("source", `"  `+strings.Repeat("é", 64)+` "`), ""},
		{"source 129 bytes", with("source", `"`+strings.Repeat("x", 129)+`"`), "Invalid source"},
		{"source lone high surrogate", with("source", `"x\ud800y"`), "Invalid source"},
		{"source lone low surrogate", with("source", `"x\udc00y"`), "Invalid source"},
		{"source surrogates swapped", with("source", `"\udc00\ud800"`), "Invalid source"},
		{"source bad UTF-8", with("source", "\"x\xffy\""), "Invalid source"},
		{"source raw surrogate", with("source", "\"x\xed\xa0\x80y\""), "Invalid source"},
		{"bad UTF-8 elsewhere", `{"x\ud800":"` + "\xff" + `",` + validBody[1:], ""},

		{"sent_at_ms missing", with("sent_at_ms", ""), "Invalid sent_at_ms"},
		{"sent_at_ms null", with("sent_at_ms", "null"), "Invalid sent_at_ms"},
		{"sent_at_ms text", with("sent_at_ms", `"1"`), "Invalid sent_at_ms"},
		{"sent_at_ms -1", with("sent_at_ms", "-1"), "Invalid sent_at_ms"},
		{"sent_at_ms 0", with("sent_at_ms", "0"), ""},
		{"sent_at_ms 1.5", with("sent_at_ms", "1.5"), "Invalid sent_at_ms"},
		{"sent_at_ms 1e20", with("sent_at_ms", "1e20"), "Invalid sent_at_ms"},
		{"seq missing", with("seq", ""), "Invalid seq"},
		{"seq null", with("seq", "null"), "Invalid seq"},
		{"seq 0", with("seq", "0"), ""},
		{"seq -0", with("seq", "-0"), ""},
		{"seq -1", with("seq", "-1"), "Invalid seq"},
		{"seq 1.0", with("seq", "1.0"), "Invalid seq"},
		{"seq 1E2", with("seq", "1E2"), "Invalid seq"},
		{"seq true", with("seq", "true"), "Invalid seq"},
		{"seq 2^53-1", with("seq", "9007199254740991"), ""},
		{"seq 2^53", with("seq", "9007199254740992"), "Invalid seq"},
		{"seq 2^64", with("seq", "18446744073709551616"), "Invalid seq"},
		{"seq 2^64+1", with("seq", "18446744073709551617"), "Invalid seq"},
		{"seq of 400 digits", with("seq", strings.Repeat("9", 400)), "Invalid seq"},
		{"seq 01", with("seq", "01"), noJSON},
		{"seq NaN", with("seq", "NaN"), noJSON},
		{"seq +1", with("seq", "+1"), noJSON},
		{"seq 1.", with("seq", "1."), noJSON},
		{"seq .5", with("seq", ".5"), noJSON},
		{"seq 1e", with("seq", "1e"), noJSON},
		{"seq -", with("seq", "-"), noJSON},
		{"SEQ is no seq", strings.Replace(validBody, `"seq"`, `"SEQ"`, 1), "Invalid seq"},
		{"ttl_ms missing", with("ttl_ms", ""), "Invalid ttl_ms"},
		{"ttl_ms null", with("ttl_ms", "null"), "Invalid ttl_ms"},
		{"ttl_ms 0", with("ttl_ms", "0"), "Invalid ttl_ms"},
		{"ttl_ms -0", with("ttl_ms", "-0"), "Invalid ttl_ms"},
		{"ttl_ms 1", with("ttl_ms", "1"), ""},
		{"ttl_ms 2^53-1", with("ttl_ms", "9007199254740991"), ""},
		{"ttl_ms 2^53", with("ttl_ms", "9007199254740992"), "Invalid ttl_ms"},

		{"duplicate, last is good", `{"seq":"x",` + validBody[1:], ""},
		{"duplicate, last is bad", strings.TrimSuffix(validBody, "}") + `,"seq":null}`, "Invalid seq"},
		{"all wrong", `{"user_id":"x","schema_version":0,"device_id":1,"status":1,"source":1,"seq":-1}`, noSchema},
		{"ids and more wrong", `{"user_id":"x","schema_version":1,"device_id":1,"status":1}`, badIDs},

		{"empty body", "", noJSON},
		{"array", `[` + validBody + `]`, noJSON},
		{"null", "null", noJSON},
		{"number", "5", noJSON},
		{"text", `"x"`, noJSON},
		{"empty object", "{}", noUser},
		{"not closed", "{not-json", noJSON},
		{"cut", validBody[:len(validBody)-1], noJSON},
		{"garbage behind", validBody + "x", noJSON},
		{"two documents", validBody + validBody, noJSON},
		{"NUL behind", validBody + "\x00", noJSON},
		{"byte order mark", "\ufeff" + validBody, noJSON},
		{"trailing comma", validBody[:len(validBody)-1] + ",}", noJSON},
		{"leading comma", "{," + validBody[1:], noJSON},
		{"trailing comma in an array", `{"x":[1,],` + validBody[1:], noJSON},
		{"control character in a string", `{"x":"` + "\n" + `",` + validBody[1:], noJSON},
		{"NUL in a string", `{"x":"` + "\x00" + `",` + validBody[1:], noJSON},
		{"unknown escape", `{"x":"\x",` + validBody[1:], noJSON},
		{"short escape", `{"x":"\u12",` + validBody[1:], noJSON},
		{"control character behind an escape", `{"x":"\n` + "\n" + `",` + validBody[1:], noJSON},
		{"single quotes", `{'x':1,` + validBody[1:], noJSON},
		{"comment", `{/**/` + validBody[1:], noJSON},
		{"form feed", "{\f" + validBody[1:], noJSON},
		{"nested 63 deep", `{"x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `,` + validBody[1:], ""},
		{"nested 64 deep", `{"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `,` + validBody[1:], noJSON},
		{"brackets crossed", `{"x":[{]},` + validBody[1:], noJSON},
	}
}

func TestHeartbeatFields(t *testing.T) {
	r := start(t, nil)
	for _, test := range heartbeatCases() {
		t.Run(test.name, func(t *testing.T) {
			got := r.send(t, heartbeatText(test.body))
			_, applied := r.presence.last()
			if test.refusal == "" {
				got.check(t, 204, "")
			} else {
				got.check(t, 400, errorBody("invalid_payload", test.refusal))
			}
			if applied != (test.refusal == "") {
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
		"query":        text("POST "+heartbeatPath+"?x=1", validBody, auth),
		"text/plain":   heartbeatText(validBody, auth, "Content-Type: text/plain"),
		"form":         heartbeatText(validBody, auth, "Content-Type: multipart/form-data; boundary=x"),
		"HTTP/1.0":     strings.Replace(heartbeatText(validBody), "HTTP/1.1", "HTTP/1.0", 1),
		"absolute URI": text("POST http://test"+heartbeatPath, validBody, auth),
		"chunked": fmt.Sprintf("POST %s HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n%s\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
			heartbeatPath, auth, len(validBody), validBody),
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
		r.send(t, heartbeatText("{", "X-None: x")).check(t, 401, errorBody("unauthorized", "Unauthorized"))
	})
	t.Run("none configured", func(t *testing.T) {
		r := start(t, func(o *Options, _ *fakePresence) { o.IngestTokens = nil })
		r.send(t, heartbeatText("{", "X-None: x")).check(t, 503, errorBody("unavailable", "Ingest token not configured"))
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
	r.send(t, heartbeatText(validBody)).check(t, 503, errorBody("unavailable", "Heartbeat not stored"))
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
	r.presence.heartbeat = func(*engine.Heartbeat) engine.Result { return engine.Result{Outcome: engine.Stale} }
	if got := r.send(t, heartbeatText(validBody)); got.status != 409 {
		t.Errorf("a stale heartbeat over the rate: %d, want 409", got.status)
	}
}

func TestRateLimitSources(t *testing.T) {
	source := func(ip string) string {
		return sourceOf(&net.TCPAddr{IP: net.ParseIP(ip), Port: 1}).String()
	}
	for ip, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1/32",
		"::ffff:192.0.2.1":    "192.0.2.1/32",
		"2001:db8:1:2:3:4::1": "2001:db8:1:2::/64",
	} {
		if got := source(ip); got != want {
			t.Errorf("%s counts as %s, want %s", ip, got, want)
		}
	}
	l, err := newLimiter(1, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		l.allow(&net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(i))})
	}
	if n := l.addresses.Len(); n != 2 {
		t.Errorf("%d addresses are remembered, want 2", n)
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
	p.ctx.Request.SetRequestURI(heartbeatPath)
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

func TestHeartbeatDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for want, result := range map[int]engine.Result{
		204: {},
		409: {Outcome: engine.Stale, LastSeq: 9007199254740991},
	} {
		r := start(t, func(o *Options, f *fakePresence) {
			o.RatePerIP, o.RateBurst = 1, 1<<30
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
	b.Run("decode", func(b *testing.B) {
		var f fields
		body := []byte(validBody)
		b.ReportAllocs()
		for b.Loop() {
			if !f.decode(body) {
				b.Fatal("refused")
			}
		}
	})
	b.Run("decode+check", func(b *testing.B) {
		r := request{body: []byte(validBody)}
		b.ReportAllocs()
		for b.Loop() {
			if r.read() != none {
				b.Fatal("refused")
			}
		}
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
	// From a client's socket through fasthttp and back. The one allocation is fasthttp's: it looks whether a body that it
	// streamed was left unread.
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
