package server

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"rollcall/internal/testwait"
)

func (r *running) get(target string) *httptest.ResponseRecorder {
	w, req := httptest.NewRecorder(), httptest.NewRequest("GET", target, nil)
	req.Host = "localhost:8788"
	r.admin.Handler.ServeHTTP(w, req)
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

// TestReadiness: while the engine recovers, and from when Close has begun.
func TestReadiness(t *testing.T) {
	r := start(t, nil)
	checkAdmin(t, r.get("/readyz"), 200, "ok\n")
	r.presence.ready = errors.New("recovering: the log is being replayed")
	checkAdmin(t, r.get("/readyz"), 503, "recovering: the log is being replayed\n")
	r.presence.ready = nil
	r.Server.draining.Store(true)
	checkAdmin(t, r.get("/readyz"), 503, "draining: the server is about to stop\n")
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
		`rollcall_admin_connections 0`,
		`rollcall_admin_refused_total{reason="host"} 0`,
		`rollcall_admin_refused_total{reason="other_site"} 0`,
		`rollcall_admin_refused_total{reason="token"} 0`,
		`rollcall_admin_refused_total{reason="too_many_connections"} 0`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
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

// TestPageFindsThePublicListener: the page learns where the stream is from when it is served.
func TestPageFindsThePublicListener(t *testing.T) {
	r := start(t, nil)
	checkAdmin(t, r.get("/page.json"), 200, `{"public_url":"","mints_tokens":false,"lists_users":true}`)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.Serve(ln) }()
	want := `{"public_url":"http://` + ln.Addr().String() + `","mints_tokens":false,"lists_users":true}`
	testwait.Until(t, "the page names the listener", func() bool {
		return r.get("/page.json").Body.String() == want
	})
}
