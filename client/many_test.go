package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const friend = "0e5d6f3c-7a11-4b52-8c9e-3f2a1b0c9d8e"

// manyServer is the server's side of these tests: the n-th stream, from 0, is served by serve(n),
// and a renewal is answered with the status of renew, 204 if that is not set.
type manyServer struct {
	t     *testing.T
	serve func(c *connection, n int)
	renew func(n int) (status int)

	mu      sync.Mutex
	asked   []request // guarded by mu; for streams
	renewed []request // guarded by mu
}

type request struct {
	at                          time.Time
	method, query, body, cursor string
	token                       string
}

func (s *manyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	got := request{time.Now(), r.Method, r.URL.RawQuery, string(body), r.Header.Get("Last-Event-ID"),
		strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
	if r.URL.Path == manyPath {
		s.mu.Lock()
		n := len(s.asked)
		s.asked = append(s.asked, got)
		s.mu.Unlock()
		w.Header().Set(streamHeader, fmt.Sprintf("stream-%d", n))
		s.serve(&connection{w, r.Context().Done()}, n)
		return
	}
	s.mu.Lock()
	n := len(s.renewed)
	s.renewed = append(s.renewed, got)
	streams := len(s.asked)
	s.mu.Unlock()
	if want := fmt.Sprintf("%s/stream-%d/token", manyPath, streams-1); r.URL.Path != want ||
		r.Method != http.MethodPost {
		s.t.Errorf("%s %s, want POST %s", r.Method, r.URL.Path, want)
	}
	status := http.StatusNoContent
	if s.renew != nil {
		status = s.renew(n)
	}
	w.WriteHeader(status)
}

func (s *manyServer) streams() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *manyServer) renewals() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.renewed)
}

// userFrame is the frame of a user event, with the id c-N.
func userFrame(id int, user string, devices int) string {
	status := Offline
	if devices > 0 {
		status = Online
	}
	return fmt.Sprintf("id: c-%d\nevent: user\ndata: "+`{"schema_version":1,"user_id":%q,`+
		`"status":%q,"devices_online":%d,"last_seen_ms":null,"changed_at_ms":%s}`+"\n\n",
		id, user, status, devices, map[bool]string{true: "null", false: "5"}[id == 0])
}

func deviceFrame(id int, user, device string, status Status, seq int) string {
	return fmt.Sprintf("id: c-%d\nevent: presence\ndata: "+`{"schema_version":1,"user_id":%q,`+
		`"device_id":%q,"status":%q,"source":"s","sent_at_ms":1,"seq":%d,"ttl_ms":5}`+"\n\n",
		id, user, device, status, seq)
}

func syncedFrame(id int, resumed bool, users int) string {
	return fmt.Sprintf("id: c-%d\nevent: synced\ndata: {\"resumed\":%t,\"users\":%d}\n\n", id,
		resumed, users)
}

// hold keeps a connection open until the client has gone.
func (c *connection) hold() {
	for {
		select {
		case <-c.gone:
			return
		case <-time.After(15 * time.Second):
			c.say(": keepalive\n")
		}
	}
}

func manyOptions(c *http.Client) WatchManyOptions {
	return WatchManyOptions{URL: "http://rollcall", UserIDs: []string{user, friend},
		Token: StaticToken("stream"), HTTPClient: c}
}

// describe is an update in one line.
func describe(up Update, err error) string {
	gone := ""
	if up.Gone {
		gone = " gone"
	}
	name := func(id string) string {
		return map[string]string{user: "user", friend: "friend"}[id]
	}
	switch {
	case err != nil:
		return "error: " + err.Error()
	case up.Sync != nil:
		return fmt.Sprintf("synced resumed=%t users=%d", up.Sync.Resumed, up.Sync.Users)
	case up.Device != nil:
		return fmt.Sprintf("%s %s %s %d %t%s", name(up.Device.UserID), up.Device.DeviceID,
			up.Device.Status, up.Device.Seq, up.Device.Transition, gone)
	}
	return fmt.Sprintf("%s %s %d%s", name(up.User.UserID), up.User.Status, up.User.DevicesOnline,
		gone)
}

// followMany runs a watch until it yields something that begins with last, and returns all it
// yielded as text.
func followMany(t *testing.T, o WatchManyOptions, last string) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
	defer cancel()
	for up, err := range WatchMany(ctx, o) {
		got = append(got, describe(up, err))
		if strings.HasPrefix(got[len(got)-1], last) {
			return got
		}
	}
	t.Errorf("the watch ended without %q: %q", last, got)
	return got
}

