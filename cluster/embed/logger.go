package embed

import (
	"fmt"
	"log/slog"
)

// logger has the server's words in the node's log. What NATS calls a notice is of interest only
// when something is looked into; an error there is a connection that was lost, or the like.
type logger struct{ to *slog.Logger }

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, v ...any) { l.to.Debug("nats: " + fmt.Sprintf(format, v...)) }

// Warnf implements server.Logger.
func (l *logger) Warnf(format string, v ...any) { l.to.Info("nats: " + fmt.Sprintf(format, v...)) }

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, v ...any) { l.to.Warn("nats: " + fmt.Sprintf(format, v...)) }

// Fatalf implements server.Logger.
func (l *logger) Fatalf(format string, v ...any) { l.to.Error("nats: " + fmt.Sprintf(format, v...)) }

// Debugf implements server.Logger.
func (l *logger) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *logger) Tracef(string, ...any) {}
