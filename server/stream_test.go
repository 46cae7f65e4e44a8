package server

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

func sign(t testing.TB, key, payload string) string {
	t.Helper()
	text, err := token.SignPayload(key, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// payload is a good token's with some JSON added behind, where a duplicate name replaces the good
// value.
func payload(more string) string {
	return fmt.Sprintf(`{"token_id":"t","user_id":%q,"device_id":"d","scope":["presence:read"],"exp_ms":%d,"issued_at_ms":1%s}`,
		testUser, testNow.UnixMilli()+60_000, more)
}

func streamText(query, token string) string {
	return text("GET "+wire.StreamPath+query, "", "Authorization: Bearer "+token)
}

// TestStreamRefusals has the forms of every check. What only the claims of an unsigned token have
// wrong is not looked at (S4).
func TestStreamRefusals(t *testing.T) {
	r := start(t, nil)
	good := sign(t, testKey, payload(""))
	parts := strings.Split(good, ".")
	const query = "?user_id=" + testUser
	forbidden := func(details string) string { return errorBody("forbidden", details) }
	signed := func(more string) string { return sign(t, testKey, payload(more)) }
	bad := forbidden("Invalid token")
	expired := forbidden("Token expired")
	scope := forbidden("Insufficient scope")
	user := forbidden("Token user mismatch")
	for _, test := range []struct {
		name, query, token string
		status             int
		body               string
	}{
		{"no user_id", "", good, 400, errorBody("invalid_payload", "Missing user_id")},
		{"user_id empty", "?user_id=", good, 400, errorBody("invalid_payload", "Missing user_id")},
		{"user_id blank", "?user_id=%20%C2%A0", good, 400,
			errorBody("invalid_payload", "Missing user_id")},
		{"no user_id, no token", "", "", 400, errorBody("invalid_payload", "Missing user_id")},
		{"user_id no UUID", "?user_id=bob", good, 400, errorBody("invalid_payload",
			"Invalid user_id")},
		{"user_id nil", "?user_id=" + uuid.Nil.String(), good, 400,
			errorBody("invalid_payload", "Invalid user_id")},
		{"token empty", query, "", 401, errorBody("unauthorized", "Unauthorized")},
		{"no dot", query, "abc", 403, bad},
		{"signature no base64", query, "a.b", 403, bad},
		{"signature of other characters", query, parts[0] + ".!!!!", 403, bad},
		{"signature empty", query, parts[0] + ".", 403, bad},
		{"payload empty", query, "." + parts[1], 403, bad},
		{"payload empty, signed", query, sign(t, testKey, ""), 403, bad},
		{"three parts", query, good + "." + parts[1], 403, bad},
		{"dot behind", query, good + ".", 403, bad},
		{"padded", query, good + "=", 403, bad},
		{"signature cut", query, good[:len(good)-1], 403, bad},
		{"signature with other last bits", query, good[:len(good)-1] + nextDigit(good[len(good)-1]),
			403, bad},
		{"another key", query, sign(t, "other", payload("")), 403, bad},
		{"payload changed", query, base64.RawURLEncoding.EncodeToString([]byte(payload(" "))) +
			"." + parts[1], 403, bad},
		{"unsigned, expired", query, base64.RawURLEncoding.EncodeToString([]byte(`{"exp_ms":1}`)) +
			"." + parts[1], 403, bad},
		{"payload null", query, sign(t, testKey, "null"), 403, bad},
		{"payload 5", query, sign(t, testKey, "5"), 403, bad},
		{"payload []", query, sign(t, testKey, "[]"), 403, bad},
		{"payload no JSON", query, sign(t, testKey, "{"), 403, bad},
		{"exp_ms past", query, signed(`,"exp_ms":1699999999999`), 403, expired},
		{"exp_ms now", query, signed(`,"exp_ms":1700000000000`), 403, expired},
		{"exp_ms missing", query, sign(t, testKey,
			`{"user_id":"`+testUser+`","scope":["presence:read"]}`), 403, expired},
		{"exp_ms null", query, signed(`,"exp_ms":null`), 403, expired},
		{"exp_ms text", query, signed(`,"exp_ms":"99999999999999"`), 403, expired},
		{"EXP_MS is no exp_ms", query, sign(t, testKey, `{"EXP_MS":99999999999999}`), 403, expired},
		{"scope other", query, signed(`,"scope":["presence:write"]`), 403, scope},
		{"scope within another", query, signed(`,"scope":["xpresence:readx"]`), 403, scope},
		{"scope empty", query, signed(`,"scope":[]`), 403, scope},
		{"scope text", query, signed(`,"scope":"presence:read"`), 403, scope},
		{"scope number", query, signed(`,"scope":5`), 403, scope},
		{"scope object", query, signed(`,"scope":{"presence:read":1}`), 403, scope},
		{"scope of arrays", query, signed(`,"scope":[["presence:read"],{},null,5]`), 403, scope},
		{"user other", "?user_id=" + testDevice, good, 403, user},
		{"user missing", query, signed(`,"user_id":null`), 403, user},
		{"user array", query, signed(`,"user_id":["` + testUser + `"]`), 403, user},
		{"user upper case in the token", "?user_id=" + testDevice,
			signed(`,"user_id":"` + strings.ToUpper(testDevice) + `"`), 403, user},
		{"two users, own second", "?user_id=" + testDevice + "&user_id=" + testUser, good, 403,
			user},
		{"expired, scope, user", "?user_id=" + testDevice, signed(`,"exp_ms":1,"scope":[]`), 403,
			expired},
		{"scope, user", "?user_id=" + testDevice, signed(`,"scope":[]`), 403, scope},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.send(t, streamText(test.query, test.token)).check(t, test.status, test.body)
		})
	}
	t.Run("token in the query", func(t *testing.T) {
		for _, name := range []string{"token", "access_token"} {
			r.send(t, text("GET "+wire.StreamPath+query+"&"+name+"="+good, "")).check(t, 401,
				errorBody("unauthorized", "Unauthorized"))
		}
	})
	t.Run("no key", func(t *testing.T) {
		r := start(t, func(o *Options, _ *fakePresence) { o.SigningKeys = nil })
		r.send(t, text("GET "+wire.StreamPath+query, "")).check(t, 503,
			errorBody("unavailable", "Token signing key not configured"))
		r.send(t, text("GET "+wire.StreamPath, "")).check(t, 400,
			errorBody("invalid_payload", "Missing user_id"))
	})
	if n := len(r.presence.subscriptions); n != 0 {
		t.Errorf("%d refused streams were opened", n)
	}
}

