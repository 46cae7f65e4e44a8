// Package testlog collects in tests what is logged and printed while they run.
package testlog

import (
	"bytes"
	"log/slog"
	"sync"
)

// Output collects text. The zero value is empty. Its methods may be called from any goroutine.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String is everything that was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Logger returns a logger that writes lines of text to it.
func (o *Output) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(o, nil)) }
