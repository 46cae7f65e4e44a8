package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"rollcall/engine"
	"rollcall/internal/testwait"
	"rollcall/internal/testwire"
	"rollcall/server/reply"
	"rollcall/wire"
)

const (
	ndjson    = "Content-Type: application/x-ndjson"
	jsonArray = "Content-Type: application/json"
	testAuth  = "Authorization: Bearer " + testIngest
)

// batchText is a request of the batch route.
func batchText(body string, headers ...string) string {
	return text("POST "+wire.HeartbeatsPath, body, append([]string{testAuth}, headers...)...)
}

// batchResult is the body of an answer, errors included.
type batchResult struct {
	Error, Details string
	Line           int
	Accepted       int
	Rejected       int
	Omitted        int `json:"errors_omitted"`
	Unstored       int `json:"unavailable_from"`
	Errors         []struct {
		Line           int
		Status         int
		Error, Details string
		LastSeq        *uint64 `json:"last_seq"`
	}
}

func (r response) batch(t *testing.T, status int) (b batchResult) {
	t.Helper()
	if status >= 400 {
		checkCommon(t, r)
	}
	d := json.NewDecoder(strings.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil || r.status != status {
		t.Fatalf("answer %d %s: %v, want %d", r.status, r.body, err, status)
	}
	return b
}

// TestBatchIsTheSingleRouteLineByLine sends every case of the single route through both framings,
// in batches of a few.
func TestBatchIsTheSingleRouteLineByLine(t *testing.T) {
	r := start(t, nil)
	for _, array := range []bool{false, true} {
		var cases []testwire.Case
		for _, c := range testwire.Cases {
			if frames(c.Body, array) {
				cases = append(cases, c)
			}
		}
		if len(cases) < 90 {
			t.Fatalf("only %d cases fit into a batch", len(cases))
		}
		for ; len(cases) > 0; cases = cases[min(40, len(cases)):] {
			checkBatch(t, r, cases[:min(40, len(cases))], array)
		}
	}
}

// frames reports whether body is one text in a batch, and no more than a line.
func frames(body string, array bool) bool {
	if !array && strings.Contains(body, "\n") {
		return false
	}
	s := wire.NewSplitter()
	s.Reset(array)
	if array {
		body = "[" + body + "]"
	}
	for texts, r := 0, strings.NewReader(body); ; {
		switch _, c := s.Next(); c {
		case wire.CutText, wire.CutTooLong:
			texts++
		case wire.CutBlank:
		case wire.CutMore:
			_ = s.Fill(r)
		case wire.CutEnd:
			return texts == 1
		case wire.CutBroken:
			return false
		}
	}
}

func checkBatch(t *testing.T, r *running, cases []testwire.Case, array bool) {
	t.Helper()
	bodies, refused := make([]string, len(cases)), 0
	for i, c := range cases {
		bodies[i] = c.Body
		if c.Refusal != "" {
			refused++
		}
	}
	request := batchText(strings.Join(bodies, "\n"), ndjson)
	if array {
		request = batchText("["+strings.Join(bodies, ",")+"]", jsonArray)
	}
	got := r.send(t, request).batch(t, 200)
	if got.Accepted != len(cases)-refused || got.Rejected != refused || len(got.Errors) != refused {
		t.Fatalf("array %v: %+v, want %d accepted", array, got, len(cases)-refused)
	}
	listed := got.Errors
	for i, c := range cases {
		if c.Refusal == "" {
			continue
		}
		e := listed[0]
		listed = listed[1:]
		if e.Line != i+1 || e.Status != 400 || e.Error != "invalid_payload" ||
			e.Details != c.Refusal || e.LastSeq != nil {
			t.Errorf("array %v, %s: line %d says %+v, want %q", array, c.Name, i+1, e, c.Refusal)
		}
	}
}

func TestBatchOutcomes(t *testing.T) {
	// The fake says by the seq what comes of a line.
	r := start(t, func(_ *Options, f *fakePresence) {
		f.heartbeat = func(hb *engine.Heartbeat) engine.Result {
			switch hb.Seq {
			case 2:
				return engine.Result{Outcome: engine.Stale, LastSeq: 9007199254740991}
			case 3:
				return engine.Result{Outcome: engine.Unavailable,
					Err: errors.New("the table is full")}
			case 4:
				return engine.Result{Outcome: engine.Unavailable,
					Err: errors.New("the log is full"), LogFull: true}
			case 5:
				return engine.Result{Outcome: engine.Unavailable, Err: engine.ErrNotMine}
			case 6:
				return engine.Result{Outcome: engine.Unavailable, Err: engine.ErrTooManyDevices}
			}
			return engine.Result{}
		}
	})
	lines := func(seqs ...string) string {
		var all []string
		for _, seq := range seqs {
			all = append(all, with("seq", seq))
		}
		return strings.Join(all, "\n")
	}
	send := func(body string) string { return r.send(t, batchText(body, ndjson)).body }
	const (
		stale    = `{"line":%d,"status":409,"error":"invalid_payload","details":"Non-monotonic seq","last_seq":9007199254740991}`
		unstored = `{"line":%d,"status":503,"error":"unavailable","details":"Heartbeat not stored"}`
		notOwned = `{"line":%d,"status":503,"error":"unavailable","details":"The owner of this user is not in reach"}`
		invalid  = `{"line":%d,"status":400,"error":"invalid_payload","details":"Invalid seq"}`
	)
	list := func(parts ...any) string {
		var all []string
		for i := 0; i < len(parts); i += 2 {
			all = append(all, fmt.Sprintf(parts[i].(string), parts[i+1]))
		}
		return `"errors":[` + strings.Join(all, ",") + `]}`
	}
	for _, test := range []struct{ name, body, want string }{
		{"none", "", `{"accepted":0,"rejected":0,"errors":[]}`},
		{"one", lines("1"), `{"accepted":1,"rejected":0,"errors":[]}`},
		{"some", lines("1", "2", "x", "3", "1"), `{"accepted":2,"rejected":3,` + list(stale, 2,
			`{"line":%d,"status":400,"error":"invalid_payload","details":"Invalid JSON payload"}`,
			3, unstored, 4)},
		// A line of another node's user is refused alone.
		{"not owned", lines("5", "1", "5"), `{"accepted":1,"rejected":2,` +
			list(notOwned, 1, notOwned, 3)},
		{"too many devices", lines("1", "6", "1"), `{"accepted":2,"rejected":1,` + list(
			`{"line":%d,"status":503,"error":"unavailable","details":"Too many devices"}`, 2)},
		// From the refusal on, everything is to be sent again, whatever it is.
		{"log full", lines("1", "-1", "3", "4", "1", "-1", "2"),
			`{"accepted":1,"rejected":6,"unavailable_from":4,` +
				list(invalid, 2, unstored, 3, unstored, 4, unstored, 5, unstored, 6, unstored, 7)},
		{"log full for long", lines("4") + strings.Repeat("\n"+lines("1"), 200),
			`{"accepted":0,"rejected":201,"errors_omitted":101,"unavailable_from":1,`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := send(test.body); got != test.want &&
				!(strings.HasSuffix(test.want, ",") && strings.HasPrefix(got, test.want)) {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
	r.presence.settle = errors.New("the log failed")
	r.send(t, batchText(lines("1"), ndjson)).check(t, 503,
		errorBody("unavailable", "Heartbeat not stored"))
}

func pack(t *testing.T, coding, body string) string {
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if coding == "zstd" {
		var err error
		if w, err = zstd.NewWriter(&b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// packWindow packs as an encoder does that does not know how much will come.
func packWindow(t *testing.T, window int, body string) string {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, body)
	if err = errors.Join(err, w.Flush(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestBatchTransport(t *testing.T) {
	r := start(t, nil)
	three := strings.Repeat(validBody+"\n", 3)
	gzipped, zipped := pack(t, "gzip", three), pack(t, "zstd", three)
	chunked := func(body, size string, headers string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n%s\r\n%s\r\n%s\r\n%s\r\n0\r\n\r\n", wire.HeartbeatsPath, testAuth, headers+"\r\n", size, body)
	}
	hex := func(s string) string { return fmt.Sprintf("%x", len(s)) }
	for name, request := range map[string]string{
		"lines":       batchText(three, ndjson),
		"lines, CRLF": batchText(strings.ReplaceAll(three, "\n", "\r\n\r\n"), ndjson),
		"charset":     batchText(three, ndjson+"; charset=utf-8"),
		"no type":     batchText(three),
		"identity":    batchText(three, ndjson, "Content-Encoding: identity"),
		"array": batchText(" [\n"+strings.TrimSuffix(strings.ReplaceAll(three, "\n",
			",\n"), ",\n")+"\n]\n", jsonArray),
		"gzip":   batchText(gzipped, ndjson, "Content-Encoding: gzip"),
		"GZIP":   batchText(gzipped, ndjson, "Content-Encoding: GZIP"),
		"x-gzip": batchText(gzipped, ndjson, "Content-Encoding: x-gzip"),
		"Zstd":   batchText(zipped, ndjson, "Content-Encoding: , Zstd"),
		"Identity": batchText(three, ndjson, "Content-Encoding: Identity",
			"Content-Encoding: identity,"),
		"identity over gzip": batchText(gzipped, ndjson, "Content-Encoding: identity, gzip"),
		"zstd window": batchText(packWindow(t, zstdWindowBytes, three), ndjson,
			"Content-Encoding: zstd"),
		"gzip, two": batchText(pack(t, "gzip", validBody+"\n")+pack(t, "gzip",
			validBody+"\n"+validBody), ndjson, "Content-Encoding: gzip"),
		"zstd":         batchText(zipped, ndjson, "Content-Encoding: zstd"),
		"chunked":      chunked(three, hex(three), ndjson),
		"chunked gzip": chunked(gzipped, hex(gzipped), ndjson+"\r\nContent-Encoding: gzip"),
		"chunked zstd": chunked(zipped, hex(zipped), ndjson+"\r\nContent-Encoding: zstd"),
		"HTTP/1.0":     strings.Replace(batchText(three, ndjson), "HTTP/1.1", "HTTP/1.0", 1),
		"100-continue": batchText(three, ndjson, "Expect: 100-continue"),
		"query": strings.Replace(batchText(three, ndjson), wire.HeartbeatsPath,
			wire.HeartbeatsPath+"?x=1", 1),
		"many times 8 k": batchText(strings.Repeat(strings.Repeat(" ", 15000)+"\n", 60)+three,
			ndjson),
	} {
		t.Run(name, func(t *testing.T) {
			if got := r.send(t, request).batch(t, 200); got.Accepted != 3 || got.Rejected != 0 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestBatchPipelining: what comes behind a batch on its connection is answered after it, compressed
// or not.
func TestBatchPipelining(t *testing.T) {
	r := start(t, nil)
	body := strings.Repeat(validBody+"\n", 200)
	requests := []string{
		batchText(body, ndjson), heartbeatText(validBody),
		batchText(pack(t, "gzip", body), ndjson, "Content-Encoding: gzip"),
		batchText(pack(t, "zstd", body), ndjson, "Content-Encoding: zstd"), heartbeatText("{}"),
		batchText("", ndjson), heartbeatText(validBody),
	}
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = io.WriteString(c, strings.Join(requests, "")) }()
	_ = c.SetReadDeadline(time.Now().Add(testwait.Limit))
	br := bufio.NewReader(c)
	var got []string
	for range requests {
		a := readResponse(t, br, "POST")
		got = append(got, fmt.Sprint(a.status, strings.Count(a.body, `"accepted":200`)))
	}
	if want := "[200 1 204 0 200 1 200 1 400 0 200 0 204 0]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestBatchRefusals(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxBatch = 5 })
	bomb := strings.Repeat(" ", wire.MaxBatchBytes) + "\n"
	line := validBody + "\n"
	var flushed bytes.Buffer
	w := gzip.NewWriter(&flushed)
	_, err := io.WriteString(w, line)
	if err = errors.Join(err, w.Flush()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, request  string
		status         int
		details        string
		line, accepted int
		plain          bool // nothing was read of it
	}{
		{"no token", text("POST "+wire.HeartbeatsPath, line, ndjson), 401, "Unauthorized", 0, 0,
			true},
		{"token before type", text("POST "+wire.HeartbeatsPath, line, "Content-Type: text/plain"),
			401, "Unauthorized", 0, 0, true},
		{"type", batchText(line, "Content-Type: text/plain"), 415,
			"Content-Type must be application/x-ndjson or application/json", 0, 0, true},
		{"curl's type", batchText(line, "Content-Type: application/x-www-form-urlencoded"), 415,
			"Content-Type must be application/x-ndjson or application/json", 0, 0, true},
		{"coding", batchText(line, ndjson, "Content-Encoding: br"), 415,
			"Content-Encoding must be gzip, zstd or none", 0, 0, true},
		{"announced size", batchText(bomb, ndjson), 413, "A batch may have 4 MiB, unpacked", 0, 0,
			true},
		{"too many", batchText(strings.Repeat(line, 6), ndjson), 413,
			"Too many heartbeats in one batch", 6, 5, false},
		{"too many with blank ones", batchText(line+"\n\r\n"+line+" \n"+line, ndjson), 413,
			"Too many heartbeats in one batch", 6, 2, false},
		{"a packed heap of line ends", batchText(pack(t, "gzip", strings.Repeat("\n", 4<<20)),
			ndjson, "Content-Encoding: gzip"), 413, "Too many heartbeats in one batch", 6, 0, false},
		{"too many in an array", batchText("["+strings.Repeat(validBody+",", 5)+validBody+"]",
			jsonArray), 413, "Too many heartbeats in one batch", 6, 5, false},
		{"gzip bomb", batchText(pack(t, "gzip", line+bomb), ndjson, "Content-Encoding: gzip"), 413,
			"A batch may have 4 MiB, unpacked", 2, 1, false},
		{"zstd bomb", batchText(pack(t, "zstd", line+bomb), ndjson, "Content-Encoding: zstd"), 413,
			"A batch may have 4 MiB, unpacked", 2, 1, false},
		{"no gzip", batchText(line, ndjson, "Content-Encoding: gzip"), 400,
			"The body is not what Content-Encoding says, or was cut", 1, 0, false},
		{"empty gzip", batchText("", ndjson, "Content-Encoding: gzip", "Content-Length: 0"), 400,
			"The body is not what Content-Encoding says, or was cut", 1, 0, false},
		{"empty zstd", batchText("", ndjson, "Content-Encoding: zstd", "Content-Length: 0"), 400,
			"The body is not what Content-Encoding says, or was cut", 1, 0, false},
		{"no zstd", batchText(line, ndjson, "Content-Encoding: zstd"), 400,
			"The body is not what Content-Encoding says, or was cut", 1, 0, false},
		{"bytes behind zstd", batchText(pack(t, "zstd", line)+"\x28", ndjson,
			"Content-Encoding: zstd"), 400, reply.BadEncoding.Details(), 2, 1, false},
		{"zstd window", batchText(packWindow(t, 16<<20, line), ndjson, "Content-Encoding: zstd"),
			415, "The window of a zstd body may have 8 MiB", 1, 0, false},
		{"coding over coding", batchText(line, ndjson, "Content-Encoding: gzip, zstd"), 415,
			"Content-Encoding must be gzip, zstd or none", 0, 0, true},
		{"two codings", batchText(line, ndjson, "Content-Encoding: gzip",
			"Content-Encoding: gzip"), 415, "Content-Encoding must be gzip, zstd or none", 0, 0,
			true},
		{"cut gzip", batchText(flushed.String(), ndjson, "Content-Encoding: gzip"), 400,
			"The body is not what Content-Encoding says, or was cut", 2, 1, false},
		{"object for array", batchText(line, jsonArray), 400, reply.MalformedBatch.Details(), 1, 0,
			false},
		{"array cut", batchText("["+validBody+","+validBody, jsonArray), 400,
			reply.MalformedBatch.Details(), 2, 1, false},
		{"behind the array", batchText("["+validBody+"]]", jsonArray), 400,
			reply.MalformedBatch.Details(), 2, 1, false},
		{"no element", batchText("["+validBody+",,"+validBody+"]", jsonArray), 400,
			reply.MalformedBatch.Details(), 2, 1, false},
		{"no comma", batchText("["+validBody+" "+validBody+"]", jsonArray), 400,
			reply.MalformedBatch.Details(), 1, 0, false},
		{"the other bracket", batchText("["+validBody+","+strings.TrimSuffix(validBody, "}")+"]]",
			jsonArray), 400, reply.MalformedBatch.Details(), 2, 1, false},
		{"chunks broken", fmt.Sprintf("POST %s HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n%s\r\n%s\r\n\r\n%x\r\n%s\r\nzz\r\n", wire.HeartbeatsPath, testAuth, ndjson, len(line), line),
			400, "Malformed request", 2, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := r.send(t, test.request)
			got := answer.batch(t, test.status)
			if got.Details != test.details || got.Line != test.line ||
				got.Accepted != test.accepted || got.Rejected != 0 {
				t.Errorf("%+v", got)
			}
			if test.plain != (got.Errors == nil) {
				t.Errorf("errors: %v", got.Errors)
			}
			if test.plain && !answer.closes {
				t.Error("the connection stays open behind a body that was not read")
			}
		})
	}
	a := r.send(t, text("GET "+wire.HeartbeatsPath, ""))
	if a.status != 405 || !strings.Contains(a.header.Get("Allow"), "POST") {
		t.Errorf("GET: %d, Allow %q", a.status, a.header.Get("Allow"))
	}
}

// TestBatchCutByTheClient: a body that ends before its Content-Length is applied up to its last
// whole line.
func TestBatchCutByTheClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, nil)
	go func() { _ = r.Serve(ln) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testwait.Limit))
	request := batchText(strings.Repeat(validBody+"\n", 100), ndjson)
	if _, err := io.WriteString(c, request[:len(request)-10]); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if got := readResponse(t, bufio.NewReader(c), "POST").batch(t, 400); got.Accepted != 99 ||
		got.Line != 100 || got.Details != "Malformed request" {
		t.Errorf("%+v", got)
	}
}

func TestBatchRateLimit(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.RatePerIP, o.RateBurst = 0.001, 3 })
	body := strings.Join([]string{validBody, "{}", validBody, validBody, validBody, "{}"}, "\n")
	got := r.send(t, batchText(body, ndjson)).batch(t, 200)
	var statuses []int
	for _, e := range got.Errors {
		statuses = append(statuses, e.Line, e.Status)
	}
	if got.Accepted != 3 || fmt.Sprint(statuses) != "[2 400 5 429 6 400]" {
		t.Errorf("%+v", got)
	}
}

// prepareBatch is a request of n heartbeats as fasthttp hands it to the handler.
func prepareBatch(n int) (p *prepared, body string) {
	p = prepare()
	p.ctx.Request.SetRequestURI(wire.HeartbeatsPath)
	p.ctx.Request.Header.Set("Content-Type", "application/x-ndjson")
	return p, strings.Repeat(validBody+"\n", n)
}

func (p *prepared) sendBatch(s *Server, body string) int {
	p.body.Reset(body)
	p.ctx.Request.SetBodyStream(&p.body, len(body))
	p.ctx.Response.Reset()
	s.public.Handler(&p.ctx)
	return p.ctx.Response.StatusCode()
}

func TestBatchDoesNotAllocatePerHeartbeat(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, result := range map[string]engine.Result{"accepted": {},
		"stale": {Outcome: engine.Stale, LastSeq: 9007199254740991}} {
		r := start(t, func(_ *Options, f *fakePresence) {
			f.heartbeat = func(*engine.Heartbeat) engine.Result { return result }
		})
		p, body := prepareBatch(1000)
		if n := testing.AllocsPerRun(100, func() {
			if got := p.sendBatch(r.Server, body); got != 200 {
				t.Fatalf("answer %d", got)
			}
		}); n >= 10 {
			t.Errorf("%s: %v allocations for 1,000 heartbeats, want less than 10: run BenchmarkBatch with -memprofile", name, n)
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	r := start(b, func(_ *Options, f *fakePresence) {
		f.heartbeat = func(*engine.Heartbeat) engine.Result { return engine.Result{} }
	})
	const lines = 1000
	b.Run(fmt.Sprintf("lines=%d", lines), func(b *testing.B) {
		p, body := prepareBatch(lines)
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			if p.sendBatch(r.Server, body) != 200 {
				b.Fatal("refused")
			}
		}
		b.ReportMetric(float64(b.Elapsed())/float64(b.N)/lines, "ns/heartbeat")
	})
}