// TestStreamQueryToken: with the option, access_token= stands in for a missing Authorization
// header; the checks and their order are the same.
func TestStreamQueryToken(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.StreamQueryToken = true })
	good := sign(t, testKey, payload(""))
	const user = "?user_id=" + testUser
	line := "GET " + wire.StreamPath
	for _, test := range []struct {
		name, request string
		status        int
		body          string
	}{
		{"no token", text(line+user, ""), 401, errorBody("unauthorized", "Unauthorized")},
		{"empty", text(line+user+"&access_token=", ""), 401,
			errorBody("unauthorized", "Unauthorized")},
		{"two", text(line+user+"&access_token="+good+"&access_token="+good, ""), 401,
			errorBody("unauthorized", "Unauthorized")},
		{"bad", text(line+user+"&access_token=a.b", ""), 403,
			errorBody("forbidden", "Invalid token")},
		{"expired", text(line+user+"&access_token="+sign(t, testKey, payload(`,"exp_ms":1`)), ""),
			403, errorBody("forbidden", "Token expired")},
		{"user other", text(line+"?access_token="+good+"&user_id="+testDevice, ""), 403,
			errorBody("forbidden", "Token user mismatch")},
		{"no user", text(line+"?access_token="+good, ""), 400,
			errorBody("invalid_payload", "Missing user_id")},
		{"bad header counts", text(line+user+"&access_token="+good, "",
			"Authorization: Bearer a.b"), 403, errorBody("forbidden", "Invalid token")},
		{"empty header counts", text(line+user+"&access_token="+good, "", "Authorization:"), 401,
			errorBody("unauthorized", "Unauthorized")},
		{"no ingest token", text("POST "+wire.HeartbeatPath+"?access_token="+testIngest, validBody),
			401, errorBody("unauthorized", "Unauthorized")},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.send(t, test.request).check(t, test.status, test.body)
		})
	}
	for _, request := range []string{
		text(line+user+"&access_token="+good, ""),
		text(line+"?access_token="+strings.ReplaceAll(good, ".", "%2E")+"&user_id="+testUser, ""),
		text(line+user+"&access_token=a.b", "", "Authorization: Bearer "+good),
	} {
		_, in, s := r.follow(t, request)
		r.checkStream(t, in, s)
	}
}

// nextDigit returns the base64url digit behind digit, which differs in the last bit if digit is
// even.
func nextDigit(digit byte) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(digits[strings.IndexByte(digits, digit)+1])
}

// follow sends a request for a stream, and returns the head, what follows it, and what the engine
// was asked for. The requests before it are answered first.
func (r *running) follow(t *testing.T, request string, before ...string) (string, *bufio.Reader,
	broadcast.Subscription) {
	t.Helper()
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, strings.Join(before, "")+request); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(testwait.Limit))
	in := bufio.NewReader(c)
	for range before {
		readResponse(t, in, "POST").check(t, 204, "")
	}
	head := ""
	for !strings.HasSuffix(head, "\r\n\r\n") {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("head %q: %v", head, err)
		}
		head += line
	}
	return head, in, <-r.presence.subscriptions
}

