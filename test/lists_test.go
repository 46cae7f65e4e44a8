package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestListStreamChecks is the table of the checks of streams of many users, in their order.
func TestListStreamChecks(t *testing.T) {
	r := startServer(t)
	me := uuid.NewString()
	post := func(query, body, token string) string {
		return request("POST", listStreamPath+query, body, bearer(token))
	}
	get := func(query, token string) string {
		return request("GET", listStreamPath+query, "", bearer(token))
	}
	for _, row := range listRows(me) {
		t.Run(row.name, func(t *testing.T) {
			r := r.in(t)
			s := r.followRaw(post("", listBody(row.users...), row.token))
			if s.head.status != row.status {
				t.Errorf("status %d, want %d", s.head.status, row.status)
			}
			if row.status != 200 && row.body != "" {
				expect(t, r.send(post("", listBody(row.users...), row.token)), row.status, row.body)
			}
		})
	}
	good, mine := tokenFor(me, time.Hour), listBody(me)
	view, linger := invalid("Invalid view"), invalid("Invalid linger_ms")
	noUser := tokenWith(claims{"scope": []string{"presence:read:any"}})
	for _, row := range []struct {
		name, request string
		status        int
		body          string
	}{
		{"no JSON before view", post("?view=x", "x", good), 400, invalid("Invalid JSON payload")},
		{"no list before view", post("?view=x", "{}", good), 400, invalid("Missing user_ids")},
		{"no user in the token", get("", noUser), 400, invalid("Missing user_ids")},
		{"view before linger", post("?view=all&linger_ms=x", mine, good), 400, view},
		{"view empty", get("?view=", good), 400, view},
		{"linger before length", post("?view=users&linger_ms=600001", listBody(manyUsers(1001)...), good),
			400, linger},
		{"linger negative", get("?view=users&linger_ms=-1", good), 400, linger},
		{"linger with a fraction", get("?view=users&linger_ms=1.0", good), 400, linger},
		{"linger of devices", get("?linger_ms=1000", good), 400, linger},
		{"linger of view=devices", get("?view=devices&linger_ms=0", good), 400, linger},
		{"body too large", post("", strings.Repeat(" ", 64<<10)+"{}", good), 413, invalid("Payload too large")},
		{"PUT", request("PUT", listStreamPath, "", bearer(good)), 405,
			errorBody("unavailable", "Method not allowed")},
		{"OPTIONS", request("OPTIONS", listStreamPath, ""), 204, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := r.in(t).send(row.request)
			expect(t, a, row.status, row.body)
			if got := a.header.Get("Access-Control-Expose-Headers"); got != "Rollcall-Stream, Retry-After" {
				t.Errorf("pages may read %q", got)
			}
			if got := a.header.Get("Access-Control-Allow-Headers"); got != allowedOnStreams {
				t.Errorf("allowed are %q", got)
			}
		})
	}
	for name, query := range map[string]string{"no view": "", "devices": "?view=devices", "users": "?view=users",
		"no linger": "?view=users&linger_ms=0", "the longest linger": "?view=users&linger_ms=600000",
		"a cursor that is none": "?resume=x"} {
		if s := r.followRaw(get(query, good)); s.head.status != 200 {
			t.Errorf("%s: %d", name, s.head.status)
		}
	}
	// presence:read:any does not open the stream of one user.
	expect(t, r.send(request("GET", streamPath+"?user_id="+me, "", bearer(everyUser()))), 403,
		errorBody("forbidden", "Insufficient scope"))
	keyless := startServerWith(t, []string{ingestTokenEnv + "=" + ingestToken})
	expect(t, keyless.send(post("", "x", "")), 503,
		errorBody("unavailable", "Token signing key not configured"))
}

// listEvent is an event of a stream of many users.
type listEvent struct {
	id, kind string
	data     map[string]any
	text     string // of the data
}

