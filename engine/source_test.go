package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/internal/testseed"
)

// checkSources compares the references with the entries: while no heartbeat is on its way, each
// text has one for each entry that holds it, and there is no other text.
func checkSources(t *testing.T, d *devices) {
	t.Helper()
	held := map[uint32]uint32{}
	d.table.Range(func(_ table.Ref, e *table.Entry) bool {
		if s, ok := e.Load(); ok {
			held[s.Source]++
		}
		return true
	})
	bytes := int64(0)
	for text, got := range d.sources.texts {
		if got.text != text || d.sources.name(got.id) != text || held[got.id] != got.references {
			t.Fatalf("%q: id %d of %q has %d references, and %d entries hold it", text, got.id,
				d.sources.name(got.id), got.references, held[got.id])
		}
		bytes += int64(len(text))
		delete(held, got.id)
	}
	if len(held) != 0 {
		t.Fatalf("entries hold ids without a text: %v", held)
	}
	if texts, size := d.sources.size(); size != bytes || texts != len(d.sources.texts) ||
		int(d.sources.used) != texts+len(d.sources.free) {
		t.Fatalf("%d texts of %d bytes, want %d of %d; %d ids were handed out, %d are free", texts,
			size, len(d.sources.texts), bytes, d.sources.used, len(d.sources.free))
	}
}

// TestSourcesAgainstModel changes, expires, forgets and brings back devices at random, through
// checkpoints and restarts, and compares texts and references with a map's.
func TestSourcesAgainstModel(t *testing.T) {
	rng := testseed.Rand(t)
	fs := vfs.NewCrashableMem()
	o := Options{ForgetAfter: time.Hour}
	d := openDisk(t, fs, o, 1)
	type known struct {
		hb     *Heartbeat
		source string
	}
	var devices []*known
	for range 60 {
		devices = append(devices, &known{hb: newHeartbeat(0, 1_000)})
	}
	seq := uint64(0)
	for step := range 3000 {
		k := devices[rng.IntN(len(devices))]
		switch op := rng.IntN(1000); {
		case op < 950:
			seq++
			k.hb.Seq, k.hb.Status = seq, Status(rng.IntN(2))
			if rng.IntN(2) == 0 {
				k.hb.Source = fmt.Appendf(nil, "source %d", rng.IntN(2*len(devices)))
			}
			if res := d.Heartbeat(k.hb); res.Outcome != Accepted {
				t.Fatalf("%+v", res)
			}
			k.source = string(k.hb.Source)
		case op < 985:
			d.checkpoint(t)
		case op < 995:
			for _, gone := range devices { // all that are offline
				if rec, ok := oneDevice(t, d.Engine, gone.hb); ok && rec.Status == Offline {
					gone.source = ""
				}
			}
			d.now.Add(int64(2 * o.ForgetAfter))
			d.checkpoint(t)
		default:
			now := d.now.Load()
			crashed := fs.CrashClone(vfs.CrashCloneCfg{})
			d.shut()
			fs, d = crashed, openDisk(t, crashed, o, now)
		}
		if step%50 != 0 {
			continue
		}
		checkSources(t, d.devices)
		texts := map[string]bool{}
		for _, k := range devices {
			if rec, _ := oneDevice(t, d.Engine, k.hb); rec.Source != k.source {
				t.Fatalf("step %d: source %q, want %q", step, rec.Source, k.source)
			}
			if k.source != "" {
				texts[k.source] = true
			}
		}
		if n, _ := d.sources.size(); n != len(texts) {
			t.Fatalf("step %d: %d texts are kept, want %d", step, n, len(texts))
		}
	}
	d.shut()
}

func oneDevice(t *testing.T, e *Engine, hb *Heartbeat) (Device, bool) {
	t.Helper()
	all, err := allDevices(e, hb.User)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range all {
		if rec.Device == hb.Device {
			return rec, true
		}
	}
	return Device{}, false
}

// TestManySources: one user's devices bring more distinct texts than a 16-bit id has room for. All
// are taken, and so are new texts of another user, before and after a restart. When the devices
// agree on one text again, nothing of the others is kept.
func TestManySources(t *testing.T) {
	const texts = 70_000
	log := newMemLog()
	r := newRig(t, log, Options{})
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	other := newHeartbeat(1, 60_000)
	r.mustAccept(other)
	user, devices := uuid.New(), make([]uuid.UUID, texts)
	hb := newHeartbeat(1, 60_000)
	hb.User = user
	for i := range devices {
		devices[i] = uuid.New()
		hb.Device, hb.Source = devices[i], fmt.Appendf(nil, "agent, pid %d", i)
		r.mustAccept(hb)
	}
	othersChange := func(r *rig) {
		t.Helper()
		for range 3 {
			other.Seq++
			other.Source = fmt.Appendf(nil, "version %d", other.Seq)
			r.mustAccept(other)
			if rec := r.wantStatus(other, Online); rec.Source != string(other.Source) {
				t.Fatalf("source %q, want %q", rec.Source, other.Source)
			}
		}
		if n, _ := r.sources.size(); n != texts+1 {
			t.Fatalf("%d texts, want %d", n, texts+1)
		}
	}
	othersChange(r)
	r.shut()
	log.closed, log.done = false, make(chan struct{})
	r = newRig(t, log, Options{})
	if err := r.open(); err != nil {
		t.Fatalf("cannot start again: %v", err)
	}
	defer r.shut()
	othersChange(r)
	hb.Seq, hb.Source = 2, []byte("agent")
	for _, hb.Device = range devices {
		r.mustAccept(hb)
	}
	checkSources(t, r.devices)
	if n, bytes := r.sources.size(); n != 2 || bytes > 2*128 {
		t.Errorf("%d texts of %d bytes are kept of two", n, bytes)
	}
}

// TestSourceOfOneMoment: readers never see a text that the device did not have together with its
// seq, while ids go from text to text (T3).
func TestSourceOfOneMoment(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	const devices, changes = 4, 3000
	user := uuid.New()
	var writers, readers sync.WaitGroup
	var done atomic.Bool
	for range devices {
		hb := newHeartbeat(0, 60_000)
		hb.User = user
		writers.Go(func() {
			for seq := range uint64(changes) {
				hb.Seq = seq
				// One text is new each time, so that ids are given back and used again.
				hb.Source = fmt.Appendf(nil, "%d of %v", seq, hb.Device)
				if res := r.Heartbeat(hb); res.Outcome != Accepted {
					t.Errorf("seq %d: %+v", seq, res)
					return
				}
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for !done.Load() {
				r.table.Range(func(_ table.Ref, e *table.Entry) bool {
					_, device, s, source, ok := r.devices.read(e)
					if want := fmt.Sprintf("%d of %v", s.Seq, device); ok && source != want {
						t.Errorf("source %q, want %q", source, want)
						return false
					}
					return true
				})
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	checkSources(t, r.devices)
	if n, _ := r.sources.size(); n != devices {
		t.Errorf("%d texts for %d devices", n, devices)
	}
}

func TestSourceReleasedTooOftenIsABug(t *testing.T) {
	s := newSources()
	id := s.take([]byte("one"), 1)
	s.release(id, 1)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.release(id, 1)
}
