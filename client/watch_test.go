package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// connections is the server's side of these tests: the n-th connection, from 0, is served by
// serve(n).
type connections struct {
	t     *testing.T
	serve func(c *connection, n int)

	mu  sync.Mutex
	got []opened // guarded by mu
}

type opened struct {
	at    time.Time
	token string
}

type connection struct {
	http.ResponseWriter
	gone <-chan struct{} // the client has hung up
}

func (s *connections) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != "GET" || r.URL.Path != streamPath || r.URL.Query().Get("user_id") != user {
		s.t.Errorf("%s %s", r.Method, r.URL)
	}
	s.mu.Lock()
	n := len(s.got)
	s.got = append(s.got, opened{time.Now(), strings.TrimPrefix(r.Header.Get("Authorization"),
		"Bearer ")})
	s.mu.Unlock()
	s.serve(&connection{w, r.Context().Done()}, n)
}

func (s *connections) all() []opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]opened(nil), s.got...)
}

// say sends text on a stream.
func (c *connection) say(text string) {
	c.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(c.ResponseWriter, text)
	c.ResponseWriter.(http.Flusher).Flush()
}

func (c *connection) refuse(status int) {
	c.WriteHeader(status)
	fmt.Fprint(c.ResponseWriter, `{"error":"forbidden","details":"As the test wants"}`)
}

func (c *connection) cut() { panic(http.ErrAbortHandler) }

// event is the frame of a device's heartbeat.
func event(device int, status Status, seq uint64) string {
	return fmt.Sprintf(
		`data: {"schema_version":1,"user_id":"%s","device_id":"device-%d","status":"%s",`+
			`"source":"s","sent_at_ms":1,"seq":%d,"ttl_ms":5}`+"\n\n",
		user, device, status, seq)
}

func watchOptions(c *http.Client) WatchOptions {
	return WatchOptions{URL: "http://rollcall", UserID: user, Token: StaticToken("stream"),
		HTTPClient: c}
}

// follow runs a watch until it yields something that begins with last, and returns all it yielded
// as text.
func follow(t *testing.T, o WatchOptions, last string) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	for ev, err := range Watch(ctx, o) {
		if err != nil {
			got = append(got, "error: "+err.Error())
		} else {
			got = append(got, fmt.Sprintf("%s %s %d %v", ev.DeviceID, ev.Status, ev.Seq,
				ev.Transition))
		}
		if strings.HasPrefix(got[len(got)-1], last) {
			return got
		}
	}
	t.Errorf("the watch ended without %q", last)
	return got
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// TestWatch: what was said is not said again after a reconnect, what changed meanwhile is (K6).
func TestWatch(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &connections{t: t}
		s.serve = func(c *connection, n int) {
			switch n {
			case 0:
				c.say(event(1, Online, 1) + event(2, Offline, 7))
				c.say(": keepalive\nevent: other\ndata: {}\n\ndata: not JSON\n\ndata: " +
					"{\"schema_version\":2}\n\n")
				c.say(event(1, Online, 2))
				c.say(event(1, Offline, 2))
				c.cut()
			case 1:
				c.say(event(1, Offline, 2) + event(2, Offline, 7) + event(3, Online, 1))
				c.say(event(2, Online, 8))
			}
		}
		got := follow(t, watchOptions(serve(t, s.ServeHTTP)), "device-2 online 8")
		wantLines(t, got, "device-1 online 1 true", "device-2 offline 7 true",
			"device-1 online 2 false",
			"device-1 offline 2 true", "error: client: stream: unexpected EOF",
			"device-3 online 1 true", "device-2 online 8 true")
	})
}

