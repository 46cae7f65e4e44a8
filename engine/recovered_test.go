package engine

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/datadir"
	"rollcall/internal/testlog"
	"rollcall/internal/testwait"
	"rollcall/wal"
)

// heldLog replays nothing before it is let go.
type heldLog struct {
	*memLog
	replaying, letGo chan struct{}
}

func (l *heldLog) Replay(after uint64, apply func(uint64, []byte) error) error {
	close(l.replaying)
	<-l.letGo
	return l.memLog.Replay(after, apply)
}

func (l *heldLog) Replayed() (next uint64, done, total int64) { return 4_001, 7 << 20, 64 << 20 }

// heldStore loads nothing before it is let go.
type heldStore struct {
	Store
	letGo chan struct{}
	start chan struct{}
}

func (s heldStore) LSN() uint64                                { return 0 }
func (s heldStore) Start() error                               { <-s.start; return nil }
func (s heldStore) Clock() (uint64, error)                     { return 0, nil }
func (s heldStore) Secret(fresh func() []byte) ([]byte, error) { return fresh(), nil }
func (s heldStore) Epochs() ([]byte, error)                    { return nil, nil }
func (s heldStore) Forgotten() ([]byte, error)                 { return nil, nil }
func (s heldStore) SetEpochs([]byte) error                     { return nil }
func (s heldStore) Load(_, _ []byte, _ func(_, _ []byte) error) error {
	<-s.letGo
	return nil
}

// A start that takes long says on the console and to Ready where it is.
func TestRecoveryProgress(t *testing.T) {
	log := &heldLog{newMemLog(), make(chan struct{}), make(chan struct{})}
	store := heldStore{letGo: make(chan struct{}), start: make(chan struct{})}
	var out testlog.Output
	e, err := New(log,
		Options{Store: store, Logger: out.Logger(), Shards: 4})
	if err != nil {
		t.Fatal(err)
	}
	e.recovery.progress.every = time.Millisecond
	defer e.ReportProgress()()
	opened := make(chan error, 1)
	go func() { opened <- e.open() }()

	const inCheckpoint = "reading the checkpoint, part 0 of 4, 0 devices so far"
	testwait.Until(t, "the checkpoint is on the console", func() bool {
		return strings.Contains(out.String(), inCheckpoint)
	})
	if err := e.Ready(); err == nil || err.Error() != "recovering: "+inCheckpoint {
		t.Errorf("Ready: %v", err)
	}
	close(store.letGo)
	<-log.replaying
	const inLog = "replaying the log, record 4000, 7 of 64 MiB, 0 devices so far"
	testwait.Until(t, "the log is on the console",
		func() bool { return strings.Contains(out.String(), inLog) })
	if err := e.Ready(); err == nil || err.Error() != "recovering: "+inLog {
		t.Errorf("Ready: %v", err)
	}
	close(log.letGo)
	const atDisk = "everything is read, 0 devices; waiting for the disk to take the first files"
	testwait.Until(t, "the disk is on the console",
		func() bool { return strings.Contains(out.String(), atDisk) })
	if err := e.Ready(); err == nil || err.Error() != "recovering: "+atDisk {
		t.Errorf("Ready: %v", err)
	}
	close(store.start)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if err := e.Ready(); err == nil || err.Error() != "recovering: "+atDisk {
		t.Errorf("Ready before the loops run: %v", err)
	}
	log.close()
	e.Close(context.Background())
}

// TestMaxDevices: over it a new device is refused, counted, and logged once a minute; known ones go
// on (I5).
func TestMaxDevices(t *testing.T) {
	r := newRig(t, newMemLog(), Options{MaxDevices: 2})
	var out testlog.Output
	r.acceptor.logger = out.Logger()
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	r.phase.Store(serving)
	defer r.shut()
	known := newHeartbeat(1, 60_000)
	for _, hb := range []*Heartbeat{known, newHeartbeat(1, 60_000)} {
		if res := r.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatalf("within the bound: %+v", res)
		}
	}
	one := newHeartbeat(1, 60_000)
	for range 3 {
		if res := r.Heartbeat(one); res.Outcome != Unavailable || res.Err != ErrTooManyDevices {
			t.Fatalf("over the bound: %+v", res)
		}
	}
	if n := strings.Count(out.String(), "new devices are refused"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
	r.now.Add(int64(time.Minute))
	r.Heartbeat(one)
	if n := strings.Count(out.String(), "new devices are refused"); n != 2 ||
		!strings.Contains(out.String(), "devices=2 refused=4") {
		t.Errorf("logged %d times after a minute:\n%s", n, out.String())
	}
	known.Seq = 2
	if res := r.Heartbeat(known); res.Outcome != Accepted {
		t.Errorf("a known device: %+v", res)
	}
	if s := r.Stats(); s.DevicesRefused != 4 || s.Unavailable != 4 || s.Devices != 2 ||
		r.log.reserved != 0 {
		t.Errorf("%+v, %d credits are out", s, r.log.reserved)
	}
}

