package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
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

var modes = []SyncMode{SyncAlways, SyncInterval, SyncNever}

// hanging are options of a log that stalls soon on a disk that hangs.
func hanging(gate *faultfs.Gate, fs vfs.FS, mode SyncMode) Options {
	o := small(gate.Wrap(fs))
	o.Sync, o.SyncInterval = mode, time.Millisecond
	o.warnAfter, o.stallAfter = 20*time.Millisecond, 40*time.Millisecond
	return o
}

// commitSoon appends one record once the log takes it, and waits until it may be acknowledged. On a
// busy machine a commit may take longer than a test's stallAfter.
func commitSoon(t testing.TB, l *Log, record string) (lsn uint64) {
	t.Helper()
	lsn = addSoon(t, l, record)
	waitSoon(t, l, lsn)
	return lsn
}

// addSoon appends one record once the log takes it. A stall that the turn before ends outlasts the
// answer to its waiters by a moment. The commit loop knows of it.
func addSoon(t testing.TB, l *Log, record string) (lsn uint64) {
	t.Helper()
	testwait.Until(t, "the log takes a record", func() bool {
		return l.Reserve(len(record), time.Second) == nil
	})
	defer l.Kick()
	return l.Append([]byte(record), 0)
}

// waitSoon waits until a record may be acknowledged.
func waitSoon(t testing.TB, l *Log, lsn uint64) {
	t.Helper()
	testwait.Until(t, "an appended record may be acknowledged", func() bool {
		err := l.Wait(lsn)
		if err != nil && !errors.Is(err, ErrStalled) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// waits returns what Wait says.
func waits(l *Log, lsn uint64) <-chan error {
	done := make(chan error, 1)
	go func() { done <- l.Wait(lsn) }()
	return done
}

// TestStalledDisk: while the disk hangs, Wait, Reserve and Sync end within a bounded time with
// ErrStalled, in every sync mode (W7), and nothing is acknowledged that is not written, or in
// SyncAlways synced (W3). Afterwards the log goes on by itself, with what was appended before. It
// says when the stall begins and ends.
func TestStalledDisk(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) { testStalledDisk(t, mode) })
	}
}

func testStalledDisk(t *testing.T, mode SyncMode) {
	mem, gate := vfs.NewMem(), &faultfs.Gate{}
	var lines testlog.Output
	o := hanging(gate, mem, mode)
	o.Logger = lines.Logger()
	l := start(t, o)
	defer gate.Open() // so that Close returns
	want := []string{"before", "meanwhile", "behind", "after"}
	commitSoon(t, l, want[0])
	gate.Shut()
	first := addSoon(t, l, "meanwhile")
	waiter := waits(l, first)
	awaitHeld(t, gate)
	second := uint64(0)
	if err := l.Reserve(len("behind"), 0); err == nil {
		second = l.Append([]byte("behind"), 0)
	} else {
		want = append(want[:len(want)-2], "after") // the stall was faster
	}
	err := testwait.For(t, "Wait ends though the disk hangs", waiter)
	if !errors.Is(err, ErrStalled) {
		t.Errorf("Wait on a disk that hangs: %v", err)
	}
	if err := l.Wait(max(first, second)); !errors.Is(err, ErrStalled) {
		t.Errorf("Wait for what fills the next batch: %v", err)
	}
	if err := l.Reserve(1, time.Hour); !errors.Is(err, ErrStalled) {
		t.Errorf("Reserve on a disk that hangs: %v", err)
	}
	if err := l.Sync(first); !errors.Is(err, ErrStalled) {
		t.Errorf("Sync on a disk that hangs: %v", err)
	}
	if s := l.Stats(); !l.Stalled() || s.Committing == 0 || s.Stalls == 0 || s.Committed >= first {
		t.Errorf("stalled: %v, %+v", l.Stalled(), s)
	}
	testwait.Until(t, "the stall is logged", func() bool {
		return strings.Contains(lines.String(), "has not finished a commit")
	})

	gate.Open()
	waitSoon(t, l, max(first, second))
	testwait.Until(t, "the stall is over", func() bool { return !l.Stalled() })
	commitSoon(t, l, "after")
	testwait.Until(t, "the end of the stall is logged", func() bool {
		return strings.Contains(lines.String(), "the disk goes on")
	})
	closeLog(t, l)
	if got, err := read(mem, 0); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the log holds %q, %v, want %q", got, err, want)
	}
}

