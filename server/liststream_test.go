package server

import (
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cursor"
	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

func listStreamText(method, query, token, body string, headers ...string) string {
	return text(method+" "+wire.ListStreamPath+query, body,
		append(headers, "Authorization: Bearer "+token)...)
}

func parsed(ids ...string) (users []uuid.UUID) {
	for _, id := range ids {
		users = append(users, uuid.MustParse(id))
	}
	return users
}

// TestListStreamRefusals has the checks of the list, view and linger behind those of the token, in
// their order.
func TestListStreamRefusals(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxUsersPerStream = 100 })
	signed := func(more string) string { return sign(t, testKey, payload(more)) }
	invalid := func(details string) string { return errorBody("invalid_payload", details) }
	good, every := signed(""), signed(`,"scope":["presence:read:any"]`)
	mine := listText(testUser)
	view, linger := invalid("Invalid view"), invalid("Invalid linger_ms")
	mismatch := errorBody("forbidden", "Token user mismatch")
	const tooMany = "Too many users in one request"
	for _, test := range []struct {
		name, request string
		status        int
		body          string
	}{
		{"no token, no JSON", listStreamText("POST", "", "", "x"), 401,
			errorBody("unauthorized", "Unauthorized")},
		{"bad user_ids", listStreamText("GET", "?view=x", signed(`,"user_ids":5`), ""), 403,
			errorBody("forbidden", "Invalid token")},
		{"scope, no JSON", listStreamText("POST", "", signed(`,"scope":[]`), "x"), 403,
			errorBody("forbidden", "Insufficient scope")},
		{"no JSON, view", listStreamText("POST", "?view=x", good, "x"), 400,
			invalid("Invalid JSON payload")},
		{"no list, view", listStreamText("POST", "?view=x", good, "{}"), 400,
			invalid("Missing user_ids")},
		{"bad id, view", listStreamText("POST", "?view=x", good, listText(testUser, "bob")), 400,
			indexed("Invalid user_ids", 1)},
		{"no users in the token", listStreamText("GET", "?view=x",
			signed(`,"user_id":null,"scope":["presence:read:any"]`), ""), 400,
			invalid("Missing user_ids")},
		{"view, linger", listStreamText("POST", "?view=user&linger_ms=x", good, mine), 400, view},
		{"view empty", listStreamText("GET", "?view=", good, ""), 400, view},
		{"view twice", listStreamText("GET", "?view=users&view=users", good, ""), 400, view},
		{"linger, too many", listStreamText("POST", "?view=users&linger_ms=600001", every,
			listText(manyIDs(101)...)), 400, linger},
		{"linger negative", listStreamText("GET", "?view=users&linger_ms=-1", good, ""), 400, linger},
		{"linger with a sign", listStreamText("GET", "?view=users&linger_ms=%2B1", good, ""), 400,
			linger},
		{"linger no integer", listStreamText("GET", "?view=users&linger_ms=1.0", good, ""), 400,
			linger},
		{"linger empty", listStreamText("GET", "?view=users&linger_ms=", good, ""), 400, linger},
		{"linger of devices", listStreamText("GET", "?linger_ms=0", good, ""), 400, linger},
		{"linger of view=devices", listStreamText("GET", "?view=devices&linger_ms=1000", good, ""),
			400, linger},
		{"too many, another's", listStreamText("POST", "", good, listText(manyIDs(101)...)), 413,
			invalid(tooMany)},
		{"too many in the token", listStreamText("GET", "",
			signed(`,"user_ids":["`+strings.Join(manyIDs(100), `","`)+`"]`), ""), 413,
			invalid(tooMany)},
		{"another's", listStreamText("POST", "", good, listText(testUser, testDevice)), 403, mismatch},
		{"large", listStreamText("POST", "", good, strings.Repeat(" ", 64<<10+1)), 413,
			invalid("Payload too large")},
	} {
		got := r.send(t, test.request)
		if got.status != test.status || got.body != test.body {
			t.Errorf("%s: %d %s\nwant %d %s", test.name, got.status, got.body, test.status, test.body)
		}
		if got.header.Get("Access-Control-Expose-Headers") != "Rollcall-Stream, Retry-After" ||
			got.header.Get("Access-Control-Allow-Headers") != wire.AllowedStreamHeaders {
			t.Errorf("%s: headers %v", test.name, got.header)
		}
	}
	if n := r.counters.StreamsRefused()["too_many_users"]; n != 3 {
		t.Errorf("%d lists that are too long are counted", n)
	}
	// The scope for every user does not open the stream of one.
	got := r.send(t, streamText("?user_id="+testUser, every))
	if got.status != 403 || got.body != errorBody("forbidden", "Insufficient scope") {
		t.Errorf("the stream of one user: %d %s", got.status, got.body)
	}
}

