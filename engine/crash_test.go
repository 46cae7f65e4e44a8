package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"rollcall/checkpoint"
	"rollcall/cursor"
	"rollcall/datadir"
	"rollcall/engine/table"
	"rollcall/internal/faultfs"
	"rollcall/internal/testseed"
	"rollcall/record"
	"rollcall/wal"
	"rollcall/wire"
)

// crashSeeds is how many seeds TestCrash runs; each is some hundred crashes. ROLLCALL_CRASH_SEEDS
// raises it.
func crashSeeds(t *testing.T) int {
	return testseed.Rounds(t, "ROLLCALL_CRASH_SEEDS", 1, 3)
}

// TestCrash crashes the machine at every sync of the log and of the checkpoint, and at random
// moments between, while heartbeats, expiries, forgetting and checkpoints run at the same time.
// What was not synced is lost, kept or torn, page by page, at random. After each crash: what was
// acknowledged is there, nothing is that was never sent, the log's order is the devices' order, a
// cursor is honoured when what it names was not lost (Q1, Q2), and another crash right after the
// recovery changes nothing.
//
// ROLLCALL_SEED runs one seed again: the same work and the same losses; how the goroutines
// interleave is the scheduler's.
func TestCrash(t *testing.T) {
	rng := testseed.Rand(t)
	clones, forgotten := 0, uint64(0)
	for range crashSeeds(t) {
		seed := rng.Uint64()
		if os.Getenv("ROLLCALL_SEED") != "" {
			fmt.Sscan(os.Getenv("ROLLCALL_SEED"), &seed)
		}
		c := newCrasher(t, seed)
		clones += c.run()
		forgotten += c.forgotten
	}
	t.Logf("%d crashes, %d devices forgotten", clones, forgotten)
}

const (
	crashBeaters = 4  // goroutines that send heartbeats
	crashBeats   = 60 // of each
	// crashStep is by how much a heartbeat moves the clock, at most: all of them together by less
	// than forgetAfter, so that only devices that send nothing are forgotten.
	crashStep   = 12 * time.Second
	forgetAfter = time.Hour
)

// crasher is one run and the crashes that it was cut off by.
type crasher struct {
	t       *testing.T
	seed    uint64
	sync    wal.SyncMode
	fs      *vfs.MemFS
	now     atomic.Int64
	devices []*crashDevice

	mu     sync.Mutex
	rng    *rand.Rand // guarded by mu
	clones []clone    // guarded by mu
	over   bool       // guarded by mu
	shown  uint64     // guarded by mu: an LSN that was committed
	cursor []byte     // guarded by mu: of it

	forgotten uint64
}

// crashDevice is what is known of one device while the run goes on.
type crashDevice struct {
	user, device uuid.UUID
	sent, acked  atomic.Uint64 // seq; 0: none
	retired      bool          // sends one offline heartbeat and is forgotten an hour later
	gone         atomic.Bool   // a checkpoint that is complete has forgotten it
}

// clone is what a crash left, and what was known before and after it.
type clone struct {
	fs          *vfs.MemFS
	at          string
	acked, sent []uint64
	gone        []bool
	now         int64
	shown       uint64 // an LSN that was shown before
	cursor      []byte // of it
}

func newCrasher(t *testing.T, seed uint64) *crasher {
	c := &crasher{t: t, seed: seed, fs: vfs.NewCrashableMem(), rng: rand.New(rand.NewPCG(seed, 1))}
	if seed%4 == 3 {
		c.sync = wal.SyncNever // nothing is promised then but order
	}
	users := make([]uuid.UUID, 5)
	for i := range users {
		users[i] = uuid.New()
	}
	for i := range 3*crashBeaters + 3 {
		user, retired := users[i%len(users)], i >= 3*crashBeaters
		c.devices = append(c.devices,
			&crashDevice{user: user, device: uuid.New(), retired: retired})
	}
	c.now.Store(1)
	return c
}

