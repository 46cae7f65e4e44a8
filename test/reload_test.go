package test

import (
	"bufio"
	"crypto/tls"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hangUp sends SIGHUP and returns the line that tells what came of it, which begins with what it
// says.
func (r *rig) hangUp(says string) string {
	r.t.Helper()
	seen := len(r.logs())
	r.proc.Cmd.Process.Signal(syscall.SIGHUP)
	var line string
	r.until("the log says "+says, func() bool {
		_, rest, found := strings.Cut(r.logs()[seen:], says)
		line, _, _ = strings.Cut(rest, "\n")
		return found
	})
	return line
}

// shownName is the name in the certificate that a new connection is shown.
func (r *rig) shownName() string {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// TestReload rotates everything under an open stream and an open connection, over TLS: first beside
// the old, then without.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	tokens, keys := filepath.Join(dir, "tokens"), filepath.Join(dir, "keys")
	writeFile(t, tokens, "old-token-of-the-black-box-tests\n")
	writeFile(t, keys, "old-key-of-the-black-box-tests\n")
	id := newIdentity(t, dir, "old.example")
	r := &rig{t: t, dir: t.TempDir(), tls: &tls.Config{InsecureSkipVerify: true}, flags: []string{
		"--ingest-token-file=" + tokens, "--signing-key-file=" + keys, "--tls-cert=" + id.cert, "--tls-key=" + id.key}}
	r.start()

	b := newBeat()
	seq, user := 0, b["user_id"].(string)
	kept := r.dial()
	keptReader := bufio.NewReader(kept)
	beatWith := func(token string) int {
		seq++
		io.WriteString(kept, request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(token)))
		a := readAnswer(t, keptReader, false)
		if a.status != 204 { // the server closes behind it
			kept.Close()
			kept = r.dial()
			keptReader.Reset(kept)
		}
		return a.status
	}
	t.Cleanup(func() { kept.Close() })
	streamWith := func(key string) *follower {
		return r.followRaw(request("GET", streamPath+"?user_id="+user, "", bearer(signToken(key, user, time.Hour))))
	}
	want := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	want("old token", beatWith("old-token-of-the-black-box-tests"), 204)
	want("new token", beatWith("new-token-of-the-black-box-tests"), 401)
	stream := streamWith("old-key-of-the-black-box-tests")
	want("old key", stream.head.status, 200)
	stream.event()

	writeFile(t, tokens, "new-token-of-the-black-box-tests\nold-token-of-the-black-box-tests\n")
	writeFile(t, keys, "new-key-of-the-black-box-tests, old-key-of-the-black-box-tests")
	newIdentity(t, dir, "new.example")
	if line := r.hangUp("msg=reloaded"); !strings.Contains(line, "ingest_tokens.added=1 ingest_tokens.removed=0") ||
		!strings.Contains(line, "new.example") || strings.Contains(line, "token\n") || strings.Contains(line, "black-box") {
		t.Errorf("the log says %q", line)
	}
	want("old token beside the new", beatWith("old-token-of-the-black-box-tests"), 204)
	want("new token", beatWith("new-token-of-the-black-box-tests"), 204)
	want("old key beside the new", streamWith("old-key-of-the-black-box-tests").head.status, 200)
	want("new key", streamWith("new-key-of-the-black-box-tests").head.status, 200)
	if name := r.shownName(); name != "new.example" {
		t.Errorf("the certificate is for %s", name)
	}

	writeFile(t, tokens, "new-token-of-the-black-box-tests")
	writeFile(t, keys, "new-key-of-the-black-box-tests")
	r.hangUp("msg=reloaded")
	want("removed token, on a connection that was open", beatWith("old-token-of-the-black-box-tests"), 401)
	want("new token", beatWith("new-token-of-the-black-box-tests"), 204)
	want("removed key", streamWith("old-key-of-the-black-box-tests").head.status, 403)
	for _, n := range []int64{3, 4, 6} { // 2 and 5 were refused
		if ev := stream.event(); ev.number("seq") != n {
			t.Errorf("the stream of the removed key got seq %d, want %d", ev.number("seq"), n)
		}
	}
}

// TestReloadKeepsTheOldWhenAnyIsBad: nothing is taken up, not even the file that is good.
func TestReloadKeepsTheOldWhenAnyIsBad(t *testing.T) {
	dir := t.TempDir()
	tokens, keys := filepath.Join(dir, "tokens"), filepath.Join(dir, "keys")
	writeFile(t, tokens, ingestToken)
	writeFile(t, keys, signingKey)
	id := newIdentity(t, dir, "old.example")
	r := &rig{t: t, dir: t.TempDir(), tls: &tls.Config{InsecureSkipVerify: true}, flags: []string{
		"--ingest-token-file=" + tokens, "--signing-key-file=" + keys, "--tls-cert=" + id.cert, "--tls-key=" + id.key}}
	r.start()
	for name, spoil := range map[string]func(){
		"no tokens":          func() { writeFile(t, tokens, " \n") },
		"an impossible one":  func() { writeFile(t, tokens, "two words") },
		"a short one":        func() { writeFile(t, keys, "fifteen-bytes-!") },
		"no file":            func() { os.Remove(keys) },
		"half a certificate": func() { writeFile(t, id.cert, "-----BEGIN") },
		"another's key":      func() { os.Rename(newIdentity(t, t.TempDir(), "x.example").key, id.key) },
	} {
		writeFile(t, tokens, "other-token-of-the-black-box-tests")
		writeFile(t, keys, "other-key-of-the-black-box-tests")
		newIdentity(t, dir, "new.example")
		spoil()
		if line := r.hangUp("reload: nothing was changed"); !strings.Contains(line, "error=") {
			t.Errorf("%s: the log says %q", name, line)
		}
		r.mustBeat(newBeat())
		r.follow(newBeat()["user_id"].(string))
		if shown := r.shownName(); shown != "old.example" {
			t.Errorf("%s: the certificate is for %s", name, shown)
		}
	}
	if strings.Contains(r.logs(), "two words") {
		t.Error("a secret is in the log")
	}
}

// TestReloadWithoutFiles changes nothing, and does not end the process: not even throw-away secrets
// are made anew.
func TestReloadWithoutFiles(t *testing.T) {
	r := startServer(t, "--dev")
	for range 3 {
		if line := r.hangUp("msg=reloaded"); !strings.Contains(line, "ingest_tokens.now=1 ingest_tokens.added=0 ingest_tokens.removed=0") {
			t.Errorf("the log says %q", line)
		}
	}
	r.mustBeat(newBeat())
}

// TestReloadUnderLoad rotates again and again while heartbeats come with a token that is always
// there.
func TestReloadUnderLoad(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens")
	writeFile(t, tokens, ingestToken)
	r := &rig{t: t, dir: t.TempDir(), flags: []string{"--ingest-token-file=" + tokens, "--sync=never"}}
	r.start()
	b := newBeat()
	for seq := range 300 {
		if seq%10 == 0 {
			writeFile(t, tokens+".new", ingestToken+",passing-token-of-the-black-box-tests-"+strconv.Itoa(seq))
			os.Rename(tokens+".new", tokens)
			r.proc.Cmd.Process.Signal(syscall.SIGHUP)
		}
		r.mustBeatOn(t, b.with("seq", seq))
	}
	r.until("a reload", func() bool { return strings.Contains(r.logs(), "msg=reloaded") })
	if strings.Contains(r.logs(), "nothing was changed") {
		t.Errorf("a reload failed\n%s", r.logs())
	}
}