// openList asks for a stream and returns what the engine was asked for.
func (r *running) openList(t *testing.T, request string) broadcast.Subscription {
	t.Helper()
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() { _, _ = io.WriteString(c, request) }()
	go func() { _, _ = io.Copy(io.Discard, c) }()
	sub := testwait.For(t, "the stream", r.presence.subscriptions)
	if sub.List == nil {
		t.Fatal("it is no stream of many users")
	}
	return sub
}

// TestListStreamOpens: what the engine is asked for.
func TestListStreamOpens(t *testing.T) {
	r := start(t, nil)
	both := sign(t, testKey, payload(`,"user_ids":["`+strings.ToUpper(testDevice)+`","`+testUser+`"]`))
	for _, test := range []struct {
		name, request string
		users         []uuid.UUID
		view          broadcast.View
		linger        time.Duration
	}{
		{"of the token", listStreamText("GET", "", both, ""), parsed(testUser, testDevice), 0, 0},
		{"of the body", listStreamText("POST", "?view=devices", both,
			listText(strings.ToUpper(testDevice), testUser, testDevice)),
			parsed(testDevice, testUser), 0, 0},
		{"users", listStreamText("POST", "?view=users", both, listText(testUser)),
			parsed(testUser), broadcast.ViewUsers, 0},
		{"linger", listStreamText("GET", "?view=users&linger_ms=600000", both, ""),
			parsed(testUser, testDevice), broadcast.ViewUsers, 10 * time.Minute},
		{"linger 0", listStreamText("GET", "?view=users&linger_ms=0", both, ""),
			parsed(testUser, testDevice), broadcast.ViewUsers, 0},
		{"cursor malformed", listStreamText("GET", "?resume=x", both, "", "Last-Event-ID: y"),
			parsed(testUser, testDevice), 0, 0},
	} {
		sub := r.openList(t, test.request)
		l := sub.List
		if !slices.Equal(l.Users, test.users) || l.View != test.view || l.Linger != test.linger ||
			l.Known != 0 || l.After != 0 || l.Resumed || sub.Owner == [16]byte{} ||
			sub.ExpiresNanos != testInstant.Nanos+int64(time.Minute) || !sub.Chunked {
			t.Errorf("%s: %+v of %+v", test.name, *l, sub)
		}
		if at := sub.IDAt; at == 0 || !strings.HasSuffix(string(sub.Head[:at]),
			"\r\nRollcall-Stream: ") {
			t.Errorf("%s: the id is to stand at %d of %q", test.name, at, sub.Head)
		}
	}
}

