package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/testwait"
)

const adminToken = "admin-token-of-the-black-box-tests"

func adminTokenFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "admin-tokens")
	writeFile(t, file, adminToken+"\n")
	return file
}

// askAdmin asks the admin listener and returns the answer; headers are "Name: value", Host too.
func (r *rig) askAdmin(method, target string, headers ...string) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.admin+target, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	resp, err := (&http.Client{Timeout: testwait.Limit}).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// openDescriptors counts what the server has open.
func (r *rig) openDescriptors() int {
	r.t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.proc.Cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(open)
}

// TestAdminFloodTakesNoDescriptors: more requests than there are descriptors, whose bodies never
// come, cost no heartbeat, no checkpoint, no probe and no scrape; what they held is given back.
func TestAdminFloodTakesNoDescriptors(t *testing.T) {
	const descriptors = 256
	r := &rig{t: t, dir: t.TempDir(), env: secretsEnv, flags: []string{"--checkpoint-interval=100ms"},
		descriptors: descriptors}
	r.start()
	calm := r.openDescriptors()

	for name, text := range map[string]string{
		"POST without a body":   "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
		"POST to the page":      "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
		"GET with a body":       "GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
		"half a head":           "GET /metrics HTTP/1.1\r\nHost: ",
		"idle connections":      "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"nothing":               "",
		"probes, then a body":   "GET /livez HTTP/1.1\r\nHost: x\r\n\r\nPOST /debug/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
		"another site's bodies": "POST /debug/token HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 9\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var flood []net.Conn
			for range descriptors + 4 {
				c, err := net.DialTimeout("tcp", r.admin, testwait.Limit)
				if err != nil {
					t.Fatal(err)
				}
				flood = append(flood, c)
				io.WriteString(c, text) // it may be closed already
			}
			for seq := range 300 { // a checkpoint or more meanwhile
				r.mustBeatOn(r.t, newBeat().with("seq", seq))
			}
			for _, path := range []string{"/readyz", "/metrics"} {
				if a := r.askAdmin("GET", path); a.status != 200 {
					t.Errorf("%s: %d", path, a.status)
				}
			}
			if n := r.openDescriptors(); n > descriptors-50 {
				t.Errorf("%d of %d descriptors are open", n, descriptors)
			}
			for _, c := range flood {
				c.Close()
			}
			r.until("the descriptors are given back", func() bool { return r.openDescriptors() <= calm+24 })
		})
	}
	families := r.scrape()
	if n := value(t, families, "admin_refused_total", "reason=too_many_connections"); n < descriptors-64 {
		t.Errorf("%v closed for others are counted", n)
	}
	if n := value(t, families, "checkpoint_failures_total"); n != 0 {
		t.Errorf("%v checkpoints failed", n)
	}
	if strings.Contains(r.logs(), "too many open files") {
		t.Errorf("descriptors ran out\n%s", r.logs())
	}
}