// TestWatchMany: a reconnect resumes from the last whole event, tells what changed, and says when
// the roster is whole again (K11).
func TestWatchMany(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		var roster Roster
		var during []State
		s := &manyServer{t: t}
		s.serve = func(c *connection, n int) {
			during = append(during, roster.State())
			switch n {
			case 0:
				c.say(userFrame(0, user, 2) + userFrame(0, friend, 0) + syncedFrame(1, false, 2))
				c.say("event: other\ndata: {}\n\nevent: user\ndata: no JSON\n\n: keepalive\n")
				c.say(userFrame(2, user, 1))
				c.say(strings.TrimSuffix(userFrame(3, user, 9), "\n")) // half an event
				c.cut()
			case 1:
				c.refuse(503)
			case 2: // half a resume
				c.say(userFrame(2, friend, 1))
				c.cut()
			case 3:
				c.say(userFrame(2, friend, 1) + syncedFrame(5, true, 2))
				c.say(userFrame(6, user, 0))
			}
		}
		o := manyOptions(serve(t, s.ServeHTTP))
		o.Roster, o.Linger = &roster, 30*time.Second
		wantLines(t, followMany(t, o, "user offline"),
			"user online 2", "friend offline 0", "synced resumed=false users=2", "user online 1",
			"error: client: stream: unexpected EOF", "error: rollcall answered 503",
			"friend online 1", "error: client: stream: unexpected EOF",
			"synced resumed=true users=2", "user offline 0")
		asked := s.streams()
		for i, want := range []string{"", "c-2", "c-2", "c-2"} {
			if asked[i].cursor != want {
				t.Errorf("stream %d resumes from %q, want %q", i, asked[i].cursor, want)
			}
		}
		want := request{asked[0].at, "POST", "linger_ms=30000&view=users",
			`{"user_ids":["` + user + `","` + friend + `"]}`, "", "stream"}
		if asked[0] != want {
			t.Errorf("asked %+v\nwant %+v", asked[0], want)
		}
		if fmt.Sprint(during) != "[connecting interrupted interrupted interrupted]" {
			t.Errorf("states when the server is asked: %v", during)
		}
		if got := roster.State(); got != Interrupted {
			t.Errorf("after the loop: %v", got)
		}
		users := roster.Users()
		if len(users) != 2 || users[0].UserID != friend || users[0].DevicesOnline != 1 ||
			users[1].Status != Offline || users[1].ChangedAtMS != 5 || users[1].LastSeenMS != 0 {
			t.Errorf("the roster has %+v", users)
		}
	})
}

// TestManyReplacesAll: a server that cannot resume tells all anew, and what it does not tell is
// gone. An empty id means that there is nothing to resume from (K11).
func TestManyReplacesAll(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		var roster Roster
		s := &manyServer{t: t}
		s.serve = func(c *connection, n int) {
			switch n {
			case 0:
				c.say(deviceFrame(0, user, "a", Online, 1) + deviceFrame(0, user, "b", Online, 7) +
					deviceFrame(0, friend, "c", Offline, 1) + syncedFrame(1, false, 2))
				c.say(deviceFrame(2, user, "a", Online, 2) + deviceFrame(3, user, "a", Offline, 3))
			case 1: // of another history: the cursor is not honoured, and the snapshot is cut
				c.say(strings.Replace(deviceFrame(0, user, "a", Online, 1), "id: c-0", "id", 1))
				c.cut()
			case 2:
				c.say(deviceFrame(0, user, "a", Online, 1) + syncedFrame(9, false, 2))
				if u, ok := roster.User(friend); ok {
					t.Logf("not replaced yet: %v", u)
				}
				c.hold()
			}
		}
		o := manyOptions(serve(t, s.ServeHTTP))
		o.Roster, o.View = &roster, ViewDevices
		got := followMany(t, o, "error: client: stream: unexpected EOF")
		wantLines(t, got, "user a online 1 true", "user b online 7 true", "friend c offline 1 true",
			"synced resumed=false users=2", "user a online 2 false", "user a offline 3 true",
			"error: "+ErrEnded.Error(), "user a online 1 true", "error: client: stream: unexpected EOF")
		if u, _ := roster.User(user); u.DevicesOnline != 2 || len(roster.Devices(user)) != 2 {
			t.Errorf("before the snapshot is whole: %+v", u)
		}
		got = followMany(t, o, "synced")
		slices.Sort(got)
		wantLines(t, got, "friend c offline 1 false gone", "synced resumed=false users=2",
			"user b offline 7 true gone")
		asked := s.streams()
		if asked[1].cursor != "c-3" || asked[2].cursor != "" {
			t.Errorf("resumed from %q, then %q", asked[1].cursor, asked[2].cursor)
		}
		if users := roster.Users(); len(users) != 1 || users[0].DevicesOnline != 1 {
			t.Errorf("the roster has %+v", users)
		}
	})
}

