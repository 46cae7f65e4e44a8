package wal

import (
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/faultfs"
	"rollcall/internal/testlog"
	"rollcall/internal/testwait"
)

// addQuietly appends one record and tells no goroutine.
func addQuietly(t testing.TB, l *Log, record string) uint64 {
	t.Helper()
	if err := l.Reserve(len(record), time.Minute); err != nil {
		t.Fatal(err)
	}
	return l.Append([]byte(record), 0)
}

// awaitParked waits until the commit loop is parked and nothing is to be done.
func awaitParked(t testing.TB, l *Log) {
	t.Helper()
	testwait.Until(t, "the commit loop parks", func() bool {
		return !asked(l) && l.Committing() == 0
	})
}

// asked reports that the commit loop is to take a turn.
func asked(l *Log) bool { return l.committer.wanted.Load() || len(l.committer.wake) > 0 }

// TestAppendWakesNothing: what is only appended stays in the buffer, until one of the callers that
// need it says so.
func TestAppendWakesNothing(t *testing.T) {
	for name, wake := range map[string]func(l *Log, lsn uint64) error{
		"Wait":   (*Log).Wait,
		"Commit": (*Log).Commit,
		"Sync":   (*Log).Sync,
		"Kick": func(l *Log, lsn uint64) error {
			l.Kick()
			return nil
		},
		"Close": func(l *Log, lsn uint64) error { return l.Close() },
	} {
		for _, mode := range modes {
			t.Run(name+"/"+mode.String(), func(t *testing.T) {
				o := small(vfs.NewMem())
				o.Sync, o.SyncInterval = mode, time.Hour
				l := start(t, o)
				defer closeLog(t, l)
				awaitParked(t, l)
				var lsn uint64
				for range 10 {
					lsn = addQuietly(t, l, "record")
					runtime.Gosched()
				}
				if l.Committed() != 0 || asked(l) {
					t.Errorf("Append woke the commit loop: %d committed", l.Committed())
				}
				if err := wake(l, lsn); err != nil {
					t.Fatal(err)
				}
				testwait.Until(t, "all is committed", func() bool { return l.Committed() == lsn })
				if s := l.Stats(); s.Batches != 1 {
					t.Errorf("%d batches, want 1", s.Batches)
				}
			})
		}
	}
}

// TestReserveGetsTheRoomOfQuietAppends: a goroutine that waits for room gets it, though no other
// one waits for what holds it.
func TestReserveGetsTheRoomOfQuietAppends(t *testing.T) {
	for _, maxWait := range []time.Duration{0, time.Hour} {
		l := start(t, small(vfs.NewMem()))
		awaitParked(t, l)
		const size = minBufferBytes/2 - recordOverhead
		for range 2 {
			addQuietly(t, l, strings.Repeat("x", size))
		}
		testwait.Until(t, "there is room", func() bool { return l.Reserve(size, maxWait) == nil })
		l.Release(size)
		closeLog(t, l)
	}
}

// TestCommitRunsOnTheCaller: a record is committed, and handed on, before Commit returns, on the
// caller's goroutine, while the commit loop stays parked.
func TestCommitRunsOnTheCaller(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			o := small(vfs.NewMem())
			o.Sync, o.SyncInterval = mode, time.Hour
			l := open(t, o)
			handed := uint64(0) // without a lock: the race detector sees whose goroutine it is
			if err := l.Start(func(_, last uint64, _ iter.Seq[[]byte], _ int64, _ time.Duration) {
				handed = last
			}); err != nil {
				t.Fatal(err)
			}
			defer closeLog(t, l)
			awaitParked(t, l)
			for range 100 { // over several segments
				lsn := addQuietly(t, l, strings.Repeat("x", 1000))
				if err := l.Commit(lsn); err != nil {
					t.Fatal(err)
				}
				if handed != lsn || l.Committed() != lsn {
					t.Fatalf("record %d: %d is handed on, %d committed", lsn, handed, l.Committed())
				}
				if mode == SyncAlways && l.Durable() != lsn {
					t.Fatalf("record %d: %d is durable", lsn, l.Durable())
				}
			}
			if asked(l) || l.Stats().Batches != 100 {
				t.Error("the commit loop was woken")
			}
			if err := l.Commit(1); err != nil { // long since
				t.Error(err)
			}
		})
	}
}

