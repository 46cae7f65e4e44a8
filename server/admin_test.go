package server

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/wire"
)

func (r *running) get(target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.admin.Handler.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w
}

func checkAdmin(t *testing.T, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || w.Body.String() != body {
		t.Errorf("answer %d %s\n  want %d %s", w.Code, w.Body, status, body)
	}
	if w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Error("a web page may read the operators' routes")
	}
}

func TestHealth(t *testing.T) {
	r := start(t, nil)
	checkAdmin(t, r.get("/livez"), 200, "ok\n")
	checkAdmin(t, r.get("/healthz"), 200, "ok\n")
	checkAdmin(t, r.get("/readyz"), 200, "ok\n")
	r.presence.ready = errors.New("recovering: the log is being replayed")
	checkAdmin(t, r.get("/livez"), 200, "ok\n")
	checkAdmin(t, r.get("/readyz"), 503, "recovering: the log is being replayed\n")
	r.presence.ready = nil
	r.Server.draining.Store(true)
	checkAdmin(t, r.get("/readyz"), 503, "draining: the server is about to stop\n")
	checkAdmin(t, r.get("/nope"), 404, errorBody("unavailable", "Route not found"))
}

func TestMetrics(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.RatePerIP = 1000 })
	r.send(t, heartbeatText(validBody))
	r.send(t, heartbeatText("{"))
	got := r.get("/metrics").Body.String()
	for _, want := range []string{
		`rollcall_http_answers_total{reason="Accepted",status="204"} 1`,
		`rollcall_http_answers_total{reason="Invalid JSON payload",status="400"} 1`,
		`rollcall_http_answers_total{reason="Unauthorized",status="401"} 0`,
		`rollcall_http_connections `,
		`rollcall_http_accept_retries_total 0`,
		`rollcall_http_rate_addresses 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func TestProfiles(t *testing.T) {
	r := start(t, nil)
	if w := r.get("/debug/pprof/"); w.Code != 200 || !strings.Contains(w.Body.String(),
		"goroutine") {
		t.Errorf("answer %d", w.Code)
	}
}

func TestDebugPresence(t *testing.T) {
	r := start(t, nil)
	checkAdmin(t, r.get("/debug/presence"), 400, errorBody("invalid_payload",
		"Missing user_id query param"))
	checkAdmin(t, r.get("/debug/presence?user_id=%20"), 400,
		errorBody("invalid_payload", "Missing user_id query param"))
	checkAdmin(t, r.get("/debug/presence?user_id=bob"), 200, `{"active_streams":0,"records":{}}`)
	checkAdmin(t, r.get("/debug/presence?user_id="+testUser), 200,
		`{"active_streams":0,"records":{}}`)

	first := wire.Event{
		User: uuid.MustParse(testUser), Device: uuid.MustParse(testDevice), Status: engine.Online,
		Source: "daemon-do", SentAtMS: 1739030400000, Seq: 42, TTLMS: 12000,
	}
	second := first
	second.Device, second.Status = uuid.MustParse(testUser), engine.Offline
	r.presence.streams = 2
	r.presence.records = []engine.Record{
		{Event: first, HeartbeatAtMS: 5, UpdatedAtMS: 7},
		{Event: second, HeartbeatAtMS: 5, OfflineAtMS: 6, UpdatedAtMS: 7},
	}
	record := func(device, status, offline string) string {
		return `"device:` + device + `":{"schema_version":1,"user_id":"` + testUser +
			`","device_id":"` + device + `","status":"` + status +
			`","source":"daemon-do","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000,"last_heartbeat_ms":5,"last_offline_ms":` + offline +
			`,"updated_at_ms":7}`
	}
	checkAdmin(t, r.get("/debug/presence?user_id="+strings.ToUpper(testUser)), 200,
		`{"active_streams":2,"records":{`+record(testDevice, "online", "null")+","+record(testUser,
			"offline", "6")+`}}`)

	r.presence.ready = errors.New("the log failed")
	checkAdmin(t, r.get("/debug/presence?user_id="+testUser), 503,
		errorBody("unavailable", "the log failed"))
	r = start(t, func(o *Options, _ *fakePresence) { o.Production = true })
	checkAdmin(t, r.get("/debug/presence?user_id="+testUser), 403,
		errorBody("forbidden", "Not available in production"))
}

func TestServeAdmin(t *testing.T) {
	r := start(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.ServeAdmin(ln) }()
	res, err := http.Get("http://" + ln.Addr().String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-served; !errors.Is(err, ErrClosed) {
		t.Errorf("ServeAdmin: %v", err)
	}
}
