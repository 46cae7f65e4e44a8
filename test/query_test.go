package test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The routes of many users.
const (
	presencePath   = "/api/v1/presence"
	queryPath      = "/api/v1/presence/query"
	listStreamPath = "/api/v1/presence/stream"
	renewPath      = "/api/v1/presence/stream/{stream_id}/token"
)

// claims are a token's; nil leaves one out.
type claims map[string]any

// tokenWith is a token with these claims beside good ones.
func tokenWith(more claims) string {
	c := claims{"token_id": uuid.NewString(), "device_id": "d", "scope": []string{"presence:read"},
		"exp_ms": time.Now().Add(time.Hour).UnixMilli(), "issued_at_ms": time.Now().UnixMilli()}
	for name, value := range more {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	payload, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return signPayload(signingKey, payload)
}

// everyUser is a token that covers every user.
func everyUser() string { return tokenWith(claims{"scope": []string{"presence:read:any"}}) }

// usersSHA256 is the claim of a list, made as docs/api.md says, without the product's code.
func usersSHA256(users ...string) string {
	var ids []string
	for _, user := range users {
		id := uuid.MustParse(user)
		ids = append(ids, string(id[:]))
	}
	slices.Sort(ids)
	sum := sha256.Sum256([]byte(strings.Join(ids, "")))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func manyUsers(n int) (users []string) {
	for range n {
		users = append(users, uuid.NewString())
	}
	return users
}

func inURL(users ...string) string { return "?user_id=" + strings.Join(users, "&user_id=") }

func listBody(users ...string) string {
	return `{"user_ids":["` + strings.Join(users, `","`) + `"]}`
}

// asked is an answer to a query.
type asked struct {
	Users []struct {
		UserID        string `json:"user_id"`
		Status        string
		DevicesOnline int    `json:"devices_online"`
		LastSeenMS    *int64 `json:"last_seen_ms"`
		Devices       []beat
	}
}

// query asks once about users.
func (r *rig) query(token string, users ...string) (found asked) {
	r.t.Helper()
	a := r.send(request("POST", queryPath, listBody(users...), bearer(token)))
	if err := json.Unmarshal([]byte(a.body), &found); a.status != 200 || err != nil {
		r.t.Fatalf("query: %d %s, %v", a.status, a.body, err)
	}
	return found
}

// listRow is one line of the checks that the routes of many users share.
type listRow struct {
	name, token string
	users       []string
	status      int
	body        string // "": any
}

// listRows are these checks in their order, for lists in a body.
func listRows(me string) []listRow {
	other, third := uuid.NewString(), uuid.NewString()
	my := func(more claims) string {
		all := claims{"user_id": me}
		for name, value := range more {
			all[name] = value
		}
		return tokenWith(all)
	}
	forbidden := func(details string) string { return errorBody("forbidden", details) }
	index := func(n int) string {
		return fmt.Sprintf(`{"error":"invalid_payload","details":"Invalid user_ids","index":%d}`, n)
	}
	past, noScope := time.Now().Add(-time.Second).UnixMilli(), []string{"presence:write"}
	const badToken, mismatch = "Invalid token", "Token user mismatch"
	return []listRow{
		{"no token", "", []string{"bob"}, 401, errorBody("unauthorized", "Unauthorized")},
		{"bad token", "a.b", []string{"bob"}, 403, forbidden(badToken)},
		{"user_ids no array", my(claims{"user_ids": me, "exp_ms": past}), []string{me}, 403, forbidden(badToken)},
		{"user_ids with no id", my(claims{"user_ids": []string{"bob"}}), []string{me}, 403, forbidden(badToken)},
		{"user_ids too long", my(claims{"user_ids": manyUsers(201)}), []string{me}, 403, forbidden(badToken)},
		{"users_sha256 no digest", my(claims{"users_sha256": "AAAA"}), []string{me}, 403, forbidden(badToken)},
		{"expired", my(claims{"exp_ms": past, "scope": noScope}), []string{"bob"}, 403, forbidden("Token expired")},
		{"no scope", my(claims{"scope": noScope}), []string{"bob"}, 403, forbidden("Insufficient scope")},
		{"an element no id", my(nil), []string{me, other, "bob", "x"}, 400, index(2)},
		{"an element nil", my(nil), []string{uuid.Nil.String()}, 400, index(0)},
		{"too many, one no id", my(nil), append(manyUsers(1000), "bob"), 400, index(1000)},
		{"too many", my(nil), manyUsers(1001), 413, ""},
		{"another's", my(nil), []string{me, other}, 403, forbidden(mismatch)},
		{"more than user_ids", my(claims{"user_ids": []string{other}}), []string{me, other, third}, 403,
			forbidden(mismatch)},
		{"less than users_sha256", my(claims{"users_sha256": usersSHA256(me, other, third)}), []string{me, other}, 403,
			forbidden(mismatch)},
		{"no user in the token", tokenWith(nil), []string{me}, 403, forbidden(mismatch)},
		{"own", my(nil), []string{me}, 200, ""},
		{"own twice in any case", my(nil), []string{me, strings.ToUpper(me)}, 200, ""},
		{"user_ids", my(claims{"user_ids": []string{strings.ToUpper(other), third}}),
			[]string{third, me, other}, 200, ""},
		{"200 in user_ids", my(claims{"user_ids": manyUsers(200)}), []string{me}, 200, ""},
		{"users_sha256", my(claims{"users_sha256": usersSHA256(me, other, third)}),
			[]string{third, other, me, third}, 200, ""},
		{"users_sha256, no user in the token", tokenWith(claims{"users_sha256": usersSHA256(other)}),
			[]string{other}, 200, ""},
		{"every user", everyUser(), manyUsers(1000), 200, ""},
	}
}

// TestQueryChecks is the table of the checks of both routes that ask once, in their order.
func TestQueryChecks(t *testing.T) {
	r := startServer(t)
	me := uuid.NewString()
	good, every := bearer(tokenFor(me, time.Hour)), bearer(everyUser())
	for _, row := range listRows(me) {
		t.Run(row.name, func(t *testing.T) {
			r := r.in(t)
			check := func(a answer, body string) {
				t.Helper()
				if body == "" {
					body = a.body
				}
				expect(t, a, row.status, body)
			}
			token := bearer(row.token)
			check(r.send(request("POST", queryPath, listBody(row.users...), token)), row.body)
			if len(row.users) < 100 {
				check(r.send(request("GET", presencePath+inURL(row.users...), "", token)),
					strings.Replace(row.body, "user_ids", "user_id", 1))
			}
		})
	}
	for _, row := range []struct {
		name, request string
		status        int
		body          string
	}{
		{"no user_id", request("GET", presencePath, "", good), 400, invalid("Missing user_id")},
		{"user_id blank", request("GET", presencePath+"?user_id=%20", "", good), 400, invalid("Missing user_id")},
		{"101 in the URL", request("GET", presencePath+inURL(manyUsers(101)...), "", every),
			413, invalid("Too many users in one request")},
		{"150 in the URL", request("GET", presencePath+inURL(manyUsers(150)...), "", every),
			413, invalid("Too many users in one request")},
		{"no body", request("POST", queryPath, "", good), 400, invalid("Invalid JSON payload")},
		{"two objects", request("POST", queryPath, "{}{}", good), 400, invalid("Invalid JSON payload")},
		{"no list", request("POST", queryPath, "{}", good), 400, invalid("Missing user_ids")},
		{"list null", request("POST", queryPath, `{"user_ids":null}`, good), 400, invalid("Missing user_ids")},
		{"list empty", request("POST", queryPath, `{"user_ids":[]}`, good), 400, invalid("Missing user_ids")},
		{"list no array", request("POST", queryPath, `{"user_ids":"`+me+`"}`, good), 400, invalid("Invalid user_ids")},
		{"large", request("POST", queryPath, strings.Repeat(" ", 64<<10)+"{}", good), 413, invalid("Payload too large")},
		{"GET of the POST", request("GET", queryPath, "", good), 405, errorBody("unavailable", "Method not allowed")},
		{"POST of the GET", request("POST", presencePath, "{}", good), 405, errorBody("unavailable", "Method not allowed")},
		{"OPTIONS", request("OPTIONS", queryPath, ""), 204, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			expect(t, r.in(t).send(row.request), row.status, row.body)
		})
	}
	keyless := startServerWith(t, []string{ingestTokenEnv + "=" + ingestToken})
	expect(t, keyless.send(request("POST", queryPath, "x")), 503,
		errorBody("unavailable", "Token signing key not configured"))
}

// TestQuery: what is shown of users, in the order asked; last seen is the server's time of the last
// heartbeat that said online, and outlives expiry and restarts.
func TestQuery(t *testing.T) {
	r := startServer(t, "--recovery-grace=100ms")
	me, other, none := uuid.NewString(), uuid.NewString(), uuid.NewString()
	before := time.Now().UnixMilli()
	b := newBeat().with("user_id", me).with("sent_at_ms", 5)
	r.mustBeat(b)
	r.mustBeat(b.with("device_id", uuid.NewString()).with("status", "offline"))
	short := newBeat().with("user_id", other).with("ttl_ms", 50)
	r.mustBeat(short)
	after := time.Now().UnixMilli()

	seen := func(ms *int64) bool { return ms != nil && before <= *ms && *ms <= after }
	check := func() {
		t.Helper()
		users := r.query(everyUser(), other, strings.ToUpper(me), none, me).Users
		if len(users) != 3 || users[0].UserID != other || users[1].UserID != me ||
			users[2].UserID != none {
			t.Fatalf("users %+v", users)
		}
		if u := users[0]; u.Status != "offline" || u.DevicesOnline != 0 || !seen(u.LastSeenMS) ||
			len(u.Devices) != 1 || u.Devices[0]["status"] != "offline" ||
			u.Devices[0]["last_offline_ms"] == nil {
			t.Errorf("a user whose device expired: %+v", u)
		}
		if u := users[1]; u.Status != "online" || u.DevicesOnline != 1 || !seen(u.LastSeenMS) ||
			len(u.Devices) != 2 {
			t.Errorf("a user with a device online: %+v", u)
		}
		if u := users[2]; u.Status != "offline" || u.DevicesOnline != 0 || u.LastSeenMS != nil ||
			u.Devices == nil || len(u.Devices) != 0 {
			t.Errorf("a user whom the server does not know: %+v", u)
		}
	}
	r.until("the device expires", func() bool {
		return r.query(everyUser(), other).Users[0].Status == "offline"
	})
	check()
	r.terminate()
	r.start()
	check()
	for _, device := range r.query(everyUser(), me).Users[0].Devices {
		if device["device_id"] == b["device_id"] && (fmt.Sprint(device["last_heartbeat_ms"]) != "5" ||
			device["last_offline_ms"] != nil) {
			t.Errorf("device %v", device)
		}
	}
	a := r.send(request("GET", presencePath+inURL(me), "", bearer(everyUser())))
	if a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", a.header)
	}
}
