package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/checkpoint"
	"rollcall/datadir"
	"rollcall/internal/testseed"
	"rollcall/wal"
)

// disk is an engine on a real log and a real store over a file system in memory that can crash.
type disk struct {
	*Engine
	fs    *vfs.MemFS
	log   *wal.Log
	store *hookedStore
	now   *atomic.Int64
}

// hookedStore lets a test act between two ranges of a checkpoint, and make one fail.
type hookedStore struct {
	*checkpoint.Store
	ranges   int
	after    func() // nil, or called when a range was replaced
	clockErr error  // of SetClock

	beside, most    int // ranges that were written and not installed: now, and at most
	installed       int // installations that put ranges in their place
	roomFor         int // 0, or with how many ranges beside the store the disk is full
	discarded, lost int // calls of Discard, and ranges that one threw away
}

func (h *hookedStore) Room(n int64) error {
	if h.roomFor > 0 && h.beside >= h.roomFor {
		return checkpoint.ErrNoSpace
	}
	return h.Store.Room(n)
}

func (h *hookedStore) Install() error {
	err := h.Store.Install()
	if err == nil && h.beside > 0 {
		h.installed++
		h.beside = 0
	}
	return err
}

func (h *hookedStore) Discard() error {
	h.discarded++
	h.lost += h.beside
	h.beside = 0
	return h.Store.Discard()
}

func (h *hookedStore) SetClock(ms uint64) error {
	if h.clockErr != nil {
		return h.clockErr
	}
	return h.Store.SetClock(ms)
}

func (h *hookedStore) Replace(lo, hi []byte, items func(yield func(k, v []byte) bool)) error {
	err := h.Store.Replace(lo, hi, items)
	h.ranges++
	h.beside++
	h.most = max(h.most, h.beside)
	if h.after != nil {
		h.after()
	}
	return err
}

