package server

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/wire"
)

func manyIDs(n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("%08x-0000-4000-8000-000000000000", i))
	}
	return ids
}

func listText(ids ...string) string {
	return `{"user_ids":["` + strings.Join(ids, `","`) + `"]}`
}

func askText(token string, users ...string) string {
	return text("GET "+wire.PresencePath+"?user_id="+strings.Join(users, "&user_id="), "",
		"Authorization: Bearer "+token)
}

func queryText(token, body string) string {
	return text("POST "+wire.QueryPath, body, "Authorization: Bearer "+token)
}

func indexed(details string, index int) string {
	return fmt.Sprintf(`{"error":"invalid_payload","details":%q,"index":%d}`, details, index)
}

// TestQueryRefusals has the checks of both routes in their order: a request that is bad in several
// ways is refused for the first.
func TestQueryRefusals(t *testing.T) {
	r := start(t, nil)
	signed := func(more string) string { return sign(t, testKey, payload(more)) }
	forbidden := func(details string) string { return errorBody("forbidden", details) }
	invalid := func(details string) string { return errorBody("invalid_payload", details) }
	good, every := signed(""), signed(`,"scope":["presence:read:any"]`)
	const none = `{"users":[{"user_id":"` + testUser + `","status":"offline","devices_online":0,` +
		`"last_seen_ms":null,"devices":[]}]}`
	for _, test := range []struct {
		name, token string
		users       []string
		status      int
		body        string
	}{
		{"own", good, []string{testUser}, 200, none},
		{"own twice, in any case", good, []string{strings.ToUpper(testUser), testUser}, 200, none},
		{"any", every, []string{testUser}, 200, none},
		{"no token, bad id", "", []string{"bob"}, 401, errorBody("unauthorized", "Unauthorized")},
		{"bad token, bad id", "a.b", []string{"bob"}, 403, forbidden("Invalid token")},
		{"bad user_ids, expired", signed(`,"user_ids":[5],"exp_ms":1`), []string{testUser}, 403,
			forbidden("Invalid token")},
		{"expired, scope", signed(`,"exp_ms":1,"scope":[]`), []string{"bob"}, 403,
			forbidden("Token expired")},
		{"scope, bad id", signed(`,"scope":["presence:write"]`), []string{"bob"}, 403,
			forbidden("Insufficient scope")},
		{"bad id, another's", good, []string{testDevice, "bob", "x"}, 400, "index 1"},
		{"another's", good, []string{testUser, testDevice}, 403, forbidden("Token user mismatch")},
		{"in user_ids", signed(`,"user_ids":["` + strings.ToUpper(testDevice) + `"]`),
			[]string{testUser}, 200, none},
		{"too many and another's", good, manyIDs(1001), 413,
			invalid("Too many users in one request")},
		{"too many, one bad", good, append(manyIDs(1000), "bob"), 400, "index 1000"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := r.send(t, queryText(test.token, listText(test.users...)))
			want := test.body
			if index, ok := strings.CutPrefix(want, "index "); ok {
				want = fmt.Sprintf(`{"error":"invalid_payload","details":"Invalid user_ids",`+
					`"index":%s}`, index)
			}
			if got.status != test.status || got.body != want {
				t.Errorf("POST: %d %s\n   want %d %s", got.status, got.body, test.status, want)
			}
			if len(test.users) > 3 {
				return
			}
			got = r.send(t, askText(test.token, test.users...))
			want = strings.Replace(want, "Invalid user_ids", "Invalid user_id", 1)
			if got.status != test.status || got.body != want {
				t.Errorf("GET: %d %s\n  want %d %s", got.status, got.body, test.status, want)
			}
			if got.header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("headers %v", got.header)
			}
		})
	}
	for name, test := range map[string]struct {
		request string
		status  int
		body    string
	}{
		"no user":        {askText(good, ""), 400, invalid("Missing user_id")},
		"no query":       {strings.Replace(askText(good, ""), "?user_id=", "", 1), 400, invalid("Missing user_id")},
		"two, one blank": {askText(good, testUser, ""), 400, indexed("Invalid user_id", 1)},
		"100":            {askText(every, manyIDs(100)...), 200, ""},
		"101":            {askText(every, manyIDs(101)...), 413, invalid("Too many users in one request")},
		"300":            {askText(every, manyIDs(300)...), 413, invalid("Too many users in one request")},
		"no body":        {queryText(good, ""), 400, invalid("Invalid JSON payload")},
		"no object":      {queryText(good, `["`+testUser+`"]`), 400, invalid("Invalid JSON payload")},
		"no list":        {queryText(good, `{}`), 400, invalid("Missing user_ids")},
		"empty list":     {queryText(good, `{"user_ids":[]}`), 400, invalid("Missing user_ids")},
		"no array":       {queryText(good, `{"user_ids":"`+testUser+`"}`), 400, invalid("Invalid user_ids")},
		"1000":           {queryText(every, listText(manyIDs(1000)...)), 200, ""},
		"large":          {queryText(every, strings.Repeat(" ", 64<<10+1)), 413, invalid("Payload too large")},
		"query token": {text("GET "+wire.PresencePath+"?user_id="+testUser+"&access_token="+good, ""),
			401, errorBody("unauthorized", "Unauthorized")},
		"wrong method": {text("GET "+wire.QueryPath, ""), 405, errorBody("unavailable", "Method not allowed")},
	} {
		got := r.send(t, test.request)
		if got.status != test.status || test.body != "" && got.body != test.body {
			t.Errorf("%s: %d %.200s\nwant %d %s", name, got.status, got.body, test.status, test.body)
		}
	}
	if err := r.SetSecrets([]string{testIngest}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := r.send(t, queryText("", "x")); got.status != 503 {
		t.Errorf("without keys: %d %s", got.status, got.body)
	}
}