// TestSyncIntervalOnHangingSyncs: once a sync is due nothing is acknowledged before it returned, so
// that a loss of power takes at most what was acknowledged within one interval.
func TestSyncIntervalOnHangingSyncs(t *testing.T) {
	mem, gate := vfs.NewCrashableMem(), &faultfs.Gate{Holds: faultfs.Syncs}
	o := hanging(gate, mem, SyncInterval)
	o.SyncInterval = time.Hour
	l := start(t, o)
	gate.Shut()
	defer gate.Open()
	written := commitSoon(t, l, "written") // nothing is due
	synced := make(chan error, 1)
	go func() { synced <- l.Sync(written) }()
	if err := testwait.For(t, "Sync ends though the disk hangs", synced); !errors.Is(err, ErrStalled) {
		t.Errorf("Sync on a disk that hangs: %v", err)
	}
	if err := l.Wait(written); err != nil {
		t.Errorf("Wait for what was acknowledged before: %v", err)
	}
	if err := l.Reserve(1, time.Hour); !errors.Is(err, ErrStalled) {
		t.Errorf("Reserve on a disk that hangs: %v", err)
	}
	gate.Open()
	commitSoon(t, l, "after")
	testwait.Until(t, "a later sync returns", func() bool { return l.Sync(written) == nil })
	checkClone(t, mem, []uint64{written}, 0)
	closeLog(t, l)
}

// TestSyncNeverOnHangingSyncs: in SyncNever only the write counts.
func TestSyncNeverOnHangingSyncs(t *testing.T) {
	gate := &faultfs.Gate{Holds: faultfs.Syncs}
	l := start(t, hanging(gate, vfs.NewMem(), SyncNever))
	defer closeLog(t, l)
	gate.Shut()
	defer gate.Open()
	for range 10 {
		commitSoon(t, l, "record")
	}
	if n := l.Stats().Syncs; n > 0 {
		t.Errorf("%d syncs", n)
	}
}

// TestReserversLearnOfAStall: a goroutine that waits for room in the buffers is answered when the
// log stalls.
func TestReserversLearnOfAStall(t *testing.T) {
	gate := &faultfs.Gate{}
	l := start(t, hanging(gate, vfs.NewMem(), SyncAlways))
	defer closeLog(t, l)
	gate.Shut()
	defer gate.Open()
	full := make(chan error, 1)
	go func() {
		for {
			if err := l.Reserve(1000, time.Hour); err != nil {
				full <- err
				return
			}
			l.Append(make([]byte, 1000), 0)
		}
	}()
	err := testwait.For(t, "Reserve ends though its caller would wait", full)
	if !errors.Is(err, ErrStalled) {
		t.Errorf("Reserve: %v", err)
	}
}

// TestStallWhileClosing: Close waits for the disk, waiters do not.
func TestStallWhileClosing(t *testing.T) {
	gate := &faultfs.Gate{}
	l := start(t, hanging(gate, vfs.NewMem(), SyncAlways))
	gate.Shut()
	defer gate.Open()
	waiter := waits(l, add(t, l, "record"))
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	if err := testwait.For(t, "Wait ends while Close waits", waiter); !errors.Is(err, ErrStalled) {
		t.Errorf("Wait: %v", err)
	}
	select {
	case err := <-closed:
		t.Errorf("Close returned before the disk did: %v", err)
	default:
	}
	gate.Open()
	if err := testwait.For(t, "Close returns after the disk did", closed); err != nil {
		t.Error(err)
	}
}

// TestFailureEndsAStall: when the disk returns an error at last, the log has failed, not stalled
// (W5).
func TestFailureEndsAStall(t *testing.T) {
	gate, fail := &faultfs.Gate{}, atomic.Bool{}
	failing := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fail.Load() && faultfs.Syncs(op) {
			return errors.New("test: the disk is gone")
		}
		return nil
	}))
	l := start(t, hanging(gate, failing, SyncAlways))
	gate.Shut()
	defer gate.Open()
	lsn := add(t, l, "record")
	if err := testwait.For(t, "Wait ends", waits(l, lsn)); !errors.Is(err, ErrStalled) {
		t.Errorf("Wait: %v", err)
	}
	fail.Store(true)
	gate.Open()
	<-l.Failed()
	if err := l.Wait(lsn); !errors.Is(err, ErrFailed) {
		t.Errorf("Wait after the failure: %v", err)
	}
	if err := l.Reserve(1, time.Hour); !errors.Is(err, ErrFailed) {
		t.Errorf("Reserve after the failure: %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close: %v", err)
	}
}