// listEvent reads the next event; comments are passed over.
func (s *follower) listEvent() (e listEvent) {
	s.t.Helper()
	for {
		text, err := s.frame()
		if err != nil {
			s.t.Fatalf("stream ended: %v", err)
		}
		if strings.HasPrefix(text, ":") {
			continue
		}
		lines := strings.Split(strings.TrimSuffix(text, "\n\n"), "\n")
		if len(lines) != 3 {
			s.t.Fatalf("not three lines: %q", text)
		}
		for i, field := range []struct {
			name string
			to   *string
		}{{"id: ", &e.id}, {"event: ", &e.kind}, {"data: ", &e.text}} {
			var ok bool
			if *field.to, ok = strings.CutPrefix(lines[i], field.name); !ok {
				s.t.Fatalf("line %d of %q is no %s", i, text, field.name)
			}
		}
		if e.id == "" || json.Unmarshal([]byte(e.text), &e.data) != nil {
			s.t.Fatalf("not an event: %q", text)
		}
		return e
	}
}

// snapshot reads the events up to synced.
func (s *follower) snapshot() (events []listEvent, synced listEvent) {
	s.t.Helper()
	for {
		e := s.listEvent()
		if e.kind == "synced" {
			return events, e
		}
		events = append(events, e)
	}
}

// wantSynced checks what synced says.
func wantSynced(t *testing.T, e listEvent, resumed bool, users int) {
	t.Helper()
	if want := fmt.Sprintf(`{"resumed":%v,"users":%d}`, resumed, users); e.text != want {
		t.Errorf("synced %s, want %s", e.text, want)
	}
}

// followList opens a stream of many users.
func (r *rig) followList(query, cursor, token string, users ...string) *follower {
	r.t.Helper()
	headers := []string{bearer(token)}
	if cursor != "" {
		headers = append(headers, "Last-Event-ID: "+cursor)
	}
	s := r.followRaw(request("POST", listStreamPath+query, listBody(users...), headers...))
	if s.head.status != 200 {
		r.t.Fatalf("stream: %d", s.head.status)
	}
	return s
}

// TestListStreamOfDevices: one presence event for each device of every user, synced, then one for
// each heartbeat and expiry, with the eight fields as on the stream of one user.
func TestListStreamOfDevices(t *testing.T) {
	r := startServer(t)
	me, other, none := uuid.NewString(), uuid.NewString(), uuid.NewString()
	mine, first := newBeat().with("user_id", me), newBeat().with("user_id", other)
	second := newBeat().with("user_id", other)
	for _, b := range []beat{mine, first, second} {
		r.mustBeat(b)
	}
	token := tokenWith(claims{"user_id": me, "user_ids": []string{other, none, strings.ToUpper(me)}})
	s := r.followRaw(request("GET", listStreamPath, "", bearer(token)))
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache",
		"X-Accel-Buffering": "no", "Connection": "close", "Access-Control-Allow-Origin": "*",
		"Access-Control-Allow-Headers":  allowedOnStreams,
		"Access-Control-Expose-Headers": "Rollcall-Stream, Retry-After"} {
		if got := s.head.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if len(s.head.header.Get("Rollcall-Stream")) != 24 {
		t.Errorf("headers %v", s.head.header)
	}
	events, synced := s.snapshot()
	wantSynced(t, synced, false, 3)
	data := func(b beat) string {
		return strings.TrimSuffix(strings.TrimPrefix(b.frame(), "data: "), "\n\n")
	}
	got := map[string]bool{}
	for _, e := range events {
		if got[e.text] = true; e.kind != "presence" {
			t.Errorf("event %+v", e)
		}
	}
	want := map[string]bool{data(mine): true, data(first): true, data(second): true}
	if !maps.Equal(got, want) || len(events) != 3 {
		t.Errorf("snapshot %v\n    want %v", got, want)
	}
	for _, b := range []beat{first.with("seq", 2), mine.with("seq", 7).with("status", "offline"),
		first.with("seq", 3).with("ttl_ms", 40)} {
		r.mustBeat(b)
		if e := s.listEvent(); e.kind != "presence" || e.text != data(b) {
			t.Errorf("event %s %s, want %s", e.kind, e.text, data(b))
		}
	}
	if e := s.listEvent(); e.data["status"] != "offline" || e.data["seq"] != 3.0 {
		t.Errorf("the expiry: %s", e.text)
	}
}

