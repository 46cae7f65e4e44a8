package test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// proxy is one of the proxies that deploy/ has a configuration for.
type proxy struct {
	name, file string
	args       func(conf, dir string) []string
	listen     string   // how the file says which port it listens on
	idle       []string // how the file says how long a stream may be silent
}

var proxies = []proxy{
	{"nginx", "nginx.conf",
		func(conf, dir string) []string { return []string{"-c", conf, "-p", dir, "-g", "daemon off;"} },
		"listen 80;", []string{"proxy_read_timeout 60s;", "send_timeout 60s;", "proxy_send_timeout 60s;"}},
	{"haproxy", "haproxy.cfg",
		func(conf, dir string) []string { return []string{"-db", "-f", conf} },
		"bind :80\n", []string{"timeout client          60s", "timeout server          60s"}},
	{"caddy", "Caddyfile",
		func(conf, dir string) []string { return []string{"run", "--adapter", "caddyfile", "--config", conf} },
		"\n:80 {", []string{"read_timeout 60s"}},
}

// TestProxies: with the configuration that deploy/ ships, but for addresses and a shorter idle
// time, frames arrive at once, comments keep a silent stream open, heartbeats go over kept
// connections, a drain reaches the client as a clean end, and a stream asked for while the server
// is away is told to come again. Without the proxies it is skipped, unless ROLLCALL_PROXIES is
// "required".
func TestProxies(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.needed(t)
			server := startServer(t, "--stream-keepalive=250ms", "--drain-timeout=100ms",
				"--listen="+testport.Address(t))
			through := &rig{t: t, addr: p.start(t, server, nil)}
			p.play(t, server, through)
		})
	}
}

// needed skips the test without the proxy, or fails it, see TestProxies.
func (p proxy) needed(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(p.name); err != nil {
		if os.Getenv("ROLLCALL_PROXIES") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

const proxyIdle = 4 * time.Second

// start runs the proxy in front of a server with the file that is shipped, and returns where it
// listens; with an identity for TLS and h2.
func (p proxy) start(t *testing.T, server *rig, secure *identity) string {
	t.Helper()
	return p.run(t, secure, func(addr string) (path string) {
		return p.configure(t, server, addr, secure)
	})
}

// run is start with the file that configure writes for the address.
func (p proxy) run(t *testing.T, secure *identity,
	configure func(addr string) (path string)) string {
	t.Helper()
	var output bytes.Buffer
	addr := testport.Address(t)
	cmd := exec.Command(p.name, p.args(configure(addr), t.TempDir())...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with its workers
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
	})
	if !untilAnswers(t, addr, secure, exited) {
		t.Fatalf("%s does not start:\n%s", p.name, output.String())
	}
	return addr
}

// untilAnswers waits until a request through the proxy reaches the server, and reports false when
// the proxy ends instead.
func untilAnswers(t *testing.T, addr string, secure *identity,
	exited <-chan struct{}) (answers bool) {
	t.Helper()
	client, base := http.DefaultClient, "http://"+addr
	if secure != nil {
		client, base = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{RootCAs: secure.pool}}}, "https://"+addr
	}
	testwait.Until(t, "the proxy answers", func() bool {
		select {
		case <-exited:
			return true
		default:
		}
		resp, err := client.Get(base + streamPath)
		if err == nil {
			resp.Body.Close()
			if secure != nil && resp.ProtoMajor != 2 {
				t.Fatalf("over TLS it speaks %s, not h2", resp.Proto)
			}
			answers = resp.StatusCode == http.StatusBadRequest // the server's: no user_id
		}
		return answers
	})
	return answers
}

