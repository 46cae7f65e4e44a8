package embed

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
)

// logger has the server's words in the node's log. What NATS calls a notice is of interest only
// when something is looked into; an error there is a connection that was lost, or the like.
type logger struct{ to *slog.Logger }

func (l *logger) log(level slog.Level, format string, v []any) {
	if !l.to.Enabled(context.Background(), level) {
		return
	}
	text := fmt.Sprintf(format, v...)
	for _, known := range []string{
		noAddress,             // that nothing is there is meant
		"Plaintext passwords", // of this process alone, made for its life
	} {
		if strings.Contains(text, known) {
			return
		}
	}
	l.to.Log(context.Background(), level, "nats: "+text)
}

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }

// Warnf implements server.Logger.
func (l *logger) Warnf(format string, v ...any) { l.log(slog.LevelInfo, format, v) }

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, v ...any) { l.log(slog.LevelWarn, format, v) }

// Fatalf implements server.Logger.
func (l *logger) Fatalf(format string, v ...any) { l.log(slog.LevelError, format, v) }

// Debugf implements server.Logger.
func (l *logger) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *logger) Tracef(string, ...any) {}
