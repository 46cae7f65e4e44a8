package test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
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

// identity is a self-signed certificate in files.
type identity struct {
	cert, key string
	both      string // both in one, for HAProxy
	pool      *x509.CertPool
}

// newIdentity writes a certificate for 127.0.0.1 with this name into dir.
func newIdentity(t *testing.T, dir, name string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	id := identity{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"),
		filepath.Join(dir, "both.pem"), x509.NewCertPool()}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	id.pool.AppendCertsFromPEM([]byte(text))
	writeFile(t, id.cert, text)
	secret := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	writeFile(t, id.key, secret)
	writeFile(t, id.both, text+secret)
	return id
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startTLS starts a server with a certificate of its own; the rig's connections are over TLS.
func startTLS(t *testing.T, flags ...string) *rig {
	t.Helper()
	id := newIdentity(t, t.TempDir(), "first.example")
	r := startServer(t, append(flags, "--tls-cert="+id.cert, "--tls-key="+id.key)...)
	r.tls = &tls.Config{RootCAs: id.pool, NextProtos: []string{"h2", "http/1.1"}}
	return r
}

// TestTLS is the service over TLS: heartbeats, a stream, another connection's end, the drain.
func TestTLS(t *testing.T) {
	r := startTLS(t, "--drain-timeout=0s")
	b := newBeat()
	s := r.follow(b["user_id"].(string))
	r.mustBeat(b)
	if text, err := s.frame(); err != nil || text != b.frame() {
		t.Errorf("frame %q %v, want %q", text, err, b.frame())
	}
	expect(t, r.beat(b), 409, `{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":1}`)
	expect(t, r.send(request("POST", heartbeatPath, strings.Repeat("x", 1<<20),
		bearer(ingestToken))), 413, errorBody("invalid_payload", "Payload too large"))
	if state := s.conn.(*tls.Conn).ConnectionState(); state.NegotiatedProtocol != "http/1.1" ||
		state.Version < tls.VersionTLS12 {
		t.Errorf("negotiated %q, version %x", state.NegotiatedProtocol, state.Version)
	}

	// Many events in a row, over several connections.
	for seq := 2; seq <= 200; seq++ {
		r.mustBeatOn(s.t, b.with("seq", seq))
	}
	for seq := int64(2); seq <= 200; seq++ {
		if ev := s.event(); ev.number("seq") != seq {
			t.Fatalf("frame of seq %d, want %d", ev.number("seq"), seq)
		}
	}

	gone := r.follow(b["user_id"].(string))
	gone.event()
	gone.conn.Close()
	r.until("the hang-up is noticed", func() bool { return value(t, r.scrape(), "streams_closed_total", "reason=client_gone") == 1 })

	r.proc.Cmd.Process.Signal(syscall.SIGTERM)
	if text, err := s.frame(); err != nil || !strings.HasPrefix(text, "retry: ") {
		t.Errorf("at the drain: %q %v", text, err)
	}
	if text, err := s.frame(); err != io.EOF || text != "" {
		t.Errorf("behind retry: %q %v, want the end of the chunks", text, err)
	}
	s.conn.Close()
	r.wantExit()
}

// mustBeatOn sends heartbeats one behind the other on a connection that it keeps.
func (r *rig) mustBeatOn(t *testing.T, beats ...beat) {
	t.Helper()
	if r.kept == nil {
		r.kept = r.dial()
		r.keptReader = bufio.NewReader(r.kept)
		t.Cleanup(func() { r.kept.Close() })
	}
	r.kept.SetDeadline(time.Now().Add(testwait.Limit))
	var text strings.Builder
	for _, b := range beats {
		text.WriteString(request("POST", heartbeatPath, b.json(), bearer(ingestToken)))
	}
	io.WriteString(r.kept, text.String())
	for range beats {
		if a := readAnswer(t, r.keptReader, false); a.status != 204 {
			t.Fatalf("heartbeat: %d %s", a.status, a.body)
		}
	}
}

// TestTLSRefusesWhatItDoesNotSpeak: old versions, HTTP/2 alone, no TLS at all. None harms the
// others.
func TestTLSRefusesWhatItDoesNotSpeak(t *testing.T) {
	r := startTLS(t)
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.1": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 },
		"HTTP/2":  func(c *tls.Config) { c.NextProtos = []string{"h2"} },
	} {
		c := r.tls.Clone()
		change(c)
		if conn, err := tls.Dial("tcp", r.addr, c); err == nil {
			conn.Close()
			t.Errorf("%s was accepted", name)
		}
	}
	plain, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	plain.SetDeadline(time.Now().Add(testwait.Limit))
	io.WriteString(plain, request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken)))
	if answer, _ := io.ReadAll(plain); strings.Contains(string(answer), " 204 ") {
		t.Errorf("a heartbeat without TLS was answered %q", answer)
	}
	silent, err := net.Dial("tcp", r.addr) // makes no handshake, and delays no other
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r.mustBeat(newBeat())
	if res, err := http.Get("http://" + r.admin + "/readyz"); err != nil || res.StatusCode != 200 {
		t.Errorf("the admin listener: %v", err)
	}
}