// configure writes the shipped file with other addresses and a shorter idle time.
func (p proxy) configure(t *testing.T, server *rig, addr string, secure *identity) (path string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "deploy", p.file))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	_, adminPort, _ := net.SplitHostPort(server.admin)
	dir := t.TempDir()
	conf := string(text)
	change := func(old, new string) {
		t.Helper()
		if strings.Count(conf, old) != 1 {
			t.Fatalf("deploy/%s has %q %d times, not once", p.file, old, strings.Count(conf, old))
		}
		conf = strings.Replace(conf, old, new, 1)
	}
	if secure != nil {
		p.secure(change, port, secure)
	} else {
		change(p.listen, strings.Replace(p.listen, "80", port, 1))
	}
	const upstream = " 127.0.0.1:8787 "
	if !strings.Contains(conf, upstream) {
		t.Fatalf("deploy/%s has no %q", p.file, upstream)
	}
	conf = strings.ReplaceAll(conf, upstream, " "+server.addr+" ")
	for _, idle := range p.idle {
		// With what is in front of it on its line, since one name is part of another.
		line := regexp.MustCompile(`(?m)^(\s*)` + regexp.QuoteMeta(idle))
		if n := len(line.FindAllString(conf, -1)); n != 1 {
			t.Fatalf("deploy/%s has %q %d times, not once", p.file, idle, n)
		}
		conf = line.ReplaceAllString(conf, "${1}"+strings.Replace(idle, "60s", proxyIdle.String(), 1))
	}
	if p.name == "nginx" {
		change("/run/nginx.pid", filepath.Join(dir, "nginx.pid"))
	} else {
		change("port 8788", "port "+adminPort)
	}
	path = filepath.Join(dir, p.file)
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// secure makes the shipped file listen as its comments say for TLS.
func (p proxy) secure(change func(old, new string), port string, id *identity) {
	switch p.name {
	case "nginx":
		change("listen 80;\n", "")
		change("# listen 443 ssl http2;", "listen "+port+" ssl http2;")
		change("# ssl_certificate     /etc/ssl/rollcall.pem;", "ssl_certificate "+id.cert+";")
		change("# ssl_certificate_key /etc/ssl/rollcall.key;", "ssl_certificate_key "+id.key+";")
	case "haproxy":
		change("bind :80\n", "")
		change("# bind :443 ssl crt /etc/ssl/rollcall.pem ", "bind :"+port+" ssl crt "+id.both+" ")
	case "caddy": // which would redirect from port 80
		change("admin off\n", "admin off\n\tauto_https disable_redirects\n")
		change(p.listen, "\nhttps://127.0.0.1:"+port+" {\n\ttls "+id.cert+" "+id.key)
	}
}

func (p proxy) play(t *testing.T, server, through *rig) {
	b := newBeat()
	s := through.follow(b["user_id"].(string))
	daemon := through.dial()
	br := bufio.NewReader(daemon)
	seq := 0
	tell := func() { // one heartbeat, and its frame before the next
		t.Helper()
		seq++
		daemon.SetDeadline(time.Now().Add(testwait.Limit))
		io.WriteString(daemon, request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(ingestToken)))
		expect(t, readAnswer(t, br, false), 204, "")
		if got := s.event().number("seq"); got != int64(seq) {
			t.Fatalf("heartbeat %d came back as frame %d", seq, got)
		}
	}
	for range 20 {
		tell()
	}
	if n := server.gauge(t, "rollcall_http_connections"); n < 1 || n > 4 {
		t.Errorf("the proxy keeps %v connections for one daemon", n)
	}
	comments := 0
	for quiet := time.Now().Add(proxyIdle * 3 / 2); time.Now().Before(quiet); comments++ {
		if text, err := s.frame(); err != nil || text != ": keepalive\n" {
			t.Fatalf("after %d comments: %q, %v", comments, text, err)
		}
	}
	daemon.Close() // which was idle for as long
	daemon = through.dial()
	defer daemon.Close()
	br = bufio.NewReader(daemon)
	tell() // the stream has outlived the proxy's idle time

	server.proc.Cmd.Process.Signal(syscall.SIGTERM)
	var last string
	for {
		text, err := s.frame()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the end is not clean: %v", err)
		}
		last = text
	}
	if !strings.HasPrefix(last, "retry: ") {
		t.Errorf("last words %q", last)
	}
	<-server.proc.Exited
	if server.proc.Err != nil {
		t.Errorf("%v\n%s", server.proc.Err, server.logs())
	}
	closeAll := closing(t, server.addr) // as a server that ends does with those it has not accepted
	through.away()
	closeAll()
	through.away()
}

