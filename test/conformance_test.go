package test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testwait"
)

func errorBody(code, details string) string {
	return fmt.Sprintf(`{"error":%q,"details":%q}`, code, details)
}

func invalid(details string) string { return errorBody("invalid_payload", details) }

// What pages of other origins may send, and what besides on a stream's route.
const (
	allowedHeaders   = "Content-Type, Authorization"
	allowedOnStreams = allowedHeaders + ", Cache-Control, Last-Event-ID"
)

// expect checks an answer: status, body, and what every answer carries (S3): the CORS headers, and
// an error's JSON.
func expect(t *testing.T, a answer, status int, body string) {
	t.Helper()
	if a.status != status || a.body != body {
		t.Errorf("got %d %s\nwant %d %s", a.status, a.body, status, body)
	}
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin":  "*",
		"Access-Control-Allow-Methods": "GET, POST, OPTIONS",
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if list := a.header.Get("Access-Control-Allow-Headers"); list != allowedHeaders && list != allowedOnStreams {
		t.Errorf("allowed are %q", list)
	}
	if body != "" && a.header.Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type of an error: %q", a.header.Get("Content-Type"))
	}
}

// raw marks a JSON text that goes into the body as it stands.
func raw(text string) json.RawMessage { return json.RawMessage(text) }

// TestHeartbeatFields is the table of checks: every field missing, null, of each wrong type and at
// each bound.
func TestHeartbeatFields(t *testing.T) {
	r := startServer(t)
	const (
		version = "Invalid schema_version"
		ids     = "Invalid user_id or device_id"
		lower   = "Identifiers must be lowercase"
		noUser  = "Missing user_id"
		source  = "Invalid source"
	)
	u := uuid.NewString()
	rows := []struct {
		field   string
		details string // "" means accepted
		values  []any
	}{
		{"schema_version", version, []any{nil, "1", 2, 0, -1, true, raw("1.0"), raw("1e0"), raw("[1]"), raw("{}")}},
		{"user_id", noUser, []any{nil, "", "   ", "\u00a0\ufeff\u2003"}},
		{"user_id", ids, []any{123, true, raw("[]"), raw("{}"), "bob", uuid.Nil.String(), "{" + u + "}", "urn:uuid:" + u,
			strings.ReplaceAll(u, "-", ""), u + "0", u[:35], strings.Replace(u, "-", "x", 1), "g" + u[1:],
			u[:14] + "9" + u[15:], u[:19] + "c" + u[20:]}},
		{"user_id", lower, []any{"ABCDEFAB-CDEF-4CDE-8CDE-ABCDEFABCDEF", " " + u}},
		{"device_id", ids, []any{nil, "", "  ", 123, true, raw("[]"), raw("{}"), "bob", uuid.Nil.String(), "{" + u + "}"}},
		{"device_id", lower, []any{"ABCDEFAB-CDEF-4CDE-8CDE-ABCDEFABCDEF"}},
		{"device_id", "", []any{"00000000-0000-1000-8000-000000000001", "018f4d0e-1234-7abc-8def-0123456789ab",
			"018f4d0e-1234-6abc-bdef-0123456789ab", "018f4d0e-1234-8abc-9def-0123456789ab"}},
		{"status", "Invalid status", []any{nil, "", "Online", "online ", "away", 1, true, raw("[]"), raw("{}")}},
		{"status", "", []any{"online", "offline"}},
		{"source", source, []any{nil, "", "  \t ", "\u00a0\ufeff\u2028", 1, true, raw("[]"), raw("{}"),
			strings.Repeat("x", 129), strings.Repeat("é", 65), raw(`"x\ud800y"`), raw(`"\udc00"`)}},
		{"source", "", []any{"x", strings.Repeat("x", 128), strings.Repeat("é", 64),
			"  " + strings.Repeat("x", 128) + "  ", raw(`"\ud83d\ude00"`)}},
		{"sent_at_ms", "Invalid sent_at_ms", []any{nil, "1", -1, true, raw("[]"), raw("1.5"), raw("1.0"), raw("1e3"), raw("9007199254740992"), raw("1e400")}},
		{"sent_at_ms", "", []any{0, raw("9007199254740991"), raw("-0")}},
		{"seq", "Invalid seq", []any{nil, "5", -1, true, raw("[]"), raw("1.5"), raw("1.0"), raw("1E2"), raw("9007199254740992"), raw("18446744073709551617")}},
		{"seq", "", []any{0, raw("9007199254740991"), raw("-0")}},
		{"ttl_ms", "Invalid ttl_ms", []any{nil, "12000", 0, -1, true, raw("[]"), raw("0.5"), raw("1e3"), raw("9007199254740992")}},
		{"ttl_ms", "", []any{1, raw("9007199254740991")}},
		{"unknown", "", []any{nil, 1, "x", raw(`{"deep":[[{"x":null}]]}`)}},
		{"SEQ", "", []any{99, "x", nil}},
	}
	for _, row := range rows {
		for _, value := range row.values {
			b := newBeat().with(row.field, value)
			t.Run(fmt.Sprintf("%s=%v", row.field, value), func(t *testing.T) {
				r := r.in(t)
				if row.details == "" {
					expect(t, r.beat(b), 204, "")
				} else {
					expect(t, r.beat(b), 400, invalid(row.details))
				}
			})
		}
	}
	for field, details := range map[string]string{"schema_version": version, "user_id": noUser, "device_id": ids, "status": "Invalid status",
		"source": source, "sent_at_ms": "Invalid sent_at_ms", "seq": "Invalid seq", "ttl_ms": "Invalid ttl_ms"} {
		t.Run(field+" missing", func(t *testing.T) {
			expect(t, r.in(t).beat(newBeat().without(field)), 400, invalid(details))
		})
		t.Run(field+" in another case", func(t *testing.T) {
			b := newBeat()
			expect(t, r.in(t).beat(b.without(field).with(strings.ToUpper(field), b[field])), 400,
				invalid(details))
		})
	}
}

// in returns the rig as seen by a subtest.
func (r *rig) in(t *testing.T) *rig {
	return &rig{t: t, dir: r.dir, addr: r.addr, admin: r.admin, proc: r.proc, nodes: r.nodes}
}

