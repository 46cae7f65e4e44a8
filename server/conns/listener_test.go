package conns

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a listener whose Accept returns the given errors, and then a connection.
type failing struct {
	net.Listener
	errs   []error
	closed chan struct{}
}

func (l *failing) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		c, _ := net.Pipe()
		return c, nil
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

func (l *failing) Close() error {
	close(l.closed)
	return nil
}

func opError(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
}

// P6: a shortage costs time, and no connection.
func TestAcceptOutlivesShortages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		inner := &failing{closed: make(chan struct{})}
		for _, err := range passing {
			inner.errs = append(inner.errs, opError(err), fmt.Errorf("wrapped: %w", err))
		}
		tries := len(inner.errs)
		ln := retry(inner, slog.New(slog.NewTextHandler(&log, nil)))
		began := time.Now()
		c, err := ln.Accept()
		if err != nil || c == nil {
			t.Fatalf("Accept: %v", err)
		}
		// 5 ms, doubled each time up to 1 s: 5+10+...+640, and then 1 s twice
		if took, want := time.Since(began), 1275*time.Millisecond+2*time.Second; took != want {
			t.Errorf("%d failures cost %v, want %v", tries, took, want)
		}
		if n := strings.Count(log.String(), "cannot accept"); n < 1 || n > 4 {
			t.Errorf("%d lines for %v of failing, want at most one a second:\n%s", n,
				time.Since(began), &log)
		}
		if n := ln.retries.Load(); n != uint64(tries) {
			t.Errorf("%d retries counted, want %d", n, tries)
		}
	})
}

func TestAcceptPauseEndsWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &failing{closed: make(chan struct{})}
		for range 100 {
			inner.errs = append(inner.errs, opError(syscall.EMFILE))
		}
		ln := retry(inner, slog.New(slog.DiscardHandler))
		go func() {
			time.Sleep(3 * time.Second)
			_ = ln.Close()
			_ = ln.Close() // the second is none
		}()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	})
}

func TestAcceptReportsOtherErrors(t *testing.T) {
	for _, err := range []error{net.ErrClosed, opError(syscall.EINVAL),
		errors.New("accept: too many open files")} {
		ln := retry(&failing{errs: []error{err}}, slog.New(slog.DiscardHandler))
		if _, got := ln.Accept(); !errors.Is(got, err) {
			t.Errorf("Accept: %v, want %v", got, err)
		}
	}
}
