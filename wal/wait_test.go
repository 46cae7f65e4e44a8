package wal

import (
	"testing"
	"time"

	"rollcall/internal/testwait"
)

// TestWaitDuringReplay: a waiter for a record that is being replayed is answered once the log has
// started.
func TestWaitDuringReplay(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Reserve(5, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := l.Wait(l.Append([]byte("hello"), 0)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	waiting, done := make(chan struct{}), make(chan error, 1)
	err = l.Replay(0, func(lsn uint64, _ []byte) error {
		go func() {
			close(waiting)
			done <- l.Wait(lsn)
		}()
		<-waiting
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	if err := testwait.For(t, "Wait returns, since the record is durable", done); err != nil {
		t.Error(err)
	}
}