// TestHeartbeatOrderOfChecks breaks everything at once and mends it in the order of the contract
// (S2).
func TestHeartbeatOrderOfChecks(t *testing.T) {
	r := startServer(t)
	good := newBeat()
	r.mustBeat(good.with("seq", 5))
	bad := beat{"user_id": "", "schema_version": 2, "device_id": "x", "status": "away", "source": "", "sent_at_ms": -1, "seq": -1, "ttl_ms": 0}
	upper := strings.ToUpper("abcdefab-cdef-4cde-8cde-abcdefabcdef")

	expect(t, r.send(request("POST", heartbeatPath, "not json")), 401, errorBody("unauthorized", "Unauthorized"))
	expect(t, r.send(request("POST", heartbeatPath, strings.Repeat("x", 16<<10+1))), 401, errorBody("unauthorized", "Unauthorized"))
	if a := r.send(request("POST", heartbeatPath, strings.Repeat("x", 16<<10+1),
		bearer(ingestToken))); a.status != 413 || !strings.Contains(a.body, `"invalid_payload"`) {
		t.Errorf("too large: %d %s", a.status, a.body)
	}
	expect(t, r.send(request("POST", heartbeatPath, strings.Repeat("x", 16<<10),
		bearer(ingestToken))), 400, invalid("Invalid JSON payload"))
	steps := []struct {
		details string
		mend    func(beat) beat
	}{
		{"Missing user_id", func(b beat) beat { return b.with("user_id", "x") }},
		{"Invalid schema_version", func(b beat) beat { return b.with("schema_version", 1) }},
		{"Invalid user_id or device_id", func(b beat) beat { return b.with("user_id", upper).with("device_id", upper) }},
		{"Identifiers must be lowercase", func(b beat) beat {
			return b.with("user_id", good["user_id"]).with("device_id", good["device_id"])
		}},
		{"Invalid status", func(b beat) beat { return b.with("status", "online") }},
		{"Invalid source", func(b beat) beat { return b.with("source", "x") }},
		{"Invalid sent_at_ms", func(b beat) beat { return b.with("sent_at_ms", 1) }},
		{"Invalid seq", func(b beat) beat { return b.with("seq", 5) }},
		{"Invalid ttl_ms", func(b beat) beat { return b.with("ttl_ms", 1000) }},
	}
	for _, s := range steps {
		expect(t, r.beat(bad), 400, invalid(s.details))
		bad = s.mend(bad)
	}
	expect(t, r.beat(bad), 409, `{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":5}`)
}

// TestHeartbeatBodies is what counts as one JSON object.
func TestHeartbeatBodies(t *testing.T) {
	r := startServer(t)
	valid := func() string { return newBeat().json() }
	for _, body := range []string{"", "   ", "[]", "[" + valid() + "]", "null", "5", `"str"`, "{not-json", valid() + "x", valid() + valid(),
		"\ufeff" + valid(), strings.TrimSuffix(valid(), "}") + ",}", strings.Replace(valid(), `"seq":1`, `"seq":01`, 1),
		strings.Replace(valid(), `"seq":1`, `"seq":NaN`, 1), strings.Replace(valid(), `daemon-do`, "a\nb", 1),
		strings.Replace(valid(), `daemon-do`, `\x`, 1), valid()[:20],
		`{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`} {
		expect(t, r.send(request("POST", heartbeatPath, body, bearer(ingestToken))), 400, invalid("Invalid JSON payload"))
	}
	for _, body := range []string{" \r\n\t" + valid() + "\n ", strings.Replace(valid(), `"seq":1`, `"seq":99,"seq":1`, 1),
		strings.Replace(valid(), `"seq"`, `"s\u0065q"`, 1)} {
		expect(t, r.send(request("POST", heartbeatPath, body, bearer(ingestToken))), 204, "")
	}
	b := valid()
	chunked := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", heartbeatPath, bearer(ingestToken), len(b), b)
	expect(t, r.send(chunked), 204, "")
	invalidUTF8 := strings.Replace(valid(), "daemon-do", "x\xffy", 1)
	expect(t, r.send(request("POST", heartbeatPath, invalidUTF8, bearer(ingestToken))), 400, invalid("Invalid source"))
}

// TestHeartbeatAuthorization: the scheme in any case, one space, the token, nothing else.
func TestHeartbeatAuthorization(t *testing.T) {
	const second = "second-token-of-the-black-box-tests"
	r := startServer(t)
	r.env[0] = ingestTokenEnv + "= " + ingestToken + " , " + second
	r.kill()
	r.start()
	try := func(header string) answer {
		if header == "" {
			return r.send(request("POST", heartbeatPath, newBeat().json()))
		}
		return r.send(request("POST", heartbeatPath, newBeat().json(), header))
	}
	for _, h := range []string{
		bearer(ingestToken), "authorization: bearer " + ingestToken, "AUTHORIZATION: BEARER " + ingestToken,
		bearer(second), bearer(ingestToken) + "  ",
	} {
		expect(t, try(h), 204, "")
	}
	for _, h := range []string{
		"", bearer(""), "Authorization: ", bearer("wrong"), bearer(ingestToken + "2"), bearer(ingestToken[:len(ingestToken)-1]),
		"Authorization: Bearer  " + ingestToken, "Authorization: Bearer\t" + ingestToken,
		"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(ingestToken)), "Authorization: " + ingestToken,
		"Authorization: Beare " + ingestToken, bearer(ingestToken + "," + second), bearer(strings.ToUpper(ingestToken)),
	} {
		a := try(h)
		expect(t, a, 401, errorBody("unauthorized", "Unauthorized"))
		if got := a.header.Get("WWW-Authenticate"); got != "Bearer" {
			t.Errorf("%s: WWW-Authenticate %q", h, got)
		}
	}
}

// TestSeq: strictly growing per device, where a device is the pair of user and device.
func TestSeq(t *testing.T) {
	r := startServer(t)
	b := newBeat().with("seq", 5)
	r.mustBeat(b)
	stale := func(last int) string {
		return fmt.Sprintf(`{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":%d}`, last)
	}
	expect(t, r.beat(b), 409, stale(5))
	expect(t, r.beat(b.with("seq", 4).with("sent_at_ms", time.Now().UnixMilli()+1000)), 409, stale(5))
	expect(t, r.beat(b.with("seq", 0)), 409, stale(5))
	expect(t, r.beat(b.with("seq", 5).with("status", "offline")), 409, stale(5))
	expect(t, r.beat(b.with("seq", 6).with("sent_at_ms", 0)), 204, "")
	expect(t, r.beat(b.with("seq", 3).with("user_id", uuid.NewString())), 204, "")
	expect(t, r.beat(b.with("seq", 3).with("device_id", uuid.NewString())), 204, "")
	expect(t, r.beat(b.with("seq", -1)), 400, invalid("Invalid seq"))
	expect(t, r.beat(b.with("seq", 6)), 409, stale(6))
}