// appenders append and wait until they are stopped, through stalls.
type appenders struct {
	l       *Log
	stop    chan struct{}
	running sync.WaitGroup

	mu    sync.Mutex
	acked []uint64 // guarded by mu

	stalls, wrong atomic.Int64
}

func (a *appenders) run(n int) {
	for i := range n {
		a.running.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-a.stop:
					return
				default:
				}
				a.one(tagged(i, k, 0))
			}
		})
	}
}

func (a *appenders) one(record []byte) {
	if err := a.l.Reserve(len(record), time.Millisecond); err != nil {
		a.note(err)
		return
	}
	lsn := a.l.Append(record, 0)
	err := acknowledge(a.l, lsn)
	a.note(err)
	if err == nil {
		a.mu.Lock()
		a.acked = append(a.acked, lsn)
		a.mu.Unlock()
	}
}

func (a *appenders) note(err error) {
	if errors.Is(err, ErrStalled) {
		a.stalls.Add(1)
	} else if err != nil && !errors.Is(err, ErrFull) {
		a.wrong.Add(1)
	}
}

func (a *appenders) acknowledged() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]uint64(nil), a.acked...)
}

// TestAcknowledgedIsWritten: whatever was acknowledged at an instant is in the files at that
// instant, so that a kill of the process loses none of it, and in SyncAlways on stable storage
// (W3), also while the disk hangs and goes on at random.
func TestAcknowledgedIsWritten(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			mem, gate := vfs.NewCrashableMem(), &faultfs.Gate{}
			l := start(t, hanging(gate, mem, mode))
			a := &appenders{l: l, stop: make(chan struct{})}
			a.run(16)
			kept := 100 // what a kill of the process leaves, in percent of what is not synced
			if mode == SyncAlways {
				kept = 0
			}
			for i := range 20 {
				if i%4 == 1 {
					gate.Shut()
					awaitHeld(t, gate)
				} else {
					gate.Open()
				}
				before := a.stalls.Load()
				testwait.Until(t, "something happens", func() bool {
					return len(a.acknowledged()) > 100*i || a.stalls.Load() > before || outOfRoom(l)
				})
				checkClone(t, mem, a.acknowledged(), kept)
			}
			gate.Open()
			close(a.stop)
			a.running.Wait()
			closeLog(t, l)
			if n := a.wrong.Load(); n > 0 {
				t.Errorf("%d errors other than a stall", n)
			}
		})
	}
}

// outOfRoom reports that a log refuses records before a commit can hang, since the preparer does.
func outOfRoom(l *Log) bool {
	l.gate.mu.Lock()
	defer l.gate.mu.Unlock()
	return l.gate.shut && l.Committing() == 0
}

// checkClone reads what a crash now would leave and looks for what was acknowledged before.
func checkClone(t *testing.T, mem *vfs.MemFS, acked []uint64, kept int) {
	t.Helper()
	crashed := mem.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: kept, RNG: rand.New(rand.NewPCG(1, 2)),
	})
	records, err := read(crashed, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, lsn := range acked {
		if lsn > uint64(len(records)) {
			t.Fatalf("record %d was acknowledged; a crash would leave %d", lsn, len(records))
		}
	}
}

// TestStallStress: a thousand appenders, while stalls begin and end as fast as they can. Each of
// them goes on: no wake-up is lost, and no credit.
func TestStallStress(t *testing.T) {
	gate := &faultfs.Gate{}
	o := hanging(gate, vfs.NewMem(), SyncAlways)
	o.BufferBytes, o.SegmentBytes = 1<<20, segmentBuffers<<20
	o.warnAfter, o.stallAfter = 400*time.Microsecond, 800*time.Microsecond
	l := start(t, o)
	a := &appenders{l: l, stop: make(chan struct{})}
	a.run(1000)
	for range 50 {
		before := a.stalls.Load()
		gate.Shut()
		testwait.Until(t, "a stall", func() bool { return a.stalls.Load() > before })
		gate.Open()
		acked := l.Committed()
		testwait.Until(t, "the log goes on", func() bool { return l.Committed() > acked })
	}
	close(a.stop)
	stopped := make(chan struct{})
	go func() {
		a.running.Wait()
		close(stopped)
	}()
	testwait.For(t, "every appender ends", stopped)
	closeLog(t, l)
	if n := a.wrong.Load(); n > 0 {
		t.Errorf("%d errors other than a stall", n)
	}
	if !l.credits.allHome() {
		t.Errorf("%d bytes of credit of %d are home", l.credits.free(), l.credits.capacity)
	}
}
