package server

import (
	"errors"
	"net"
	"strings"
	"testing"

	"rollcall/engine/broadcast"
	"rollcall/wire"
)

const (
	ownOrigin   = "https://app.example"
	otherOrigin = "https://other.example"
)

func withOrigins(o *Options, _ *fakePresence) {
	o.CORSOrigins = []string{ownOrigin, "http://localhost:3000"}
}

// checkOrigins wants the CORS headers of an answer to origin under withOrigins.
func checkOrigins(t *testing.T, got response, origin string) {
	t.Helper()
	want := ""
	if origin == ownOrigin {
		want = origin
	}
	if allowed := got.header.Get("Access-Control-Allow-Origin"); allowed != want {
		t.Errorf("%d to %q allows %q, want %q", got.status, origin, allowed, want)
	}
	if v := got.header.Values("Vary"); len(v) != 1 || v[0] != "Origin" {
		t.Errorf("%d to %q: Vary %q", got.status, origin, v)
	}
	if got.header.Get("Access-Control-Allow-Methods") == "" ||
		got.header.Get("Access-Control-Allow-Headers") == "" {
		t.Errorf("%d to %q without the other CORS headers", got.status, origin)
	}
}

// TestCORSOrigins (S3): every kind of answer, those outside fasthttp too, tells the listed origins
// and no other that they may read it.
func TestCORSOrigins(t *testing.T) {
	r := start(t, withOrigins)
	stream := "GET " + wire.StreamPath + "?user_id=" + testUser
	token := "Authorization: Bearer " + sign(t, testKey, payload(""))
	for _, test := range []struct {
		name, line, body string
		status           int
		headers          []string
	}{
		{"preflight", "OPTIONS " + wire.StreamPath, "", 204, nil},
		{"accepted", "POST " + wire.HeartbeatPath, validBody, 204,
			[]string{"Authorization: Bearer " + testIngest}},
		{"unauthorized", "POST " + wire.HeartbeatPath, validBody, 401, nil},
		{"no route", "GET /nope", "", 404, nil},
		{"wrong method", "GET " + wire.HeartbeatPath, "", 405, nil},
		{"refused stream", stream, "", 401, nil},
	} {
		for _, origin := range []string{ownOrigin, otherOrigin, strings.ToUpper(ownOrigin), "null",
			""} {
			headers := append(test.headers, "Origin: "+origin)
			if origin == "" {
				headers = test.headers
			}
			got := r.send(t, text(test.line, test.body, headers...))
			if got.status != test.status {
				t.Errorf("%s: answer %d %s", test.name, got.status, got.body)
			}
			checkOrigins(t, got, origin)
		}
	}
	for _, origin := range []string{ownOrigin, otherOrigin} {
		head, _, _ := r.follow(t, text(stream, "", token, "Origin: "+origin))
		if got := strings.Contains(head,
			"\r\nAccess-Control-Allow-Origin: "+origin+"\r\n"); got != (origin == ownOrigin) {
			t.Errorf("a stream's head to %s: %q", origin, head)
		}
		if !strings.Contains(head, "\r\nVary: Origin\r\n") ||
			!strings.HasSuffix(head, "\r\nConnection: close\r\n\r\n") {
			t.Errorf("a stream's head to %s: %q", origin, head)
		}
	}
}

// TestCORSHeaders: a page may send what stand-ins for EventSource send, on the stream's route in
// every answer, and on the others what it always could.
func TestCORSHeaders(t *testing.T) {
	r := start(t, nil)
	stream, token := wire.StreamPath+"?user_id="+testUser,
		"Authorization: Bearer "+sign(t, testKey, payload(""))
	for line, want := range map[string]string{
		"OPTIONS " + stream:             "Content-Type, Authorization, Cache-Control, Last-Event-ID",
		"OPTIONS " + wire.StreamPath:    wire.AllowedStreamHeaders,
		"GET " + stream:                 wire.AllowedStreamHeaders,
		"POST " + stream:                wire.AllowedStreamHeaders,
		"OPTIONS " + wire.HeartbeatPath: "Content-Type, Authorization",
		"POST " + wire.HeartbeatPath:    wire.AllowedHeaders,
		"OPTIONS /nope":                 wire.AllowedHeaders,
		"GET " + wire.StreamPath + "/":  wire.AllowedHeaders,
	} {
		got := r.send(t, text(line, ""))
		if list := got.header.Get("Access-Control-Allow-Headers"); list != want {
			t.Errorf("%s: %d allows %q, want %q", line, got.status, list, want)
		}
	}
	full := start(t, func(_ *Options, f *fakePresence) { f.subscribe = broadcast.ErrTooMany })
	got := full.send(t, text("GET "+stream, "", token))
	if list := got.header.Get("Access-Control-Allow-Headers"); list != wire.AllowedStreamHeaders {
		t.Errorf("%d of a stream too many allows %q", got.status, list)
	}
}

func TestCORSOriginsOfAnswersOutsideFasthttp(t *testing.T) {
	stream := func(origin string) string {
		return text("GET "+wire.StreamPath+"?user_id="+testUser, "",
			"Authorization: Bearer "+sign(t, testKey, payload("")), "Origin: "+origin)
	}
	for name, change := range map[string]func(*Options, *fakePresence){
		"too many streams": func(_ *Options, f *fakePresence) {
			f.subscribe = broadcast.ErrTooMany
		},
		"not taken over": func(_ *Options, f *fakePresence) {
			f.take = func(net.Conn) (broadcast.Conn, error) {
				return nil, errors.New("no descriptor")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(o *Options, f *fakePresence) { withOrigins(o, f); change(o, f) })
			for _, origin := range []string{ownOrigin, otherOrigin} {
				got := r.send(t, stream(origin))
				if got.status != 503 {
					t.Errorf("answer %d", got.status)
				}
				checkOrigins(t, got, origin)
			}
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		r := start(t, withOrigins)
		got := r.send(t, "GARBAGE\r\n\r\n")
		if got.status != 400 {
			t.Errorf("answer %d", got.status)
		}
		checkOrigins(t, got, "")
	})
	t.Run("too many connections", func(t *testing.T) {
		r := start(t, func(o *Options, f *fakePresence) {
			withOrigins(o, f)
			o.MaxConns = 1
			o.OpenStreams = func() int { return 1 }
		})
		for _, origin := range []string{ownOrigin, otherOrigin} {
			got := r.send(t, stream(origin))
			if got.status != 503 {
				t.Errorf("answer %d", got.status)
			}
			checkOrigins(t, got, origin)
		}
	})
}

func TestCORSOriginsAreChecked(t *testing.T) {
	for _, good := range [][]string{nil, {"*"}, {ownOrigin},
		{"http://localhost:3000", "capacitor://localhost", "http://[::1]:8080", "https://a:80"}} {
		if err := (Options{CORSOrigins: good}).Check(); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "null", "example.com", "https://example.com/",
		"https://Example.com", "https://example.com:443",
		"http://example.com:80", "https://*.example.com", "https://a.example https://b.example",
		"https://u@example.com", "https://a?b", "*"} {
		if err := (Options{CORSOrigins: []string{ownOrigin, bad}}).Check(); err == nil {
			t.Errorf("%q is taken, though no browser would send it", bad)
		}
	}
}
