// Package enginetest says by tests what an engine needs of a log and of a store.
package enginetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"rollcall/engine"
	"rollcall/internal/testwait"
)

// Medium is where a log and its store are.
type Medium interface {
	// Open opens both for another life. The one before was closed, or nothing more is done with it.
	Open(t testing.TB) (engine.Log, engine.Store)
	// Close ends the life in good order.
	Close(t testing.TB)
	// Hold keeps what is appended from being stored until release.
	Hold() (release func())
	// Break makes every attempt to store something fail, until the next Open.
	Break()
}

// Run runs every test, each on a medium of its own.
func Run(t *testing.T, fresh func(t *testing.T) Medium) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, m Medium)
	}{
		{"Lives", lives},
		{"Committed", committed},
		{"Concurrent", concurrent},
		{"Kick", kick},
		{"Credits", credits},
		{"InFlight", inFlight},
		{"Stalled", stalled},
		{"Failed", failed},
		{"ReplayStops", replayStops},
		{"Checkpoint", checkpoint},
		{"CheckpointNotEnded", checkpointNotEnded},
		{"CheckpointUnderLoad", checkpointUnderLoad},
		{"Engine", engineLives},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

// committer is the committed of Start.
type committer = func(
	first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration,
)

// open opens a life, reads it and starts log and store. It returns what was read.
func open(t testing.TB, m Medium, fn committer) (l engine.Log, s engine.Store, c *content) {
	t.Helper()
	l, s = m.Open(t)
	c = read(t, l, s)
	if fn == nil {
		fn = func(uint64, uint64, iter.Seq[[]byte], int64, time.Duration) {}
	}
	if err := errors.Join(s.Start(), l.Start(fn)); err != nil {
		t.Fatal(err)
	}
	return l, s, c
}

// content is what recovery finds: values of the store, and the records of the log behind it.
type content struct {
	lsn     uint64            // of the store
	next    uint64            // of the log
	values  map[string]uint64 // LSN by text
	records map[uint64]string
}

// read is the part of a recovery that log and store do.
func read(t testing.TB, l engine.Log, s engine.Store) *content {
	t.Helper()
	c := &content{values: map[string]uint64{}, records: map[uint64]string{}}
	value := func(lsn uint64, text string) {
		if text, is := bytes.CutPrefix([]byte(text), []byte("value ")); is {
			c.values[string(text)] = max(c.values[string(text)], lsn)
		} else {
			t.Errorf("%q at %d is no value", text, lsn)
		}
	}
	err := s.Load(nil, nil, func(_, v []byte) error {
		value(binary.LittleEndian.Uint64(v), string(v[8:]))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = l.Replay(s.LSN(), func(lsn uint64, record []byte) error {
		if s.InLog() && bytes.HasPrefix(record, []byte("value ")) {
			value(lsn, string(record))
			return nil
		}
		if c.next != 0 && lsn != c.next {
			t.Errorf("LSN %d behind %d", lsn, c.next-1)
		}
		c.next = lsn + 1
		c.records[lsn] = string(record)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	next, done, total := l.Replayed()
	if c.next != 0 && next != c.next || done > total {
		t.Errorf("replayed: next %d, want %d; %d of %d bytes", next, c.next, done, total)
	}
	c.lsn, c.next = s.LSN(), next
	return c
}

// add appends a record.
func add(t testing.TB, l engine.Log, record string) uint64 {
	t.Helper()
	if err := l.Reserve(len(record), time.Minute); err != nil {
		t.Fatal(err)
	}
	return l.Append([]byte(record), 0)
}

// commit appends a record and waits for it.
func commit(t testing.TB, l engine.Log, record string) uint64 {
	t.Helper()
	lsn := add(t, l, record)
	if err := l.Wait(lsn); err != nil {
		t.Fatal(err)
	}
	return lsn
}

// lives: each life finds what the ones before have committed, and goes on behind it.
func lives(t *testing.T, m Medium) {
	next := uint64(1)
	for life := range 4 {
		l, _, c := open(t, m, nil)
		if c.next != next || len(c.records) != int(next-1) {
			t.Errorf("life %d: next LSN %d of %d records, want %d", life, c.next, len(c.records), next)
		}
		for lsn, record := range c.records {
			if record != fmt.Sprint("record ", lsn) {
				t.Errorf("%d: %q", lsn, record)
			}
		}
		if l.Committed() != next-1 || l.Appended() != next-1 {
			t.Errorf("life %d: committed %d of %d", life, l.Committed(), l.Appended())
		}
		for range 10 * life { // none in the first
			if lsn := commit(t, l, fmt.Sprint("record ", next)); lsn != next {
				t.Fatalf("LSN %d, want %d", lsn, next)
			}
			next++
		}
		if l.Committed() != next-1 || l.Err() != nil || l.Stalled() || l.NoSpace() {
			t.Errorf("committed %d: %v", l.Committed(), l.Err())
		}
		if n, _ := l.Size(); n < 1 {
			t.Errorf("%d segments", n)
		}
		m.Close(t)
	}
}

// committed: the log hands each batch over, in order, and it may be iterated over again.
func committed(t *testing.T, m Medium) {
	var mu sync.Mutex
	var got []string
	next, stamps := uint64(1), map[int64]bool{}
	l, _, _ := open(t, m, func(
		first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration,
	) {
		mu.Lock()
		defer mu.Unlock()
		if first != next || took < 0 {
			t.Errorf("a batch from %d, want %d", first, next)
		}
		next, stamps[stamp] = last+1, true
		var once, twice []string
		for r := range records {
			once = append(once, string(r))
		}
		for r := range records {
			twice = append(twice, string(r))
		}
		if !slices.Equal(once, twice) || len(once) != int(last-first+1) {
			t.Errorf("%d to %d: %d, then %d records", first, last, len(once), len(twice))
		}
		got = append(got, once...)
	})
	var want []string
	for i := range 100 {
		text := fmt.Sprint("record ", i)
		want = append(want, text)
		if err := l.Reserve(len(text), time.Minute); err != nil {
			t.Fatal(err)
		}
		lsn := l.Append([]byte(text), int64(i%3))
		if i%10 == 0 {
			if err := l.Commit(lsn); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Sync(l.Appended()); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "all is handed over", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == len(want)
	})
	if !slices.Equal(got, want) || len(stamps) < 2 {
		t.Errorf("%q, stamps %v", got, stamps)
	}
	m.Close(t)
}

// concurrent: many goroutines at once; what was acknowledged is there, once, and in each
// goroutine's order.
func concurrent(t *testing.T, m Medium) {
	l, _, _ := open(t, m, nil)
	const writers, each = 8, 200
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				text := fmt.Sprint(w, " ", i)
				if i%7 == 0 {
					if err := l.Reserve(len(text)+1, time.Minute); err == nil {
						l.Release(len(text) + 1)
					}
				}
				if err := l.Reserve(len(text), time.Minute); err != nil {
					t.Error(err)
					return
				}
				lsn := l.Append([]byte(text), 0)
				waits := []func(uint64) error{l.Wait, l.Commit, l.Vouch, l.Sync}
				if i%5 == 0 {
					l.Kick()
				} else if err := waits[i%len(waits)](lsn); err != nil || l.Committed() < lsn {
					t.Errorf("%d committed, waited for %d: %v", l.Committed(), lsn, err)
				}
			}
		})
	}
	all.Wait()
	if err := l.Wait(l.Appended()); err != nil {
		t.Fatal(err)
	}
	m.Close(t)
	_, _, c := open(t, m, nil)
	m.Close(t)
	if len(c.records) != writers*each {
		t.Errorf("%d records", len(c.records))
	}
	var next [writers]int
	for lsn := uint64(1); lsn < c.next; lsn++ {
		var w, i int
		if _, err := fmt.Sscan(c.records[lsn], &w, &i); err != nil || i != next[w] {
			t.Fatalf("%d: %q, want %d: %v", lsn, c.records[lsn], next[w], err)
		}
		next[w]++
	}
}

// kick: what was appended is committed although no goroutine waits for it.
func kick(t *testing.T, m Medium) {
	l, _, _ := open(t, m, nil)
	for range 3 {
		lsn := add(t, l, "record")
		l.Kick()
		testwait.Until(t, "it is committed", func() bool { return l.Committed() == lsn })
	}
	m.Close(t)
}

// credits: there is an end to them, they come back, and what has one is never turned away.
func credits(t *testing.T, m Medium) {
	l, _, _ := open(t, m, nil)
	release := m.Hold()
	const size = 1000
	reserved := 0
	for reserved < 100_000 {
		if err := l.Reserve(size, 0); err != nil {
			break
		}
		reserved++
	}
	if reserved == 0 || reserved == 100_000 {
		t.Fatalf("%d credits", reserved)
	}
	if err := l.Reserve(size, time.Millisecond); err == nil {
		t.Error("a credit over the end")
	}
	l.Release(size)
	if err := l.Reserve(size, 0); err != nil {
		t.Errorf("a credit that came back: %v", err)
	}
	for range reserved {
		l.Append(make([]byte, size), 0)
	}
	release()
	if err := l.Reserve(size, time.Minute); err != nil { // nothing else asks for a commit
		t.Errorf("with all appended: %v", err)
	}
	l.Release(size)
	if err := l.Wait(uint64(reserved)); err != nil || l.Appended() != uint64(reserved) {
		t.Errorf("%d of %d appended: %v", l.Appended(), reserved, err)
	}
	if err := l.Reserve(1<<30, time.Minute); err == nil {
		t.Error("a credit for a GiB")
	}
	m.Close(t)
}

// inFlight: nothing is acknowledged before it is stored.
func inFlight(t *testing.T, m Medium) {
	l, _, _ := open(t, m, nil)
	commit(t, l, "before")
	release := m.Hold()
	done := make(chan error, 4)
	lsn := add(t, l, "held")
	for _, wait := range []func(uint64) error{l.Wait, l.Commit, l.Vouch, l.Sync} {
		go func() { done <- wait(lsn) }()
	}
	testwait.Until(t, "the append is in flight", func() bool { return l.Committing() > 0 })
	if err := l.Wait(lsn - 1); err != nil || l.Committed() != lsn-1 || len(done) > 0 {
		t.Errorf("committed %d, %d waits over: %v", l.Committed(), len(done), err)
	}
	release()
	for range 4 {
		if err := testwait.For(t, "it is stored", done); err != nil {
			t.Error(err)
		}
	}
	testwait.Until(t, "nothing is in flight", func() bool { return l.Committing() == 0 })
	m.Close(t)
}

// stalled: no wait takes as long as a disk, or a network, may. The log goes on by itself, or it
// fails.
func stalled(t *testing.T, m Medium) {
	if testing.Short() {
		t.Skip("waits for seconds")
	}
	l, _, _ := open(t, m, nil)
	release := m.Hold()
	lsn := add(t, l, "held")
	done := make(chan error, 2)
	go func() { done <- l.Wait(lsn) }()
	go func() { done <- l.Sync(lsn) }()
	for range 2 {
		if err := testwait.For(t, "the wait ends", done); err == nil {
			t.Error("acknowledged and not stored")
		}
	}
	if err := l.Reserve(1, time.Minute); err == nil {
		t.Error("a credit while the log is stalled")
	}
	release()
	testwait.Until(t, "the log goes on, or fails", func() bool {
		return l.Err() != nil || !l.Stalled() && l.Wait(lsn) == nil
	})
	if l.Err() == nil {
		commit(t, l, "after")
		m.Close(t)
	}
}

// failed: after a failure nothing is acknowledged any more but what was before, and what was is
// there in the next life.
func failed(t *testing.T, m Medium) {
	l, _, _ := open(t, m, nil)
	commit(t, l, "before")
	if err := l.Reserve(4, time.Minute); err != nil {
		t.Fatal(err)
	}
	m.Break()
	lsn := add(t, l, "lost")
	if err := l.Wait(lsn); err == nil {
		t.Error("acknowledged")
	}
	testwait.For(t, "the log fails", l.Failed())
	if l.Err() == nil || l.Committed() >= lsn {
		t.Errorf("committed %d: %v", l.Committed(), l.Err())
	}
	late := l.Append([]byte("late"), 0) // its credit is from before
	l.Kick()
	for _, wait := range []func(uint64) error{l.Wait, l.Commit, l.Vouch, l.Sync} {
		if err := wait(late); err == nil {
			t.Error("acknowledged after the failure")
		}
	}
	if err := l.Reserve(1, time.Minute); err == nil {
		t.Error("a credit after the failure")
	}
	l.Release(1) // of any goroutine that was on its way
	_, _, c := open(t, m, nil)
	if c.records[1] != "before" || c.records[late] == "late" {
		t.Errorf("%v", c.records)
	}
	m.Close(t)
}

// replayStops: at the first error of the reader, which it returns.
func replayStops(t *testing.T, m Medium) {
	l, _, _ := open(t, m, nil)
	for range 5 {
		commit(t, l, "record")
	}
	m.Close(t)
	l, _ = m.Open(t)
	stop, read := errors.New("stop"), 0
	err := l.Replay(2, func(lsn uint64, _ []byte) error {
		if read++; lsn == 4 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || read != 2 {
		t.Errorf("%d records, %v", read, err)
	}
}