// TestRacingEqualSeqs: of many equal heartbeats at once exactly one wins, and the others learn
// which seq did.
func TestRacingEqualSeqs(t *testing.T) {
	r := startServer(t)
	b := newBeat()
	for seq := 1; seq <= 20; seq++ {
		answers := make([]answer, 16)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i] = r.beat(b.with("seq", seq)) })
		}
		wg.Wait()
		won := 0
		for _, a := range answers {
			if a.status == 204 {
				won++
				continue
			}
			expect(t, a, 409, fmt.Sprintf(`{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":%d}`, seq))
		}
		if won != 1 {
			t.Fatalf("seq %d was accepted %d times", seq, won)
		}
	}
}

// TestSeqPolicyRestart: a daemon that counts from 1 again is believed when its clock moved on.
func TestSeqPolicyRestart(t *testing.T) {
	r := startServer(t, "--seq-policy=restart")
	b := newBeat().with("seq", 9).with("sent_at_ms", 1000)
	r.mustBeat(b)
	if a := r.beat(b.with("seq", 1)); a.status != 409 {
		t.Errorf("equal sent_at: %d", a.status)
	}
	if a := r.beat(b.with("seq", 1).with("sent_at_ms", 999)); a.status != 409 {
		t.Errorf("older sent_at: %d", a.status)
	}
	r.mustBeat(b.with("seq", 1).with("sent_at_ms", 1001))
	r.mustBeat(b.with("seq", 2).with("sent_at_ms", 5))
}

// TestRoutes: what is there, what is not, and CORS everywhere.
func TestRoutes(t *testing.T) {
	r := startServer(t)
	notFound := errorBody("unavailable", "Route not found")
	for _, path := range []string{"/", "/nope", "/health", heartbeatPath + "/", strings.ToUpper(heartbeatPath), "/debug/presence",
		strings.Replace(heartbeatPath, "daemon/", "daemon//", 1), strings.Replace(heartbeatPath, "heartbeat", "%68eartbeat", 1), "/metrics"} {
		expect(t, r.send(request("POST", path, "")), 404, notFound)
		expect(t, r.send(request("GET", path, "")), 404, notFound)
	}
	expect(t, r.send(request("POST", "/nope", strings.Repeat("x", 1<<20))), 404, notFound)
	expect(t, r.send(request("HEAD", "/nope", "")), 404, "")
	for _, path := range []string{heartbeatPath, batchPath, streamPath, "/nope", "*"} {
		a := r.send(request("OPTIONS", path, ""))
		expect(t, a, 204, "")
		if list := a.header.Get("Access-Control-Allow-Headers"); (list == allowedOnStreams) != (path == streamPath) {
			t.Errorf("OPTIONS %s allows %q", path, list)
		}
	}
	for path, allow := range map[string]string{heartbeatPath: "POST", batchPath: "POST", streamPath: "GET"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"} {
			if method == allow {
				continue
			}
			a := r.send(request(method, path, ""))
			if a.status != 405 || !strings.Contains(a.header.Get("Allow"), allow) || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s %s: %d, Allow %q", method, path, a.status, a.header.Get("Allow"))
			}
		}
	}
	expect(t, r.send(request("POST", heartbeatPath+"?x=1", newBeat().json(), bearer(ingestToken))), 204, "")
	for _, malformed := range []string{"GARBAGE\r\n\r\n", "GET / HTTP/1.1\r\nHost x\r\n\r\n"} {
		if a := r.send(malformed); a.status != 400 ||
			!strings.Contains(a.body, `"error":"invalid_payload"`) || a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%q: %d %s", malformed, a.status, a.body)
		}
	}
	if a := r.send("GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<16) + "\r\n\r\n"); a.status != 431 || !strings.Contains(a.body, `"error":`) {
		t.Errorf("large header: %d %s", a.status, a.body)
	}
}

// TestHeads: a head that could be read in two ways is refused, and the heartbeat that is hidden
// behind it, or in it, is none.
func TestHeads(t *testing.T) {
	r := startServer(t)
	hidden := request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken))
	length := fmt.Sprintf("Content-Length: %d\r\n", len(hidden))
	const line, host = "POST " + heartbeatPath + " HTTP/1.1\r\n", "Host: x\r\n"
	for _, test := range []struct {
		name, head string
		status     int
	}{
		{"HTTP/2.0", "POST " + heartbeatPath + " HTTP/2.0\r\n" + host + "Content-Length: 0\r\n", 505},
		{"a space in a name", line + host + "X Y: 1\r\nContent-Length: 0\r\n", 400},
		{"a space before the colon", line + host + "Content-Length : 0\r\n" + length, 400},
		{"a value in two lines", line + host + "X: 1\r\n Content-Length: 0\r\n" + length, 400},
		{"LF for CRLF", line + host + "X: 1\nContent-Length: 0\r\n", 400},
		{"CR alone", line + host + "X: 1\rContent-Length: 0\r\n" + length, 400},
		{"NUL", line + host + "X: \x00\r\nContent-Length: 0\r\n", 400},
		{"two lengths", line + host + "Content-Length: 0\r\n" + length, 400},
		{"a length and a coding", line + host + length + "Transfer-Encoding: chunked\r\n", 400},
		{"an unknown coding", line + host + length + "Transfer-Encoding: xchunked\r\n", 400},
		{"the identity coding", line + host + length + "Transfer-Encoding: identity\r\n", 400},
		{"no host", line + length, 400},
		{"two hosts", line + host + host + length, 400},
		{"a control character in the target", strings.Replace(line, " HTTP", "?\x01 HTTP", 1) + host + length, 400},
		{"no colon", line + host + "X\r\n" + length, 400},
		{"a route behind a host", "POST //x" + heartbeatPath + "?:// HTTP/1.1\r\n" + host + length, 400},
		{"too many lines", line + host + length + strings.Repeat("X: 1\r\n", 127), 431},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := r.in(t).dial()
			defer c.Close()
			io.WriteString(c, test.head+"\r\n"+hidden)
			in := bufio.NewReader(c)
			if a := readAnswer(t, in, false); a.status != test.status || a.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%d %s, want %d", a.status, a.body, test.status)
			}
			if rest, _ := io.ReadAll(in); len(rest) > 0 {
				t.Errorf("behind the answer came %q", rest)
			}
		})
	}
	// None of them was applied: this is the first.
	expect(t, r.send(hidden), 204, "")
	absolute := strings.Replace(request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken)), " /", " http://rollcall/", 1)
	expect(t, r.send(absolute), 204, "")
}