// TestMaxDevicesPerUser: over it a new device of that user is refused and counted; its known ones,
// and other users, go on.
func TestMaxDevicesPerUser(t *testing.T) {
	r := startRig(t, newMemLog(), Options{MaxDevicesPerUser: 3})
	user := uuid.New()
	of := func(user uuid.UUID, seq uint64) *Heartbeat {
		hb := newHeartbeat(seq, 60_000)
		hb.User = user
		return hb
	}
	known := of(user, 1)
	for _, hb := range []*Heartbeat{known, of(user, 1), of(user, 1), of(uuid.New(), 1)} {
		r.mustAccept(hb)
	}
	for range 2 {
		res := r.Heartbeat(of(user, 1))
		if res.Outcome != Unavailable || res.Err != ErrTooManyDevicesOfUser {
			t.Errorf("over the bound: %+v", res)
		}
	}
	known.Seq = 2
	r.mustAccept(known)
	r.mustAccept(of(uuid.New(), 1))
	if s := r.Stats(); s.UserDevicesRefused != 2 || s.DevicesRefused != 0 || s.Unavailable != 2 ||
		s.Devices != 5 || r.log.reserved != 0 {
		t.Errorf("%+v, %d credits are out", s, r.log.reserved)
	}
}

// TestRecoverForInspection: what is shown is what the server knows, which works on it meanwhile.
func TestRecoverForInspection(t *testing.T) {
	fs := vfs.NewCrashableMem()
	d := openDisk(t, fs, Options{}, 1)
	user := uuid.New()
	for n := range 10 {
		hb := newHeartbeat(1, 60_000)
		hb.Status = Status(n % 2)
		if n < 3 {
			hb.User = user
		}
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatal(res)
		}
		if n == 6 {
			d.checkpoint(t)
		}
	}
	want, err := allDevices(d, user)
	if err != nil {
		t.Fatal(err)
	}
	v, err := datadir.OpenView("data", fs) // the server works on it
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	log, err := v.Log(quiet)
	if err != nil {
		t.Fatal(err)
	}
	store, err := v.Checkpoint(log, quiet)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Recover(log, store, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if all, online := r.Devices(); all != 10 || online != 5 || r.Stored() != 7 {
		t.Errorf("%d devices, %d online, %d in the checkpoint", all, online, r.Stored())
	}
	n := 0
	r.Range(func(Device) bool { n++; return n < 4 })
	if n != 4 {
		t.Errorf("Range went on to %d", n)
	}
	var got []Device
	r.User(user, func(rec Device) bool { got = append(got, rec); return true })
	byLSN := func(a, b Device) int { return int(a.LSN) - int(b.LSN) }
	slices.SortFunc(got, byLSN)
	slices.SortFunc(want, byLSN)
	if !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	r.Close()
	log.Close()
	store.Close()
	v.Close()
	d.shut()
}

// A log that ends before what its checkpoint has seen is not served, and nothing is written to it.
func TestLogBehindItsCheckpoint(t *testing.T) {
	fs := vfs.NewCrashableMem()
	d := openDisk(t, fs, Options{}, 1)
	hb := newHeartbeat(1, 60_000)
	d.Heartbeat(hb)
	before := fs.CrashClone(vfs.CrashCloneCfg{})
	d.shut()
	log, err := wal.Open("data",
		wal.Options{FS: before, BufferBytes: 4 << 10, SegmentBytes: 16 << 10,
			Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	e, _ := newStill(t, log, Options{})
	defer e.Close(context.Background())
	e.recovery.newest.Store(2)
	if err := e.open(); err == nil ||
		!strings.Contains(err.Error(), "its last record is 1, but the checkpoint has seen 2") {
		t.Errorf("%v", err)
	}
}

// TestStartOverMaxDevices: more devices on disk than may be known are served all the same; new ones
// are refused, and come in again when enough are forgotten. The checkpoint takes the same way as
// the log, and a shared budget counts like a bound of its own.
func TestStartOverMaxDevices(t *testing.T) {
	const bound = 3
	for name, bounded := range map[string]func() Options{
		"MaxDevices":   func() Options { return Options{MaxDevices: bound} },
		"DeviceBudget": func() Options { return Options{DeviceBudget: NewDeviceBudget(bound)} },
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			d := openDisk(t, fs, Options{}, 1)
			var known []*Heartbeat
			for n := range 10 {
				hb := newHeartbeat(1, 60_000)
				hb.Status = Offline
				if res := d.Heartbeat(hb); res.Outcome != Accepted {
					t.Fatal(res)
				}
				if known = append(known, hb); n == 5 {
					d.checkpoint(t)
				}
			}
			d.shut()

			var out testlog.Output
			o := bounded()
			o.Logger = out.Logger()
			o.ForgetAfter = time.Hour
			d = openDisk(t, fs, o, 1)
			defer d.shut()
			if s := d.Stats(); s.Devices != 10 || s.MaxDevices != bound {
				t.Fatalf("%d devices, %d may be", s.Devices, s.MaxDevices)
			}
			for _, want := range []string{"the recovery goes over the bound", "max_devices=3 progress=",
				"devices=10 max_devices=3 over=7"} {
				if strings.Count(out.String(), want) != 1 {
					t.Errorf("not once %q:\n%s", want, out.String())
				}
			}
			one := newHeartbeat(1, 60_000)
			if res := d.Heartbeat(one); res.Err != ErrTooManyDevices {
				t.Errorf("a new device: %+v", res)
			}
			known[0].Seq, known[0].Status = 2, Online
			if res := d.Heartbeat(known[0]); res.Outcome != Accepted {
				t.Errorf("a known device: %+v", res)
			}
			d.now.Add(int64(2 * time.Hour))
			d.checkpoint(t) // forgets the nine others
			if res := d.Heartbeat(one); res.Outcome != Accepted {
				t.Errorf("a new device after others were forgotten: %+v, %d are known", res,
					d.Stats().Devices)
			}
		})
	}
}
