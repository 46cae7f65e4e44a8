package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
)

// ErrStoreFailed: the checkpoint's store could not write its own bookkeeping. What is on disk can only be found out by opening it
// again, so the process should stop and start; nothing acknowledged is lost, since the log has it.
var ErrStoreFailed = errors.New("wal: the checkpoint's store failed; check the disk and start again, nothing acknowledged is lost")

// storeFailure is how Pebble says that it cannot go on: it calls Fatalf and expects never to return, on whatever goroutine it is,
// with its locks held, or it panics, on the one that called it. That goroutine ends, the store is not used again, and whoever
// waits for it gets the error.
type storeFailure struct {
	logger *slog.Logger
	once   sync.Once
	err    error         // set before failed is closed
	failed chan struct{} // closed at the first Fatalf
}

func newStoreFailure(logger *slog.Logger) *storeFailure {
	return &storeFailure{logger: logger, failed: make(chan struct{})}
}

// do calls fn, which uses the store, and returns early when the store fails.
func (s *storeFailure) do(fn func() error) error {
	if err := s.failure(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				s.fail(p)
			}
		}()
		done <- fn()
	}()
	select {
	case err := <-done:
		return err
	case <-s.failed:
		return s.err
	}
}

func (s *storeFailure) failure() error {
	select {
	case <-s.failed:
		return s.err
	default:
		return nil
	}
}

// Infof, Errorf and Fatalf are Pebble's words, for the server's log.
func (s *storeFailure) Infof(format string, args ...any) {
	s.logger.Debug(fmt.Sprintf(format, args...), "from", "pebble")
}

func (s *storeFailure) Errorf(format string, args ...any) {
	s.logger.Error(fmt.Sprintf(format, args...), "from", "pebble")
}

func (s *storeFailure) Fatalf(format string, args ...any) {
	s.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (s *storeFailure) fail(why any) {
	s.once.Do(func() {
		s.err = fmt.Errorf("%w: %v", ErrStoreFailed, why)
		close(s.failed)
	})
}
