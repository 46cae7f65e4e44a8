package wal

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/internal/faultfs"
	"rollcall/internal/testlog"
)

// failOn returns a file system whose operations of one kind on segments fail with err while on is
// true.
func failOn(fs vfs.FS, kind errorfs.OpKind, err error) (_ vfs.FS, on *atomic.Bool) {
	on = new(atomic.Bool)
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind == kind && strings.HasSuffix(op.Path, segmentSuffix) {
			return err
		}
		return nil
	})), on
}

// A failed write or sync is final (W5): its waiters and all later ones get the failure, nothing is
// retried, and a restart finds what had been acknowledged.
func TestFailStop(t *testing.T) {
	for name, kind := range map[string]errorfs.OpKind{
		"write": errorfs.OpFileWriteAt, "sync": errorfs.OpFileSyncData,
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			cause := errors.New("the disk is on fire")
			fs, broken := failOn(mem, kind, cause)
			l := start(t, small(fs))
			good := commit(t, l, "good")
			if err := l.Reserve(4, 0); err != nil { // to be used after the failure
				t.Fatal(err)
			}
			broken.Store(true)
			bad := add(t, l, "bad")
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if err := l.Wait(bad); !errors.Is(err, ErrFailed) || !errors.Is(err, cause) {
						t.Errorf("Wait = %v", err)
					}
				})
			}
			wg.Wait()
			<-l.Failed()
			broken.Store(false) // the disk comes back; the log must not
			late := l.Append([]byte("late"), 0)
			for _, lsn := range []uint64{bad, late} {
				if err := l.Wait(lsn); !errors.Is(err, ErrFailed) {
					t.Errorf("Wait(%d) after the failure = %v", lsn, err)
				}
			}
			if err := l.Wait(good); err != nil {
				t.Errorf("Wait for what was durable before = %v", err)
			}
			if err := l.Reserve(1, time.Minute); !errors.Is(err, ErrFailed) {
				t.Errorf("Reserve = %v", err)
			}
			if err := l.Err(); !errors.Is(err, cause) || l.Durable() != good {
				t.Errorf("Err = %v, durable %d", err, l.Durable())
			}
			if err := l.Close(); !errors.Is(err, ErrFailed) {
				t.Errorf("Close = %v", err)
			}
			records, err := read(mem.CrashClone(vfs.CrashCloneCfg{}), 0)
			if err != nil || len(records) != 1 || records[0] != "good" {
				t.Errorf("after a restart: %q, %v", records, err)
			}
		})
	}
}

func TestFailStopInOtherModes(t *testing.T) {
	fs, broken := failOn(vfs.NewMem(), errorfs.OpFileSyncData, errors.New("gone"))
	o := small(fs)
	o.Sync, o.SyncInterval = SyncInterval, time.Millisecond
	l := start(t, o)
	broken.Store(true)
	lsn := commit(t, l, "x")
	<-l.Failed()
	if err := l.Wait(lsn); !errors.Is(err, ErrFailed) {
		t.Errorf("Wait = %v", err)
	}
	if err := l.Sync(lsn); !errors.Is(err, ErrFailed) {
		t.Errorf("Sync = %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("Close = %v", err)
	}
}

// A full disk is backpressure, not a failure (I6): what has its credit is committed, then Reserve
// refuses, and it goes on by itself.
func TestNoSpace(t *testing.T) {
	for name, test := range map[string]struct {
		kind   errorfs.OpKind
		err    error
		logged string
	}{
		"full":  {errorfs.OpFilePreallocate, syscall.ENOSPC, "level=WARN"},
		"other": {errorfs.OpCreate, errors.New("too many open files"), "level=ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			fs, full := failOn(mem, test.kind, test.err)
			var out testlog.Output
			o := small(fs)
			o.Logger = out.Logger()
			l := open(t, o)
			if err := l.Start(nil); err != nil {
				t.Fatal(err)
			}
			full.Store(true)
			n := 0
			for {
				record := tagged(0, n, 100)
				err := l.Reserve(len(record), 300*time.Millisecond)
				if err == ErrNoSpace {
					break
				}
				if err == ErrFull { // there is no segment, and the preparer has not tried yet
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := l.Wait(l.Append(record, 0)); err != nil {
					t.Fatal(err)
				}
				n++
			}
			if !l.NoSpace() || l.Err() != nil {
				t.Errorf("NoSpace = %v, Err = %v", l.NoSpace(), l.Err())
			}
			if room := l.Stats().RoomLeft; room < 2*minBufferBytes {
				t.Errorf("only %d bytes left when it began to refuse", room)
			}
			full.Store(false)
			for ; n < 1000; n++ {
				record := tagged(0, n, 100)
				if err := l.Reserve(len(record), time.Minute); err != nil {
					t.Fatalf("there is room again, but: %v", err)
				}
				l.Append(record, 0)
			}
			closeLog(t, l)
			if l.NoSpace() {
				t.Error("NoSpace stays")
			}
			// Only now: the line follows the state that Reserve sees.
			if c := strings.Count(out.String(), test.logged); c != 1 {
				t.Errorf("logged %d times:\n%s", c, out.String())
			}
			if records, err := read(mem, 0); err != nil || len(records) != n {
				t.Errorf("%d records, want %d: %v", len(records), n, err)
			}
			names, err := mem.List(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if b := load(t, mem, dir+"/"+name); name != "LOCK" && allZero(b) {
					t.Errorf("%s was left behind", name)
				}
			}
		})
	}
}

// Every operation of the file system fails, one after the other, in each way that a disk has, once
// and from then on. Whatever happens, what was acknowledged, and not taken off, is there.
func TestEveryOperationFailing(t *testing.T) {
	for name, run := range map[string]func(o Options) (acked, through int){
		"restarts": runUntilFailure, "segments are recycled": truncateUntilFailure,
	} {
		for _, kind := range faultfs.Kinds {
			for _, stuck := range []bool{false, true} {
				failEach(t, name, kind, stuck, run)
			}
		}
	}
}

// failEach runs as often as there are operations, and lets another one fail each time.
func failEach(
	t *testing.T, name string, kind faultfs.Fault, stuck bool,
	run func(o Options) (acked, through int),
) {
	at := int64(0)
	for ; ; at++ {
		mem := vfs.NewCrashableMem()
		faults := &faultfs.Faults{Fault: kind, At: at, Stuck: stuck}
		acked, through := run(small(faults.Wrap(mem)))
		records, err := read(mem.CrashClone(vfs.CrashCloneCfg{}), uint64(through))
		if err != nil || through+len(records) < acked {
			t.Fatalf("%s: %s: %d acknowledged, %d behind %d are there, %v", name, faults.Hit(), acked, len(records), through, err)
		}
		if faults.Hit() == "" {
			break // there are no more operations
		}
	}
	if at < 100 {
		t.Errorf("%s: %s: only %d operations", name, kind.Name, at)
	}
}

// runUntilFailure opens a log, commits records over several segments and a restart, and returns how
// many were acknowledged. Nothing is taken off.
func runUntilFailure(o Options) (acked, through int) {
	for range 2 {
		l, err := Open(dir, o)
		if err != nil {
			return acked, 0
		}
		if l.Start(nil) != nil {
			l.Close()
			return acked, 0
		}
		for n := range 12 {
			record := tagged(0, n, 1500)
			if l.Reserve(len(record), time.Second) != nil ||
				acknowledge(l, l.Append(record, 0)) != nil {
				break
			}
			acked++
		}
		l.Close()
	}
	return acked, 0
}