// TestListStreamOfUsers: one user event for each user of the list, synced, then one for each change
// of status or devices_online and for nothing else.
func TestListStreamOfUsers(t *testing.T) {
	r := startServer(t)
	me, none := uuid.NewString(), uuid.NewString()
	b := newBeat().with("user_id", me)
	before := time.Now().UnixMilli()
	r.mustBeat(b)
	s := r.followList("?view=users", "", everyUser(), none, me)
	events, synced := s.snapshot()
	wantSynced(t, synced, false, 2)
	if len(events) != 2 {
		t.Fatalf("snapshot %+v", events)
	}
	slices.SortFunc(events, func(a, b listEvent) int {
		return int(a.data["devices_online"].(float64) - b.data["devices_online"].(float64))
	})
	if want := fmt.Sprintf(`{"schema_version":1,"user_id":"%s","status":"offline","devices_online":0,`+
		`"last_seen_ms":null,"changed_at_ms":null}`, none); events[0].text != want {
		t.Errorf("a user never heard of: %s", events[0].text)
	}
	user := func(e listEvent, status string, online int) (changed int64) {
		t.Helper()
		seen, _ := e.data["last_seen_ms"].(float64)
		at, _ := e.data["changed_at_ms"].(float64)
		want := fmt.Sprintf(`{"schema_version":1,"user_id":"%s","status":"%s","devices_online":%d,`+
			`"last_seen_ms":%d,"changed_at_ms":%d}`, me, status, online, int64(seen), int64(at))
		if e.kind != "user" || e.text != want || int64(seen) < before || int64(at) < before {
			t.Errorf("%s %s, want %s", e.kind, e.text, want)
		}
		return int64(at)
	}
	first := user(events[1], "online", 1)
	r.mustBeat(b.with("seq", 2)) // changes nothing, nor does this
	r.mustBeat(newBeat().with("user_id", me).with("status", "offline"))
	second := newBeat().with("user_id", me)
	r.mustBeat(second)
	if at := user(s.listEvent(), "online", 2); at < first {
		t.Errorf("changed at %d, then at %d", first, at)
	}
	r.mustBeat(second.with("seq", 2).with("status", "offline"))
	user(s.listEvent(), "online", 1)
	r.mustBeat(b.with("seq", 3).with("status", "offline"))
	user(s.listEvent(), "offline", 0)
	r.mustBeat(b.with("seq", 4))
	user(s.listEvent(), "online", 1)
}

// TestListStreamLingers: a user who goes offline is told offline only after linger_ms, and not at
// all who comes back before; a snapshot meanwhile has the user online with no device.
func TestListStreamLingers(t *testing.T) {
	r := startServer(t)
	me := uuid.NewString()
	b := newBeat().with("user_id", me)
	r.mustBeat(b)
	want := func(s *follower, status string, online float64) {
		t.Helper()
		if e := s.listEvent(); e.data["status"] != status || e.data["devices_online"] != online {
			t.Errorf("%s, want %s, %v", e.text, status, online)
		}
	}
	long := r.followList("?view=users&linger_ms=600000", "", everyUser(), me)
	long.snapshot()
	short := r.followList("?view=users&linger_ms=300", "", everyUser(), me)
	short.snapshot()
	r.mustBeat(b.with("seq", 2).with("status", "offline"))
	want(long, "online", 0)
	want(short, "online", 0)
	began := time.Now()
	want(short, "offline", 0)
	if waited := time.Since(began); waited < 100*time.Millisecond {
		t.Errorf("told offline after %v", waited)
	}
	late := r.followList("?view=users&linger_ms=600000", "", everyUser(), me)
	if events, _ := late.snapshot(); len(events) != 1 || events[0].data["status"] != "online" ||
		events[0].data["devices_online"] != 0.0 {
		t.Errorf("a snapshot meanwhile: %+v", events)
	}
	r.mustBeat(b.with("seq", 3))
	for _, s := range []*follower{long, late, short} {
		want(s, "online", 1)
	}
}