// closing listens and closes every connection that has sent something, until it is told to stop.
func closing(t *testing.T, addr string) (stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(testwait.Limit))
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	return func() { ln.Close(); <-done }
}

// away wants the proxy's own answers while the server is away: a stream is told to come again, and
// a heartbeat gets an error.
func (r *rig) away() {
	r.t.Helper()
	a := r.send(request("GET", streamPath+"?user_id="+uuid.NewString(), "", "Connection: close"))
	if a.status != 200 || a.header.Get("Content-Type") != "text/event-stream" ||
		a.header.Get("Access-Control-Allow-Origin") != "*" || a.body != "retry: 3000\n\n" {
		r.t.Errorf("a stream while the server is away: %d %v %q", a.status, a.header, a.body)
	}
	if a := r.beat(newBeat()); a.status != 502 && a.status != 503 || a.header.Get("Content-Type") != "application/json" ||
		a.header.Get("Retry-After") == "" || a.header.Get("Access-Control-Allow-Origin") != "*" ||
		a.body != errorBody("unavailable", "Server not reachable") {
		r.t.Errorf("a heartbeat while the server is away: %d %v %q", a.status, a.header, a.body)
	}
}

// TestProxiesPassTheLargestBatch: what the server takes, the proxies do, over HTTP/1.1 and h2, and
// a client that sends more is told so in JSON.
func TestProxiesPassTheLargestBatch(t *testing.T) {
	const lines, lineBytes, most = 256, 16 << 10, 4 << 20
	largest := func() string {
		var body strings.Builder
		for range lines {
			beat := newBeat().json()
			fmt.Fprintf(&body, "%s%*s\n", beat, lineBytes-1-len(beat), "")
		}
		if body.Len() != most {
			t.Fatalf("the batch has %d bytes", body.Len())
		}
		return body.String()
	}
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			p.needed(t)
			server := startServer(t)
			id := newIdentity(t, t.TempDir(), "proxy.example")
			for version, base := range map[int]string{
				1: "http://" + p.start(t, server, nil), 2: "https://" + p.start(t, server, &id),
			} {
				client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: version == 2,
					TLSClientConfig: &tls.Config{RootCAs: id.pool}}}
				defer client.CloseIdleConnections()
				for more, status := range map[int]int{0: 200, 1: 413, 2 << 20: 413} {
					body := strings.NewReader(largest() + strings.Repeat(" ", more))
					req, err := http.NewRequest("POST", base+batchPath, body)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Authorization", "Bearer "+ingestToken)
					req.Header.Set("Content-Type", "application/x-ndjson")
					resp, err := client.Do(req)
					if err != nil {
						t.Fatalf("version %d, %d bytes more: %v", version, more, err)
					}
					answer, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.ProtoMajor != version || resp.StatusCode != status ||
						resp.Header.Get("Content-Type") != "application/json" || !json.Valid(answer) ||
						more == 0 && string(answer) != fmt.Sprintf(`{"accepted":%d,"rejected":0,"errors":[]}`, lines) {
						t.Errorf("%s, %d bytes more: %d %s, %v", resp.Proto, more, resp.StatusCode, answer, err)
					}
				}
			}
		})
	}
}

// gauge reads one figure of /metrics.
func (r *rig) gauge(t *testing.T, name string) (value float64) {
	t.Helper()
	for line := range strings.Lines(r.metricsText()) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("/metrics has no %s", name)
	return 0
}
