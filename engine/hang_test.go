package engine

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/internal/faultfs"
	"rollcall/internal/testwait"
	"rollcall/wal"
)

// countedEvents counts what is published.
type countedEvents struct{ published atomic.Int64 }

func (c *countedEvents) Publish(broadcast.Source, uuid.UUID, uint64, []byte) { c.published.Add(1) }
func (c *countedEvents) Flush(broadcast.Source, uint64, int64)               {}
func (c *countedEvents) Lose(broadcast.Source)                               {}
func (c *countedEvents) Tick(int64)                                          {}

// TestHangingDisk: while the disk hangs, heartbeats, alone and in batches, are refused within a
// bounded time, Ready says why, no event leaves before its commit (I2), and no device goes offline,
// neither then nor before it had the time to be heard again (I8). Afterwards the engine goes on by
// itself, and a heartbeat that is sent again learns that it was stored.
func TestHangingDisk(t *testing.T) {
	for _, mode := range []wal.SyncMode{wal.SyncAlways, wal.SyncInterval, wal.SyncNever} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			testHangingDisk(t, mode)
		})
	}
}

func testHangingDisk(t *testing.T, mode wal.SyncMode) {
	gate := &faultfs.Gate{Holds: func(op errorfs.Op) bool {
		return strings.HasSuffix(op.Path, ".wal") && op.Kind.ReadOrWrite() == errorfs.OpIsWrite
	}}
	events, now := new(countedEvents), new(atomic.Int64)
	now.Store(1)
	d := openDiskOn(t, gate.Wrap(vfs.NewMem()), wal.Options{Sync: mode}, Options{
		MaxWait: time.Second, RecoveryGrace: 2 * time.Second, Events: events,
	}, now)
	defer d.shut()
	d.phase.Store(serving)
	silent, speaking := newHeartbeat(1, 5000), newHeartbeat(1, 5000)
	for _, hb := range []*Heartbeat{silent, speaking} {
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatalf("before: %+v", res)
		}
	}
	testwait.Until(t, "both are published", func() bool { return events.published.Load() == 2 })
	gate.Shut()
	defer gate.Open()
	results, settled := make(chan Result, 1), make(chan error, 1)
	speaking.Seq = 2
	go func() { results <- d.Heartbeat(speaking) }()
	testwait.Until(t, "it is appended", func() bool { return d.log.Appended() == 3 })
	go func() {
		b := d.NewBatch()
		defer b.Release()
		for range 4 {
			group := make([]Heartbeat, GroupSize)
			for i := range group {
				group[i] = *newHeartbeat(1, 60_000)
			}
			b.Add(group) // more than a buffer holds
		}
		settled <- b.Settle()
	}()
	res := testwait.For(t, "a heartbeat is refused", results)
	if res.Outcome != Unavailable || !errors.Is(res.Err, wal.ErrStalled) {
		t.Errorf("a heartbeat while the disk hangs: %+v", res)
	}
	if err := testwait.For(t, "a batch is refused", settled); !errors.Is(err, wal.ErrStalled) {
		t.Errorf("a batch while the disk hangs: %v", err)
	}
	res = d.Heartbeat(newHeartbeat(1, 5000))
	if res.Outcome != Unavailable || !res.LogFull || !errors.Is(res.Err, wal.ErrStalled) {
		t.Errorf("a later heartbeat: %+v", res)
	}
	if err := d.Ready(); !errors.Is(err, ErrStalled) {
		t.Errorf("Ready while the disk hangs: %v", err)
	}
	if n := events.published.Load(); n != 2 {
		t.Errorf("%d events left before they were committed", n-2)
	}
	now.Store(int64(time.Minute))
	d.expiry.turn(now.Load())
	wantOnline(t, d, silent, speaking)

	gate.Open()
	testwait.Until(t, "the disk goes on", func() bool { return d.Ready() == nil })
	testwait.Until(t, "a repeated heartbeat is answered", func() bool {
		res = d.Heartbeat(speaking)
		return res.Outcome != Unavailable
	})
	if res.Outcome != Stale || res.LastSeq != 2 {
		t.Errorf("a heartbeat that is sent again: %+v", res)
	}
	now.Add(int64(1900 * time.Millisecond))
	d.expiry.turn(now.Load())
	wantOnline(t, d, silent, speaking)
	speaking.Seq = 3
	if res := d.Heartbeat(speaking); res.Outcome != Accepted {
		t.Errorf("after: %+v", res)
	}
	now.Add(int64(200 * time.Millisecond))
	d.expiry.turn(now.Load())
	wantOnline(t, d, speaking)
	if devices, err := allDevices(d, silent.User); err != nil || devices[0].Status != Offline {
		t.Errorf("a device that stays silent after its grace: %+v, %v", devices, err)
	}
}

// wantOnline checks the state of devices that may not be durable.
func wantOnline(t *testing.T, d *disk, hbs ...*Heartbeat) {
	t.Helper()
	for _, hb := range hbs {
		_, entry := d.table.Find(hb.User, hb.Device)
		if s, ok := entry.Load(); !ok || !s.Online {
			t.Errorf("device with seq %d went offline", s.Seq)
		}
	}
}