// TestManyGoesOn: a watch of other users with the same roster resumes, and the users that it does
// not follow are gone at once.
func TestManyGoesOn(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		var roster Roster
		s := &manyServer{t: t}
		s.serve = func(c *connection, n int) {
			c.say(userFrame(0, user, n) + syncedFrame(1, n > 0, 2))
			if n == 0 {
				c.say(userFrame(2, friend, 1))
			}
			c.hold()
		}
		o := manyOptions(serve(t, s.ServeHTTP))
		o.Roster = &roster
		followMany(t, o, "friend")
		o.UserIDs = []string{strings.ToUpper(user)}
		wantLines(t, followMany(t, o, "synced"), "friend offline 0 gone", "user online 1",
			"synced resumed=true")
		o.View = ViewDevices // another question: nothing of the first answers it
		followMany(t, o, "synced")
		if asked := s.streams(); asked[1].cursor != "c-2" || asked[2].cursor != "" {
			t.Errorf("resumed from %q, then %q", asked[1].cursor, asked[2].cursor)
		}
		for range WatchMany(t.Context(), o) {
			for _, err := range WatchMany(t.Context(), o) {
				if err == nil || !strings.Contains(err.Error(), "serves another") {
					t.Errorf("a second watch with the roster: %v", err)
				}
			}
			break
		}
	})
}

// TestManyOfToken: without UserIDs the token says whom to follow, and a new token with other
// contacts is told apart. A token that cannot be read is not resumed, since a resume is silent
// about users that are not followed any more.
func TestManyOfToken(t *testing.T) {
	tokenOf := func(users ...string) string {
		text, err := Mint("key", MintOptions{UserID: users[0], Contacts: users[1:], TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, row := range []struct {
		name   string
		tokens []string
		want   []string
		cursor string
	}{
		{"the same contacts", []string{tokenOf(user, friend), tokenOf(user, friend)},
			[]string{"synced resumed=true"}, "c-1"},
		{"a contact less", []string{tokenOf(user, friend), tokenOf(user)},
			[]string{"friend offline 0 gone", "synced resumed=true"}, "c-1"},
		{"opaque", []string{"one", "two"}, []string{"synced resumed=true"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				s := &manyServer{t: t}
				s.serve = func(c *connection, n int) {
					if n == 0 {
						c.say(userFrame(0, user, 1) + userFrame(0, friend, 1) +
							syncedFrame(1, false, 2))
						return
					}
					if n == 1 {
						c.refuse(403)
						return
					}
					c.say(syncedFrame(2, true, 2))
					c.hold()
				}
				o := manyOptions(serve(t, s.ServeHTTP))
				o.UserIDs, o.Token = nil, func(context.Context) (string, error) {
					if len(s.streams()) < 2 {
						return row.tokens[0], nil
					}
					return row.tokens[1], nil
				}
				got := followMany(t, o, "synced resumed=true")
				for len(got) > 0 && !strings.HasPrefix(got[0], "error: rollcall answered 403") {
					got = got[1:]
				}
				wantLines(t, got, append([]string{"error: rollcall answered 403"}, row.want...)...)
				asked := s.streams()
				if last := asked[len(asked)-1]; last.cursor != row.cursor || last.method != "GET" ||
					last.body != "" {
					t.Errorf("asked %+v, want a GET with the cursor %q", last, row.cursor)
				}
			})
		})
	}
}

// shortTokens mints a token for ten minutes at each call.
func shortTokens(minted *atomic.Int64) TokenFunc {
	return func(context.Context) (string, error) {
		return tokenFor(fmt.Sprint(minted.Add(1)), time.Now().Add(10*time.Minute)), nil
	}
}

// TestRenewalInPlace: in the last fifth of a token's time the stream gets a new one, and goes on:
// no reconnect, no snapshot, no interruption, however slow the loop is (K9).
func TestRenewalInPlace(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &manyServer{t: t}
		s.serve = func(c *connection, n int) {
			c.say(userFrame(0, user, 1) + syncedFrame(1, false, 2))
			c.hold()
		}
		var minted atomic.Int64
		o := manyOptions(serve(t, s.ServeHTTP))
		o.Token = shortTokens(&minted)
		for up, err := range WatchMany(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			if up.Sync != nil {
				break
			}
			time.Sleep(time.Hour) // a slow loop
		}
		streams, renewals := s.streams(), s.renewals()
		if len(streams) != 1 || len(renewals) < 6 || len(renewals) > 8 {
			t.Fatalf("%d streams, %d renewals in an hour", len(streams), len(renewals))
		}
		last := streams[0]
		for _, r := range renewals {
			wantBetween(t, "a token served", r.at.Sub(last.at), 8*time.Minute, 9*time.Minute+31*time.Second)
			if r.token == last.token {
				t.Error("renewed with the old token")
			}
			last = r
		}
	})
}