// TestKeepAliveAndPipelining: one connection carries many heartbeats, also when they are sent
// without waiting.
func TestKeepAliveAndPipelining(t *testing.T) {
	r := startServer(t)
	b := newBeat()
	c := r.dial()
	defer c.Close()
	br := bufio.NewReader(c)
	for seq := 1; seq <= 3; seq++ {
		io.WriteString(c, request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(ingestToken)))
		expect(t, readAnswer(t, br, false), 204, "")
	}
	var all strings.Builder
	for seq := 4; seq < 20; seq++ {
		all.WriteString(request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(ingestToken)))
	}
	io.WriteString(c, all.String())
	for seq := 4; seq < 20; seq++ {
		expect(t, readAnswer(t, br, false), 204, "")
	}
}

// TestPipelinedAnswersComeInOrder: sixteen requests in one write, refusals of every kind among
// them, and a batch. What closes the connection comes last.
func TestPipelinedAnswersComeInOrder(t *testing.T) {
	r := startServer(t)
	b := newBeat()
	single := func(b beat) string { return request("POST", heartbeatPath, b.json(), bearer(ingestToken)) }
	steps := []struct {
		request string
		status  int
		body    string
	}{}
	add := func(request string, status int, body string) {
		steps = append(steps, struct {
			request string
			status  int
			body    string
		}{request, status, body})
	}
	for seq := 1; seq <= 4; seq++ {
		add(single(b.with("seq", 2*seq)), 204, "")
		add(single(b.with("seq", 2*seq-1)), 409, fmt.Sprintf(`{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":%d}`, 2*seq))
	}
	add(single(b.with("seq", "x")), 400, invalid("Invalid seq"))
	add(request("OPTIONS", heartbeatPath, ""), 204, "")
	add(request("POST", batchPath, b.with("seq", 9).json()+"\n"+b.with("seq", 10).json(), bearer(ingestToken)), 200,
		`{"accepted":2,"rejected":0,"errors":[]}`)
	add(single(b.with("seq", 10)), 409, `{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":10}`)
	add(request("GET", "/nope", ""), 404, errorBody("unavailable", "Route not found"))
	add(request("GET", heartbeatPath, ""), 405, errorBody("unavailable", "Method not allowed"))
	add(single(b.with("seq", 11)), 204, "")
	add(request("POST", heartbeatPath, "{}"), 401, errorBody("unauthorized", "Unauthorized"))
	c := r.dial()
	defer c.Close()
	var all strings.Builder
	for _, s := range steps {
		all.WriteString(s.request)
	}
	if _, err := io.WriteString(c, all.String()); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	for i, s := range steps {
		if a := readAnswer(t, br, false); a.status != s.status || a.body != s.body {
			t.Errorf("answer %d: %d %s, want %d %s", i+1, a.status, a.body, s.status, s.body)
		}
	}
}

// TestStreamChecks is the table of the stream's checks, in their order.
func TestStreamChecks(t *testing.T) {
	r := startServer(t)
	user, other := uuid.NewString(), uuid.NewString()
	sign := func(payload string) string { return signPayload(signingKey, []byte(payload)) }
	payload := func(change func(m map[string]any)) string {
		m := map[string]any{"token_id": "t", "user_id": user, "device_id": "d", "scope": []string{"presence:read"},
			"exp_ms": time.Now().Add(time.Hour).UnixMilli(), "issued_at_ms": 1}
		change(m)
		b, _ := json.Marshal(m)
		return string(b)
	}
	set := func(field string, value any) string {
		return sign(payload(func(m map[string]any) {
			if value == nil {
				delete(m, field)
			} else {
				m[field] = value
			}
		}))
	}
	good := set("token_id", "good")
	past := time.Now().Add(-time.Second).UnixMilli()
	all := sign(payload(func(m map[string]any) { m["exp_ms"], m["scope"], m["user_id"] = past, []string{}, other }))
	scopeAndUser := sign(payload(func(m map[string]any) { m["scope"], m["user_id"] = []string{}, other }))
	forbidden := func(details string) string { return errorBody("forbidden", details) }
	query := "?user_id=" + user
	parts := strings.Split(good, ".")
	rows := []struct {
		name, query, token string
		status             int
		body               string
	}{
		{"no user_id", "", good, 400, invalid("Missing user_id")},
		{"user_id empty", "?user_id=", "", 400, invalid("Missing user_id")},
		{"user_id blank", "?user_id=%20%20", good, 400, invalid("Missing user_id")},
		{"user_id not a UUID", "?user_id=bob", good, 400, invalid("Invalid user_id")},
		{"no token", query, "", 401, errorBody("unauthorized", "Unauthorized")},
		{"no dot", query, "abc", 403, forbidden("Invalid token")},
		{"signature not base64url", query, "a.!!!!", 403, forbidden("Invalid token")},
		{"empty signature", query, parts[0] + ".", 403, forbidden("Invalid token")},
		{"empty payload", query, "." + parts[1], 403, forbidden("Invalid token")},
		{"three parts", query, good + ".x", 403, forbidden("Invalid token")},
		{"padded signature", query, good + "=", 403, forbidden("Invalid token")},
		{"signature cut short", query, good[:len(good)-4], 403, forbidden("Invalid token")},
		{"another key", query, signPayload("another", []byte(payload(func(map[string]any) {}))), 403, forbidden("Invalid token")},
		{"payload not JSON", query, sign("hello"), 403, forbidden("Invalid token")},
		{"payload null", query, sign("null"), 403, forbidden("Invalid token")},
		{"payload a number", query, sign("5"), 403, forbidden("Invalid token")},
		{"payload an array", query, sign("[]"), 403, forbidden("Invalid token")},
		{"expired", query, set("exp_ms", past), 403, forbidden("Token expired")},
		{"no exp_ms", query, set("exp_ms", nil), 403, forbidden("Token expired")},
		{"exp_ms null", query, set("exp_ms", raw("null")), 403, forbidden("Token expired")},
		{"exp_ms a string", query, set("exp_ms", "99999999999999"), 403, forbidden("Token expired")},
		{"no scope", query, set("scope", nil), 403, forbidden("Insufficient scope")},
		{"scope empty", query, set("scope", []string{}), 403, forbidden("Insufficient scope")},
		{"scope a string", query, set("scope", "presence:read"), 403, forbidden("Insufficient scope")},
		{"scope a substring", query, set("scope", []string{"xpresence:readx"}), 403, forbidden("Insufficient scope")},
		{"scope a number", query, set("scope", 5), 403, forbidden("Insufficient scope")},
		{"another user's", query, set("user_id", other), 403, forbidden("Token user mismatch")},
		{"no user in the token", query, set("user_id", nil), 403, forbidden("Token user mismatch")},
		{"upper case in the token", query, set("user_id", strings.ToUpper(user)), 403, forbidden("Token user mismatch")},
		{"expired before scope before user", query, all, 403, forbidden("Token expired")},
		{"scope before user", query, scopeAndUser, 403, forbidden("Insufficient scope")},
		{"token in the query", query + "&token=" + good, "", 401, errorBody("unauthorized", "Unauthorized")},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			var headers []string
			if row.token != "" {
				headers = append(headers, bearer(row.token))
			}
			expect(t, r.in(t).send(request("GET", streamPath+row.query, "", headers...)),
				row.status, row.body)
		})
	}
	for name, req := range map[string]string{
		"upper case in the query":  request("GET", streamPath+"?user_id="+strings.ToUpper(user), "", bearer(good)),
		"spaces around user_id":    request("GET", streamPath+"?user_id=%20"+user+"%20", "", bearer(good)),
		"lower-case scheme":        request("GET", streamPath+query, "", "authorization: bearer "+good),
		"more scopes":              request("GET", streamPath+query, "", bearer(set("scope", []string{"x", "presence:read"}))),
		"exp_ms with a fraction":   request("GET", streamPath+query, "", bearer(set("exp_ms", raw("99999999999999.5")))),
		"the first of two user_id": request("GET", streamPath+query+"&user_id="+other, "", bearer(good)),
	} {
		t.Run(name, func(t *testing.T) {
			if s := r.in(t).followRaw(req); s.head.status != 200 {
				t.Errorf("status %d", s.head.status)
			}
		})
	}
}

