package server

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"rollcall/internal/testwait"
	"rollcall/wire"
)

// lockedLog is a log that a test reads while it is written.
type lockedLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestRefusedTokensAreLogged: counted, with what is known of the last one, and never the token.
func TestRefusedTokensAreLogged(t *testing.T) {
	var log lockedLog
	r := start(t, func(o *Options, _ *fakePresence) {
		o.Logger = slog.New(slog.NewTextHandler(io.Writer(&log), nil))
	})
	for range 20 {
		r.send(t, heartbeatText(validBody, "Authorization: Bearer wrong-secret"))
	}
	foreign := sign(t, "a key of another server", payload(""))
	r.send(t, streamText("?user_id="+testUser, foreign))
	testwait.Until(t, "the last one is logged",
		func() bool { return strings.Contains(log.String(), "Invalid token") })
	text := log.String()
	for _, want := range []string{"address=", "route=" + wire.StreamPath, "count=",
		"token_id="} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "wrong-secret") || strings.Contains(text, foreign) {
		t.Errorf("a token is in the log:\n%s", text)
	}
	if n := strings.Count(text, "tokens are refused"); n > 15 {
		t.Errorf("%d lines for 21 tokens", n)
	}
}
