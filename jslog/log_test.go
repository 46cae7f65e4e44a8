package jslog_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/engine"
	"rollcall/jslog"
	"rollcall/jslog/jslogtest"
)

var (
	_ engine.Log   = (*jslog.Log)(nil)
	_ engine.Store = (*jslog.Store)(nil)
)

func options() jslog.Options {
	return jslog.Options{
		Node: "n1", Secret: make([]byte, 32), Logger: slog.New(slog.DiscardHandler),
	}
}

// claim claims a stream and reads it.
func claim(t *testing.T, s jslog.Stream) (l *jslog.Log, records []string) {
	t.Helper()
	l, err := jslog.Claim(t.Context(), s, options())
	if err != nil {
		t.Fatal(err)
	}
	err = l.Replay(0, func(_ uint64, record []byte) error {
		records = append(records, string(record))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return l, records
}

// start claims a stream, reads it and starts the log.
func start(t *testing.T, s jslog.Stream) *jslog.Log {
	t.Helper()
	l, _ := claim(t, s)
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// add appends a record without waiting for it.
func add(t *testing.T, l *jslog.Log, record string) uint64 {
	t.Helper()
	if err := l.Reserve(len(record), time.Minute); err != nil {
		t.Fatal(err)
	}
	return l.Append([]byte(record), 0)
}

// commit appends a record and waits for it.
func commit(t *testing.T, l *jslog.Log, record string) {
	t.Helper()
	if err := l.Wait(add(t, l, record)); err != nil {
		t.Fatal(err)
	}
}

// TestOwners: each owner goes on where the one before has ended (C4), and the one before appends
// nothing any more (C1).
func TestOwners(t *testing.T) {
	s := jslogtest.New()
	first := start(t, s.As("a"))
	commit(t, first, "one")
	second := start(t, s.As("b"))
	if second.Epoch() <= first.Epoch() {
		t.Errorf("epoch %d behind %d", second.Epoch(), first.Epoch())
	}
	if err := first.Wait(add(t, first, "lost")); !errors.Is(err, jslog.ErrLost) {
		t.Errorf("the first owner's append: %v", err)
	}
	<-first.Failed()
	if err := first.Reserve(1, time.Minute); !errors.Is(err, jslog.ErrLost) {
		t.Errorf("the first owner reserves: %v", err)
	}
	if err := first.Vouch(1); !errors.Is(err, jslog.ErrLost) {
		t.Errorf("the first owner vouches: %v", err)
	}
	if lsn := add(t, second, "two"); lsn != 2 {
		t.Errorf("LSN %d", lsn)
	}
	if err := second.Wait(2); err != nil {
		t.Error(err)
	}
	_, records := claim(t, s.As("c"))
	if want := []string{"one", "two"}; !slices.Equal(records, want) {
		t.Errorf("%q, want %q", records, want)
	}
}

// TestDoubt: an append that was not acknowledged as the next message ends the claim, whether it is
// in the stream or not, and nothing is tried on it again (C3).
func TestDoubt(t *testing.T) {
	lost := errors.New("lost")
	for name, after := range map[string]func(seq uint64, err error) (uint64, error){
		"acknowledgement lost": func(uint64, error) (uint64, error) { return 0, lost },
		"another sequence":     func(seq uint64, _ error) (uint64, error) { return seq + 1, nil },
		"an older sequence":    func(seq uint64, _ error) (uint64, error) { return seq - 1, nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := jslogtest.New()
			calls := 0
			s.After = func(
				_ context.Context, c *jslogtest.Call, seq uint64, err error,
			) (uint64, error) {
				if c.Kind == jslogtest.Publish && c.By == "a" {
					if calls++; calls > 2 {
						return after(seq, err)
					}
				}
				return seq, err
			}
			l := start(t, s.As("a"))
			commit(t, l, "one")
			if err := l.Wait(add(t, l, "two")); !errors.Is(err, jslog.ErrLost) {
				t.Errorf("waited: %v", err)
			}
			<-l.Failed()
			if err := l.Wait(1); err != nil {
				t.Errorf("the record before: %v", err)
			}
			l.Kick()
			if err := l.Vouch(1); !errors.Is(err, jslog.ErrLost) || calls != 3 {
				t.Errorf("%d appends; vouched: %v", calls, err)
			}
			s.After = nil
			if _, records := claim(t, s.As("b")); len(records) != 2 {
				t.Errorf("%q", records)
			}
		})
	}
}

// TestLateAppend: an append that its owner gave up does not come in behind a newer claim, and it
// counts before one (C1, C3).
func TestLateAppend(t *testing.T) {
	for _, before := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := jslogtest.New()
			var late *jslogtest.Call
			s.Before = func(ctx context.Context, c *jslogtest.Call) error {
				if c.Kind == jslogtest.Publish && c.By == "a" && c.Seq == 2 {
					late = c
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			}
			l := start(t, s.As("a"))
			commit(t, l, "one")
			if err := l.Wait(add(t, l, "late")); !errors.Is(err, jslog.ErrStalled) {
				t.Errorf("waited: %v", err)
			}
			<-l.Failed()
			if before {
				if _, err := s.Apply(late); err != nil {
					t.Error(err)
				}
			}
			next, records := claim(t, s.As("b"))
			next.Close()
			if !before {
				var wrong *jslog.WrongLastError
				if _, err := s.Apply(late); !errors.As(err, &wrong) {
					t.Errorf("a late append is taken: %v", err)
				}
			}
			if before != (len(records) == 2) {
				t.Errorf("before the claim: %v, %q", before, records)
			}
			l.Close()
		})
	}
}