// TestTLSSlowReader: a client that takes nothing is closed, and another one gets its frames
// meanwhile.
func TestTLSSlowReader(t *testing.T) {
	r := startTLS(t, "--stream-write-timeout=2s", "--stream-backlog=4096", "--sync=never")
	b := newBeat().with("source", strings.Repeat("x", 128))
	user := b["user_id"].(string)
	small, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	small.(*net.TCPConn).SetReadBuffer(4 << 10) // else the kernel holds megabytes for a client
	slow := tls.Client(small, &tls.Config{RootCAs: r.tls.RootCAs, ServerName: "127.0.0.1"})
	io.WriteString(slow, request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(user, time.Hour))))
	if a, err := http.ReadResponse(bufio.NewReader(slow), nil); err != nil || a.StatusCode != 200 {
		t.Fatalf("stream: %v %v", a, err)
	}
	good := r.follow(user)
	good.conn.SetDeadline(time.Time{})
	go io.Copy(io.Discard, good.conn) // what it gets is judged by the metrics
	closed := func() bool { return value(t, r.scrape(), "streams_closed_total", "reason=slow") == 1 }
	beats := make([]beat, 100)
	// until the buffers of two sockets are full, and the timeout has passed
	for round := 0; !closed(); round++ {
		for i := range beats {
			beats[i] = b.with("seq", len(beats)*round+i)
		}
		r.mustBeatOn(t, beats...)
		if round > 10_000 {
			t.Fatalf("the slow client is still there\n%s", r.logs())
		}
	}
	if n := value(t, r.scrape(), "streams"); n != 1 {
		t.Errorf("%v streams are left, want the one that reads", n)
	}
}

// TestTLSNeedsBothFiles, and that they belong together, before anything else is touched.
func TestTLSNeedsBothFiles(t *testing.T) {
	id := newIdentity(t, t.TempDir(), "a.example")
	other := newIdentity(t, t.TempDir(), "b.example")
	for _, c := range []struct {
		flags []string
		says  string
	}{
		{[]string{"--tls-cert=" + id.cert}, "give both or none"},
		{[]string{"--tls-cert=" + id.cert, "--tls-key=" + other.key}, "does not match"},
		{[]string{"--tls-cert=" + id.key, "--tls-key=" + id.key}, "--tls-cert"},
	} {
		r := &rig{t: t, dir: t.TempDir(), flags: c.flags,
			env: []string{ingestTokenEnv + "=" + ingestToken}}
		out, err := r.command().CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.says) {
			t.Errorf("%v: %v, want %q in\n%s", c.flags, err, c.says, out)
		}
		if _, err := os.Stat(filepath.Join(r.dir, "LOCK")); err == nil {
			t.Errorf("%v: the log was opened all the same", c.flags)
		}
	}
}
