package test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testlog"
	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
)

// The tests of this package start the built binary and speak to it over real sockets, as daemons
// and clients do. This file is their rig; README.md says what each suite proves.

const (
	heartbeatPath = "/api/v1/daemon/presence/heartbeat"
	batchPath     = "/api/v1/daemon/presence/heartbeats"
	streamPath    = "/api/v1/mobile/presence/stream"

	ingestTokenEnv = "PRESENCE_DO_INGEST_TOKEN"
	signingKeyEnv  = "PRESENCE_DO_TOKEN_SIGNING_KEY"
	// loopsEnv is the server's --loops where a test does not set it: -1 runs every suite without
	// event loops.
	loopsEnv    = "ROLLCALL_LOOPS"
	ingestToken = "ingest-token-of-the-black-box-tests"
	signingKey  = "signing-key-of-the-black-box-tests"
)

// secretsEnv gives the server both secrets of the tests.
var secretsEnv = []string{ingestTokenEnv + "=" + ingestToken, signingKeyEnv + "=" + signingKey}

// underRace says that the server is built with the race detector.
var underRace = os.Getenv("ROLLCALL_RACE") != ""

var (
	binary string
	// scratch is a directory of all tests of this process, for what several of them work on.
	scratch string
)

// instead may make this process another program of a test; it reports whether it did.
var instead = func() bool { return false }

// TestMain builds the binary, unless ROLLCALL_BINARY names one, such as another release's.
func TestMain(m *testing.M) {
	if instead() {
		return
	}
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "rollcall-blackbox-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(scratch)
		if binary = os.Getenv("ROLLCALL_BINARY"); binary != "" {
			return m.Run()
		}
		binary = filepath.Join(scratch, "rollcall")
		build := exec.Command("go", "build", "-race="+strconv.FormatBool(underRace), "-o", binary, "./cmd/rollcall")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// rig is one running server.
type rig struct {
	t          *testing.T
	dir        string
	addr       string // of the public listener
	admin      string
	proc       *testproc.Process
	stderr     testlog.Output
	env, flags []string
	cgroup     string // directory of the cgroup that it runs in; empty: the test's own

	program     string // "": binary
	descriptors int    // most that it may open; 0: as many as the test

	listen, adminListen string   // fixed addresses; "": any, another one after each start
	under               []string // a command that it runs under, such as unshare

	tls *tls.Config // of the client's side; nil: without TLS

	nodes *nodeSet // of a cluster, to whose nodes connections go by turns; addr and admin are one's

	kept       net.Conn // see mustBeatOn
	keptReader *bufio.Reader
}

var servingLine = regexp.MustCompile(`msg=serving .*listen=(\S+) admin=(\S+)`)

// startServer runs `rollcall serve` on free ports with the test secrets and a data directory of its
// own.
func startServer(t *testing.T, flags ...string) *rig {
	t.Helper()
	return startServerIn(t, t.TempDir(), flags...)
}

// startServerIn is startServer with this data directory.
func startServerIn(t *testing.T, dir string, flags ...string) *rig {
	t.Helper()
	if r := clusterFor(t, flags); r != nil {
		return r
	}
	r := &rig{t: t, dir: dir, flags: flags, env: slices.Clone(secretsEnv)}
	r.start()
	return r
}

// startServerWith is startServer with this environment.
func startServerWith(t *testing.T, env []string, flags ...string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), flags: flags, env: env}
	r.start()
	return r
}

func (r *rig) command() *exec.Cmd {
	const anyPort = "127.0.0.1:0"
	args := append([]string{"serve", "--listen=" + cmp.Or(r.listen, anyPort),
		"--admin-listen=" + cmp.Or(r.adminListen, anyPort), "--data-dir=" + r.dir}, r.flags...)
	cmd := exec.Command(cmp.Or(r.program, binary), args...)
	if len(r.under) > 0 {
		cmd = exec.Command(r.under[0], append(r.under[1:len(r.under):len(r.under)], cmd.Args...)...)
	}
	if r.cgroup != "" {
		cmd = r.inCgroup(cmd)
	}
	if r.descriptors != 0 {
		cmd = exec.Command("sh", append([]string{"-c", `ulimit -n "$0" && exec "$@"`,
			strconv.Itoa(r.descriptors)}, cmd.Args...)...)
	}
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, r.env...)
	if loops := os.Getenv(loopsEnv); loops != "" {
		cmd.Env = append(cmd.Env, loopsEnv+"="+loops)
	}
	return cmd
}

// start launches the process and returns when it serves. The test's end kills it.
func (r *rig) start() {
	r.t.Helper()
	if r.nodes != nil {
		r.nodes.start()
		r.proc = r.nodes.rigs[0].proc
		return
	}
	r.launch()
	r.serves()
}