// TestStreamBytes holds the stream to the byte: head, snapshot, live frame, escaping, chunk
// framing, HTTP/1.0.
func TestStreamBytes(t *testing.T) {
	r := startServer(t)
	b := newBeat().with("source", "a<b>&\u2028é😀")
	r.mustBeat(b)
	s := r.follow(b["user_id"].(string))
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no",
		"Connection": "close", "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "GET, POST, OPTIONS", "Access-Control-Allow-Headers": allowedOnStreams} {
		if got := s.head.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	want := func(s *follower, text string) {
		t.Helper()
		if got, err := s.frame(); got != text {
			t.Errorf("frame %q (%v)\nwant  %q", got, err, text)
		}
	}
	want(s, b.frame())
	b = b.with("seq", 2).with("status", "offline").with("sent_at_ms", 0)
	r.mustBeat(b)
	want(s, b.frame())
	escaped := b.with("seq", 3).with("source", "q\"b\\n\n\u0007\u007f")
	r.mustBeat(escaped)
	want(s, escaped.with("source", `q\"b\\n\n\u0007`+"\u007f").frame())
	padded := b.with("seq", 4).with("source", "\u00a0\ufeff daemon do \u2003")
	r.mustBeat(padded)
	want(s, padded.with("source", "daemon do").frame())

	last := padded.with("source", "daemon do").frame()
	user := b["user_id"].(string)
	token := tokenFor(user, time.Hour)
	for proto, body := range map[string]string{
		"HTTP/1.1": fmt.Sprintf("%X\r\n%s\r\n", len(last), last),
		"HTTP/1.0": last,
	} {
		c := r.dial()
		fmt.Fprintf(c, "GET %s?user_id=%s %s\r\nHost: x\r\n%s\r\n\r\n", streamPath, user, proto, bearer(token))
		br := bufio.NewReader(c)
		chunked := false
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			chunked = chunked || strings.EqualFold(line, "Transfer-Encoding: chunked\r\n")
			if line == "\r\n" {
				break
			}
		}
		got := make([]byte, len(body))
		if _, err := io.ReadFull(br, got); err != nil || !strings.EqualFold(string(got), body) ||
			chunked != (proto == "HTTP/1.1") {
			t.Errorf("%s: %q (%v, chunked %v)\nwant %q", proto, got, err, chunked, body)
		}
		c.Close()
	}
}

// TestStreamSnapshotThenEvents: every device once, then each change in the order of acceptance; one
// user only.
func TestStreamSnapshotThenEvents(t *testing.T) {
	r := startServer(t)
	user := uuid.NewString()
	var devices []beat
	for i := range 5 {
		b := newBeat().with("user_id", user).with("seq", i)
		r.mustBeat(b)
		r.mustBeat(b.with("user_id", uuid.NewString()).with("seq", 77))
		devices = append(devices, b)
	}
	s := r.follow(user)
	seen := map[string]int64{}
	for range devices {
		ev := s.event()
		seen[ev["device_id"].(string)] = ev.number("seq")
	}
	for _, d := range devices {
		if seq, ok := seen[d["device_id"].(string)]; !ok || seq != int64(d["seq"].(int)) {
			t.Errorf("snapshot: device %v has seq %v (%v)", d["device_id"], seq, ok)
		}
	}
	for seq := 10; seq < 60; seq++ {
		r.mustBeat(devices[seq%5].with("seq", seq))
		if ev := s.event(); ev.number("seq") != int64(seq) {
			t.Fatalf("event %v, want seq %d", ev, seq)
		}
	}
	empty := r.follow(uuid.NewString())
	empty.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if text, err := empty.body.ReadByte(); err == nil {
		t.Errorf("a stream without devices began with %q", text)
	}
}

// TestHalfABatchIsSeen: streams get the heartbeats of a batch that has not come to its end.
func TestHalfABatchIsSeen(t *testing.T) {
	r := startServer(t)
	b := newBeat()
	s := r.follow(b["user_id"].(string))
	c := r.dial()
	line := b.json() + "\n"
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", batchPath, ingestToken, len(line), line)
	if got, _ := s.frame(); got != b.frame() {
		t.Fatalf("frame %q", got)
	}
	fmt.Fprint(c, "0\r\n\r\n")
	if text, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(text, " 200 ") {
		t.Errorf("answered %q, %v", text, err)
	}
}

