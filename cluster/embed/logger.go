package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrKey says that one of two servers does not accept the key that the other one shows.
var ErrKey = errors.New("cluster: the key is none of those that are accepted")

// ErrTLS says that two servers did not agree on TLS: one speaks it and the other does not, or one
// does not accept the certificate of the other.
var ErrTLS = errors.New("cluster: no TLS connection between two nodes")

// refusals are what the server says of a connection that it refuses, or that is refused.
var refusals = []struct {
	text string
	err  error
}{
	{"authentication error", ErrKey},
	{"TLS route handshake error: ", ErrTLS},
}

const (
	// refusedEvery is how often a refusal of the same certificate, or of a key, from the same host
	// is logged, and that nothing is at an address: a node tries again each second.
	refusedEvery = 30 * time.Second
	// maxRefused bounds how many are logged in that time: a process that means harm tries as often
	// as it can.
	maxRefused = 64
)

// logger has the server's words in the node's log. What NATS calls a notice is of interest only
// when something is looked into; an error there is a connection that was lost, or the like.
type logger struct {
	to    *slog.Logger
	fatal atomic.Pointer[string] // why the server cannot go on

	mu      sync.Mutex
	refused map[string]time.Time // when one was last logged. guarded by mu
}

func (l *logger) log(level slog.Level, format string, v []any) {
	if !l.to.Enabled(context.Background(), level) {
		return
	}
	text := fmt.Sprintf(format, v...)
	for _, known := range []string{
		noAddress,                 // that nothing is there is meant
		"Plaintext passwords",     // of this process alone, made for its life
		"Authorization Violation", // package cluster says it, and once
	} {
		if strings.Contains(text, known) {
			return
		}
	}
	if l.refusal(text) || l.gone(text) {
		return
	}
	l.to.Log(context.Background(), level, "nats: "+text)
}

// refusal logs a refused connection; false: the text is of something else.
func (l *logger) refusal(text string) bool {
	from, what, _ := strings.Cut(text, " - ")
	for _, r := range refusals {
		_, detail, found := strings.Cut(what, r.text)
		if !found {
			continue
		}
		if l.due(from, detail) {
			err := r.err
			if errors.Is(err, ErrTLS) {
				err = fmt.Errorf("%w: %s", err, detail)
			}
			l.to.Warn("no connection with another node", "address", from, "error", err)
		}
		return true
	}
	return false
}

// gone reports whether a text says once more that a node is not there.
func (l *logger) gone(text string) bool {
	_, attempt, found := strings.Cut(text, "trying to connect to route (attempt ")
	_, address, _ := strings.Cut(attempt, "): ")
	return found && !l.due(address, "")
}

// due reports whether a refusal is to be logged.
func (l *logger) due(from, detail string) bool {
	host, _, err := net.SplitHostPort(from)
	if err != nil {
		host = from
	}
	// Before the certificate stands what is wrong with it, and sometimes the time of day.
	key := host + " " + detail[max(0, strings.LastIndex(detail, "SHA-256: ")):]
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.refused, func(_ string, last time.Time) bool {
		return now.Sub(last) >= refusedEvery
	})
	if _, known := l.refused[key]; known || len(l.refused) >= maxRefused {
		return false
	}
	l.refused[key] = now
	return true
}

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }

// Warnf implements server.Logger.
func (l *logger) Warnf(format string, v ...any) { l.log(slog.LevelInfo, format, v) }

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, v ...any) { l.log(slog.LevelWarn, format, v) }

// Fatalf implements server.Logger.
func (l *logger) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.CompareAndSwap(nil, &text)
	l.log(slog.LevelError, format, v)
}

// Debugf implements server.Logger.
func (l *logger) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *logger) Tracef(string, ...any) {}