// launch starts the server and does not wait until it serves.
func (r *rig) launch() {
	r.t.Helper()
	r.proc = testproc.Start(r.t, r.command(), &r.stderr)
	r.t.Cleanup(func() {
		if strings.Contains(r.logs(), "WARNING: DATA RACE") {
			r.t.Errorf("the server has a data race:\n%s", r.logs())
		}
	})
}

// serves waits until the server that was launched serves.
func (r *rig) serves() {
	r.t.Helper()
	m := r.proc.Await(r.t, servingLine)
	r.addr, r.admin = m[1], m[2]
}

func (r *rig) logs() string {
	if r.nodes != nil {
		return r.nodes.logs()
	}
	return r.stderr.String()
}

// kill is kill -9, of all nodes.
func (r *rig) kill() {
	if r.nodes != nil {
		for _, n := range r.nodes.rigs {
			n.kill()
		}
		return
	}
	r.proc.Kill()
}

// terminate is the orderly stop, of all nodes at once; it wants exit status 0.
func (r *rig) terminate() {
	r.t.Helper()
	if r.nodes != nil {
		for _, n := range r.nodes.rigs {
			n.proc.Cmd.Process.Signal(syscall.SIGTERM)
		}
		for _, n := range r.nodes.rigs {
			n.wantExit()
		}
		return
	}
	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	r.wantExit()
}

// until waits for a condition. When it fails the test, the server's log is there too.
func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	defer func() {
		if r.t.Failed() {
			r.t.Log(r.logs())
		}
	}()
	testwait.Until(r.t, what, holds)
}