// TestTTL: silence ends a session, on time, counted from receipt.
func TestTTL(t *testing.T) {
	r := startServer(t)
	user := uuid.NewString()
	s := r.follow(user)
	b := newBeat().with("user_id", user).with("ttl_ms", 300)
	device := b["device_id"].(string)

	began := time.Now()
	r.mustBeat(b)
	if got, _ := s.frame(); got != b.frame() {
		t.Fatalf("frame %q", got)
	}
	ev := s.event()
	if since := time.Since(began); since < 300*time.Millisecond {
		t.Errorf("offline %v after a heartbeat with a ttl of 300 ms: early", since)
	}
	if ev["status"] != "offline" || ev.number("seq") != 1 || ev.number("ttl_ms") != 300 || ev["source"] != "daemon-do" || ev["device_id"] != device {
		t.Errorf("expiry: %v", ev)
	}
	if at := ev.number("sent_at_ms"); at < began.UnixMilli()+300 || at > time.Now().UnixMilli() {
		t.Errorf("expiry's sent_at_ms %d is not the server's time", at)
	}
	if snap := r.follow(user).event(); snap.number("sent_at_ms") != ev.number("sent_at_ms") || snap["status"] != "offline" {
		t.Errorf("snapshot after the expiry: %v, want the expiry's frame %v", snap, ev)
	}

	// It comes back, and an explicit offline cancels the ttl: both in one write, so that this
	// process cannot take the ttl's time in between.
	r.mustBeatOn(t, b.with("seq", 2), b.with("seq", 3).with("status", "offline"))
	if ev := s.event(); ev["status"] != "online" || ev.number("seq") != 2 {
		t.Errorf("back: %v", ev)
	}
	if ev := s.event(); ev["status"] != "offline" || ev.number("seq") != 3 {
		t.Errorf("explicit: %v", ev)
	}
	// A second device with the same ttl is the clock: when it has expired, the first would have.
	clock := newBeat().with("user_id", user).with("ttl_ms", 300)
	r.mustBeat(clock)
	for range 2 {
		if ev := s.event(); ev["device_id"] == device {
			t.Errorf("an offline device expired: %v", ev)
		}
	}
}

// TestTTLChanges: the last heartbeat's ttl counts, shorter or longer, and the daemon's clock does
// not.
func TestTTLChanges(t *testing.T) {
	r := startServer(t)
	user := uuid.NewString()
	s := r.follow(user)
	expiry := func() beat {
		t.Helper()
		for {
			if ev := s.event(); ev["status"] == "offline" {
				return ev
			}
		}
	}
	offline := func() any { t.Helper(); return expiry()["device_id"] }
	device := func(ttl int) beat { return newBeat().with("user_id", user).with("ttl_ms", ttl) }

	shortened := device(60000)
	r.mustBeat(shortened)
	r.mustBeat(shortened.with("seq", 2).with("ttl_ms", 200))
	if got := offline(); got != shortened["device_id"] {
		t.Errorf("shortened: %s went offline", got)
	}
	// What is compared is sent in one write: then it comes within the difference, however busy this
	// process is.
	lengthened, clock := device(1500), device(1800)
	r.mustBeatOn(t, lengthened, lengthened.with("seq", 2).with("ttl_ms", 60000), clock)
	if got := offline(); got != clock["device_id"] {
		t.Errorf("lengthened: %s went offline", got)
	}
	past, future := device(1500).with("sent_at_ms", 0),
		device(300).with("sent_at_ms", time.Now().Add(365*24*time.Hour).UnixMilli())
	began := time.Now()
	r.mustBeatOn(t, past, future)
	for _, want := range []beat{future, past} {
		if got := offline(); got != want["device_id"] {
			t.Errorf("skewed clocks: %s went offline, want %s", got, want["device_id"])
		}
	}
	if since := time.Since(began); since < 1500*time.Millisecond {
		t.Errorf("a daemon whose clock is decades behind expired after %v: early", since)
	}
	// Beats at a quarter of its ttl keep it online: eight in a row between which this process did
	// not take the ttl's time itself.
	kept, sent := device(2000), map[int64]time.Time{}
	for seq, inTime := int64(1), 0; inTime < 8; seq++ {
		clock := device(500)
		sent[seq] = time.Now()
		r.mustBeatOn(t, kept.with("seq", seq), clock)
		inTime++
		for ev := expiry(); ev["device_id"] != clock["device_id"]; ev = expiry() {
			if since := time.Since(sent[ev.number("seq")]); since < 2*time.Second {
				t.Fatalf("%v after beat %d: %v", since, seq, ev)
			}
			inTime = 0
		}
	}
}

// TestRestart: what was acknowledged is there again, byte for byte, and no device goes offline
// because the server was away.
func TestRestart(t *testing.T) {
	for name, stop := range map[string]func(*rig){"SIGTERM": (*rig).terminate, "SIGKILL": (*rig).kill} {
		t.Run(name, func(t *testing.T) {
			r := startServer(t, "--recovery-grace=2s", "--drain-timeout=10ms")
			user := uuid.NewString()
			long := newBeat().with("user_id", user).with("seq", 41)
			short := newBeat().with("user_id", user).with("ttl_ms", 2500)
			gone := newBeat().with("user_id", user).with("ttl_ms", 50)
			s := r.follow(user)
			r.mustBeat(long)
			r.mustBeat(gone)
			var expired beat
			for expired = s.event(); expired["status"] != "offline"; expired = s.event() {
			}
			s.conn.Close() // else the drain waits for it, and the short ttl ends meanwhile
			r.mustBeat(short)
			stop(r)
			began := time.Now()
			r.start()
			s = r.follow(user)
			frames := map[string]bool{}
			for range 3 {
				f, _ := s.frame()
				frames[f] = true
			}
			wantGone := gone.with("status", "offline").with("sent_at_ms", expired["sent_at_ms"])
			for _, want := range []beat{long, short, wantGone} {
				if !frames[want.frame()] {
					t.Errorf("after the restart the snapshot lacks %q: %v", want.frame(), frames)
				}
			}
			if a := r.beat(long); a.status != 409 || !strings.Contains(a.body, `"last_seq":41`) {
				t.Errorf("an acknowledged seq again: %d %s", a.status, a.body)
			}
			ev := s.event()
			if since := time.Since(began); ev["device_id"] != short["device_id"] ||
				ev["status"] != "offline" || since < 2*time.Second {
				t.Errorf("%v after the restart: %v; want the silent device, not before its grace", since, ev)
			}
			r.mustBeat(long.with("seq", 42))
			if ev := s.event(); ev.number("seq") != 42 {
				t.Errorf("after the restart: %v", ev)
			}
		})
	}
}

