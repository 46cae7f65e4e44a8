package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// deviceLines are heartbeats of so many new devices, one a line.
func deviceLines(n int, ttlMS string) string {
	var lines strings.Builder
	for range n {
		fmt.Fprintf(&lines, `{"schema_version":1,"user_id":"%s","device_id":"%s","status":"online",`+
			`"source":"flood","sent_at_ms":1739030400000,"seq":1,"ttl_ms":%s}`+"\n",
			uuid.New(), uuid.New(), ttlMS)
	}
	return lines.String()
}

// TestDeviceFlood: batches of new devices in a full table leave no record, and between them every
// heartbeat of a known device is taken.
func TestDeviceFlood(t *testing.T) {
	r := startServer(t, "--max-devices=100", "--checkpoint-interval=1h")
	known := newBeat()
	r.mustBeat(known)
	r.send(request("POST", batchPath, deviceLines(200, "600000"), bearer(ingestToken)))
	before := value(t, r.scrape(), "log_appended_lsn")
	const rounds, lines = 20, 2000
	for i := range rounds {
		a := r.send(request("POST", batchPath, deviceLines(lines, "600000"), bearer(ingestToken)))
		if a.status != 200 || !strings.Contains(a.body, `"accepted":0,`) ||
			!strings.Contains(a.body, "Too many devices") {
			t.Fatalf("new devices in a full table: %d %.300s", a.status, a.body)
		}
		r.mustBeat(known.with("seq", 100+i))
	}
	m := r.scrape()
	if after := value(t, m, "log_appended_lsn"); after != before+rounds {
		t.Errorf("%v records for %d heartbeats that were accepted", after-before, rounds)
	}
	if n := value(t, m, "devices_refused_total"); n != 101+rounds*lines {
		t.Errorf("%v refused devices are counted, want %d", n, 101+rounds*lines)
	}
	if n := value(t, m, "devices", "status=online"); n != 100 {
		t.Errorf("%v devices, want 100", n)
	}
}

// TestNewDevicesPerIP: over the rate 429, alone and for each line of a batch; known devices go on.
func TestNewDevicesPerIP(t *testing.T) {
	r := startServer(t, "--new-devices-per-ip=0.01")
	known := newBeat()
	r.mustBeat(known)
	a := r.beat(newBeat())
	if a.status != 429 || a.header.Get("Retry-After") != "100" ||
		!strings.Contains(a.body, "Too many new devices from this address") {
		t.Errorf("one more new device: %d, Retry-After %q, %s", a.status,
			a.header.Get("Retry-After"), a.body)
	}
	known = known.with("seq", 100)
	lines := deviceLines(2, "600000") + known.json() + "\n" + deviceLines(1, "600000")
	a = r.send(request("POST", batchPath, lines, bearer(ingestToken)))
	if a.status != 200 || !strings.Contains(a.body, `"accepted":1,"rejected":3,`) ||
		strings.Count(a.body, `"status":429,`) != 3 {
		t.Errorf("a batch with a known device: %d %s", a.status, a.body)
	}
	for seq := range 50 {
		r.mustBeat(known.with("seq", 200+seq))
	}
	m := r.scrape()
	if n := value(t, m, "new_devices_limited_total"); n != 4 {
		t.Errorf("%v are counted, want 4", n)
	}
}

// TestMaxTTL: over it 400. A server that took a device for ever takes it offline once it is started
// with the flag.
func TestMaxTTL(t *testing.T) {
	r := startServer(t)
	immortal := newBeat().with("ttl_ms", int64(1<<53-1))
	r.mustBeat(immortal)
	if !strings.Contains(r.logs(), "a very long TTL") || !strings.Contains(r.logs(), "--max-ttl") {
		t.Errorf("the log does not warn of a TTL of 285,000 years:\n%s", r.logs())
	}
	r.kill()
	r.flags = append(r.flags, "--max-ttl=2s")
	r.start()
	if a := r.beat(newBeat().with("ttl_ms", 2001)); a.status != 400 ||
		!strings.Contains(a.body, "Invalid ttl_ms") {
		t.Errorf("a TTL above --max-ttl: %d %s", a.status, a.body)
	}
	r.mustBeat(newBeat().with("ttl_ms", 2000))
	r.until("both devices are offline", func() bool {
		return value(t, r.scrape(), "devices", "status=offline") == 2
	})
}