func testDevices(user uuid.UUID, n int) (devices []engine.Device) {
	for i := range n {
		d := engine.Device{HeartbeatAtMS: 1_739_030_400_000, UpdatedAtMS: 1_739_030_400_001,
			SeenAtMS: 1_739_030_400_001}
		d.User, d.Device, d.Status = user, uuid.UUID{0: byte(i), 6: 0x40, 8: 0x80}, engine.Online
		d.Source, d.SentAtMS, d.Seq, d.TTLMS = "daemon-do", 1_739_030_400_000, 42, 12_000
		devices = append(devices, d)
	}
	return devices
}

// TestQueryBytes: the answer to the byte.
func TestQueryBytes(t *testing.T) {
	me, other := uuid.MustParse(testUser), uuid.MustParse(testDevice)
	devices := testDevices(me, 2)
	devices[0].Status, devices[0].OfflineAtMS = engine.Offline, 1_739_030_412_000
	devices[0].Source, devices[0].HeartbeatAtMS = "a\"\n", 0
	r := start(t, func(_ *Options, f *fakePresence) {
		f.users = map[uuid.UUID][]engine.Device{me: devices}
	})
	got := r.send(t, queryText(sign(t, testKey, payload(`,"user_ids":["`+testDevice+`"]`)),
		listText(other.String(), strings.ToUpper(testUser), other.String())))
	want := `{"users":[{"user_id":"` + testDevice + `","status":"offline","devices_online":0,` +
		`"last_seen_ms":null,"devices":[]},{"user_id":"` + testUser + `","status":"online",` +
		`"devices_online":1,"last_seen_ms":1739030400001,"devices":[` +
		`{"schema_version":1,"user_id":"` + testUser +
		`","device_id":"00000000-0000-4000-8000-000000000000","status":"offline",` +
		`"source":"a\"\n","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000,` +
		`"last_heartbeat_ms":0,"last_offline_ms":1739030412000,"updated_at_ms":1739030400001},` +
		`{"schema_version":1,"user_id":"` + testUser +
		`","device_id":"01000000-0000-4000-8000-000000000000","status":"online",` +
		`"source":"daemon-do","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000,` +
		`"last_heartbeat_ms":1739030400000,"last_offline_ms":null,` +
		`"updated_at_ms":1739030400001}]}]}`
	if got.status != 200 || got.body != want {
		t.Errorf("%d %s\nwant %s", got.status, got.body, want)
	}
	if got.header.Get("Content-Type") != "application/json" ||
		got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", got.header)
	}
}

