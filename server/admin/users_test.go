package admin

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rollcall/engine"
)

func TestDebugUsers(t *testing.T) {
	r := start(nil)
	check(t, r.get("/debug/users"), 200, `{"users":[],"took_ms":0}`)
	if want := (engine.UserQuery{Limit: 50}); r.asked != want {
		t.Errorf("asks for %+v", r.asked)
	}
	r.users = []engine.ListedUser{
		{ID: uuid.MustParse(testUser), Online: 1, Devices: 3, SeenAtMS: 5, ChangedAtMS: 4,
			Source: "a \"daemon\""},
		{ID: uuid.MustParse(testDevice), Devices: 1, Source: "old"},
	}
	prefix := strings.ToUpper(testUser[:10])
	check(t, r.get("/debug/users?q="+prefix+"&status=online&source=mon&limit=200"), 200,
		`{"users":[{"user_id":"`+testUser+`","status":"online","devices_online":1,"devices":3,`+
			`"last_seen_ms":5,"changed_at_ms":4,"source":"a \"daemon\""},`+
			`{"user_id":"`+testDevice+`","status":"offline","devices_online":0,"devices":1,`+
			`"last_seen_ms":null,"changed_at_ms":null,"source":"old"}],"took_ms":0}`)
	want := engine.UserQuery{HasStatus: true, Status: engine.Online, Source: "mon", Limit: 200}
	want.ID, _ = engine.ParseIDPrefix(prefix)
	if r.asked != want {
		t.Errorf("asks for %+v", r.asked)
	}
	for _, wrong := range []string{"q=bob", "q=" + testUser + "0", "status=away", "limit=0",
		"limit=201", "limit=x", "source=" + strings.Repeat("x", 257)} {
		check(t, r.get("/debug/users?"+wrong), 400, errorBody("invalid_payload",
			"Invalid q, status, source or limit: the beginning of a user's id, online or offline, "+
				"at most 256 bytes, and a number in 1..200"))
	}
	r.ready = errors.New("the log failed")
	check(t, r.get("/debug/users"), 503, errorBody("unavailable", "the log failed"))
	check(t, start(inProduction).get("/debug/users"), 403,
		errorBody("forbidden", "Not available in production"))
}
