package main

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

// shortDir is a directory whose paths fit into a socket's address, which holds some hundred bytes.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "rc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestUnixSocket speaks to the server through a socket in the file system with curl: heartbeats, a batch, a stream. A socket
// that kill -9 left behind is taken over, and an orderly stop leaves none.
func TestUnixSocket(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl")
	}
	path := filepath.Join(shortDir(t), "s")
	r := startServer(t, "--listen=unix:"+path, "--socket-mode=600")
	if r.addr != "unix:"+path {
		t.Errorf("the log says it listens on %q", r.addr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(curl, append([]string{"-sS", "--max-time", "20", "--unix-socket", path, "-H", bearer(ingestToken)}, args...)...).CombinedOutput()
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
	s := r.followOn(c, request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(t, user, time.Hour))))
	if s.head.status != 200 || s.event().number("seq") != 2 {
		t.Error("no stream")
	}
	s.conn.Close()
	r.terminate()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestListenPublicKeepsWhatIsNotItsOwn(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenPublic("unix:"+file, "660"); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if _, err := listenPublic("unix:"+link, "660"); err == nil {
		t.Error("a symbolic link was followed")
	}
	path := filepath.Join(dir, "s")
	ln, err := listenPublic("unix:"+path, "666")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := listenPublic("unix:"+path, "660"); err == nil || !strings.Contains(err.Error(), "somebody listens") {
		t.Errorf("a socket in use: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "x" {
		t.Errorf("the file is %q, %v", text, err)
	}
	for _, mode := range []string{"", "8", "1777", "rw"} {
		if _, err := socketMode(mode); err == nil {
			t.Errorf("mode %q was taken", mode)
		}
	}
}
