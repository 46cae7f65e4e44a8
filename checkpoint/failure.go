package checkpoint

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync"
)

// failure is how Pebble says that it cannot go on. It calls Fatalf and expects it never to return,
// on any goroutine, with its locks held; or it panics on the goroutine that called it. That
// goroutine ends, the store is not used again, and every caller that waits for it gets the error.
// It is also Pebble's logger.
type failure struct {
	logger *slog.Logger
	once   sync.Once
	err    error         // set before failed is closed
	failed chan struct{} // closed at the first Fatalf
}

func newFailure(logger *slog.Logger) *failure {
	return &failure{logger: logger, failed: make(chan struct{})}
}

// do calls fn, which uses the store, and returns early when the store fails.
func (f *failure) do(fn func() error) error {
	if err := f.get(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				f.set(p)
			}
		}()
		done <- fn()
	}()
	select {
	case err := <-done:
		return err
	case <-f.failed:
		return f.err
	}
}

func (f *failure) get() error {
	select {
	case <-f.failed:
		return f.err
	default:
		return nil
	}
}

func (f *failure) set(why any) {
	f.once.Do(func() {
		f.err = fmt.Errorf("%w: %v", ErrFailed, why)
		close(f.failed)
	})
}

// Infof implements pebble.Logger.
func (f *failure) Infof(format string, args ...any) {
	f.logger.Debug(fmt.Sprintf(format, args...), "from", "pebble")
}

// Errorf implements pebble.Logger.
func (f *failure) Errorf(format string, args ...any) {
	f.logger.Error(fmt.Sprintf(format, args...), "from", "pebble")
}

// Fatalf implements pebble.Logger.
func (f *failure) Fatalf(format string, args ...any) {
	f.set(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
