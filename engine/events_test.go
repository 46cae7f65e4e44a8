package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
	"rollcall/record"
)

// recorder is a sink that writes down what it is given.
type recorder struct {
	mu    sync.Mutex
	calls []string // guarded by mu
	ticks []int64  // guarded by mu
}

func (r *recorder) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

func (r *recorder) Publish(source broadcast.Source, user uuid.UUID, lsn uint64, rec []byte) {
	v := record.View(rec)
	s := v.State()
	r.note("publish %d %d seq %d %v of %v", source, lsn, s.Seq, s.Status(), v.User() == user)
}

func (r *recorder) Flush(source broadcast.Source, through uint64, receivedNanos int64) {
	r.note("flush %d %d received %v", source, through, time.Duration(receivedNanos))
}

func (r *recorder) Lose(source broadcast.Source) { r.note("lose %d", source) }

func (r *recorder) Tick(nowNanos int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ticks = append(r.ticks, nowNanos)
}

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// TestEventsGoToTheSink in LSN order, each batch with its end, under the engine's source; first the
// sink gets to know what recovery has read.
func TestEventsGoToTheSink(t *testing.T) {
	log := newMemLog()
	hb := newHeartbeat(1, 60_000)
	log.keep(false, hb.User, hb.Device, hb.Seq, "before")
	sink := &recorder{}
	r := startRig(t, log, Options{Events: sink, Source: 7, ObserveDelivery: func(float64) {}})
	for hb.Seq = 2; hb.Seq <= 3; hb.Seq++ {
		r.now.Add(int64(time.Second))
		r.mustAccept(hb)
		testwait.Until(t, "it is published",
			func() bool { return len(sink.seen()) == int(2*hb.Seq) })
	}
	r.advance(time.Minute) // the second expires
	want := []string{
		"lose 7", "flush 7 1 received 0s",
		"publish 7 2 seq 2 online of true", "flush 7 2 received 1.000000001s",
		"publish 7 3 seq 3 online of true", "flush 7 3 received 2.000000001s",
		"publish 7 4 seq 3 offline of true", "flush 7 4 received 0s",
	}
	testwait.Until(t, "the expiry is committed",
		func() bool { return len(sink.seen()) >= len(want) })
	if got := sink.seen(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// keeper is a recorder that is told what is forgotten.
type keeper struct{ recorder }

func (k *keeper) Forget(source broadcast.Source, user uuid.UUID, lsn uint64, rec []byte) {
	v := record.View(rec)
	k.note("forget %d %d %v of %v", source, lsn, v.Forget(), v.User() == user)
}

// TestSinkIsToldWhatIsForgotten: one that keeps devices, in its place among the changes. Another
// one gets nothing of it.
func TestSinkIsToldWhatIsForgotten(t *testing.T) {
	for _, sink := range []interface {
		Events
		seen() []string
	}{&keeper{}, &recorder{}} {
		d := openDisk(t, vfs.NewCrashableMem(), Options{ForgetAfter: time.Hour, Events: sink}, 1)
		hb := newHeartbeat(5, 1)
		hb.Status = Offline
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatal(res)
		}
		d.now.Add(int64(2 * time.Hour))
		d.checkpoint(t)
		told := slices.ContainsFunc(sink.seen(), func(call string) bool {
			return strings.HasPrefix(call, "forget 0 2 true of true")
		})
		if _, keeps := sink.(Forgets); told != keeps {
			t.Errorf("%T was told %q", sink, sink.seen())
		}
		d.shut()
	}
}

// TestStatesWithoutAForgottenDevice: until it is committed that a device is forgotten, what is said
// of its user lacks something that comes. Another user's states are whole.
func TestStatesWithoutAForgottenDevice(t *testing.T) {
	d := openDisk(t, vfs.NewCrashableMem(), Options{ForgetAfter: time.Hour, Events: &keeper{}}, 1)
	defer d.shut()
	gone, kept := newHeartbeat(5, 1), newHeartbeat(5, 1)
	beat := func(hb *Heartbeat) {
		hb.Status = Offline
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatal(res)
		}
	}
	beat(gone)
	d.now.Add(int64(2 * time.Hour))
	beat(kept)
	d.checkpoint(t)
	for through, want := range map[uint64]uint64{2: 3, 3: 0} {
		states, newer, _ := d.AppendStates(nil, gone.User, through)
		if len(states) > 0 || newer != want {
			t.Errorf("through %d it has %d bytes, and LSN %d comes", through, len(states), newer)
		}
	}
	if states, newer, _ := d.AppendStates(nil, kept.User, 2); len(states) == 0 || newer != 0 {
		t.Errorf("of another user it has %d bytes, and LSN %d comes", len(states), newer)
	}
}

// TestSinkGetsTheTime of the engine's clock.
func TestSinkGetsTheTime(t *testing.T) {
	log, sink := newMemLog(), &recorder{}
	r := newRig(t, log, Options{Events: sink})
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	defer r.shut()
	testwait.Until(t, "two ticks", func() bool {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		return len(sink.ticks) >= 2 && sink.ticks[0] == 1
	})
}

// TestEventsElsewhereNoStreamsHere: an engine whose events go to a sink has no broadcaster.
func TestEventsElsewhereNoStreamsHere(t *testing.T) {
	r := startRig(t, newMemLog(), Options{Events: &recorder{}})
	if _, err := r.Take(nil); !errors.Is(err, ErrNoStreams) {
		t.Errorf("Take: %v", err)
	}
	if err := r.Subscribe(broadcast.Subscription{}); !errors.Is(err, ErrNoStreams) {
		t.Errorf("Subscribe: %v", err)
	}
	if n := r.OpenStreams() + r.Streams(uuid.New()) + r.Stats().Streams.Streams; n != 0 {
		t.Errorf("%d streams", n)
	}
	if err := r.Drain(t.Context(), time.Hour); err != nil {
		t.Error(err)
	}
}
