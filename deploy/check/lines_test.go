package check

import (
	"bytes"
	"regexp"
	"sync"
	"testing"
	"time"
)

// lines collects what a process prints while the test looks for something in it.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// waitFor returns the first group of the pattern once it was printed.
func (l *lines) waitFor(t *testing.T, pattern *regexp.Regexp, exited <-chan error) string {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		if m := pattern.FindStringSubmatch(l.text()); m != nil {
			return m[1]
		}
		select {
		case err := <-exited:
			t.Fatalf("exited: %v\n%s", err, l.text())
		case <-late:
			t.Fatalf("nothing like %v was printed\n%s", pattern, l.text())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