func TestStreamTakeover(t *testing.T) {
	r := start(t, nil)
	good := sign(t, testKey, payload(""))
	const user = "?user_id=" + testUser
	head := func(chunked bool) string {
		framing := ""
		if chunked {
			framing = "Transfer-Encoding: chunked\r\n"
		}
		return "HTTP/1.1 200 OK\r\n" + framing +
			"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n" +
			"X-Accel-Buffering: no\r\n" +
			"Access-Control-Expose-Headers: Rollcall-Stream, Retry-After\r\nRollcall-Stream: " +
			strings.Repeat("\x00", broadcast.StreamIDLen) + // which the broadcaster writes
			"\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nAccess-Control-Allow-Origin: *\r\n" +
			"Access-Control-Allow-Methods: GET, POST, OPTIONS\r\nAccess-Control-Allow-Headers: " +
			wire.AllowedStreamHeaders + "\r\n" +
			"Connection: close\r\n\r\n"
	}
	for _, test := range []struct {
		name, request string
		chunked       bool
	}{
		{"plain", streamText(user, good), true},
		{"second key", streamText(user, sign(t, "older", payload(""))), true},
		{"more scopes", streamText(user, sign(t, testKey,
			payload(`,"scope":["x","presence:read"]`))), true},
		{"fraction in exp_ms", streamText(user,
			sign(t, testKey, payload(`,"exp_ms":1700000060000.0`))), true},
		{"upper case in the query", streamText("?user_id="+strings.ToUpper(testUser), good), true},
		{"spaces around", streamText("?user_id=%20"+testUser+"%20", good), true},
		{"two users, own first", streamText(user+"&user_id="+testDevice, good), true},
		{"lower-case bearer", text("GET "+wire.StreamPath+user, "", "authorization: bearer "+good),
			true},
		{"a body", text("GET "+wire.StreamPath+user, "{}", "Authorization: Bearer "+good), true},
		{"HTTP/1.0", strings.Replace(streamText(user, good), "HTTP/1.1", "HTTP/1.0", 1), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, in, s := r.follow(t, test.request)
			if want := head(test.chunked); got != want {
				t.Errorf("head\n     %q\nwant %q", got, want)
			}
			if s.User != uuid.MustParse(testUser) || s.Chunked != test.chunked ||
				s.ExpiresNanos != 1_000+60_000*1e6 {
				t.Errorf("subscription %+v", s)
			}
			r.checkStream(t, in, s)
		})
	}
	t.Run("heartbeats before it", func(t *testing.T) {
		_, in, s := r.follow(t, streamText(user, good), heartbeatText(validBody),
			heartbeatText(validBody))
		r.checkStream(t, in, s)
	})
}

// checkStream checks that a stream was given away: it works without the server's wrapper, and is
// not counted here.
func (r *running) checkStream(t *testing.T, in io.Reader, s broadcast.Subscription) {
	t.Helper()
	if conn := fmt.Sprintf("%T", s.Conn.(fakeConn).conn); strings.HasPrefix(conn, "*conns.") {
		t.Errorf("the stream keeps the server's connection, %s", conn)
	}
	testwait.Until(t, "connections of earlier requests are closed",
		func() bool { return r.conns.Stats().Open == 0 })
	go func() { _, _ = s.Conn.Write([]byte("live")) }()
	live := make([]byte, 4)
	if _, err := io.ReadFull(in, live); err != nil || string(live) != "live" {
		t.Errorf("behind the head: %q, %v", live, err)
	}
}

func TestStreamExpiry(t *testing.T) {
	s := &streams{}
	for until, want := range map[float64]int64{
		float64(testNow.UnixMilli()) + 1: 1_000 + 1e6,
		1e300:                            math.MaxInt64,
		math.MaxInt64:                    math.MaxInt64,
	} {
		if got := s.expiresNanos(until, testInstant); got != want {
			t.Errorf("a token until %g ends at %d, want %d", until, got, want)
		}
	}
	s.expiryIgnore = true
	if got := s.expiresNanos(1, testInstant); got != 0 {
		t.Errorf("with the expiry ignored it ends at %d", got)
	}
}

