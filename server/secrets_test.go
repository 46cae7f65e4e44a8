package server

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/internal/testwait"
	"rollcall/server/reply"
	"rollcall/wire"
)

// TestSetSecrets: from the next request on the new ones count and the old ones do not; bad ones
// change nothing.
func TestSetSecrets(t *testing.T) {
	r := start(t, nil)
	token := sign(t, "newer", payload(""))
	heartbeat := func(token string) int {
		return r.send(t, text("POST "+wire.HeartbeatPath, validBody,
			"Authorization: Bearer "+token)).status
	}
	want := func(got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("status %d, want %d", got, want)
		}
	}
	want(heartbeat("newer"), 401)
	want(r.send(t, streamText("?user_id="+testUser, token)).status, 403)
	if err := r.SetSecrets([]string{"newer", "two words", ""}, []string{"newer", ""}, nil); err == nil ||
		strings.Count(err.Error(), "\n") != 2 || strings.Contains(err.Error(), "words") {
		t.Errorf("bad secrets: %v", err)
	}
	want(heartbeat(testIngest), 204)
	if err := r.SetSecrets([]string{"newer"}, []string{"newer"}, nil); err != nil {
		t.Fatal(err)
	}
	want(heartbeat("newer"), 204)
	want(heartbeat(testIngest), 401)
	want(r.send(t, streamText("?user_id="+testUser, sign(t, testKey, payload("")))).status, 403)
	if _, err := r.secrets.signing().Verify([]byte(token), wire.ScopeRead, testUser,
		testNow); err != nil {
		t.Error(err)
	}
	if err := r.SetSecrets(nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	want(heartbeat("newer"), 503)
	want(r.send(t, streamText("?user_id="+testUser, token)).status, 503)
}

// TestSetSecretsUnderLoad: a secret that is in both lists is never refused.
func TestSetSecretsUnderLoad(t *testing.T) {
	r := start(t, nil)
	token := []byte(sign(t, testKey, payload("")))
	stop := make(chan struct{})
	var setter sync.WaitGroup
	setter.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			tokens, keys := []string{testIngest, "a"}, []string{"b", testKey}
			if i%2 == 0 {
				tokens, keys = []string{"c", testIngest}, []string{testKey}
			}
			if err := r.SetSecrets(tokens, keys, nil); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		if a := r.send(t, heartbeatText(validBody)); a.status != 204 {
			t.Fatalf("status %d", a.status)
		}
		if _, err := r.secrets.signing().Verify(token, wire.ScopeRead, testUser,
			testNow); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	setter.Wait()
}

// TestRefusalsAreCounted by what they were refused: the same row of the table for a heartbeat and
// for a stream.
func TestRefusalsAreCounted(t *testing.T) {
	r := start(t, nil)
	r.send(t, heartbeatText("{"))
	r.send(t, heartbeatText("{}"))
	r.send(t, text("POST "+wire.HeartbeatPath, validBody))
	r.send(t, streamText("", "x"))
	r.send(t, streamText("?user_id="+testUser, ""))
	r.send(t, streamText("?user_id="+testUser, "x"))
	if got, want := r.Refused(), (reply.Refused{Invalid: 2, Unauthorized: 1}); got != want {
		t.Errorf("heartbeats: %+v, want %+v", got, want)
	}
	streams := r.counters.StreamsRefused()
	for reason, n := range streams {
		want := uint64(0)
		switch reason {
		case "invalid", "unauthorized", "invalid_token":
			want = 1
		}
		if n != want {
			t.Errorf("streams: %d for %s, want %d", n, reason, want)
		}
	}
	if len(streams) != 16 {
		t.Errorf("%d reasons: %v", len(streams), streams)
	}
	r.presence.ready = errors.New("recovering")
	if got := r.get("/metrics").Body.String(); !strings.Contains(got, "rollcall_ready 0\n") {
		t.Errorf("ready while recovering\n%s", got)
	}
}

// TestTooManyConnectionsOverTLS: a client over the limit that makes no handshake keeps no other
// waiting and is closed.
func TestTooManyConnectionsOverTLS(t *testing.T) {
	o := testOptions()
	o.MaxConns, o.OpenStreams = 1, func() int { return 1 }
	o.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		t.Error("a handshake")
		return nil, errors.New("none")
	}}
	s, err := New(newFake(), o)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	for i := range 3 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(testwait.Limit))
		if n, err := c.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
			t.Errorf("connection %d: %d bytes, %v, want the end", i, n, err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	<-served
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
