package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"rollcall/engine"
	logs "rollcall/internal/testlog"
	"rollcall/server/reply"
)

// asks is an engine that knows no device, and asks the sender for each.
func asks(hb *engine.Heartbeat) engine.Result {
	if hb.Sender != nil && !hb.Sender.AdmitsNew() {
		return engine.Result{Outcome: engine.Unavailable, Err: engine.ErrTooManyNew}
	}
	return engine.Result{}
}

// TestNewDevicesPerIP: over the rate 429 with Retry-After, a line of a batch likewise; another
// address has a rate of its own, and without the option no heartbeat has a sender.
func TestNewDevicesPerIP(t *testing.T) {
	var out logs.Output
	r := start(t, func(o *Options, f *fakePresence) {
		o.NewDevicesPerIP, o.Logger, f.heartbeat = 0.001, out.Logger(), asks
	})
	r.send(t, heartbeatText(validBody)).check(t, 204, "")
	got := r.send(t, heartbeatText(validBody))
	got.check(t, 429, errorBody("rate_limited", "Too many new devices from this address"))
	if got.header.Get("Retry-After") != "1000" {
		t.Errorf("Retry-After = %q", got.header.Get("Retry-After"))
	}
	body := strings.Join([]string{validBody, "{}", validBody}, "\n")
	batch := r.send(t, batchText(body, ndjson)).batch(t, 200)
	var statuses []int
	for _, e := range batch.Errors {
		statuses = append(statuses, e.Line, e.Status)
	}
	if batch.Accepted != 0 || fmt.Sprint(statuses) != "[1 429 2 400 3 429]" {
		t.Errorf("%+v", batch)
	}
	if n := r.counters.Heartbeats[reply.TooManyNewDevices].Load(); n != 3 ||
		r.Refused().RateLimited != 3 {
		t.Errorf("%d are counted, %+v", n, r.Refused())
	}
	if n := strings.Count(out.String(), "new devices of an address are refused"); n == 0 {
		t.Errorf("nothing is logged:\n%s", out.String())
	}
	r = start(t, func(_ *Options, f *fakePresence) { f.heartbeat = asks })
	for range 3 {
		r.send(t, heartbeatText(validBody)).check(t, 204, "")
	}
}

// TestMaxTTL: more is refused as any wrong ttl_ms is, alone and in a batch.
func TestMaxTTL(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) { o.MaxTTL = time.Hour })
	most, more := with("ttl_ms", "3600000"), with("ttl_ms", "3600001")
	r.send(t, heartbeatText(most)).check(t, 204, "")
	r.send(t, heartbeatText(more)).check(t, 400, errorBody("invalid_payload", "Invalid ttl_ms"))
	got := r.send(t, batchText(most+"\n"+more, ndjson)).batch(t, 200)
	if got.Accepted != 1 || len(got.Errors) != 1 || got.Errors[0].Line != 2 ||
		got.Errors[0].Status != 400 {
		t.Errorf("%+v", got)
	}
	if err := (Options{MaxTTL: time.Microsecond}).Check(); err == nil {
		t.Error("a MaxTTL of a microsecond is no problem")
	}
}

// TestLongTTLIsLogged: without a bound a device may ask for any TTL; more than a day is counted,
// and logged once.
func TestLongTTLIsLogged(t *testing.T) {
	var out logs.Output
	r := start(t, func(o *Options, _ *fakePresence) { o.Logger = out.Logger() })
	const said = "a very long TTL"
	r.send(t, heartbeatText(with("ttl_ms", "86400000"))).check(t, 204, "")
	if strings.Contains(out.String(), said) {
		t.Errorf("a day is long already:\n%s", out.String())
	}
	for range 3 {
		r.send(t, heartbeatText(with("ttl_ms", "9007199254740991"))).check(t, 204, "")
	}
	if n := strings.Count(out.String(), said); n != 1 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
	const counted = "rollcall_long_ttl_heartbeats_total 3\n"
	if text := r.get("/metrics").Body.String(); !strings.Contains(text, counted) {
		t.Errorf("not 3 are counted:\n%s", text)
	}
}