func TestStreamTurnedAway(t *testing.T) {
	r := start(t, nil)
	request := streamText("?user_id="+testUser, sign(t, testKey, payload("")))
	notTaken := func(net.Conn) (broadcast.Conn, error) { return nil, errors.New("not a socket") }
	for _, test := range []struct {
		take      func(net.Conn) (broadcast.Conn, error)
		subscribe error
		details   string
	}{
		{nil, broadcast.ErrDraining, "Server is about to stop"},
		{nil, fmt.Errorf("wrapped: %w", broadcast.ErrTooMany), "Too many streams"},
		{nil, broadcast.ErrTooManyOfUser, "Too many streams of this user"},
		{nil, fmt.Errorf("p7: %w", engine.ErrNotMine), "The owner of this user is not in reach"},
		{nil, errors.New("other"), "Stream not available"},
		{notTaken, nil, "Stream not available"},
	} {
		r.presence.take, r.presence.subscribe = test.take, test.subscribe
		got := r.send(t, request)
		got.check(t, 503, errorBody("unavailable", test.details))
		want := "13" // of 12.345 s
		if errors.Is(test.subscribe, engine.ErrNotMine) {
			want = "1"
		}
		if after := got.header.Get("Retry-After"); after != want || !got.closes {
			t.Errorf("Retry-After = %q, want %s; closes: %v", after, want, got.closes)
		}
	}
	testwait.Until(t, "connections of earlier requests are closed",
		func() bool { return r.conns.Stats().Open == 0 })
}

// TestEventSourceIsToldWhenToComeBack: it would never come back from a status other than 200.
func TestEventSourceIsToldWhenToComeBack(t *testing.T) {
	const told = "retry: 12345\n\n"
	for _, byStatus := range []bool{false, true} {
		r := start(t, func(o *Options, _ *fakePresence) { o.StreamRefusalStatus = byStatus })
		request := text("GET "+wire.StreamPath+"?user_id="+testUser, "",
			"Authorization: Bearer "+sign(t, testKey, payload("")), "Accept: text/event-stream")
		plain := strings.Replace(request, "HTTP/1.1", "HTTP/1.0", 1)
		notTaken := func(net.Conn) (broadcast.Conn, error) { return nil, errors.New("no socket") }
		for _, test := range []struct {
			take      func(net.Conn) (broadcast.Conn, error)
			subscribe error
			reply     reply.Reply
			body      string
		}{
			{nil, broadcast.ErrDraining, reply.Draining, told},
			{nil, broadcast.ErrTooMany, reply.TooManyStreams, told},
			{nil, broadcast.ErrTooManyOfUser, reply.TooManyStreamsOfUser, told},
			{nil, engine.ErrNotMine, reply.NotOwned, "retry: 1000\n\n"},
			{notTaken, nil, reply.StreamUnavailable, told},
		} {
			r.presence.take, r.presence.subscribe = test.take, test.subscribe
			before := r.counters.Streams[test.reply].Load()
			for _, request := range []string{request, plain} {
				got := r.send(t, request)
				if byStatus {
					got.check(t, 503, errorBody("unavailable", test.reply.Details()))
					continue
				}
				if kind := got.header.Get("Content-Type"); got.status != 200 || !got.closes ||
					kind != wire.EventsType || got.body != test.body {
					t.Errorf("%q: %d %s %q, closes: %v", test.reply.Details(), got.status, kind,
						got.body, got.closes)
				}
			}
			if n := r.counters.Streams[test.reply].Load() - before; n != 2 {
				t.Errorf("%q: %d of 2 refusals are counted", test.reply.Details(), n)
			}
		}
		// what another try cannot change is a status for all
		denied := strings.Replace(request, "Bearer ", "Bearer x", 1)
		r.send(t, denied).check(t, 403, errorBody("forbidden", "Invalid token"))
	}
}

func TestAcceptsEvents(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                            false,
		"*/*":                         false,
		"text/*":                      false,
		"application/json":            false,
		"text/event-stream":           true,
		"TEXT/Event-Stream":           true,
		"text/event-streams":          false,
		"xtext/event-stream":          false,
		"text/event-stream, */*":      true,
		"*/*;q=0.1,text/event-stream": true,
		"text/html , text/event-stream ; q=0.001": true,
		"text/event-stream;q=0":                   false,
		"text/event-stream; Q=0.000, */*":         false,
		"text/event-stream;charset=utf-8":         true,
		`text/plain;a=", text/event-stream"`:      false,
		`text/plain;a="\", text/event-stream"`:    false,
		`text/plain;a="b,", text/event-stream`:    true,
		"text/event-stream;q":                     false,
		",,text/event-stream,":                    true,
	} {
		var h fasthttp.RequestHeader
		h.Set("Accept", accept)
		if got := acceptsEvents(&h); got != want {
			t.Errorf("Accept: %s is %v, want %v", accept, got, want)
		}
	}
	var two fasthttp.RequestHeader
	two.Add("Accept", "application/json")
	two.Add("Accept", "text/event-stream")
	if !acceptsEvents(&two) {
		t.Error("the second of two headers is not looked at")
	}
}