// TestQueryMemory: answers that grow over what all may hold together are refused, whole ones come
// out right over many slabs, and all memory comes back.
func TestQueryMemory(t *testing.T) {
	ids := manyIDs(1000)
	r := start(t, func(o *Options, f *fakePresence) {
		o.maxSlabs = 16
		f.users = map[uuid.UUID][]engine.Device{}
		for _, id := range ids {
			user := uuid.MustParse(id)
			f.users[user] = testDevices(user, 2)
			f.users[user][0].Source = strings.Repeat("\x01", wire.MaxSourceBytes)
		}
	})
	every := sign(t, testKey, payload(`,"scope":["presence:read:any"]`))
	small := queryText(every, listText(ids[:500]...))
	check := func(body string) {
		t.Helper()
		var answer struct {
			Users []struct {
				UserID  string `json:"user_id"`
				Devices []struct{ Source string }
			}
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.Users) != 500 {
			t.Fatalf("%d users, %v", len(answer.Users), err)
		}
		for i, u := range answer.Users {
			if u.UserID != ids[i] || len(u.Devices) != 2 || len(u.Devices[0].Source) != 128 {
				t.Fatalf("user %d is %+v", i, u)
			}
		}
	}
	check(r.send(t, small).body)
	got := r.send(t, queryText(every, listText(ids...)))
	if got.status != 503 || got.header.Get("Retry-After") != "1" ||
		got.body != string(reply.TooManyQueries.Body()) {
		t.Errorf("over the memory: %d %s", got.status, got.body)
	}
	// One that is not read keeps its memory, and others are refused until it leaves.
	c, err := r.public.Dial()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, small)
	if _, err := bufio.NewReader(c).Peek(1); err != nil {
		t.Fatal(err)
	}
	if got := r.send(t, small); got.status != 503 {
		t.Errorf("beside one that is not read: %d", got.status)
	}
	_ = c.Close()
	testwait.Until(t, "the memory to come back", func() bool { return r.memory.bytes() == 0 })
	check(r.send(t, small).body)
}

// TestQueryIsNotShownEarly: what a failed log may not have is in no answer.
func TestQueryIsNotShownEarly(t *testing.T) {
	me := uuid.MustParse(testUser)
	for _, why := range []error{errors.New("the log failed"), engine.ErrTooManyDevicesAsked} {
		r := start(t, func(_ *Options, f *fakePresence) {
			f.ready, f.users = why, map[uuid.UUID][]engine.Device{me: testDevices(me, 2)}
		})
		got := r.send(t, askText(sign(t, testKey, payload("")), testUser))
		want := reply.PresenceUnavailable
		if errors.Is(why, engine.ErrTooManyDevicesAsked) {
			want = reply.TooManyDevicesAsked
		}
		if got.status != want.Status() || got.body != string(want.Body()) {
			t.Errorf("%v: %d %s", why, got.status, got.body)
		}
		if n := r.memory.bytes(); n != 0 {
			t.Errorf("%v: %d bytes are kept", why, n)
		}
	}
}

// TestQueryBodies: a body in pieces is taken, one that was cut is not, one that waits for its place
// in vain neither; a client that expects 100 Continue gets its refusal before its body.
func TestQueryBodies(t *testing.T) {
	r := start(t, nil)
	good := "Authorization: Bearer " + sign(t, testKey, payload(""))
	body := listText(testUser)
	chunked := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"4\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", wire.QueryPath, good, body[:4], len(body)-4, body[4:])
	if got := r.send(t, chunked); got.status != 200 {
		t.Errorf("chunked: %d %s", got.status, got.body)
	}
	cut := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: 1000\r\n\r\n%s",
		wire.QueryPath, good, body)
	impatient := start(t, func(o *Options, _ *fakePresence) {
		o.ReadTimeout = 200 * time.Millisecond
	})
	if got := impatient.sendPart(t, cut); got.status != 408 {
		t.Errorf("a body that does not come: %d %s", got.status, got.body)
	}
	expect := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"+
		"Content-Length: 50\r\n\r\n", wire.QueryPath)
	if got := r.send(t, expect); got.status != 401 || !got.closes {
		t.Errorf("no token: %d", got.status)
	}
	big := strings.Replace(expect, "50\r\n", "70000\r\n"+good+"\r\n", 1)
	if got := r.send(t, big); got.status != 413 {
		t.Errorf("large: %d", got.status)
	}
}

// BenchmarkQuery answers for 1,000 users with two devices, without the engine and the network.
func BenchmarkQuery(b *testing.B) {
	memory := newSlabs(maxSlabs)
	user := engine.User{ID: uuid.MustParse(testUser), Online: 2, SeenAtMS: 1_739_030_400_000}
	user.Devices = testDevices(user.ID, 2)
	b.ReportAllocs()
	for b.Loop() {
		body := newSlabBody(memory)
		w := presenceWriter{body: body}
		w.begin()
		for range 1000 {
			w.user(&user)
		}
		w.end()
		b.SetBytes(int64(body.end()))
		_ = body.Close()
	}
}

var _ fasthttp.BodyWriterTo = (*slabBody)(nil)