// run does the work and checks what each crash left. It returns how many there were.
func (c *crasher) run() int {
	d := c.open(errorfs.Wrap(faultfs.GuardLinks(c.fs, &c.mu), errorfs.InjectorFunc(c.before)))
	for _, device := range c.devices {
		if device.retired {
			c.beat(d, device)
		}
	}
	c.now.Add(int64(forgetAfter * 5 / 6))
	var beaters, others sync.WaitGroup
	stop := make(chan struct{})
	for i := range crashBeaters {
		rng := rand.New(rand.NewPCG(c.seed, uint64(2+i)))
		beaters.Go(func() {
			for range crashBeats {
				c.beat(d, c.devices[crashBeaters*rng.IntN(3)+i])
				c.now.Add(rng.Int64N(int64(crashStep)))
			}
		})
	}
	others.Go(func() { c.expire(d, stop) })
	others.Go(func() { c.checkpoint(d, stop, 2) })
	beaters.Wait()
	close(stop)
	others.Wait()
	c.checkpoint(d, nil, 1)
	c.mu.Lock()
	c.over = true
	clones := c.clones
	c.mu.Unlock()
	c.forgotten = d.Stats().Forgotten
	d.shut()
	for _, cl := range clones {
		c.check(cl)
	}
	return len(clones)
}

// open opens log, store and engine on a file system.
func (c *crasher) open(fs vfs.FS) *disk {
	c.t.Helper()
	d := openDiskOn(c.t, fs, wal.Options{Sync: c.sync},
		Options{ForgetAfter: forgetAfter, MaxWait: time.Minute}, &c.now)
	if c.seed%2 == 0 {
		d.checkpoints.besideBytes = 1 // each range is put in its place alone
	}
	return d
}

// before crashes before a sync. It is called before each operation of the file system.
func (c *crasher) before(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRemove,
		errorfs.OpRename:
		c.crash(fmt.Sprintf("%v of %s", op.Kind, op.Path))
	}
	return nil
}

// crash keeps what a crash would leave now.
func (c *crasher) crash(at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	cl := clone{at: at}
	for _, d := range c.devices { // first what must be there: more may be, by the time of the crash
		cl.acked = append(cl.acked, d.acked.Load())
		cl.gone = append(cl.gone, d.gone.Load())
	}
	cl.shown, cl.cursor = c.shown, c.cursor
	percent := []int{0, 100, c.rng.IntN(101)}[c.rng.IntN(3)]
	cl.fs = c.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng})
	for _, d := range c.devices {
		cl.sent = append(cl.sent, d.sent.Load())
	}
	cl.now = c.now.Load()
	c.clones = append(c.clones, cl)
}

// beat sends a device's next heartbeat. All of it follows from device and seq, so that it can be
// known again.
func (c *crasher) beat(d *disk, device *crashDevice) {
	hb := device.heartbeat(device.sent.Load() + 1)
	device.sent.Add(1)
	if res := c.send(d, hb); res.Outcome != Accepted {
		c.t.Errorf("seed %d: %+v", c.seed, res)
		return
	}
	device.acked.Store(hb.Seq)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = d.log.Committed()
	c.cursor = d.History().Append(nil, cursor.Cursor{LSN: c.shown})
}

// send sends a heartbeat alone, or as an event loop does.
func (c *crasher) send(d *disk, hb *Heartbeat) Result {
	if (hb.Seq+c.seed)%2 == 0 {
		return d.Heartbeat(hb)
	}
	results, err := inGroup(d.Engine, []Heartbeat{*hb})
	if err != nil {
		return Result{Outcome: Unavailable, Err: err}
	}
	return results[0]
}

func (d *crashDevice) heartbeat(seq uint64) *Heartbeat {
	hb := &Heartbeat{Heartbeat: wire.Heartbeat{
		User: d.user, Device: d.device, Seq: seq, SentAtMS: 1000 + seq,
		TTLMS: 1 + seq*7919%60_000, Status: Status(seq % 3 & 1),
		Source: fmt.Appendf(nil, "source %d", seq%5),
	}}
	if d.retired {
		hb.Status = Offline
	}
	return hb
}

