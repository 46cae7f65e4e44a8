package admin

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/engine"
	"rollcall/internal/testwire"
	"rollcall/token"
	"rollcall/wire"
)

const (
	testUser   = testwire.User
	testDevice = testwire.Device
	testKey    = "signing"
)

var testNow = time.UnixMilli(1_700_000_000_000)

// rig is the operators' routes over fields that a test changes.
type rig struct {
	http.Handler
	records []engine.Device
	streams int
	after   uuid.UUID // of the last page that was asked for
	limit   int
	users   []engine.ListedUser
	asked   engine.UserQuery // for users, last
	ready   error
	addrs   []net.Addr
	keys    token.Keys
	tokens  []string // of operators

	refused Refused
	log     bytes.Buffer
}

func (r *rig) Devices(_, after uuid.UUID, limit int) ([]engine.Device, bool, error) {
	r.after, r.limit = after, limit
	return r.records[:min(limit, len(r.records))], limit < len(r.records), r.ready
}

func (r *rig) Streams(uuid.UUID) int { return r.streams }

func (r *rig) Recent(_ context.Context, q engine.UserQuery) ([]engine.ListedUser, error) {
	r.asked = q
	return r.users, r.ready
}

func start(change func(*Config)) *rig {
	r := &rig{keys: token.Keys{testKey}}
	c := Config{
		Presence:    r,
		Ready:       func() error { return r.ready },
		SigningKeys: func() token.Keys { return r.keys },
		PublicAddrs: func() []net.Addr { return r.addrs },
		Now:         func() time.Time { return testNow },
		Registry:    prometheus.NewRegistry(),
		Tokens:      func() token.Shared { return token.NewShared(r.tokens) },
		MintOpen:    true,
		BodyTimeout: time.Minute,
		Conns:       NewConns(time.Minute, &r.refused),
		Refused:     &r.refused,
		Logger:      slog.New(slog.NewTextHandler(&r.log, nil)),
	}
	if change != nil {
		change(&c)
	}
	r.Handler = New(c)
	return r
}

func inProduction(c *Config) { c.Production = true }

// ask sends a request as a page at host would.
func (r *rig) ask(method, target, host string, headers ...string) *httptest.ResponseRecorder {
	w, req := httptest.NewRecorder(), httptest.NewRequest(method, target, nil)
	req.Host = host
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	r.ServeHTTP(w, req)
	return w
}

func (r *rig) get(target string) *httptest.ResponseRecorder {
	return r.ask("GET", target, "127.0.0.1:8788")
}

func check(t *testing.T, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || w.Body.String() != body {
		t.Errorf("answer %d %s\n  want %d %s", w.Code, w.Body, status, body)
	}
	if w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Error("a web page may read the operators' routes")
	}
}

func errorBody(code, details string) string { return string(wire.AppendError(nil, code, details)) }

func TestHealth(t *testing.T) {
	r := start(nil)
	check(t, r.get("/livez"), 200, "ok\n")
	check(t, r.get("/healthz"), 200, "ok\n")
	check(t, r.get("/readyz"), 200, "ok\n")
	r.ready = errors.New("recovering: the log is being replayed")
	check(t, r.get("/livez"), 200, "ok\n")
	check(t, r.get("/readyz"), 503, "recovering: the log is being replayed\n")
	check(t, r.get("/nope"), 404, errorBody("unavailable", "Route not found"))
}

func TestProfiles(t *testing.T) {
	r := start(nil)
	if w := r.get("/debug/pprof/"); w.Code != 200 || !strings.Contains(w.Body.String(),
		"goroutine") {
		t.Errorf("answer %d", w.Code)
	}
}

func TestDebugPresence(t *testing.T) {
	r := start(nil)
	check(t, r.get("/debug/presence"), 400, errorBody("invalid_payload",
		"Missing user_id query param"))
	check(t, r.get("/debug/presence?user_id=%20"), 400,
		errorBody("invalid_payload", "Missing user_id query param"))
	check(t, r.get("/debug/presence?user_id=bob"), 200, `{"active_streams":0,"records":{}}`)
	check(t, r.get("/debug/presence?user_id="+testUser), 200,
		`{"active_streams":0,"records":{}}`)

	first := wire.Event{
		User: uuid.MustParse(testUser), Device: uuid.MustParse(testDevice), Status: engine.Online,
		Source: "daemon-do", SentAtMS: 1739030400000, Seq: 42, TTLMS: 12000,
	}
	second := first
	second.Device, second.Status = uuid.MustParse(testUser), engine.Offline
	r.streams = 2
	r.records = []engine.Device{
		{Event: first, HeartbeatAtMS: 5, UpdatedAtMS: 7},
		{Event: second, HeartbeatAtMS: 5, OfflineAtMS: 6, UpdatedAtMS: 7},
	}
	record := func(device, status, offline string) string {
		return `"device:` + device + `":{"schema_version":1,"user_id":"` + testUser +
			`","device_id":"` + device + `","status":"` + status +
			`","source":"daemon-do","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000,"last_heartbeat_ms":5,"last_offline_ms":` + offline +
			`,"updated_at_ms":7}`
	}
	check(t, r.get("/debug/presence?user_id="+strings.ToUpper(testUser)), 200,
		`{"active_streams":2,"records":{`+record(testDevice, "online", "null")+","+record(testUser,
			"offline", "6")+`}}`)
	if r.after != uuid.Nil || r.limit != 200 {
		t.Errorf("asks for %d above %v", r.limit, r.after)
	}
	check(t, r.get("/debug/presence?limit=1&after="+testUser+"&user_id="+testUser), 200,
		`{"active_streams":2,"records":{`+record(testDevice, "online", "null")+`},"next":"`+
			testDevice+`"}`)
	if r.after != uuid.MustParse(testUser) || r.limit != 1 {
		t.Errorf("asks for %d above %v", r.limit, r.after)
	}
	for _, wrong := range []string{"limit=0", "limit=1001", "limit=x", "limit=-1", "after=bob"} {
		check(t, r.get("/debug/presence?user_id="+testUser+"&"+wrong), 400,
			errorBody("invalid_payload",
				"Invalid after or limit: a device's id, and a number in 1..1000"))
	}

	r.ready = errors.New("the log failed")
	check(t, r.get("/debug/presence?user_id="+testUser), 503,
		errorBody("unavailable", "the log failed"))
	r = start(inProduction)
	check(t, r.get("/debug/presence?user_id="+testUser), 403,
		errorBody("forbidden", "Not available in production"))
}

// TestClusterz: a node of a cluster answers, to operators only, and a server that is alone does
// not.
func TestClusterz(t *testing.T) {
	check(t, start(nil).get("/clusterz"), 404, errorBody("unavailable", "Route not found"))
	r := start(func(c *Config) {
		c.Cluster = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, 200, []byte(`{"node":"a"}`))
		})
	})
	check(t, r.get("/clusterz"), 200, `{"node":"a"}`)
	r.tokens = []string{"operator"}
	check(t, r.get("/clusterz"), 401, errorBody("unauthorized", "Unauthorized"))
}