func openDisk(t *testing.T, fs *vfs.MemFS, o Options, nanos int64) *disk {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	log, store, err := datadir.Open("data",
		wal.Options{FS: fs, BufferBytes: 4 << 10, SegmentBytes: 16 << 10, Logger: quiet},
		checkpoint.Options{FS: fs, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	hooked := &hookedStore{Store: store}
	o.Store = hooked
	e, now := newStill(t, log, o)
	e.checkpoints.rangeDevices = 2 // so that a few devices make several ranges
	now.Store(nanos)
	if err := e.open(); err != nil {
		t.Fatal(err)
	}
	return &disk{e, fs, log, hooked, now}
}

func (d *disk) shut() {
	d.Close(context.Background())
	d.log.Close()
	d.store.Close()
}

func (d *disk) checkpoint(t *testing.T) int {
	t.Helper()
	n, err := d.Checkpoint(nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// describe is every device of a user, as debug shows it.
func (d *disk) describe(t *testing.T, user uuid.UUID) string {
	t.Helper()
	records, err := allDevices(d, user)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, r := range records {
		text += fmt.Sprintf("%+v\n", r)
	}
	return text
}

// TestRangesBesideTheStore: ranges are put in their place all at once, in bounded parts when they
// would take more room beside the store than they may, and sooner on a disk that has less; a
// checkpoint that fails or is stopped leaves none.
func TestRangesBesideTheStore(t *testing.T) {
	for name, set := range map[string]func(d *disk){
		"at once":  func(*disk) {},
		"bounded":  func(d *disk) { d.checkpoints.besideBytes = 20 * deviceBytes },
		"no room":  func(d *disk) { d.store.roomFor = 1 },
		"fails":    func(d *disk) { d.store.clockErr = errors.New("no clock") },
		"one each": func(d *disk) { d.checkpoints.besideBytes = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			d := openDisk(t, vfs.NewCrashableMem(), Options{}, 1)
			defer d.shut()
			for range 60 {
				if res := d.Heartbeat(newHeartbeat(1, 60_000)); res.Outcome != Accepted {
					t.Fatalf("%+v", res)
				}
			}
			set(d)
			_, err := d.Checkpoint(nil)
			s := d.store
			t.Logf("%d ranges, %d installations, %d beside the store at most",
				s.ranges, s.installed, s.most)
			var ok bool
			switch name {
			case "at once":
				ok = s.installed == 1 && s.most == s.ranges && s.discarded == 0
			case "bounded":
				ok = s.installed > 1 && s.most < s.ranges
			case "no room", "one each":
				ok = s.installed == s.ranges && s.most == 1
			case "fails":
				ok = s.discarded == 1 && s.installed == 1 && s.lost == 0
			}
			if !ok || s.ranges != 4 || (err == nil) != (name != "fails") {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

// TestStoppedCheckpointLeavesNothing beside the store.
func TestStoppedCheckpointLeavesNothing(t *testing.T) {
	d := openDisk(t, vfs.NewCrashableMem(), Options{}, 1)
	defer d.shut()
	for range 60 {
		if res := d.Heartbeat(newHeartbeat(1, 60_000)); res.Outcome != Accepted {
			t.Fatalf("%+v", res)
		}
	}
	stop := make(chan struct{})
	d.store.after = func() {
		if d.store.ranges == 3 {
			close(stop)
		}
	}
	if _, err := d.Checkpoint(stop); !errors.Is(err, errStopped) || d.store.lost != 3 {
		t.Errorf("%v, %d ranges were lost", err, d.store.lost)
	}
}

// TestCheckpointWithoutItsClock is not committed, and the log is not shortened. The next one is.
func TestCheckpointWithoutItsClock(t *testing.T) {
	d := openDisk(t, vfs.NewMem(), Options{}, 1)
	defer d.shut()
	failed := errors.New("no clock")
	for seq := range uint64(2) {
		hb := newHeartbeat(1+seq, 60_000)
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatalf("%+v", res)
		}
		clock, _ := d.store.Clock()
		d.store.clockErr = failed
		_, err := d.Checkpoint(nil)
		now, clockErr := d.store.Clock()
		if !errors.Is(err, failed) || clockErr != nil || now != clock {
			t.Errorf("%v; the clock was %d, is %d, %v", err, clock, now, clockErr)
		}
		if d.store.LSN() != seq || d.log.Cut() != seq {
			t.Errorf("committed as of %d, the log is cut at %d", d.store.LSN(), d.log.Cut())
		}
		d.store.clockErr = nil
		d.checkpoint(t)
		if d.store.LSN() != seq+1 || d.log.Cut() != seq+1 {
			t.Errorf("as of %d, the log is cut at %d, not %d", d.store.LSN(), d.log.Cut(), seq+1)
		}
	}
}

// TestCheckpointShortensTheLog: what is recovered is the same with the log gone, and a part that
// did not change is not written again.
func TestCheckpointShortensTheLog(t *testing.T) {
	fs := vfs.NewCrashableMem()
	d := openDisk(t, fs, Options{}, 1)
	user := uuid.New()
	for i := range 20 {
		hb := newHeartbeat(1, 60_000)
		hb.User = user
		for hb.Seq = 1; hb.Seq < 30; hb.Seq++ {
			if res := d.Heartbeat(hb); res.Outcome != Accepted {
				t.Fatalf("device %d: %+v", i, res)
			}
		}
	}
	before := d.log.Stats()
	if n := d.checkpoint(t); n != 20 {
		t.Errorf("%d devices written, want 20", n)
	}
	if after := d.log.Stats(); after.Segments >= before.Segments || after.Segments > 2 {
		t.Errorf("%d segments before the checkpoint, %d after", before.Segments, after.Segments)
	}
	if n := d.checkpoint(t); n != 0 {
		t.Errorf("%d devices written again though none changed", n)
	}
	want := d.describe(t, user)
	now := d.now.Load()
	d.shut()
	again := openDisk(t, fs, Options{}, now)
	defer again.shut()
	if got := again.describe(t, user); got == "" || !sameLines(got, want) {
		t.Errorf("recovered\n%swant\n%s", got, want)
	}
}

// sameLines compares sets of lines: the order of first sight is not kept over a checkpoint.
func sameLines(a, b string) bool {
	count := map[rune]int{}
	for _, r := range a {
		count[r]++
	}
	for _, r := range b {
		count[r]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return len(a) == len(b)
}

// TestForget: a device that was offline for long enough is gone from memory and disk, also after
// restarts before and after the checkpoint that forgot it; one that came back is not.
func TestForget(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := Options{ForgetAfter: time.Hour}
	d := openDisk(t, fs, o, 1)
	user := uuid.New()
	gone, kept := newHeartbeat(5, 1), newHeartbeat(5, 1)
	for _, hb := range []*Heartbeat{gone, kept} {
		hb.User, hb.Status = user, Offline
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatal(res)
		}
	}
	d.checkpoint(t)
	d.now.Add(int64(2 * time.Hour))
	kept.Seq++
	if res := d.Heartbeat(kept); res.Outcome != Accepted {
		t.Fatal(res)
	}
	d.checkpoint(t)
	if n := d.table.Len(); n != 1 || d.Stats().Forgotten != 1 {
		t.Errorf("%d devices are left, %d forgotten", n, d.Stats().Forgotten)
	}
	for range 2 { // recovery, then recovery after one more checkpoint
		now := d.now.Load()
		d.shut()
		d = openDisk(t, fs, o, now)
		if n := d.table.Len(); n != 1 {
			t.Errorf("after a restart: %d devices", n)
		}
		d.checkpoint(t)
	}
	gone.Seq = 1 // a forgotten device may begin again
	if res := d.Heartbeat(gone); res.Outcome != Accepted {
		t.Errorf("a forgotten device begins again: %+v", res)
	}
	d.shut()
}

// TestCheckpointCrashes drives heartbeats, expiries, checkpoints and crashes at random: after each
// crash every device stands at what was acknowledged last. ROLLCALL_SEED replays one seed.
func TestCheckpointCrashes(t *testing.T) {
	rng := testseed.Rand(t)
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		checkpointCrashRound(t, rng.Uint64())
	}
}

func checkpointCrashRound(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	d := openDisk(t, vfs.NewCrashableMem(), Options{ForgetAfter: time.Hour}, 1)
	defer func() { d.shut() }()
	users := []uuid.UUID{uuid.New(), uuid.New(), uuid.New(), uuid.New(), uuid.New(), uuid.New()}
	devices := make([]*Heartbeat, 12)
	for i := range devices {
		devices[i] = newHeartbeat(0, 1)
		devices[i].User = users[i%len(users)]
	}
	beat := func() {
		hb := devices[rng.IntN(len(devices))]
		hb.Seq++
		hb.TTLMS = 1 + rng.Uint64N(10_000)
		hb.Status = Status(rng.IntN(2))
		hb.Source = fmt.Appendf(nil, "s%d", rng.IntN(3))
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatalf("seed %d: %+v", seed, res)
		}
	}
	for range 3 {
		crashed, want := (*vfs.MemFS)(nil), []string(nil)
		crash := func() {
			for _, u := range users {
				want = append(want, d.describe(t, u)) // waits until all of it is durable
			}
			crashed = d.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101),
				RNG: rng})
		}
		for range rng.IntN(120) {
			if crashed != nil {
				break
			}
			switch rng.IntN(12) {
			case 0:
				d.now.Add(rng.Int64N(int64(50 * time.Minute)))
				d.expiry.postponeExpiry(0)
				for d.expiry.turn(d.now.Load()) <= 0 {
				}
			case 1:
				at := rng.IntN(12) // the crash falls after this range, or into no range
				d.store.after = func() {
					beat()
					if at--; at == 0 {
						crash()
					}
				}
				d.checkpoint(t)
				d.store.after = nil
			default:
				beat()
			}
		}
		if crashed == nil {
			crash()
		}
		now := d.now.Load()
		d.shut()
		d = openDisk(t, crashed, Options{ForgetAfter: time.Hour}, now)
		for i, u := range users {
			if got := d.describe(t, u); !sameLines(got, want[i]) {
				t.Fatalf("seed %d: after the crash\n%swant\n%s", seed, got, want[i])
			}
		}
	}
}