// TestCommitBeforeStartAndAfterClose: as Wait.
func TestCommitBeforeStartAndAfterClose(t *testing.T) {
	fs := vfs.NewMem()
	l := start(t, small(fs))
	commit(t, l, "a")
	closeLog(t, l)
	l = open(t, small(fs))
	done := make(chan error, 1)
	if err := l.Replay(0, func(lsn uint64, _ []byte) error {
		go func() { done <- l.Commit(lsn) }()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	if err := testwait.For(t, "Commit of what was replayed returns", done); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	if err := l.Commit(1); err != nil {
		t.Error(err)
	}
	if err := l.Commit(2); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	never := open(t, small(fs))
	closeLog(t, never)
	if err := never.Commit(9); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// commits returns what Commit says.
func commits(l *Log, lsn uint64) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.Commit(lsn) }()
	return done
}

// TestCommitOnAStalledDisk: the caller that writes returns when the disk does. Every other one gets
// ErrStalled, whether it came before the stall, as a follower, or comes during it (W7).
func TestCommitOnAStalledDisk(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			mem, gate := vfs.NewMem(), &faultfs.Gate{}
			l := start(t, hanging(gate, mem, mode))
			defer closeLog(t, l)
			defer gate.Open()
			commitSoon(t, l, "before")
			awaitParked(t, l)
			// One that the turn before began, on a busy machine.
			testwait.Until(t, "a stall is over", func() bool { return !l.Stalled() })
			gate.Shut()
			lsn := addQuietly(t, l, "x")
			leader := commits(l, lsn)
			awaitHeld(t, gate)
			var follower <-chan error
			if l.Reserve(1, 0) == nil { // else the stall was faster
				follower = commits(l, l.Append([]byte("y"), 0))
			}
			waiter := waits(l, lsn)
			if err := testwait.For(t, "Wait ends", waiter); !errors.Is(err, ErrStalled) {
				t.Errorf("Wait: %v", err)
			}
			if follower != nil {
				err := testwait.For(t, "a follower ends", follower)
				if !errors.Is(err, ErrStalled) {
					t.Errorf("Commit of a follower: %v", err)
				}
			}
			err := testwait.For(t, "Commit ends during a stall", commits(l, lsn))
			if !errors.Is(err, ErrStalled) {
				t.Errorf("Commit during a stall: %v", err)
			}
			select {
			case err := <-leader:
				t.Errorf("Commit of the leader returned before the disk did: %v", err)
			default:
			}
			gate.Open()
			err = testwait.For(t, "Commit of the leader returns when the disk does", leader)
			if err != nil {
				t.Errorf("Commit of the leader: %v", err)
			}
			commitSoon(t, l, "after")
			if n := l.Stats().Committed; n < 3 {
				t.Errorf("%d records are committed", n)
			}
		})
	}
}

// TestStallLeavesNothingBehind: what was appended before a stall ended is committed then, though
// its caller was told that the log is stalled, and does not ask again.
func TestStallLeavesNothingBehind(t *testing.T) {
	mem, gate := vfs.NewMem(), &faultfs.Gate{}
	l := start(t, hanging(gate, mem, SyncAlways))
	defer closeLog(t, l)
	defer gate.Open()
	commitSoon(t, l, "before")
	awaitParked(t, l)
	testwait.Until(t, "a stall is over", func() bool { return !l.Stalled() })
	testwait.Until(t, "there is a credit", func() bool { return l.Reserve(1, 0) == nil })
	gate.Shut()
	leader := commits(l, addQuietly(t, l, "x"))
	awaitHeld(t, gate)
	lsn := l.Append([]byte("y"), 0)
	err := testwait.For(t, "a follower ends", commits(l, lsn))
	if !errors.Is(err, ErrStalled) {
		t.Fatalf("Commit of a follower: %v", err)
	}
	gate.Open()
	if err := testwait.For(t, "the leader ends", leader); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the follower's record is committed",
		func() bool { return l.Committed() >= lsn })
}

// TestFailureInCommit: a write or a sync that fails on a caller's goroutine is the failure of the
// log (W5): once, for the caller, its followers and waiters and all later ones, and the commit loop
// ends.
func TestFailureInCommit(t *testing.T) {
	for name, kind := range map[string]errorfs.OpKind{
		"write": errorfs.OpFileWriteAt, "sync": errorfs.OpFileSyncData,
	} {
		t.Run(name, func(t *testing.T) {
			mem, cause := vfs.NewCrashableMem(), errors.New("the disk is on fire")
			fs, broken := failOn(mem, kind, cause)
			var lines testlog.Output
			o := small(fs)
			o.Logger = lines.Logger()
			l := start(t, o)
			good := commit(t, l, "good")
			broken.Store(true)
			bad := addQuietly(t, l, "bad")
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() {
					end := l.Commit
					if i%4 == 1 {
						end = l.Wait
					}
					if err := end(bad); !errors.Is(err, ErrFailed) || !errors.Is(err, cause) {
						t.Errorf("%d: %v", i, err)
					}
				})
			}
			all.Wait()
			testwait.For(t, "the log has failed", l.Failed())
			testwait.For(t, "the commit loop ends", l.committer.done)
			broken.Store(false)
			if err := l.Commit(bad); !errors.Is(err, ErrFailed) {
				t.Errorf("Commit after the failure: %v", err)
			}
			if err := l.Commit(good); err != nil {
				t.Errorf("Commit of what was durable: %v", err)
			}
			if err := l.Close(); !errors.Is(err, ErrFailed) {
				t.Errorf("Close: %v", err)
			}
			if n := strings.Count(lines.String(), "write-ahead log failed"); n != 1 {
				t.Errorf("the failure is logged %d times:\n%s", n, lines.String())
			}
			records, err := read(mem.CrashClone(vfs.CrashCloneCfg{}), 0)
			if err != nil || len(records) != 1 || records[0] != "good" {
				t.Errorf("after a restart: %q, %v", records, err)
			}
		})
	}
}