func (c *crasher) expire(d *disk, stop <-chan struct{}) {
	for {
		d.expiry.turn(c.now.Load())
		select {
		case <-stop:
			return
		default:
			runtime.Gosched()
		}
	}
}

// checkpoint takes some checkpoints, and remembers whom they forgot.
func (c *crasher) checkpoint(d *disk, stop <-chan struct{}, times int) {
	for range times {
		if _, err := d.Checkpoint(stop); errors.Is(err, errStopped) {
			return
		} else if err != nil {
			c.t.Errorf("seed %d: %v", c.seed, err)
			return
		}
		for _, device := range c.devices {
			_, entry := d.table.Find(device.user, device.device)
			if device.retired && entry == nil {
				device.gone.Store(true)
			}
		}
		c.crash("after a checkpoint")
	}
}

// check recovers what a crash left.
func (c *crasher) check(cl clone) {
	c.now.Store(cl.now)
	failed := func(format string, args ...any) {
		c.t.Helper()
		c.t.Fatalf("seed %d, crash at %s: %s", c.seed, cl.at, fmt.Sprintf(format, args...))
	}
	d := c.open(cl.fs)
	if cl.cursor != nil {
		_, honoured := d.History().Parse(cl.cursor)
		lost := cl.shown > d.log.Appended()
		if honoured == lost || lost && c.sync != wal.SyncNever {
			failed("a cursor at %d of %d: honoured %v", cl.shown, d.log.Appended(), honoured)
		}
	}
	found := c.records(d)
	if len(found) != d.table.Len() {
		failed("%d devices are shown, %d are known", len(found), d.table.Len())
	}
	var byStatus [2]int
	for _, r := range found {
		byStatus[r.Status]++
	}
	if s := d.Stats(); s.Online != byStatus[Online] || s.Offline != byStatus[Offline] {
		failed("%d online and %d offline are counted, %v are there", s.Online, s.Offline, byStatus)
	}
	for user, u := range c.aggregates(d) {
		online, seen := uint32(0), uint64(0)
		for _, r := range found {
			if r.User == user {
				online += uint32(r.Status)
				seen = max(seen, r.SeenAtMS)
			}
		}
		if u.Online != online || online == 0 && u.SeenAtMS < seen {
			failed("user %s is %+v, its devices say %d online, seen at %d", user, u, online, seen)
		}
	}
	for i, device := range c.devices {
		r, ok := found[device.device]
		delete(found, device.device)
		switch {
		case !ok && cl.gone[i] && d.History().Forgotten(device.user) == 0:
			failed("it is forgotten that a device was")
		case !ok && c.sync == wal.SyncNever, !ok && device.retired && cl.now > int64(forgetAfter):
		case !ok && cl.acked[i] > 0:
			failed("seq %d was acknowledged, and the device is unknown", cl.acked[i])
		case !ok:
		case cl.gone[i]:
			failed("a forgotten device is back, at seq %d", r.Seq)
		case c.sync == wal.SyncAlways && r.Seq < cl.acked[i] || r.Seq > cl.sent[i]:
			failed("seq %d; %d was acknowledged, %d was sent", r.Seq, cl.acked[i], cl.sent[i])
		default:
			if wrong := differs(device.heartbeat(r.Seq), r); wrong != "" {
				failed("seq %d: %s", r.Seq, wrong)
			}
		}
	}
	if len(found) > 0 {
		failed("devices that were never sent: %v", found)
	}
	c.checkAgain(d, cl, failed)
}

// checkAgain lets the machine crash right after a recovery, or after the checkpoint that follows
// it.
func (c *crasher) checkAgain(d *disk, cl clone, failed func(string, ...any)) {
	if c.rng.IntN(4) == 0 {
		d.checkpoint(c.t)
	}
	want, users := c.records(d), c.aggregates(d)
	crashed := cl.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.rng.IntN(101), RNG: c.rng})
	d.shut()
	again := c.open(crashed)
	defer again.shut()
	got := c.records(again)
	for device, r := range want {
		if got[device] != r {
			failed("a second recovery has %+v, the first had %+v", got[device], r)
		}
	}
	if len(got) != len(want) {
		failed("a second recovery has %d devices, the first had %d", len(got), len(want))
	}
	for user, u := range c.aggregates(again) {
		if u != users[user] {
			failed("a second recovery has user %s at %+v, the first at %+v", user, u, users[user])
		}
	}
}

