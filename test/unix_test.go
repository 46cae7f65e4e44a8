package test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestUnixSocket speaks to the server through a socket in the file system with curl: heartbeats, a
// batch, a stream. A socket that kill -9 left behind is taken over, and an orderly stop leaves
// none.
func TestUnixSocket(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl")
	}
	dir, err := os.MkdirTemp("", "rc") // t.TempDir's paths are too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	r := startServer(t, "--listen=unix:"+path, "--socket-mode=600")
	if r.addr != "unix:"+path {
		t.Errorf("the log says it listens on %q", r.addr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(curl,
			append([]string{"-sS", "--max-time", "20", "--unix-socket", path, "-H", bearer(ingestToken)}, args...)...).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "data: ") {
			t.Fatalf("curl %q: %v %s", args, err, out)
		}
		return string(out)
	}
	b := newBeat()
	for range 2 {
		if got := run("-w", "%{http_code}", "-d", b.json(), "http://localhost"+heartbeatPath); got != "204" {
			t.Fatalf("answer %q", got)
		}
		lines := b.with("seq", 2).json() + "\n" + b.with("seq", 2).json()
		want := `{"accepted":1,"rejected":1,"errors":[{"line":2,"status":409,"error":"invalid_payload","details":"Non-monotonic seq","last_seq":2}]}`
		if got := run("-H", "Content-Type: application/x-ndjson", "--data-binary", lines, "http://localhost"+batchPath); got != want {
			t.Fatalf("answer %s\nwant %s", got, want)
		}
		b = b.with("device_id", uuid.NewString())
		r.kill() // leaves the socket
		r.start()
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	user := b["user_id"].(string)
	s := r.followOn(c, request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(user, time.Hour))))
	if s.head.status != 200 || s.event().number("seq") != 2 {
		t.Error("no stream")
	}
	s.conn.Close()
	r.terminate()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}