// TestWaits: how long after which end the next connection comes (K9).
func TestWaits(t *testing.T) {
	for _, row := range []struct {
		name      string
		end       func(c *connection)
		low, high time.Duration
		want      string
	}{
		{"retry:", func(c *connection) { c.say("retry: 7000\n\n") }, 7 * time.Second,
			7 * time.Second, ErrEnded.Error()},
		{"retry: before a cut", func(c *connection) { c.say("retry: 7000\n\n"); c.cut() },
			7 * time.Second, 7 * time.Second, "client: stream: unexpected EOF"},
		{"retry: too long", func(c *connection) { c.say("retry: 99999999999999\n\n") }, time.Hour,
			time.Hour, ErrEnded.Error()},
		{"the end", func(c *connection) { c.say(event(1, Online, 1)) }, 0, time.Second,
			ErrEnded.Error()},
		{"cut", func(c *connection) { c.say(event(1, Online, 1)); c.cut() }, 0, time.Second,
			"client: stream: unexpected EOF"},
		{"cut before the head", func(c *connection) { c.cut() }, 0, time.Second,
			"client: stream: Get"},
		{"503", func(c *connection) { c.refuse(503) }, 0, time.Second, "rollcall answered 503"},
		{"503 with Retry-After", func(c *connection) {
			c.Header().Set("Retry-After", "9")
			c.refuse(503)
		}, 9 * time.Second, 10 * time.Second, "rollcall answered 503"},
		{"403", func(c *connection) { c.refuse(403) }, 0, time.Second, "rollcall answered 403"},
		{"404", func(c *connection) { c.refuse(404) }, 15 * time.Second, 30 * time.Second,
			"rollcall answered 404 Not Found: As the test wants (check that URL"},
		{"a page", func(c *connection) {
			c.Header().Set("Content-Type", "text/html")
			fmt.Fprint(c, "<p>")
		}, 0, time.Second, `client: the answer is "text/html" and not a stream`},
		{"silence", func(c *connection) { c.say(event(1, Online, 1)); <-c.gone }, 45 * time.Second,
			46 * time.Second, errIdle.Error()},
		{"silence before the head", func(c *connection) { <-c.gone }, 45 * time.Second,
			46 * time.Second, errIdle.Error()},
		{"a frame without end", func(c *connection) {
			c.say("data: " + strings.Repeat("x", 1<<16))
			<-c.gone
		}, 0, time.Second, "client: stream: " + errFrameTooLarge.Error()},
	} {
		t.Run(row.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				s := &connections{t: t}
				s.serve = func(c *connection, n int) {
					if n == 0 {
						row.end(c)
					} else {
						c.say(event(2, Online, 2))
					}
				}
				got := follow(t, watchOptions(serve(t, s.ServeHTTP)), "device-2")
				if got[0] == "device-1 online 1 true" {
					got = got[1:]
				}
				wantLines(t, got, "error: "+row.want, "device-2 online 2 true")
				opened := s.all()
				wantBetween(t, "next connection after", opened[1].at.Sub(opened[0].at), row.low,
					row.high)
			})
		})
	}
}

// TestIdle: keepalives keep a connection, and a slow loop does not end it (K7, K8).
func TestIdle(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &connections{t: t}
		s.serve = func(c *connection, n int) {
			c.say(event(1, Online, 1))
			for range 40 {
				time.Sleep(15 * time.Second)
				c.say(": keepalive\n")
			}
			c.say(event(1, Online, 2))
			c.say(event(1, Online, 3))
			<-c.gone
		}
		seqs := 0
		for _, err := range Watch(t.Context(), watchOptions(serve(t, s.ServeHTTP))) {
			if err != nil {
				t.Fatal(err)
			}
			if seqs++; seqs == 3 {
				break
			}
			time.Sleep(time.Hour)
		}
		if n := len(s.all()); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

// TestWatchBackoff: a server that ends every stream at once is asked less and less often, and a
// healthy stream forgives.
func TestWatchBackoff(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &connections{t: t}
		s.serve = func(c *connection, n int) {
			if n == 100 {
				for range 10 {
					c.say(": keepalive\n")
					time.Sleep(15 * time.Second)
				}
			}
			c.say(event(1, Online, uint64(n)))
		}
		follow(t, watchOptions(serve(t, s.ServeHTTP)), "device-1 online 102")
		opened, bound := s.all(), time.Second
		var longest time.Duration
		for i := 1; i < 100; i++ {
			gap := opened[i].at.Sub(opened[i-1].at)
			wantBetween(t, fmt.Sprintf("wait %d", i), gap, 0, bound)
			bound, longest = min(2*bound, 30*time.Second), max(longest, gap)
		}
		if longest < 15*time.Second {
			t.Errorf("the longest of 99 waits is %v", longest)
		}
		wantBetween(t, "wait after a healthy stream", opened[101].at.Sub(opened[100].at),
			150*time.Second, 151*time.Second)
	})
}