// TestFollowersShareATurn: what comes while a turn is in flight is committed by the next one, once
// for all.
func TestFollowersShareATurn(t *testing.T) {
	gate := &faultfs.Gate{Holds: segmentSyncs}
	l := start(t, Options{FS: gate.Wrap(vfs.NewMem()), stallAfter: time.Hour})
	defer closeLog(t, l)
	defer gate.Open()
	awaitParked(t, l)
	gate.Shut()
	leader := commits(l, addQuietly(t, l, "leader"))
	awaitHeld(t, gate)
	const followers = 50
	var all []<-chan error
	for range followers {
		all = append(all, commits(l, addQuietly(t, l, "follower")))
	}
	gate.Open()
	for _, done := range append(all, leader) {
		if err := testwait.For(t, "Commit returns", done); err != nil {
			t.Error(err)
		}
	}
	if s := l.Stats(); s.Batches != 2 || s.Records != followers+1 {
		t.Errorf("%d batches of %d records, want 2 of %d", s.Batches, s.Records, followers+1)
	}
}

// TestCommitStress: appenders that commit in every way, and truncations, while the log is closed
// under them, or the disk fails. What was acknowledged is there, batches are handed on one at a
// time and in order, no credit is lost and no goroutine stays behind.
func TestCommitStress(t *testing.T) {
	for _, mode := range modes {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/fails=%v", mode, fails), func(t *testing.T) {
				for round := range 10 {
					testCommitStress(t, mode, fails, round)
				}
			})
		}
	}
}

func testCommitStress(t *testing.T, mode SyncMode, fails bool, round int) {
	mem := vfs.NewCrashableMem()
	fs, broken := failOn(mem, []errorfs.OpKind{
		errorfs.OpFileWriteAt, errorfs.OpFileSyncData,
	}[round%2], errors.New("test: gone"))
	o := small(fs)
	o.Sync, o.SyncInterval = mode, time.Millisecond
	l := open(t, o)
	var next uint64 = 1 // without a lock: one call at a time
	if err := l.Start(func(first, last uint64, _ iter.Seq[[]byte], _ int64, _ time.Duration) {
		if first != next || last < first || l.Committed() != last {
			t.Errorf("records %d to %d are handed on, want %d first", first, last, next)
		}
		next = last + 1
	}); err != nil {
		t.Fatal(err)
	}
	var acked atomic.Uint64
	var all sync.WaitGroup
	for g := range 24 {
		all.Go(func() {
			for n := 0; ; n++ {
				record := tagged(g, n, (g*37+n*11)%700)
				err := l.Reserve(len(record), time.Minute)
				if err != nil {
					if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrFailed) {
						t.Errorf("Reserve: %v", err)
					}
					return
				}
				if n%7 == 6 {
					l.Release(len(record))
					continue
				}
				lsn := l.Append(record, 0)
				switch (g + n/5) % 8 {
				case 0, 1, 2, 3:
					err = l.Commit(lsn)
				case 4, 5:
					err = l.Wait(lsn)
				case 6:
					err = l.Sync(lsn)
				default:
					l.Kick()
					continue
				}
				if err == nil {
					advance(&acked, lsn)
				} else if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrFailed) {
					t.Errorf("record %d: %v", lsn, err)
				}
			}
		})
	}
	testwait.Until(t, "some are acknowledged", func() bool { return acked.Load() > 300 })
	if fails {
		broken.Store(true)
		testwait.For(t, "the log fails", l.Failed())
		broken.Store(false)
	}
	if err := l.Close(); fails != errors.Is(err, ErrFailed) || err != nil != fails {
		t.Errorf("Close: %v", err)
	}
	all.Wait()
	if !fails && !l.credits.allHome() {
		t.Errorf("%d bytes of credit of %d are home", l.credits.free(), l.credits.capacity)
	}
	kept := 100
	if mode == SyncAlways {
		kept = 0
	}
	checkClone(t, mem, []uint64{acked.Load()}, kept)
}

// advance raises an LSN.
func advance(lsn *atomic.Uint64, to uint64) {
	for old := lsn.Load(); old < to && !lsn.CompareAndSwap(old, to); {
		old = lsn.Load()
	}
}