// TestListStreamResumes: a client that comes back gets what changed, also after a restart of the
// server, and a whole snapshot where its cursor is not honoured.
func TestListStreamResumes(t *testing.T) {
	r := startServer(t)
	users := manyUsers(4)
	beats := map[string]beat{}
	for _, user := range users {
		beats[user] = newBeat().with("user_id", user)
		r.mustBeat(beats[user])
	}
	s := r.followList("", "", everyUser(), users[:3]...)
	events, synced := s.snapshot()
	middle, cursor := events[0].id, synced.id
	change := func(user string) {
		beats[user] = beats[user].with("seq", beats[user]["seq"].(int)+1)
		r.mustBeat(beats[user])
	}
	check := func(name string, s *follower, resumed bool, users int, want ...string) listEvent {
		t.Helper()
		events, synced := s.snapshot()
		wantSynced(t, synced, resumed, users)
		var got []string
		for _, e := range events {
			got = append(got, fmt.Sprint(e.data["user_id"], " ", e.data["seq"]))
		}
		var wanted []string
		for _, user := range want {
			wanted = append(wanted, fmt.Sprint(user, " ", beats[user]["seq"]))
		}
		slices.Sort(got)
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: %v, want %v", name, got, wanted)
		}
		return synced
	}
	change(users[1])
	last := s.listEvent().id
	change(users[2])
	every := everyUser()
	check("nothing is new", r.followList("", s.listEvent().id, every, users[:3]...), true, 3)
	check("one changed", r.followList("", last, every, users[:3]...), true, 3, users[2])
	check("two changed", r.followList("", cursor, every, users[:3]...), true, 3, users[1], users[2])
	check("another order", r.followList("", cursor, every, users[2], users[0], users[1]),
		true, 3, users[1], users[2])
	check("in the URL", r.followList("?resume="+cursor, "", every, users[:3]...), true, 3, users[1], users[2])
	check("a user less", r.followList("", cursor, every, users[:2]...), true, 2, users[1])
	check("a user more", r.followList("", cursor, every, users...), true, 4, users[1], users[2], users[3])
	whole := users[:3]
	for name, id := range map[string]string{"middle of a snapshot": middle, "malformed": "x" + last, "cut": last[:len(last)-1],
		"a number": "12345"} {
		check(name, r.followList("", id, every, whole...), false, 3, whole...)
	}
	if events, synced := r.followList("?view=users", cursor, every, whole...).snapshot(); len(events) != 3 ||
		synced.data["resumed"] != false {
		t.Errorf("another view: %+v %+v", events, synced)
	}
	change(users[0])
	for _, stop := range []func(){r.terminate, r.kill} {
		stop()
		r.start()
		got := check("after a restart", r.followList("", cursor, every, whole...), true, 3, whole...)
		check("nothing is new", r.followList("", got.id, every, whole...), true, 3)
		change(users[1])
		check("one changed", r.followList("", got.id, every, whole...), true, 3, users[1])
	}
	other := startServer(t)
	for _, user := range whole {
		other.mustBeat(beats[user])
	}
	check("another server", other.followList("", cursor, every, whole...), false, 3, whole...)
}