// TestRecoveryGrace: after a restart no device expires before min(its ttl, the grace), however long
// we were away.
func TestRecoveryGrace(t *testing.T) {
	r := startServer(t, "--recovery-grace=2s")
	user := uuid.NewString()
	a, b := newBeat().with("user_id", user).with("ttl_ms", 1500), newBeat().with("user_id", user).with("ttl_ms", 5000)
	r.mustBeat(b)
	r.mustBeat(a) // last: it must not end before the kill
	r.kill()
	began := time.Now()
	r.start()
	s := r.follow(user)
	s.event()
	s.event()
	ev := s.event()
	if since := time.Since(began); ev["device_id"] != a["device_id"] || since < 1500*time.Millisecond {
		t.Errorf("first offline %v after the restart: %v", since, ev)
	}
	if ev := s.event(); ev["device_id"] != b["device_id"] || ev["status"] != "offline" {
		t.Errorf("then %v", ev)
	}
}

// TestStreamEnds: with its token, and on shutdown with a retry line; both are clean ends.
func TestStreamEnds(t *testing.T) {
	r := startServer(t, "--drain-timeout=100ms", "--stream-keepalive=1s")
	user := uuid.NewString()
	short := r.followRaw(request("GET", streamPath+"?user_id="+user, "",
		bearer(tokenFor(user, 1500*time.Millisecond))))
	var text strings.Builder
	for {
		f, err := short.frame()
		text.WriteString(f)
		if err != nil {
			if err != io.EOF {
				t.Errorf("token expiry is not a clean end: %v", err)
			}
			break
		}
	}
	if got := strings.ReplaceAll(text.String(), ": keepalive\n", ""); got != "" {
		t.Errorf("a stream whose token expired carried %q", got)
	}
	s := r.follow(user)
	if f, err := s.frame(); f != ": keepalive\n" {
		t.Errorf("silence brought %q (%v)", f, err)
	}
	r.terminate()
	var last string
	for {
		f, err := s.frame()
		if err != nil {
			if err != io.EOF {
				t.Errorf("drain is not a clean end: %v", err)
			}
			break
		}
		last = f
	}
	if !strings.HasPrefix(last, "retry: ") {
		t.Errorf("last words %q", last)
	}
}

// TestStreamTokenExpiryIgnore: the original's behaviour, on request.
func TestStreamTokenExpiryIgnore(t *testing.T) {
	r := startServer(t, "--stream-token-expiry=ignore")
	b := newBeat().with("ttl_ms", 2500)
	user := b["user_id"].(string)
	s := r.followRaw(request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(user, time.Second))))
	r.mustBeat(b)
	s.event()
	if ev := s.event(); ev["status"] != "offline" {
		t.Errorf("after the token's expiry: %v", ev)
	}
}