// TestAdminProfileOutlivesAFlood: what is being answered goes on while others come and go.
func TestAdminProfileOutlivesAFlood(t *testing.T) {
	r := startServer(t)
	c, err := net.Dial("tcp", r.admin)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testwait.Limit))
	io.WriteString(c, "GET /debug/pprof/trace?seconds=2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	profile := bufio.NewReader(c)
	if _, err := profile.Peek(1); err != nil { // it is being made
		t.Fatal(err)
	}
	for range 200 {
		flood, err := net.Dial("tcp", r.admin)
		if err != nil {
			t.Fatal(err)
		}
		defer flood.Close()
		io.WriteString(flood, "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
	}
	if a := readAnswer(t, profile, false); a.status != 200 || len(a.body) == 0 {
		t.Errorf("the trace: %d, %d bytes", a.status, len(a.body))
	}
}

// TestAdminListenerIsGuarded: a web site's name shows nothing, the token opens, SIGHUP rotates it,
// and minting follows it.
func TestAdminListenerIsGuarded(t *testing.T) {
	file := adminTokenFile(t)
	r := startServer(t, "--admin-token-file="+file, "--admin-hosts=rollcall.internal", "--log-level=debug")
	good := "Authorization: Bearer " + adminToken
	want := func(status int, a answer) {
		t.Helper()
		if a.status != status {
			t.Errorf("status %d, want %d: %s", a.status, status, a.body)
		}
	}
	mint := "/debug/token?user_id=" + apiUser
	for _, path := range []string{"/metrics", "/debug/presence?user_id=" + apiUser, "/debug/users", "/debug/pprof/heap"} {
		want(403, r.askAdmin("GET", path, "Host: evil.example:8788", good))
		want(403, r.askAdmin("GET", path, "Sec-Fetch-Site: cross-site", good))
		want(401, r.askAdmin("GET", path))
		want(200, r.askAdmin("GET", path, good))
		want(200, r.askAdmin("GET", path, good, "Host: rollcall.internal:8788"))
	}
	for _, path := range []string{"/livez", "/healthz", "/readyz"} {
		want(200, r.askAdmin("GET", path, "Host: anything.example", "Sec-Fetch-Site: cross-site"))
	}
	want(401, r.askAdmin("POST", mint, "Rollcall-Page: 1"))
	want(200, r.askAdmin("POST", mint, "Rollcall-Page: 1", good))
	r.until("the mint is in the log", func() bool {
		_, line, found := strings.Cut(r.logs(), "minted a stream token")
		return found && strings.Contains(line, "user_id="+apiUser)
	})

	next := "Authorization: Bearer next-" + adminToken
	writeFile(t, file, "next-"+adminToken)
	if line := r.hangUp("msg=reloaded"); !strings.Contains(line, "admin_tokens.added=1 admin_tokens.removed=1") {
		t.Errorf("the log says %q", line)
	}
	want(401, r.askAdmin("GET", "/metrics", good))
	want(200, r.askAdmin("GET", "/metrics", next))
	for _, bad := range []string{" \n", "short", "two words and more than sixteen bytes"} {
		writeFile(t, file, bad)
		r.hangUp("reload: nothing was changed")
		want(200, r.askAdmin("GET", "/metrics", next))
	}
	if strings.Contains(r.logs(), adminToken) {
		t.Error("an admin token is in the log")
	}

	r = startServer(t, "--admin-token-file="+adminTokenFile(t), "--metrics-open")
	want(200, r.askAdmin("GET", "/metrics"))
	want(401, r.askAdmin("GET", "/debug/presence?user_id="+apiUser))
	r = startServer(t)
	want(403, r.askAdmin("POST", mint, "Rollcall-Page: 1"))
	r = startServer(t, "--dev")
	want(200, r.askAdmin("POST", mint, "Rollcall-Page: 1"))
}

// TestOpenAdminListenerIsRefused: one that other machines reach wants a token, or --admin-open.
func TestOpenAdminListenerIsRefused(t *testing.T) {
	dir, file := "--data-dir="+t.TempDir(), "--admin-token-file="+adminTokenFile(t)
	for _, c := range []struct {
		code  int
		flags []string
	}{
		{1, []string{"--admin-listen=0.0.0.0:8788"}},
		{1, []string{"--admin-listen=:8788"}},
		{1, []string{"--admin-listen=[::]:8788"}},
		{1, []string{"--admin-listen=192.0.2.7:8788"}},
		{1, []string{"--admin-listen=0.0.0.0:8788", "--dev"}},
		{1, []string{"--admin-listen=0.0.0.0:8788", "--metrics-open"}},
		{0, []string{"--admin-listen=0.0.0.0:8788", "--admin-open"}},
		{0, []string{"--admin-listen=0.0.0.0:8788", file}},
		{0, []string{"--admin-listen=127.0.0.2:8788"}},
		{0, []string{"--admin-listen=[::1]:8788"}},
		{0, []string{"--admin-listen=localhost:8788"}},
		{1, []string{"--admin-hosts=http://rollcall.internal"}},
		{1, []string{"--admin-hosts=*"}},
	} {
		_, problems, code := runCheck(t, secretsEnv, append(c.flags, dir)...)
		if code != c.code || code == 1 && !strings.Contains(problems, "--admin-") {
			t.Errorf("%v: exit %d %s", c.flags, code, problems)
		}
	}
	r := &rig{t: t, dir: t.TempDir(), env: secretsEnv, flags: []string{"--admin-listen=0.0.0.0:0"}}
	if out, err := r.command().CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "--admin-token-file") {
		t.Errorf("it started: %v\n%s", err, out)
	}
	r.flags = append(r.flags, "--admin-open")
	r.start()
	if !strings.Contains(r.logs(), "open to all that reach it") {
		t.Errorf("no warning in\n%s", r.logs())
	}
	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	r.wantExit()
}
