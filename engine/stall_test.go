package engine

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"rollcall/wal"
)

// full reports whether a heartbeat was refused for the sake of a slow disk.
func full(err error) bool { return errors.Is(err, wal.ErrFull) || errors.Is(err, wal.ErrStalled) }

// TestSlowDisk holds up a sync while many more heartbeats come than the log's buffers hold. The
// surplus is refused, what was admitted waits, memory stays within the buffers (I5), and when the
// disk goes on so does everything, and nothing acknowledged is lost.
func TestSlowDisk(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var mu sync.Mutex
	gate := make(chan struct{}) // syncs of the log wait until it is closed
	close(gate)
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSyncData {
			mu.Lock()
			g := gate
			mu.Unlock()
			<-g
		}
		return nil
	}))
	c := &crasher{t: t}
	c.now.Store(1)
	d := openDiskOn(t, fs, wal.Options{}, Options{MaxWait: 10 * time.Millisecond}, &c.now)
	mu.Lock()
	gate = make(chan struct{})
	mu.Unlock()

	// Two buffers of 4 KiB hold less than a hundred records.
	const senders = 300
	results := make(chan Result, senders)
	beats := make([]*Heartbeat, senders)
	var wg sync.WaitGroup
	for i := range beats {
		beats[i] = newHeartbeat(1, 60_000)
		wg.Go(func() { results <- d.Heartbeat(beats[i]) })
	}
	refused := 0
	for refused < senders-100 {
		res := <-results
		if res.Outcome != Unavailable || !full(res.Err) {
			t.Fatalf("while the disk stands still: %+v", res)
		}
		refused++
	}
	if s := d.log.Stats(); s.BufferUsedBytes > s.BufferBytes || s.Durable != 0 {
		t.Errorf("%d bytes of %d in use, durable through %d", s.BufferUsedBytes, s.BufferBytes,
			s.Durable)
	}
	close(gate)
	wg.Wait()
	close(results)
	accepted := 0
	for res := range results {
		if res.Outcome == Accepted {
			accepted++
		}
	}
	if accepted == 0 {
		t.Error("nothing that was admitted was acknowledged")
	}
	for _, hb := range beats {
		hb.Seq = 2
		for res := d.Heartbeat(hb); res.Outcome != Accepted; res = d.Heartbeat(hb) {
			if !full(res.Err) { // the wait is short, and the machine may be busy
				t.Fatalf("the disk goes on, but: %+v", res)
			}
		}
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	d.shut()
	again := openDiskOn(t, crashed, wal.Options{}, Options{}, &c.now)
	defer again.shut()
	if n := again.table.Len(); n != senders {
		t.Errorf("%d devices came back, want %d", n, senders)
	}
}