// TestResume: which cursors are honoured, and who comes whole.
func TestResume(t *testing.T) {
	ids := manyIDs(4)
	users := parsed(ids...)
	r := start(t, nil)
	history := r.presence.history
	every := sign(t, testKey, payload(`,"scope":["presence:read:any"]`))
	open := func(query, header string, ids ...string) *broadcast.List {
		t.Helper()
		var headers []string
		if header != "" {
			headers = []string{"Last-Event-ID: " + header}
		}
		return r.openList(t, listStreamText("POST", query, every, listText(ids...), headers...)).List
	}
	at := func(lsn uint64, synced bool) broadcast.Position {
		return broadcast.Position{Through: lsn, Newest: lsn, Synced: synced}
	}
	// As the stream makes it.
	three := open("?view=users&linger_ms=5000", "", ids[:3]...)
	last := string(three.IDs.AppendID(nil, at(500, true)))
	early := string(three.IDs.AppendID(nil, at(400, false)))
	if c, ok := history.Parse([]byte(last)); !ok || c.View != byte(broadcast.ViewUsers) ||
		c.LingerMS != 5000 || c.LSN != 500 || c.ToldMS != testInstant.WallMS ||
		c.List != history.List(users[:3]) {
		t.Errorf("the cursor is %+v, %v", c, ok)
	}
	other := cursor.New(cursor.Options{Secret: []byte("other"),
		Hash: func(uuid.UUID) uint64 { return 0 }, Committed: func() uint64 { return 1000 }})
	if err := other.Begin(77, 1, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	foreign := string(other.Append(nil, cursor.Cursor{View: 1, LingerMS: 5000, LSN: 500,
		List: history.List(users[:3]), ToldMS: testInstant.WallMS}))
	unknown := string(history.Append(nil, cursor.Cursor{View: 1, LingerMS: 5000, LSN: 500, List: 5,
		ToldMS: testInstant.WallMS}))
	const same = "?view=users&linger_ms=5000"
	for _, test := range []struct {
		name, query, header string
		ids                 []string
		known               int
		first               []uuid.UUID
	}{
		{"the same", same, last, ids[:3], 3, users[:3]},
		{"in the URL", same + "&resume=" + last, "", ids[:3], 3, users[:3]},
		{"the header is newer", same + "&resume=" + early, last, ids[:3], 3, users[:3]},
		{"one less", same, last, ids[1:3], 2, users[1:3]},
		{"one more", same, last, []string{ids[3], ids[2], ids[0], ids[1]}, 3,
			[]uuid.UUID{users[2], users[0], users[1], users[3]}},
		{"from the middle of a snapshot", same, early, ids[:3], 0, users[:3]},
		{"another view", "?view=devices", last, ids[:3], 0, users[:3]},
		{"another linger", "?view=users", last, ids[:3], 0, users[:3]},
		{"another history", same, foreign, ids[:3], 0, users[:3]},
		{"a list that is not remembered", same, unknown, ids[:3], 0, users[:3]},
		{"malformed", same, last[:len(last)-1], ids[:3], 0, users[:3]},
	} {
		l := open(test.query, test.header, test.ids...)
		after := uint64(0)
		if test.known > 0 {
			after = 500
		}
		if l.Known != test.known || l.After != after || l.Resumed != (test.known > 0) ||
			!slices.Equal(l.Users, append(test.first, l.Users[len(test.first):]...)) ||
			len(l.Users) != len(test.ids) {
			t.Errorf("%s: %+v", test.name, l)
		}
	}
	// In the middle of what it is owed, the client has what it had, of the users that it knows.
	l := open(same, last, ids[3], ids[1])
	middle, _ := history.Parse(l.IDs.AppendID(nil, at(600, false)))
	if was, _ := history.Parse([]byte(last)); middle.LSN != 500 || middle.ToldMS != was.ToldMS ||
		middle.List != history.List(users[1:2]) {
		t.Errorf("before synced: %+v", middle)
	}
	if l := open(same, string(history.Append(nil, middle)), ids[:3]...); l.Known != 1 ||
		l.Users[0] != users[1] || l.After != 500 {
		t.Errorf("from there: %+v", l)
	}
	if c, _ := history.Parse(l.IDs.AppendID(nil, at(600, true))); c.LSN != 600 ||
		c.List != history.List([]uuid.UUID{users[1], users[3]}) {
		t.Errorf("synced: %+v", c)
	}
	// Those whose linger ended after the client was told come whole.
	r.presence.changedAt = testInstant.WallMS - 5000
	if l := open(same, last, ids[:3]...); l.Known != 0 || !l.Resumed || l.After != 500 {
		t.Errorf("after lingers ended: %+v", l)
	}
	r.presence.changedAt = testInstant.WallMS - 5000 - toldSlackMS - 1
	if l := open(same, last, ids[:3]...); l.Known != 3 {
		t.Errorf("long after lingers ended: %+v", l)
	}
	// That a device is gone cannot be told; what a user is without it can.
	devices := open("", "", ids[:3]...)
	before := string(devices.IDs.AppendID(nil, at(500, true)))
	if l := open("", before, ids[:3]...); l.Known != 3 || !l.Resumed {
		t.Errorf("view=devices: %+v", l)
	}
	history.Forget(binary.BigEndian.Uint64(users[1][:]), 501)
	if l := open("", before, ids[:3]...); l.Known != 0 || l.Resumed || l.After != 0 {
		t.Errorf("view=devices, after a device was forgotten: %+v", l)
	}
	if l := open(same, last, ids[:3]...); l.Known != 2 || !l.Resumed || l.After != 500 ||
		l.Users[2] != users[1] {
		t.Errorf("view=users, after a device was forgotten: %+v", l)
	}
}

// TestRecentLists: bounded, the least recently used are forgotten first.
func TestRecentLists(t *testing.T) {
	const each = recentCost + 8*3
	r := newRecentLists(3*each + each/2)
	made := 0
	users := func() []uint64 { made++; return []uint64{9, 5, 7} }
	for digest := range uint64(3) {
		r.add(digest, users)
		r.add(digest, users)
	}
	if l := r.find(0); made != 3 || l == nil || !l.has(5) || !l.has(7) || !l.has(9) || l.has(6) {
		t.Errorf("made %d, %+v", made, l)
	}
	r.add(3, users) // 1 was used least recently
	if r.find(1) != nil || r.find(0) == nil || r.find(2) == nil || r.size() != 3 ||
		r.bytes != 3*each {
		t.Errorf("%d lists of %d bytes", r.size(), r.bytes)
	}
	r.add(4, func() []uint64 { return make([]uint64, 1000) })
	if r.find(4) != nil || r.size() != 3 {
		t.Error("a list over the bound is kept")
	}
}

// TestRenew: which tokens move which stream's end, and what others are answered.
func TestRenew(t *testing.T) {
	r := start(t, nil)
	subject := func(more string) [16]byte {
		g, err := token.Keys{testKey}.Grant([]byte(sign(t, testKey, payload(more))), wire.ScopeRead,
			wire.ScopeReadAny, testNow)
		if err != nil {
			t.Fatal(err)
		}
		return g.Subject
	}
	const noUser = `,"user_id":null`
	me := uuid.MustParse(testUser)
	mine := subject("")
	both := parsed(testUser, testDevice)
	contact := `,"user_ids":["` + testDevice + `"]`
	for _, test := range []struct {
		name, more string
		owner      [16]byte
		users      []uuid.UUID
		want       reply.Reply
	}{
		{"a list", contact, mine, both, reply.Renewed},
		{"a list of one", "", mine, parsed(testUser), reply.Renewed},
		{"signed", `,"users_sha256":"` + token.UsersSHA256(both) + `"`, mine, both, reply.Renewed},
		{"every user", `,"scope":["presence:read:any"]`, mine, both, reply.Renewed},
		{"no user", noUser + `,"scope":["presence:read:any"]`, subject(noUser), both, reply.Renewed},
		{"the stream of one user", "", me, parsed(testUser), reply.Renewed},
		{"fewer users", "", mine, both, reply.TokenUnfit},
		{"another subject", `,"scope":["presence:read:any"]`, subject(noUser), both,
			reply.TokenUnfit},
		{"another token_id", noUser + `,"token_id":"x","scope":["presence:read:any"]`,
			subject(noUser), both, reply.TokenUnfit},
		{"the stream of one user, scope", `,"scope":["presence:read:any"]`, me, parsed(testUser),
			reply.TokenUnfit},
		{"the stream of one other user", contact, uuid.MustParse(testDevice), parsed(testDevice),
			reply.TokenUnfit},
		{"expired", `,"exp_ms":1`, mine, both, reply.TokenExpired},
		{"bad users", `,"user_ids":5`, mine, both, reply.InvalidToken},
	} {
		r.presence.renew = func(id broadcast.StreamID, expires int64, fits broadcast.Fits) error {
			if id != 0x1f || expires != testInstant.Nanos+int64(time.Minute) {
				t.Errorf("%s: stream %x until %d", test.name, id, expires)
			}
			if !fits(test.owner, slices.Values(test.users)) {
				return broadcast.ErrUnfit
			}
			return nil
		}
		path := strings.Replace(wire.RenewPath, "{stream_id}", "1f", 1)
		got := r.send(t, text("POST "+path, "", "Authorization: Bearer "+
			sign(t, testKey, payload(test.more))))
		if got.status != test.want.Status() || got.body != string(test.want.Body()) {
			t.Errorf("%s: %d %s, want %q", test.name, got.status, got.body, test.want.Details())
		}
	}
	r.presence.renew = func(broadcast.StreamID, int64, broadcast.Fits) error {
		return broadcast.ErrNoStream
	}
	good := "Authorization: Bearer " + sign(t, testKey, payload(""))
	for id, header := range map[string]string{"1f": good, "nothing": good, "2": "X: y"} {
		path := strings.Replace(wire.RenewPath, "{stream_id}", id, 1)
		want := reply.NoStream
		if header != good {
			want = reply.Unauthorized
		}
		got := r.send(t, text("POST "+path, "", header))
		if got.status != want.Status() || got.body != string(want.Body()) {
			t.Errorf("stream %s: %d %s", id, got.status, got.body)
		}
	}
	if got := r.send(t, text("GET "+strings.Replace(wire.RenewPath, "{stream_id}", "1f", 1), "",
		good)); got.status != 405 {
		t.Errorf("GET: %d", got.status)
	}
}

// TestListStreamTurnedAway: an EventSource and a fetch are told when to come back as on the stream
// of one user.
func TestListStreamTurnedAway(t *testing.T) {
	for _, why := range []error{broadcast.ErrTooMany, broadcast.ErrTooManyFollows,
		broadcast.ErrTooManyFollowsOfOwner, broadcast.ErrDraining} {
		r := start(t, func(_ *Options, f *fakePresence) { f.subscribe = why })
		good := sign(t, testKey, payload(""))
		got := r.send(t, listStreamText("GET", "", good, "", "Accept: text/event-stream"))
		if got.status != 200 || !strings.HasPrefix(got.body, "retry: ") {
			t.Errorf("%v: %d %s", why, got.status, got.body)
		}
		got = r.send(t, listStreamText("POST", "", good, listText(testUser)))
		want := subscribeReply(why)
		if got.status != 503 || got.body != string(want.Body()) || got.header.Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", why, got.status, got.body)
		}
		if n := r.counters.Streams[want].Load(); n != 2 || want == reply.StreamUnavailable {
			t.Errorf("%v: %d are counted as %q", why, n, want.Details())
		}
	}
}