// aggregates is every user's.
func (c *crasher) aggregates(d *disk) map[uuid.UUID]table.Aggregate {
	found := make(map[uuid.UUID]table.Aggregate)
	for _, device := range c.devices {
		found[device.user], _ = d.table.Aggregate(device.user)
	}
	return found
}

// records is every device by its id, which must be there once.
func (c *crasher) records(d *disk) map[uuid.UUID]Device {
	c.t.Helper()
	found := make(map[uuid.UUID]Device)
	var users []uuid.UUID
	for _, device := range c.devices {
		if slices.Contains(users, device.user) {
			continue
		}
		users = append(users, device.user)
		records, err := allDevices(d, device.user)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, r := range records {
			if _, twice := found[r.Device]; twice {
				c.t.Fatalf("seed %d: device %s is there twice", c.seed, r.Device)
			}
			found[r.Device] = r
		}
	}
	return found
}

// differs says in what a record is not the heartbeat of its seq; an expiry of it is.
func differs(hb *Heartbeat, r Device) string {
	switch expired := hb.Status == Online && r.Status == Offline; {
	case string(hb.Source) != r.Source || hb.TTLMS != r.TTLMS:
		return fmt.Sprintf("source %q, ttl %d", r.Source, r.TTLMS)
	case !expired && (hb.Status != r.Status || hb.SentAtMS != r.SentAtMS):
		return fmt.Sprintf("status %d, sent at %d", r.Status, r.SentAtMS)
	case expired && r.SentAtMS < wallZero:
		return fmt.Sprintf("expired at %d", r.SentAtMS)
	}
	return ""
}

// orderedLog checks what recovery reads: LSNs have no gap, and the seq of a device never falls.
type orderedLog struct {
	*wal.Log
	t *testing.T
}

func (l orderedLog) Replay(after uint64, apply func(lsn uint64, rec []byte) error) error {
	next := after + 1
	seqs := make(map[uuid.UUID]uint64)
	return l.Log.Replay(after, func(lsn uint64, rec []byte) error {
		r, err := record.Parse(rec)
		if err != nil {
			return err
		}
		if lsn != next {
			l.t.Errorf("LSN %d, want %d", lsn, next)
		}
		next++
		if seq := r.State().Seq; seq < seqs[r.Device()] {
			l.t.Errorf("LSN %d: seq %d after %d", lsn, seq, seqs[r.Device()])
		} else {
			seqs[r.Device()] = seq
		}
		return apply(lsn, rec)
	})
}

// openDiskOn is openDisk on any file system, with a clock of the caller's.
func openDiskOn(t *testing.T, fs vfs.FS, lo wal.Options, o Options, now *atomic.Int64) *disk {
	t.Helper()
	d, err := tryDisk(t, fs, lo, o, now)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// tryDisk opens log, store and engine, or nothing.
func tryDisk(
	t *testing.T, fs vfs.FS, lo wal.Options, o Options, now *atomic.Int64,
) (_ *disk, err error) {
	lo.FS, lo.BufferBytes, lo.SegmentBytes, lo.Logger = fs, 4<<10, 16<<10,
		slog.New(slog.DiscardHandler)
	d := &disk{now: now}
	log, store, err := datadir.Open("data", lo, checkpoint.Options{FS: fs, Logger: lo.Logger})
	if err != nil {
		return nil, err
	}
	d.log = log
	d.store = &hookedStore{Store: store}
	o.Store, o.Shards, o.Logger, o.Clock = d.store, 4, lo.Logger, stillClock(now)
	if d.Engine, err = New(orderedLog{d.log, t}, o); err != nil {
		d.log.Close()
		store.Close()
		return nil, err
	}
	d.checkpoints.rangeDevices = 2
	if err := d.Engine.open(); err != nil {
		d.shut()
		return nil, err
	}
	return d, nil
}