// TestStall: waiters and reservers are refused while an append takes long, and it goes on by itself
// when it ends in time (C2).
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := jslogtest.New()
		s.Before = func(_ context.Context, c *jslogtest.Call) error {
			if c.Kind == jslogtest.Publish && c.Seq == 1 {
				time.Sleep(2500 * time.Millisecond)
			}
			return nil
		}
		l := start(t, s.As("a"))
		began := time.Now()
		lsn := add(t, l, "one")
		for _, wait := range []func(uint64) error{l.Wait, l.Commit, l.Sync, l.Vouch} {
			if err := wait(lsn); !errors.Is(err, jslog.ErrStalled) {
				t.Errorf("waited: %v", err)
			}
		}
		if err := l.Reserve(1, time.Minute); !errors.Is(err, jslog.ErrStalled) || !l.Stalled() {
			t.Errorf("reserved: %v", err)
		}
		if took := time.Since(began); took != 2*time.Second ||
			l.Committing().Round(time.Microsecond) != took {
			t.Errorf("refused after %v, in flight %v", took, l.Committing())
		}
		time.Sleep(time.Second)
		if l.Stalled() || l.Committed() != lsn || l.Err() != nil || l.Committing() != 0 {
			t.Errorf("stalled %v, committed %d, %v", l.Stalled(), l.Committed(), l.Err())
		}
		commit(t, l, "two")
	})
}

// TestVouch: an append that began before the call does not vouch, and many callers share one that
// began after it.
func TestVouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := jslogtest.New()
		s.Before = func(context.Context, *jslogtest.Call) error {
			time.Sleep(time.Millisecond)
			return nil
		}
		l := start(t, s.As("a"))
		commit(t, l, "one")
		_, before := s.Messages()
		lsn := add(t, l, "two")
		l.Kick()
		synctest.Wait() // in flight
		began := time.Now()
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() {
				if err := l.Vouch(lsn); err != nil || time.Since(began) != 2*time.Millisecond {
					t.Errorf("vouched after %v: %v", time.Since(began), err)
				}
			})
		}
		callers.Wait()
		if _, after := s.Messages(); len(after) != len(before)+2 {
			t.Errorf("%d messages more", len(after)-len(before))
		}
		if l.SinceAck().Round(time.Microsecond) != time.Millisecond {
			t.Errorf("acknowledged %v ago", l.SinceAck())
		}
	})
}

// TestFull: credit comes back with the message that takes it, and no sooner.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := jslogtest.New()
		s.Before = func(context.Context, *jslogtest.Call) error {
			time.Sleep(time.Second)
			return nil
		}
		o := options()
		o.BufferBytes = 4096
		l, err := jslog.Claim(t.Context(), s.As("a"), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Replay(0, nil), l.Start(nil)); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		record := string(make([]byte, 2046))
		add(t, l, record)
		add(t, l, record)
		if err := l.Reserve(2046, 0); !errors.Is(err, jslog.ErrFull) {
			t.Errorf("a third record: %v", err)
		}
		lsn := add(t, l, record) // the first two are in flight
		if err := l.Reserve(2100, time.Millisecond); !errors.Is(err, jslog.ErrFull) {
			t.Errorf("a fourth record: %v", err)
		}
		if err := l.Reserve(4095, time.Minute); !errors.Is(err, jslog.ErrTooLarge) {
			t.Errorf("a large record: %v", err)
		}
		if err := l.Wait(lsn); err != nil {
			t.Error(err)
		}
	})
}

// TestCommitted: the log hands each batch to its owner once, in order, and may look at it twice.
func TestCommitted(t *testing.T) {
	s := jslogtest.New()
	l, _ := claim(t, s.As("a"))
	var told []string
	err := l.Start(func(
		first, last uint64, records iter.Seq[[]byte], stamp int64, _ time.Duration,
	) {
		for range 2 {
			lsn := first
			for r := range records {
				told = append(told, fmt.Sprint(lsn, string(r), stamp))
				lsn++
			}
			if lsn != last+1 {
				t.Errorf("%d to %d", first, last)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	commit(t, l, "one")
	commit(t, l, "two")
	l.Close()
	if want := []string{"1one0", "1one0", "2two0", "2two0"}; !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
	if err := l.Wait(3); !errors.Is(err, jslog.ErrClosed) || l.Err() != nil {
		t.Errorf("waited: %v, %v", err, l.Err())
	}
}