// untilReadyz waits until /readyz answers with this status and this text in it, and returns all of
// it.
func (r *rig) untilReadyz(status int, text string) (body string) {
	r.t.Helper()
	r.until(fmt.Sprintf("/readyz answers %d %s", status, text), func() bool {
		resp, err := http.Get("http://" + r.admin + "/readyz")
		if err != nil {
			r.t.Fatal(err)
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		if err != nil {
			r.t.Fatal(err)
		}
		body = string(all)
		return resp.StatusCode == status && strings.Contains(body, text)
	})
	return body
}

// wantExit waits for the end after a SIGTERM.
func (r *rig) wantExit() {
	r.t.Helper()
	select {
	case <-r.proc.Exited:
	case <-time.After(testwait.Limit):
		r.t.Fatalf("the server does not obey SIGTERM\n%s", r.logs())
	}
	if r.proc.Err != nil {
		r.t.Fatalf("after SIGTERM: %v\n%s", r.proc.Err, r.logs())
	}
}

// withAndWithoutLoops runs a test on servers that serve heartbeats in event loops, as they do by
// default, and on such that do not.
func withAndWithoutLoops(t *testing.T, test func(t *testing.T, loops string)) {
	for _, loops := range []string{"1", "-1"} {
		t.Run("loops="+loops, func(t *testing.T) { test(t, "--loops="+loops) })
	}
}

// wantLooped checks that the loops of a server served heartbeats, if it has any.
func (r *rig) wantLooped(loops string) {
	r.t.Helper()
	served := value(r.t, r.scrape(), "loop_heartbeats_total")
	if (served > 0) != (loops != "--loops=-1") {
		r.t.Errorf("with %s, loops served %v heartbeats", loops, served)
	}
}

// answer is one parsed response.
type answer struct {
	status int
	header http.Header
	body   string
}

// send writes raw bytes on a new connection and parses one response.
func (r *rig) send(raw string) answer {
	r.t.Helper()
	c := r.dial()
	defer c.Close()
	io.WriteString(c, raw)
	return readAnswer(r.t, bufio.NewReader(c), strings.HasPrefix(raw, "HEAD "))
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	var c net.Conn
	var err error
	if r.nodes != nil {
		return r.nodes.next().dial()
	}
	if r.tls != nil {
		c, err = tls.Dial("tcp", r.addr, r.tls)
	} else {
		c, err = net.Dial("tcp", r.addr)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(testwait.Limit))
	return c
}

func readAnswer(t *testing.T, br *bufio.Reader, head bool) answer {
	t.Helper()
	method := "GET"
	if head {
		method = "HEAD"
	}
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("answer cut short: %v", err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// request formats an HTTP/1.1 request; headers are "Name: value".
func request(method, path, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path)
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	if body != "" || method == "POST" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// beat is the fields of a heartbeat; json.Marshal sorts them, which the server must not mind.
type beat map[string]any

func newBeat() beat {
	return beat{"schema_version": 1, "user_id": uuid.NewString(), "device_id": uuid.NewString(), "status": "online",
		"source": "daemon-do", "sent_at_ms": time.Now().UnixMilli(), "seq": 1, "ttl_ms": 60000}
}

// with returns a copy with one field changed.
func (b beat) with(field string, value any) beat {
	c := make(beat, len(b))
	for k, v := range b {
		c[k] = v
	}
	c[field] = value
	return c
}

func (b beat) without(field string) beat {
	c := b.with(field, nil)
	delete(c, field)
	return c
}

func (b beat) json() string {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(b); err != nil {
		panic(err)
	}
	return strings.TrimSpace(buf.String())
}

// frame is the text that a stream carries for this heartbeat.
func (b beat) frame() string {
	return fmt.Sprintf(`data: {"schema_version":1,"user_id":"%v","device_id":"%v","status":"%v","source":"%v","sent_at_ms":%v,"seq":%v,"ttl_ms":%v}`+"\n\n",
		b["user_id"], b["device_id"], b["status"], b["source"], b["sent_at_ms"], b["seq"], b["ttl_ms"])
}

func (r *rig) beat(b beat) answer {
	r.t.Helper()
	return r.send(request("POST", heartbeatPath, b.json(), bearer(ingestToken)))
}

// mustBeat sends a heartbeat that has to be accepted.
func (r *rig) mustBeat(b beat) {
	r.t.Helper()
	if a := r.beat(b); a.status != 204 || a.body != "" {
		r.t.Fatalf("heartbeat %s: %d %s", b.json(), a.status, a.body)
	}
}

// tokenFor is a stream token for a user, signed with the rig's key.
func tokenFor(user string, ttl time.Duration) string {
	return signToken(signingKey, user, ttl)
}

// signToken makes a stream token as docs/api.md says, without the product's code.
func signToken(key, user string, ttl time.Duration) string {
	now := time.Now()
	payload, err := json.Marshal(map[string]any{
		"token_id": uuid.NewString(), "user_id": user, "device_id": uuid.NewString(),
		"scope": []string{"presence:read"}, "exp_ms": now.Add(ttl).UnixMilli(), "issued_at_ms": now.UnixMilli(),
	})
	if err != nil {
		panic(err)
	}
	return signPayload(key, payload)
}

// signPayload makes the text of a stream token from any payload, valid or not.
func signPayload(key string, payload []byte) string {
	signed := base64.RawURLEncoding.EncodeToString(payload)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// follower is one open stream.
type follower struct {
	t    *testing.T
	conn net.Conn
	br   *bufio.Reader
	head answer
	body *bufio.Reader
}

// follow opens a stream and reads its head.
func (r *rig) follow(user string) *follower {
	r.t.Helper()
	s := r.followRaw(request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(user, time.Hour))))
	if s.head.status != 200 {
		r.t.Fatalf("stream: %d", s.head.status)
	}
	return s
}

func (r *rig) followRaw(raw string) *follower {
	r.t.Helper()
	return r.followOn(r.dial(), raw)
}

// followOn opens a stream on a connection.
func (r *rig) followOn(c net.Conn, raw string) *follower {
	r.t.Helper()
	s := &follower{t: r.t, conn: c}
	r.t.Cleanup(func() { s.conn.Close() })
	io.WriteString(s.conn, raw)
	s.br = bufio.NewReader(s.conn)
	resp, err := http.ReadResponse(s.br, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	s.head = answer{status: resp.StatusCode, header: resp.Header}
	if resp.Close {
		s.head.header.Set("Connection", "close") // which ReadResponse takes out
	}
	s.body = bufio.NewReader(resp.Body)
	return s
}

// frame reads up to the next blank line, or a comment, which is a line alone.
func (s *follower) frame() (string, error) {
	s.conn.SetReadDeadline(time.Now().Add(testwait.Limit))
	var text string
	for {
		line, err := s.body.ReadString('\n')
		text += line
		if err != nil || line == "\n" || strings.HasPrefix(text, ":") {
			return text, err
		}
	}
}

// event reads the next frame and parses it; comments are passed over.
func (s *follower) event() beat {
	s.t.Helper()
	for {
		text, err := s.frame()
		if err != nil {
			s.t.Fatalf("stream ended: %v", err)
		}
		if strings.HasPrefix(text, ":") {
			continue
		}
		ev, ok := parseFrame(text)
		if !ok {
			s.t.Fatalf("not a frame: %q", text)
		}
		return ev
	}
}

// parseFrame parses the text of an event; false: it is none.
func parseFrame(text string) (ev beat, ok bool) {
	payload, ok := strings.CutPrefix(text, "data: ")
	dec := json.NewDecoder(strings.NewReader(payload))
	dec.UseNumber()
	return ev, ok && dec.Decode(&ev) == nil
}

// number reads an integer field of a parsed frame.
func (b beat) number(field string) int64 {
	n, err := strconv.ParseInt(fmt.Sprint(b[field]), 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}