// TestSecrets: none refuses to start and names the variables; one alone closes the other route.
func TestSecrets(t *testing.T) {
	r := startServer(t)
	r.kill()
	r.env = nil
	out, err := r.command().CombinedOutput()
	if err == nil || !strings.Contains(string(out), ingestTokenEnv) ||
		!strings.Contains(string(out), signingKeyEnv) {
		t.Errorf("without secrets: %v\n%s", err, out)
	}
	user := uuid.NewString()
	stream := request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(user, time.Hour)))

	r.env = []string{ingestTokenEnv + "=" + ingestToken}
	r.start()
	r.mustBeat(newBeat())
	if a := r.send(stream); a.status != 503 || !strings.Contains(a.body, `"unavailable"`) {
		t.Errorf("stream without a key: %d %s", a.status, a.body)
	}
	r.kill()
	file := t.TempDir() + "/key"
	if err := os.WriteFile(file, []byte("other-key-of-the-black-box-tests\n"+signingKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.env, r.flags = nil, []string{"--signing-key-file=" + file}
	r.start()
	if a := r.beat(newBeat()); a.status != 503 || !strings.Contains(a.body, `"unavailable"`) {
		t.Errorf("heartbeat without a token: %d %s", a.status, a.body)
	}
	if s := r.followRaw(stream); s.head.status != 200 {
		t.Errorf("the second key does not verify: %d", s.head.status)
	}
}

// TestRatePerIP: over the rate 429 with Retry-After; a stale heartbeat is told so first.
func TestRatePerIP(t *testing.T) {
	r := startServer(t, "--rate-per-ip=1")
	b := newBeat()
	limited := answer{}
	for seq := 1; seq <= 200 && limited.status != 429; seq++ {
		limited = r.beat(b.with("seq", seq))
	}
	if limited.status != 429 || limited.header.Get("Retry-After") == "" || !strings.Contains(limited.body, `"rate_limited"`) {
		t.Fatalf("%d %s %v", limited.status, limited.body, limited.header)
	}
	if a := r.beat(b.with("seq", 0)); a.status != 409 {
		t.Errorf("stale over the rate: %d", a.status)
	}
}

// TestOneProcessPerDirectory: the second one says why it will not start, and which process has the
// directory.
func TestOneProcessPerDirectory(t *testing.T) {
	r := startServer(t)
	out, err := r.command().CombinedOutput()
	held := fmt.Sprintf("process %d has locked %s", r.proc.Cmd.Process.Pid, r.dir)
	if err == nil || !strings.Contains(string(out), held) {
		t.Errorf("%v, want %q in\n%s", err, held, out)
	}
}

// TestAdmin: health, readiness, metrics and the debug view, on their own listener only.
func TestAdmin(t *testing.T) {
	r := startServer(t)
	get := func(path string) answer {
		t.Helper()
		resp, err := http.Get("http://" + r.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return answer{resp.StatusCode, resp.Header, string(body)}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/debug/pprof/"} {
		if a := get(path); a.status != 200 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	b := newBeat().with("seq", 7)
	r.mustBeat(b)
	user, device := b["user_id"].(string), b["device_id"].(string)
	s := r.follow(user)
	s.event()
	type record struct {
		SchemaVersion   int    `json:"schema_version"`
		UserID          string `json:"user_id"`
		DeviceID        string `json:"device_id"`
		Status, Source  string
		SentAtMS        int64 `json:"sent_at_ms"`
		Seq             int64
		TTLMS           int64  `json:"ttl_ms"`
		LastHeartbeatMS int64  `json:"last_heartbeat_ms"`
		LastOfflineMS   *int64 `json:"last_offline_ms"`
		UpdatedAtMS     int64  `json:"updated_at_ms"`
	}
	var view struct {
		ActiveStreams int `json:"active_streams"`
		Records       map[string]record
	}
	read := func() record {
		t.Helper()
		a := get("/debug/presence?user_id=" + user)
		view.Records = nil
		if err := json.Unmarshal([]byte(a.body), &view); err != nil || a.status != 200 {
			t.Fatalf("%d %s: %v", a.status, a.body, err)
		}
		return view.Records["device:"+device]
	}
	sent := b["sent_at_ms"].(int64)
	if v := read(); view.ActiveStreams != 1 || v.Status != "online" || v.Seq != 7 ||
		v.SentAtMS != sent || v.LastHeartbeatMS != sent ||
		v.LastOfflineMS != nil || v.UpdatedAtMS < sent || v.UserID != user ||
		v.DeviceID != device || v.SchemaVersion != 1 || v.TTLMS != 60000 || v.Source != "daemon-do" {
		t.Errorf("online: %+v, streams %d", v, view.ActiveStreams)
	}
	r.mustBeat(b.with("seq", 8).with("status", "offline").with("sent_at_ms", sent+5))
	if v := read(); v.Status != "offline" || v.LastHeartbeatMS != sent || v.LastOfflineMS == nil ||
		*v.LastOfflineMS != sent+5 {
		t.Errorf("offline: %+v", v)
	}
	r.kill()
	r.env = append(r.env, "ENVIRONMENT=production")
	r.start()
	if a := get("/debug/presence?user_id=" + user); a.status != 403 {
		t.Errorf("debug in production: %d", a.status)
	}
}

// TestTokenCommand: the token that the command mints opens the stream.
func TestTokenCommand(t *testing.T) {
	r := startServer(t)
	user := uuid.NewString()
	cmd := exec.Command(binary, "token", "--user", user, "--ttl", "1m")
	cmd.Env = []string{signingKeyEnv + "=" + signingKey}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if s := r.followRaw(request("GET", streamPath+"?user_id="+user, "",
		bearer(strings.TrimSpace(string(out))))); s.head.status != 200 {
		t.Errorf("status %d", s.head.status)
	}
	list := filepath.Join(t.TempDir(), "list")
	users := []byte(uuid.NewString() + ",\n" + user + " " + uuid.NewString())
	if err := os.WriteFile(list, users, 0o600); err != nil {
		t.Fatal(err)
	}
	contact := uuid.NewString()
	cmd = exec.Command(binary, "token", "--user", user, "--contact", contact, "--contact", user,
		"--list", list, "--any")
	cmd.Env = []string{signingKeyEnv + "=" + signingKey}
	if out, err = cmd.Output(); err != nil {
		t.Fatal(err)
	}
	var claims struct {
		UserIDs     []string `json:"user_ids"`
		UsersSHA256 string   `json:"users_sha256"`
		Scope       []string `json:"scope"`
	}
	payload, _, _ := strings.Cut(string(out), ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	if json.Unmarshal(text, &claims) != nil || len(claims.UserIDs) != 2 ||
		len(claims.UsersSHA256) != 43 || !slices.Contains(claims.Scope, "presence:read:any") {
		t.Errorf("claims %s, %v", text, err)
	}
	for _, args := range [][]string{{"--contact", "bob"}, {"--contact", uuid.Nil.String()}, {"--list", list + "x"}} {
		cmd := exec.Command(binary, append([]string{"token", "--user", user}, args...)...)
		cmd.Env = []string{signingKeyEnv + "=" + signingKey}
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
	cmd = exec.Command(binary, "token", "--user", user)
	cmd.Env = []string{}
	if out, err := cmd.CombinedOutput(); err == nil ||
		!strings.Contains(string(out), signingKeyEnv) {
		t.Errorf("without a key: %v %s", err, out)
	}
}

// TestBadFlags: a value that cannot be meant is refused with the flag's name, before anything is
// opened.
func TestBadFlags(t *testing.T) {
	for _, flag := range []string{"--sync-interval=0s", "--recovery-grace=-1s", "--stream-write-timeout=0s", "--stream-keepalive=-1s",
		"--drain-timeout=-1s", "--max-devices=-1", "--max-streams=-1", "--max-streams-per-user=-1", "--max-connections-per-ip=-1", "--rate-per-ip=-1", "--stream-backlog=0", "--sync=sometimes",
		"--seq-policy=lax", "--segment-bytes=1", "--listen=nowhere:x", "--log-level=loud"} {
		r := &rig{t: t, dir: t.TempDir(), flags: []string{flag},
			env: []string{ingestTokenEnv + "=" + ingestToken}}
		out, err := r.command().CombinedOutput()
		name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
		mention := strings.Contains(string(out), name) || name == "segment-bytes" &&
			strings.Contains(string(out), "segment of 1 bytes")
		if err == nil || !mention {
			t.Errorf("%s: %v\n%s", flag, err, out)
		}
	}
}

// TestDrainAnswersWhatIsInFlight: clients of streams that never hang up do not cost the last
// heartbeat its answer.
func TestDrainAnswersWhatIsInFlight(t *testing.T) {
	r := startServer(t, "--drain-timeout=0s")
	user := uuid.NewString()
	for range 5 {
		r.follow(user) // never closed
	}
	body := newBeat().json()
	c := r.dial()
	defer c.Close()
	raw := request("POST", heartbeatPath, body, bearer(ingestToken))
	io.WriteString(c, raw[:len(raw)-20])
	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	// The listener closes only after the streams have had their time: until then the second half is
	// still awaited.
	r.until("the listener is closed", func() bool {
		probe, err := net.Dial("tcp", r.addr)
		if err == nil {
			probe.Close()
		}
		return err != nil
	})
	io.WriteString(c, raw[len(raw)-20:])
	expect(t, readAnswer(t, bufio.NewReader(c), false), 204, "")
	<-r.proc.Exited
	if r.proc.Err != nil {
		t.Errorf("%v\n%s", r.proc.Err, r.logs())
	}
}

// TestSecondSignal: stops at once, whatever is still open.
func TestSecondSignal(t *testing.T) {
	r := startServer(t, "--drain-timeout=1h")
	s := r.follow(uuid.NewString())
	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	r.until("it drains", func() bool { return strings.Contains(r.logs(), "draining") })
	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.proc.Exited:
	case <-time.After(testwait.Limit):
		t.Fatal("still there")
	}
	if r.proc.Err == nil {
		t.Error("exit status 0")
	}
	s.conn.Close()
}