// TestClaims: a client reads its own token, an HMAC token of the contract or a JWT, and only that.
func TestClaims(t *testing.T) {
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for token, want := range map[string]string{
		part(`{"exp_ms":5000,"user_id":"u"}`) + ".x":                   "5000 u",
		part(`{"alg":"x"}`) + "." + part(`{"exp":5,"sub":"s"}`) + ".x": "5000 s",
		part(`{"alg":"x"}`) + "." + part(`{"exp":1e300}`) + ".x":       "none ",
		part(`{"exp_ms":-1}`) + ".x":                                   "none ",
		part(`{"exp_ms":"soon"}`) + ".x":                               "none ",
		"opaque":                                                       "none ",
		"":                                                             "none ",
		"a.b.c.d":                                                      "none ",
	} {
		c, end := claimsOf(token), "none"
		if at := c.expiry(); !at.IsZero() {
			end = fmt.Sprint(at.UnixMilli())
		}
		if got := end + " " + c.UserID + c.Sub; got != want {
			t.Errorf("%q: %q, want %q", token, got, want)
		}
	}
}

// TestRenewalFails: what becomes of a stream whose token could not be renewed in place.
func TestRenewalFails(t *testing.T) {
	for _, row := range []struct {
		name             string
		renew            func(n int) int
		token            func(n int) (string, error) // nil: a new one each time
		streams, renewed int
		resumed          string // cursor of the last stream
	}{
		{name: "the stream is gone", renew: func(int) int { return 404 }, streams: 2, renewed: 1,
			resumed: "c-1"},
		{name: "it does not fit", renew: func(int) int { return 403 }, streams: 2, renewed: 1,
			resumed: "c-1"},
		{name: "not for now", renew: func(n int) int {
			return []int{503, 429, 500, 204, 204, 204}[n]
		}, streams: 1, renewed: 4},
		{name: "no token for now", streams: 1, renewed: 1, token: func(n int) (string, error) {
			if n == 2 || n == 3 {
				return "", errors.New("the backend is away")
			}
			return tokenFor(fmt.Sprint(n), time.Now().Add(10*time.Minute)), nil
		}},
		{name: "the old token again", streams: 1, renewed: 0, token: func(int) (string, error) {
			return tokenFor("the only one", time.UnixMilli(946684800000).Add(10*time.Minute)), nil
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T) {
				s := &manyServer{t: t, renew: row.renew}
				s.serve = func(c *connection, n int) {
					c.say(userFrame(0, user, n+1) + syncedFrame(1, n > 0, 2))
					c.hold()
				}
				asked := 0
				o := manyOptions(serve(t, s.ServeHTTP))
				o.Token = func(context.Context) (string, error) {
					asked++
					if row.token != nil {
						return row.token(asked)
					}
					return tokenFor(fmt.Sprint(asked), time.Now().Add(10*time.Minute)), nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
				defer cancel()
				for _, err := range WatchMany(ctx, o) {
					if err != nil {
						t.Errorf("interrupted: %v", err)
					}
				}
				streams, renewals := s.streams(), s.renewals()
				if len(streams) != row.streams || len(renewals) != row.renewed {
					t.Errorf("%d streams, %d renewals", len(streams), len(renewals))
				}
				if last := streams[len(streams)-1]; last.cursor != row.resumed {
					t.Errorf("the last stream resumes from %q, want %q", last.cursor, row.resumed)
				} else if row.streams == 2 && last.token != renewals[0].token {
					t.Error("the next stream does not use the token at hand")
				}
			})
		})
	}
}

// TestWatchRenewsInPlace: the stream of one user has a name, too.
func TestWatchRenewsInPlace(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		renewed, opened := 0, 0
		handler := func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == manyPath+"/a%20b/token" || r.URL.Path == manyPath+"/a b/token" {
				renewed++
				w.WriteHeader(http.StatusNoContent)
				return
			}
			opened++
			w.Header().Set(streamHeader, "a b")
			c := &connection{w, r.Context().Done()}
			c.say(event(1, Online, 1))
			c.hold()
		}
		var minted atomic.Int64
		o := watchOptions(serve(t, handler))
		o.Token = shortTokens(&minted)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for _, err := range Watch(ctx, o) {
			if err != nil {
				t.Error(err)
			}
		}
		if opened != 1 || renewed < 6 {
			t.Errorf("%d streams, %d renewals", opened, renewed)
		}
	})
}