// tokenFor is a stream token as far as a client looks into it.
func tokenFor(name string, expires time.Time) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"token_id":%q,"exp_ms":%d}`,
		name, expires.UnixMilli())) + ".signature"
}

// TestTokenRenewal: in the last fifth of a token's time the watch takes a new one and comes back
// with it, without an interruption for the caller (K9).
func TestTokenRenewal(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &connections{t: t}
		s.serve = func(c *connection, n int) {
			c.say(event(1, Online, 1))
			if n == 5 {
				c.say(event(1, Offline, 1))
			}
			for {
				select {
				case <-c.gone:
					return
				case <-time.After(15 * time.Second):
					c.say(": keepalive\n")
				}
			}
		}
		minted := 0
		o := watchOptions(serve(t, s.ServeHTTP))
		o.Token = func(context.Context) (string, error) {
			minted++
			return tokenFor(fmt.Sprint(minted), time.Now().Add(10*time.Minute)), nil
		}
		wantLines(t, follow(t, o, "device-1 offline"), "device-1 online 1 true",
			"device-1 offline 1 true")
		opened := s.all()
		for i := 1; i < 6; i++ {
			wantBetween(t, "a token served", opened[i].at.Sub(opened[i-1].at), 8*time.Minute,
				9*time.Minute+31*time.Second)
			if opened[i].token == opened[i-1].token {
				t.Error("came back with the old token")
			}
		}
		if minted != 6 {
			t.Errorf("asked for %d tokens, want 6", minted)
		}
	})
}

// TestTokenSource: how often Token is asked, over ten connections that the server ends.
func TestTokenSource(t *testing.T) {
	hour := func() time.Time { return time.Now().Add(time.Hour) }
	for _, row := range []struct {
		name  string
		token func(n int) (string, error)
		asked int
	}{
		{"one that serves", func(n int) (string, error) {
			return tokenFor(fmt.Sprint(n), hour()), nil
		}, 1},
		{"without an expiry", func(int) (string, error) { return "opaque", nil }, 10},
		{"expired by our clock", func(n int) (string,
			error) {
			return tokenFor(fmt.Sprint(n), time.Now().Add(-time.Hour)), nil
		}, 10},
		{"expires never", func(n int) (string,
			error) {
			return tokenFor(fmt.Sprint(n), time.UnixMilli(1<<53)), nil
		}, 10},
	} {
		t.Run(row.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				s := &connections{t: t}
				s.serve = func(c *connection, n int) { c.say(event(1, Online, uint64(n))) }
				asked := 0
				o := watchOptions(serve(t, s.ServeHTTP))
				o.Token = func(context.Context) (string, error) { asked++; return row.token(asked) }
				follow(t, o, "device-1 online 9")
				if asked != row.asked {
					t.Errorf("asked %d times, want %d", asked, row.asked)
				}
			})
		})
	}
}

// TestTokenThatIsNotRenewed: a source that keeps its token does not make the watch reconnect faster
// and faster.
func TestTokenThatIsNotRenewed(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &connections{t: t}
		expires := time.Now().Add(10 * time.Minute)
		s.serve = func(c *connection, n int) {
			if time.Now().After(expires) {
				c.refuse(403)
				return
			}
			c.say(event(1, Online, uint64(n)))
			for time.Now().Before(expires) {
				select {
				case <-c.gone:
					return
				case <-time.After(15 * time.Second):
					c.say(": keepalive\n")
				}
			}
		}
		o := watchOptions(serve(t, s.ServeHTTP))
		o.Token = StaticToken(tokenFor("kept", expires))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		refusals := 0
		for _, err := range Watch(ctx, o) {
			if answerOf(err).isRefusal() {
				refusals++
			}
		}
		if n := len(s.all()) - refusals; n > 5 {
			t.Errorf("%d connections in the token's time", n)
		}
		if refusals < 100 || refusals > 210 {
			t.Errorf("refused %d times in 50 minutes: want every 15 to 30 s", refusals)
		}
	})
}

// TestTokenFailsForWatch: an error of Token is yielded, and Token is called again.
func TestTokenFailsForWatch(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &connections{t: t, serve: func(c *connection, n int) { c.say(event(1, Online, 1)) }}
		o := watchOptions(serve(t, s.ServeHTTP))
		asked := 0
		o.Token = func(context.Context) (string, error) {
			switch asked++; asked {
			case 1:
				return "", errors.New("no token today")
			case 2:
				return "two words", nil
			}
			return "stream", nil
		}
		wantLines(t, follow(t, o, "device-1"), "error: client: token: no token today",
			"error: client: Token returned something", "device-1 online 1 true")
	})
}

// TestWatchEnds: by leaving the loop, by the context, and by what no second try can mend; the
// connection ends with it.
func TestWatchEnds(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		gone := make(chan int, 10)
		s := &connections{t: t}
		s.serve = func(c *connection, n int) {
			if n == 2 {
				c.refuse(400)
				return
			}
			c.say(event(1, Online, 1))
			<-c.gone
			gone <- n
		}
		o := watchOptions(serve(t, s.ServeHTTP))
		o.IdleTimeout = time.Hour
		for range Watch(t.Context(), o) {
			break
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, err := range Watch(ctx, o) {
			if err != nil {
				t.Errorf("the end of ctx comes as %v", err)
			}
		}
		var last error
		for _, err := range Watch(t.Context(), o) {
			last = err
		}
		if a := answerOf(last); a == nil || a.Status != 400 {
			t.Errorf("ended with %v, want the 400", last)
		}
		if <-gone != 0 || <-gone != 1 {
			t.Error("the connections did not end in order")
		}
	})
}

func TestWatchOptions(t *testing.T) {
	for name, row := range map[string]struct {
		change func(o *WatchOptions)
		want   string
	}{
		"URL":      {func(o *WatchOptions) { o.URL = "rollcall" }, "want http://HOST"},
		"user":     {func(o *WatchOptions) { o.UserID = "bob" }, "UserID"},
		"token":    {func(o *WatchOptions) { o.Token = nil }, "Token is missing"},
		"negative": {func(o *WatchOptions) { o.IdleTimeout = -1 }, "negative"},
	} {
		o := watchOptions(nil)
		row.change(&o)
		var got []error
		for _, err := range Watch(t.Context(), o) {
			got = append(got, err)
		}
		if len(got) != 1 || !strings.Contains(got[0].Error(), row.want) {
			t.Errorf("%s: %v, want one error about %q", name, got, row.want)
		}
	}
}

// TestMemoryIsBounded: whatever a server sends, a watch reads a part of an error's body, and
// remembers no more devices than maxKnown (K10).
func TestMemoryIsBounded(t *testing.T) {
	body := &endless{}
	statusError(&http.Response{StatusCode: 500, Body: body})
	if body.read > 2*maxErrorBytes {
		t.Errorf("%d bytes of an error were read", body.read)
	}
	w, err := newWatch(WatchOptions{URL: "http://rollcall", UserID: user, Token: StaticToken("x")})
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxKnown + 10 {
		data := strings.TrimPrefix(strings.TrimSpace(event(i, Online, 1)), "data: ")
		if _, ok := w.event(frame{data: []byte(data)}); !ok {
			t.Fatalf("device %d is not yielded", i)
		}
	}
	if len(w.known) != maxKnown {
		t.Errorf("%d devices are remembered, want %d", len(w.known), maxKnown)
	}
}

// endless is a body without an end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) { e.read += len(p); return len(p), nil }
func (e *endless) Close() error               { return nil }