// TestRenewal: a new token moves the end of an open stream, of many users and of one; one that does
// not fit is refused, and the stream goes on.
func TestRenewal(t *testing.T) {
	r := startServer(t)
	me, other := uuid.NewString(), uuid.NewString()
	renew := func(s *follower, token string) answer {
		t.Helper()
		id := s.head.header.Get("Rollcall-Stream")
		return r.send(request("POST", strings.Replace(renewPath, "{stream_id}", id, 1), "", bearer(token)))
	}
	soon := func(more claims) string {
		all := claims{"user_id": me, "exp_ms": time.Now().Add(2500 * time.Millisecond).UnixMilli()}
		maps.Copy(all, more)
		return tokenWith(all)
	}
	contact := claims{"user_ids": []string{other}}
	list := r.followRaw(request("GET", listStreamPath, "", bearer(soon(contact))))
	list.snapshot()
	one := r.followRaw(request("GET", streamPath+"?user_id="+me, "", bearer(soon(nil))))
	ends := r.followRaw(request("GET", streamPath+"?user_id="+me, "", bearer(soon(nil))))
	unfit := errorBody("forbidden", "The token does not fit the stream")
	expect(t, renew(list, ""), 401, errorBody("unauthorized", "Unauthorized"))
	expect(t, renew(list, "a.b"), 403, errorBody("forbidden", "Invalid token"))
	expect(t, renew(list, tokenFor(me, time.Hour)), 403, unfit)
	expect(t, renew(list, tokenWith(claims{"user_id": other, "user_ids": []string{me}})), 403, unfit)
	expect(t, renew(one, tokenFor(other, time.Hour)), 403, unfit)
	expect(t, renew(one, tokenWith(claims{"user_id": me, "scope": []string{"presence:read:any"}})), 403, unfit)
	expect(t, renew(list, tokenWith(claims{"user_id": me, "user_ids": []string{other}})), 204, "")
	expect(t, renew(one, tokenFor(me, time.Hour)), 204, "")
	if text, err := ends.frame(); err == nil {
		t.Fatalf("the third stream goes on with %q", text)
	}
	expect(t, renew(ends, tokenFor(me, time.Hour)), 404, errorBody("unavailable", "No such stream"))
	b := newBeat().with("user_id", me)
	r.mustBeat(b)
	if e := list.listEvent(); e.data["user_id"] != me {
		t.Errorf("event %s", e.text)
	}
	if text, err := one.frame(); text != b.frame() {
		t.Errorf("frame %q, %v", text, err)
	}
}

// TestFollowLimits: what is over a limit of follows is refused, an EventSource is told when to come
// back, and the metrics count both.
func TestFollowLimits(t *testing.T) {
	r := startServer(t, "--max-users-per-stream=3", "--max-follows=5", "--max-follows-per-token=4")
	me := uuid.NewString()
	ask := func(subject string, users int) answer {
		t.Helper()
		token, list := everyUser(), manyUsers(users)
		if subject != "" {
			token = tokenWith(claims{"user_id": subject, "users_sha256": usersSHA256(list...)})
		}
		return r.send(request("POST", listStreamPath, listBody(list...), bearer(token)))
	}
	list := manyUsers(3)
	mine := tokenWith(claims{"user_id": me, "users_sha256": usersSHA256(list...)})
	expect(t, ask(me, 4), 413, invalid("Too many users in one request"))
	r.followList("", "", mine, list...).snapshot()
	expect(t, ask(me, 2), 503, errorBody("unavailable", "Too many users followed by this token's subject"))
	expect(t, ask("", 3), 503, errorBody("unavailable", "Too many users followed"))
	last := r.followList("", "", everyUser(), manyUsers(2)...)
	last.snapshot()
	s := r.followRaw(request("GET", listStreamPath, "", bearer(tokenFor(me, time.Hour)), "Accept: text/event-stream"))
	if text, err := s.frame(); s.head.status != 200 || !strings.HasPrefix(text, "retry: ") {
		t.Errorf("an EventSource over the limit: %d %q, %v", s.head.status, text, err)
	}
	metrics := r.scrape()
	for name, want := range map[string]float64{"follows": 5, "follows_limit": 5, "list_streams": 2} {
		if got := value(t, metrics, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for reason, want := range map[string]float64{
		"too_many_users": 1, "too_many_follows": 2, "too_many_follows_of_token": 1,
	} {
		if got := value(t, metrics, "streams_refused_total", "reason="+reason); got != want {
			t.Errorf("%v are refused as %s, want %v", got, reason, want)
		}
	}
	last.conn.Close()
	r.until("the follows of a stream that ended are free", func() bool {
		return ask("", 3).status == 503 && value(t, r.scrape(), "follows") == 3
	})
	r.followList("", "", everyUser(), manyUsers(2)...).snapshot()
}