// TestManyEnds: by leaving the loop at any point, by the context, by what no second try can mend.
// Nothing of a watch is left then: a goroutine that stays fails a test in fake time.
func TestManyEnds(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		s := &manyServer{t: t}
		s.serve = func(c *connection, n int) {
			c.say(userFrame(0, user, 1) + userFrame(0, friend, 1) + syncedFrame(1, false, 2))
			c.hold()
		}
		var minted atomic.Int64
		o := manyOptions(serve(t, s.ServeHTTP))
		o.Token, o.Roster = shortTokens(&minted), &Roster{}
		for leaveAt := 1; leaveAt <= 3; leaveAt++ {
			o.UserIDs = [][]string{nil, {user, friend}, {user, friend}, {friend}}[leaveAt]
			n := 0
			for range WatchMany(t.Context(), o) {
				if n++; n == leaveAt {
					break
				}
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, err := range WatchMany(ctx, o) {
			if err != nil {
				t.Errorf("the end of ctx comes as %v", err)
			}
		}
		for _, status := range []int{400, 413} {
			s.serve = func(c *connection, n int) { c.refuse(status) }
			var last error
			for _, err := range WatchMany(t.Context(), o) {
				last = err
			}
			if a := answerOf(last); a == nil || a.Status != status {
				t.Errorf("ended with %v, want the %d", last, status)
			}
		}
	})
}

func TestManyOptions(t *testing.T) {
	for name, row := range map[string]struct {
		change func(o *WatchManyOptions)
		want   string
	}{
		"URL":     {func(o *WatchManyOptions) { o.URL = "rollcall" }, "want http://HOST"},
		"users":   {func(o *WatchManyOptions) { o.UserIDs = []string{user, "bob"} }, "UserIDs[1]"},
		"token":   {func(o *WatchManyOptions) { o.Token = nil }, "Token is missing"},
		"view":    {func(o *WatchManyOptions) { o.View = "all" }, `View "all"`},
		"linger":  {func(o *WatchManyOptions) { o.Linger = time.Hour }, "Linger 1h"},
		"devices": {func(o *WatchManyOptions) { o.View, o.Linger = ViewDevices, 1 }, "ViewUsers only"},
	} {
		o := manyOptions(nil)
		row.change(&o)
		var got []error
		for _, err := range WatchMany(t.Context(), o) {
			got = append(got, err)
		}
		if len(got) != 1 || !strings.Contains(got[0].Error(), row.want) {
			t.Errorf("%s: %v, want one error about %q", name, got, row.want)
		}
	}
}

// TestRosterIsBounded: whatever a server sends, a roster has no more than maxKnown users and
// devices, and no cursor that is no header (K10).
func TestRosterIsBounded(t *testing.T) {
	var r Roster
	r.begin(question{})
	for i := range maxKnown {
		ev := Event{UserID: fmt.Sprint(i), DeviceID: "d", Status: Online}
		if !r.setDevice(&ev) {
			t.Fatal("an event is not news")
		}
	}
	if r.held != maxKnown {
		t.Errorf("%d are held, want %d", r.held, maxKnown)
	}
	r.opened()
	if gone := r.replace(); len(gone) != maxKnown/2 || r.held != 0 {
		t.Errorf("%d gone, %d left", len(gone), r.held)
	}
	for _, bad := range []string{"a b", "\x7f", strings.Repeat("x", maxCursor+1), "é"} {
		r.setCursor([]byte("good"))
		if r.setCursor([]byte(bad)); r.resumeFrom() != "" {
			t.Errorf("the cursor %q is used", bad)
		}
	}
}

// TestRosterIsShared: any goroutine may read while a watch writes.
func TestRosterIsShared(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		var roster Roster
		s := &manyServer{t: t}
		s.serve = func(c *connection, n int) {
			for i := range 100 {
				c.say(deviceFrame(i, user, fmt.Sprint(i%7), Online, i))
			}
			c.say(syncedFrame(100, false, 2))
		}
		o := manyOptions(serve(t, s.ServeHTTP))
		o.Roster, o.View = &roster, ViewDevices
		var reading sync.WaitGroup
		for range 3 {
			reading.Go(func() {
				for range 200 {
					roster.Users()
					roster.Devices(user)
					if u, ok := roster.User(user); ok && u.DevicesOnline > 7 {
						t.Errorf("%+v", u)
					}
					roster.State()
				}
			})
		}
		followMany(t, o, "synced")
		reading.Wait()
	})
}
