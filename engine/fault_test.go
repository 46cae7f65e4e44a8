package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/internal/faultfs"
	"rollcall/internal/testseed"
	"rollcall/wal"
)

// TestEveryOperationFailing lets every operation of the file system fail, one after the other, in a
// run that writes segments, rolls, takes checkpoints, forgets, closes and starts again; in three
// ways, once and from then on. Whatever happens, the run ends, nothing panics, a log that failed
// acknowledges nothing (I6), and recovery on a healthy disk has what was acknowledged.
//
// By default a sample, from a random one on; ROLLCALL_FAULTS=1 takes every operation, 4 every
// fourth.
func TestEveryOperationFailing(t *testing.T) {
	rng := testseed.Rand(t)
	healthy := &faultfs.Faults{}
	f := &faultRun{faults: healthy, fs: vfs.NewCrashableMem()}
	f.script(t)
	if f.failedAt != "" {
		t.Fatal(f.failedAt)
	}
	f.check(t)
	operations := healthy.Operations()
	step := int64(31)
	if testing.Short() {
		step = 97
	}
	if s := os.Getenv("ROLLCALL_FAULTS"); s != "" {
		if _, err := fmt.Sscan(s, &step); err != nil || step < 1 {
			t.Fatalf("ROLLCALL_FAULTS=%s is no count", s)
		}
	}
	runs := 0
	for _, kind := range faultfs.Kinds {
		for _, stuck := range []bool{false, true} {
			for at := rng.Int64N(step); at < operations; at += step {
				f := &faultRun{faults: &faultfs.Faults{Fault: kind, At: at, Stuck: stuck},
					fs: vfs.NewCrashableMem()}
				f.watch(t)
				f.check(t)
				runs++
			}
		}
	}
	t.Logf("%d operations, %d runs", operations, runs)
}

// faultRun is one run on a disk that fails, and what was acknowledged in it.
type faultRun struct {
	faults   *faultfs.Faults
	fs       *vfs.MemFS
	now      atomic.Int64
	devices  []*Heartbeat
	acked    []uint64
	failedAt string // where the script could not go on
}

// watch runs the script and does not wait for ever.
func (f *faultRun) watch(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	go func() { f.script(t); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s: it hangs\n%s", f.faults.Hit(), stacks[:runtime.Stack(stacks, true)])
	}
}

// script is the run: two starts, some heartbeats, expiries and checkpoints in each.
func (f *faultRun) script(t *testing.T) {
	if f.devices == nil {
		f.now.Store(1)
		user := uuid.New()
		for i := range 6 {
			hb := newHeartbeat(0, uint64(1000*(i+1)))
			hb.User, hb.Status = user, Status(i%2)
			f.devices = append(f.devices, hb)
			f.acked = append(f.acked, 0)
		}
	}
	maxWait := time.Millisecond // a log that has failed gives nothing back
	if f.faults.Err == nil {
		maxWait = time.Minute // a busy machine may take its time
	}
	for range 2 {
		fs := f.faults.Wrap(f.fs)
		d, err := tryDisk(t, fs, wal.Options{}, Options{ForgetAfter: time.Hour, MaxWait: maxWait},
			&f.now)
		if err != nil {
			f.failedAt = err.Error()
			f.wantCause(t, err)
			return
		}
		f.session(t, d)
		log, store := d.log, d.store
		d.Close(context.Background())
		if err := errors.Join(store.Close(), log.Close()); err != nil {
			f.failedAt = err.Error()
			f.wantCause(t, err)
		}
		if store.Err() != nil {
			return // the process ends here
		}
	}
}

// session is what happens between a start and a stop.
func (f *faultRun) session(t *testing.T, d *disk) {
	for round := range 3 {
		for range 8 {
			for i, hb := range f.devices {
				if hb.Status == Offline && round > 0 {
					continue // it is forgotten
				}
				f.beat(t, d, i)
			}
		}
		f.now.Add(int64(time.Second))
		d.expiry.postponeExpiry(0)
		for range 100 { // a log that refuses is no reason to spin
			if d.expiry.turn(f.now.Load()) > 0 {
				break
			}
		}
		f.checkpoint(t, d)
	}
	f.now.Add(int64(2 * time.Hour))
	f.checkpoint(t, d)
}

func (f *faultRun) beat(t *testing.T, d *disk, i int) {
	hb := f.devices[i]
	hb.Seq++
	switch res := d.Heartbeat(hb); res.Outcome {
	case Accepted:
		if d.log.Err() != nil && d.log.Durable() < d.log.Appended() {
			t.Errorf("%s: acknowledged after the log had failed", f.faults.Hit())
		}
		f.acked[i] = hb.Seq
	case Unavailable:
		f.failedAt = res.Err.Error()
		if errors.Is(res.Err, wal.ErrFailed) {
			f.wantCause(t, res.Err)
			<-d.log.Failed() // else it hangs here
		} else if !errors.Is(res.Err, wal.ErrNoSpace) && !errors.Is(res.Err, wal.ErrFull) {
			t.Errorf("%s: refused: %v", f.faults.Hit(), res.Err)
		}
	default:
		t.Errorf("%s: seq %d: %+v", f.faults.Hit(), hb.Seq, res)
	}
}

// checkpoint takes one. When it fails the store is as of what it was, and unless it is stuck or
// failed for good the next one is good again.
func (f *faultRun) checkpoint(t *testing.T, d *disk) {
	before := d.store.LSN()
	_, err := d.Checkpoint(nil)
	if err == nil {
		return
	}
	f.failedAt = err.Error()
	f.wantCause(t, err)
	if d.store.LSN() < before {
		t.Errorf("%s: the store went back from LSN %d to %d", f.faults.Hit(), before, d.store.LSN())
	}
	if f.faults.Stuck || d.store.Err() != nil || d.log.Err() != nil {
		return
	}
	if _, err := d.Checkpoint(nil); err != nil {
		t.Errorf("%s: the next checkpoint: %v", f.faults.Hit(), err)
	}
}

// wantCause checks that an error tells what the disk said, or that it follows from an earlier
// failure.
func (f *faultRun) wantCause(t *testing.T, err error) {
	t.Helper()
	if f.faults.Err == nil {
		t.Errorf("no fault, but: %v", err)
		return
	}
	if !errors.Is(err, f.faults.Err) && !strings.Contains(err.Error(), f.faults.Err.Error()) {
		t.Errorf("%s: the error does not say why: %v", f.faults.Hit(), err)
	}
}

// check recovers what the run left, on a healthy disk.
func (f *faultRun) check(t *testing.T) {
	t.Helper()
	d, err := tryDisk(t, f.fs.CrashClone(vfs.CrashCloneCfg{}), wal.Options{},
		Options{ForgetAfter: time.Hour}, &f.now)
	if err != nil {
		t.Fatalf("%s: recovery: %v", f.faults.Hit(), err)
	}
	defer d.shut()
	records, err := allDevices(d, f.devices[0].User)
	if err != nil {
		t.Fatal(err)
	}
	for i, hb := range f.devices {
		if hb.Status == Offline {
			continue
		}
		seq := uint64(0)
		for _, r := range records {
			if r.Device == hb.Device {
				seq = r.Seq
			}
		}
		if seq < f.acked[i] || seq > hb.Seq {
			t.Fatalf("%s: device %d stands at %d; %d was acknowledged, %d sent; %s", f.faults.Hit(),
				i, seq, f.acked[i], hb.Seq,
				fmt.Sprint(f.failedAt))
		}
	}
}
