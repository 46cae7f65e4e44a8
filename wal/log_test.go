package wal

import (
	"errors"
	"iter"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"rollcall/internal/faultfs"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExtend(t *testing.T) {
	for _, lsn := range []uint64{0, 1, 1<<33 - 1, 1 << 33, 1<<33 + 1, 1 << 50, 1<<60 + 12345} {
		for _, ahead := range []uint64{0, 1, 1 << 29, 1<<32 - 1} {
			if got := extend(lsn, (lsn+ahead)<<countShift|parityFlip|77); got != lsn+ahead {
				t.Errorf("extend(%d, +%d) = %d", lsn, ahead, got)
			}
			if got := extend(lsn+ahead, lsn<<countShift); got != lsn {
				t.Errorf("extend(%d, -%d) = %d", lsn+ahead, ahead, got)
			}
		}
	}
}

func TestReplayAfterRestart(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		t.Run(mode.String(), func(t *testing.T) {
			o := small(vfs.NewMem())
			o.Sync = mode
			var want []string
			for round := range 3 {
				l := open(t, o)
				var got []string
				if err := l.Replay(0, func(_ uint64, r []byte) error {
					got = append(got, string(r))
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("round %d: %d records, want %d", round, len(got), len(want))
				}
				if err := l.Start(nil); err != nil {
					t.Fatal(err)
				}
				for i := range 1000 {
					record := string(tagged(round, i, i%50))
					want = append(want, record)
					if lsn := add(t, l, record); lsn != uint64(len(want)) || l.Appended() != lsn {
						t.Fatalf("lsn %d, appended %d, want %d", lsn, l.Appended(), len(want))
					}
				}
				closeLog(t, l)
				if n := uint64(len(want)); l.Durable() != n || l.Committed() != n {
					t.Fatalf("durable %d, committed %d after Close, want %d", l.Durable(), l.Committed(), n)
				}
			}
			for _, after := range []uint64{1, 999, 1000, 1500, 2999, 3000} {
				got, err := readWith(o, after)
				if err != nil || !slices.Equal(got, want[after:]) {
					t.Errorf("after %d: %d records, %v", after, len(got), err)
				}
			}
		})
	}
}

// stampOf is the stamp with which the record of a tag is appended.
func stampOf(tag [2]uint32) int64 { return 1 + int64(tag[0])<<32 + int64(tag[1]) }

// LSN order is byte order (W1), callbacks come in LSN order and without a gap, and no waiter is
// woken early or left asleep.
func TestConcurrentAppends(t *testing.T) {
	const writers, each = 64, 300
	o := small(vfs.NewMem())
	l := open(t, o)
	var next uint64 = 1
	var order [][2]uint32 // by LSN, as the callback saw them
	err := l.Start(func(first, last uint64, records iter.Seq[[]byte], stamp int64,
		took time.Duration) {
		if first != next || took <= 0 {
			t.Errorf("batch begins with %d, want %d; took %v", first, next, took)
		}
		stamped := false
		for r := range records {
			tag := tagOf(r)
			order = append(order, tag)
			stamped = stamped || stampOf(tag) == stamp
			next++
		}
		if !stamped {
			t.Errorf("the batch from %d on has stamp %d, which came with none of its records", first, stamp)
		}
		if last != next-1 {
			t.Errorf("batch ends with %d, want %d", last, next-1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	lsns := make([][]uint64, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				record := tagged(w, n, (w*n)%200)
				if err := l.Reserve(len(record), time.Minute); err != nil {
					t.Error(err)
					return
				}
				if n%7 == 3 { // as for a record that turns out needless
					l.Release(len(record))
					if err := l.Reserve(len(record), time.Minute); err != nil {
						t.Error(err)
						return
					}
				}
				lsn := l.Append(record, stampOf(tagOf(record)))
				lsns[w] = append(lsns[w], lsn)
				if w%4 == 0 { // three in four run ahead
					continue
				}
				if err := acknowledge(l, lsn); err != nil || l.Durable() < lsn {
					t.Errorf("Wait(%d) = %v with durable %d", lsn, err, l.Durable())
				}
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	if len(order) != writers*each {
		t.Fatalf("%d records, want %d", len(order), writers*each)
	}
	for w := range writers {
		for n, lsn := range lsns[w] {
			if order[lsn-1] != [2]uint32{uint32(w), uint32(n)} {
				t.Fatalf("record %d of writer %d got LSN %d, where the log has %v", n, w, lsn, order[lsn-1])
			}
		}
	}
	records, err := read(o.FS, 0)
	if err != nil || len(records) != len(order) {
		t.Fatalf("%d records on disk, %v", len(records), err)
	}
	for i, r := range records {
		if tagOf([]byte(r)) != order[i] {
			t.Fatalf("record %d on disk is not the one committed", i+1)
		}
	}
}

// Waiters of the batch in flight, of the filling one and of an older one: none returns before its
// sync (W3).
func TestWait(t *testing.T) {
	gate := &faultfs.Gate{Holds: segmentSyncs}
	l := start(t, small(gate.Wrap(vfs.NewMem())))
	older := commit(t, l, "older")
	gate.Shut()
	inFlight := add(t, l, "in flight")
	awaitHeld(t, gate)
	filling := add(t, l, "filling")

	results := make(chan uint64, 20)
	for range 10 {
		for _, lsn := range []uint64{inFlight, filling} {
			go func() {
				if err := l.Wait(lsn); err != nil {
					t.Error(err)
				}
				if l.Durable() < lsn {
					t.Errorf("waiter of %d woken at %d", lsn, l.Durable())
				}
				results <- lsn
			}()
		}
	}
	if err := l.Wait(older); err != nil {
		t.Error(err)
	}
	if l.Durable() != older || l.Appended() != filling {
		t.Errorf("durable %d, appended %d", l.Durable(), l.Appended())
	}
	if len(results) != 0 {
		t.Error("a waiter was woken before the sync")
	}
	gate.Open()
	for range cap(results) {
		<-results
	}
	closeLog(t, l)
}

// A waiter that comes when its batch is already in flight must not wait for the next one: there may
// be none.
func TestWaitForTheLastBatch(t *testing.T) {
	gate := &faultfs.Gate{Holds: segmentSyncs}
	l := start(t, small(gate.Wrap(vfs.NewMem())))
	for range 50 {
		gate.Shut()
		lsn := add(t, l, "x")
		awaitHeld(t, gate)
		done := make(chan error)
		go func() { done <- l.Wait(lsn) }()
		runtime.Gosched()
		gate.Open()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	closeLog(t, l)
}

// An appender that is preempted in its copy holds its batch back, and only that.
func TestCommitWaitsForCopies(t *testing.T) {
	fs := vfs.NewMem()
	l := start(t, small(fs))
	if err := l.Reserve(4, 0); err != nil {
		t.Fatal(err)
	}
	const size = recordOverhead + 4
	l.buffers.state.Add(oneRecord + size) // the first half of Append("slow")
	lsn := add(t, l, "fast")
	testwait.Until(t, "the batch is sealed", func() bool { return l.buffers.state.Load()&bytesMask == 0 })
	next := add(t, l, "next")
	for range 1000 {
		runtime.Gosched()
	}
	if l.Committed() != 0 || l.Appended() != next {
		t.Errorf("committed %d without the first record's copy", l.Committed())
	}
	putRecord(l.buffers.batches[0].payload, []byte("slow")) // the second half
	l.buffers.batches[0].finished.Add(1)
	if err := l.Wait(max(lsn, next)); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	if got, err := read(fs, 0); err != nil || !slices.Equal(got, []string{"slow", "fast", "next"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// Every byte is free, reserved or filling, whatever Reserve, Append and Release do (W2), and what
// has a credit is never turned away.
func TestCreditsAccountForEveryByte(t *testing.T) {
	rng := testseed.Rand(t)
	gate := &faultfs.Gate{Holds: segmentSyncs}
	l := start(t, small(gate.Wrap(vfs.NewMem())))
	gate.Shut() // so that nothing but the test moves bytes
	add(t, l, "in flight")
	awaitHeld(t, gate)
	var reserved []int // the sizes of credits that are out
	refused := 0
	for range 2000 {
		switch n := rng.IntN(200); {
		case len(reserved) < 20 && rng.IntN(3) > 0:
			switch err := l.Reserve(n, 0); err {
			case nil:
				reserved = append(reserved, n)
			case ErrFull:
				refused++
			default:
				t.Fatal(err)
			}
		case len(reserved) > 0:
			n = reserved[0]
			reserved = reserved[1:]
			if rng.IntN(8) == 0 {
				l.Append(make([]byte, n), 0)
			} else {
				l.Release(n)
			}
		}
		out := 0
		for _, n := range reserved {
			out += recordOverhead + n
		}
		sum := int(l.credits.free()) + out + l.buffers.filling()
		if sum != minBufferBytes || l.credits.allHome() != (out+l.buffers.filling() == 0) {
			t.Fatalf("%d bytes are accounted for, %d of them reserved", sum, out)
		}
	}
	for _, n := range reserved {
		l.Release(n)
	}
	if refused == 0 {
		t.Error("the buffer was never full")
	}
	gate.Open()
	closeLog(t, l)
	if !l.credits.allHome() {
		t.Errorf("after Close %d bytes are free", l.credits.free())
	}
}

// Close waits until every credit is home (W2).
func TestCloseWaitsForCredits(t *testing.T) {
	for range 50 {
		l := start(t, small(vfs.NewMem()))
		if err := l.Reserve(4, 0); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- l.Close() }()
		testwait.Until(t, "Close has begun", func() bool { return l.credits.word.Load() < 0 })
		for range 20 {
			runtime.Gosched() // mostly, the commit loop parks
		}
		l.Release(4)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	l := start(t, Options{FS: vfs.NewMem(), Sync: SyncNever})
	defer closeLog(t, l)
	record := make([]byte, 100)
	if n := testing.AllocsPerRun(1000, func() {
		if l.Reserve(len(record), 0) == nil {
			l.Release(len(record))
		}
	}); n != 0 {
		t.Errorf("Reserve and Release allocate %v times", n)
	}
	if err := l.Sync(add(t, l, "x")); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if err := l.progress.wait(1); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Wait allocates %v times", n)
	}
	// The commit loop allocates per batch, so Append is measured where none can be committed.
	gate := &faultfs.Gate{Holds: segmentSyncs}
	s := start(t, Options{FS: gate.Wrap(vfs.NewMem())})
	gate.Shut()
	add(t, s, "in flight")
	awaitHeld(t, gate)
	if n := testing.AllocsPerRun(1000, func() {
		if err := s.Reserve(len(record), 0); err != nil {
			t.Fatal(err)
		}
		s.Append(record, 0)
		s.Kick()
	}); n != 0 {
		t.Errorf("Reserve and Append allocate %v times", n)
	}
	gate.Open()
	closeLog(t, s)
}

func TestReserveLimits(t *testing.T) {
	gate := &faultfs.Gate{Holds: segmentSyncs}
	l := open(t, small(gate.Wrap(vfs.NewMem())))
	if err := l.Reserve(1, 0); err != ErrClosed {
		t.Errorf("before Start: %v", err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{-1, minBufferBytes - 1, MaxRecord + 1} {
		if err := l.Reserve(n, 0); err != ErrTooLarge {
			t.Errorf("Reserve(%d) = %v", n, err)
		}
	}
	// One buffer is in flight, the other fills up.
	gate.Shut()
	full := string(make([]byte, minBufferBytes-recordOverhead))
	add(t, l, full)
	awaitHeld(t, gate)
	if err := l.Reserve(len(full), 0); err != nil {
		t.Fatal(err)
	}
	for _, maxWait := range []time.Duration{-1, 0, time.Millisecond} {
		if err := l.Reserve(0, maxWait); err != ErrFull {
			t.Errorf("Reserve with maxWait %v = %v", maxWait, err)
		}
	}
	// A released credit wakes the goroutine that waits for it.
	got := make(chan error)
	go func() { got <- l.Reserve(10, time.Minute) }()
	testwait.Until(t, "it waits", func() bool { return l.credits.reservers.Load() > 0 })
	l.Release(len(full))
	if err := <-got; err != nil {
		t.Error(err)
	}
	last := l.Append(make([]byte, 10), 0)
	gate.Open()
	if err := l.Wait(last); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	if err := l.Reserve(1, time.Minute); err != ErrClosed {
		t.Errorf("after Close: %v", err)
	}
	if err := l.Wait(last + 1); err != ErrClosed {
		t.Errorf("Wait for what was never appended: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// What has its credit when Close is called is committed; what comes later is refused. Nothing is in
// between.
func TestCloseRacesWithAppend(t *testing.T) {
	for range 50 {
		fs := vfs.NewMem()
		l := start(t, small(fs))
		var appended atomic.Uint64
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for n := 0; ; n++ {
					record := tagged(w, n, 0)
					if err := l.Reserve(len(record), time.Minute); err != nil {
						if err != ErrClosed {
							t.Error(err)
						}
						return
					}
					lsn := l.Append(record, 0)
					appended.Add(1)
					if n%3 == 0 {
						if err := acknowledge(l, lsn); err != nil {
							t.Errorf("record %d: %v: it had a credit", lsn, err)
						}
					}
				}
			})
		}
		testwait.Until(t, "some are through", func() bool { return l.Committed() >= 100 })
		closeLog(t, l)
		wg.Wait()
		records, err := read(fs, 0)
		if err != nil || uint64(len(records)) != appended.Load() {
			t.Fatalf("%d records on disk, %d appended; %v", len(records), appended.Load(), err)
		}
	}
}

func TestSyncInterval(t *testing.T) {
	o := small(vfs.NewMem())
	o.Sync, o.SyncInterval = SyncInterval, time.Millisecond
	l := start(t, o)
	lsn := commit(t, l, "x")
	// nothing else is appended
	testwait.Until(t, "the interval is over", func() bool { return l.Durable() >= lsn })
	closeLog(t, l)
}

func TestSyncInEveryMode(t *testing.T) {
	for _, mode := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		o := small(vfs.NewMem())
		o.Sync, o.SyncInterval = mode, time.Hour
		l := start(t, o)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 20 {
					if lsn := add(t, l, "x"); l.Sync(lsn) != nil || l.Durable() < lsn {
						t.Errorf("%v: Sync(%d), durable %d", mode, lsn, l.Durable())
					}
				}
			})
		}
		wg.Wait()
		closeLog(t, l)
		if err := l.Sync(400); err != nil {
			t.Errorf("%v: Sync of what is durable, after Close: %v", mode, err)
		}
		if err := l.Sync(401); err != ErrClosed {
			t.Errorf("%v: Sync after Close: %v", mode, err)
		}
	}
}

// TestAnsweredIsCounted: when a waiter is woken, its batch is in Stats and was observed.
func TestAnsweredIsCounted(t *testing.T) {
	o := small(vfs.NewMem())
	var l *Log
	observed := uint64(0)
	o.ObserveCommit = func(records uint64, _ time.Duration) {
		observed += records
		if s := l.Stats(); s.Records != observed || s.Committed >= observed {
			t.Errorf("%d records observed, %d counted, committed through %d already", observed,
				s.Records, s.Committed)
		}
	}
	l = start(t, o)
	for range 10 {
		commit(t, l, "record")
	}
	closeLog(t, l)
	if observed != 10 {
		t.Errorf("%d records observed, want 10", observed)
	}
}

func TestLocked(t *testing.T) {
	fs := vfs.NewMem()
	l := open(t, small(fs))
	if _, err := Open(dir, small(fs)); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open = %v", err)
	}
	closeLog(t, l)
	if err := l.Start(nil); err != ErrClosed {
		t.Errorf("Start after Close = %v", err)
	}
	closeLog(t, open(t, small(fs)))

	real := t.TempDir()
	l, err := Open(real, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(real, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open on disk = %v", err)
	}
	closeLog(t, l)
}

func TestStats(t *testing.T) {
	l := start(t, small(vfs.NewMem()))
	for range 10 {
		commit(t, l, "0123456789")
	}
	s := l.Stats()
	if s.Batches != 10 || s.Records != 10 || s.PayloadBytes != 120 || s.Syncs != 10 ||
		s.LastSync <= 0 ||
		s.Segments != 1 || s.SegmentBytes != 16384 || s.RoomLeft != 16384-64-10*56 ||
		s.Durable != 10 || s.BufferUsedBytes != 0 {
		t.Errorf("%+v", s)
	}
	closeLog(t, l)
}

func tagOf(record []byte) [2]uint32 {
	return [2]uint32{uint32(record[0]) | uint32(record[1])<<8,
		uint32(record[4]) | uint32(record[5])<<8}
}
