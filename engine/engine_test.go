package engine

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testwait"
	"rollcall/record"
)

func TestHeartbeatSeq(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(5, 1000)
	r.mustAccept(hb)
	for _, seq := range []uint64{5, 4, 0} {
		hb.Seq, hb.SentAtMS = seq, hb.SentAtMS+1
		if res := r.Heartbeat(hb); res != (Result{Outcome: Stale, LastSeq: 5}) {
			t.Errorf("seq %d: %+v", seq, res)
		}
	}
	hb.Seq = 6
	r.mustAccept(hb)
	if r.log.reserved != 0 {
		t.Errorf("%d credits of the log are lost", r.log.reserved)
	}
}

func TestSeqPolicyRestart(t *testing.T) {
	r := startRig(t, newMemLog(), Options{SeqPolicy: Restart})
	hb := newHeartbeat(9, 100)
	hb.SentAtMS = 1000
	r.mustAccept(hb)
	for _, c := range []struct {
		seq, sentAt uint64
		want        Outcome
	}{{9, 1000, Stale}, {1, 999, Stale}, {1, 1001, Accepted}, {1, 1001, Stale}, {2, 1, Accepted},
		{1, 2, Accepted}} {
		hb.Seq, hb.SentAtMS = c.seq, c.sentAt
		if res := r.Heartbeat(hb); res.Outcome != c.want {
			t.Errorf("seq %d sent at %d: %+v", c.seq, c.sentAt, res)
		}
	}
	// An expiry puts the server's time into the record; the daemon's own clock still decides.
	r.advance(time.Second)
	r.wantStatus(hb, Offline)
	hb.Seq, hb.SentAtMS = 1, 3
	r.mustAccept(hb)
}

// TestLogFull: nothing is applied, and silence meanwhile is not the devices' (I8).
func TestLogFull(t *testing.T) {
	r := startRig(t, newMemLog(), Options{RecoveryGrace: 5 * time.Second})
	known := newHeartbeat(1, 1000)
	r.mustAccept(known)
	r.advance(900 * time.Millisecond)
	r.log.set(func() { r.log.full = true })
	fresh := newHeartbeat(1, 1000)
	known.Seq = 2
	for _, hb := range []*Heartbeat{known, fresh} {
		if res := r.Heartbeat(hb); res.Outcome != Unavailable || !errors.Is(res.Err, errFull) {
			t.Fatalf("%+v", res)
		}
	}
	if _, ok := r.device(fresh.User, fresh.Device); ok {
		t.Error("a refused heartbeat made a device")
	}
	r.advance(500 * time.Millisecond) // the ttl is over, but the server did not listen
	if rec := r.wantStatus(known, Online); rec.Seq != 1 {
		t.Errorf("a refused heartbeat was applied: %+v", rec)
	}
	r.log.set(func() { r.log.full = false })
	r.advance(500 * time.Millisecond)
	r.wantStatus(known, Offline)
}

// TestExpiryWaitsForTheLog: an expiry that the log refuses is postponed by the grace, not lost.
func TestExpiryWaitsForTheLog(t *testing.T) {
	r := startRig(t, newMemLog(), Options{RecoveryGrace: 200 * time.Millisecond})
	hb := newHeartbeat(1, 1000)
	r.mustAccept(hb)
	r.log.set(func() { r.log.full = true })
	r.advance(1500 * time.Millisecond)
	r.wantStatus(hb, Online)
	r.log.set(func() { r.log.full = false })
	r.advance(250 * time.Millisecond)
	r.wantStatus(hb, Offline)
}

// TestNothingVisibleBeforeCommit: no frame, no snapshot, no answer (I2).
func TestNothingVisibleBeforeCommit(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(1, 60000)
	r.mustAccept(hb)
	live := follow(t, r.Engine, hb.User)
	live.waitFrames(t, 1)
	r.log.set(func() { r.log.held = true })
	answered := make(chan Result, 2)
	second := *hb
	second.Seq = 2
	go func() { answered <- r.Heartbeat(&second) }()
	testwait.Until(t, "the second is appended", func() bool { return r.appended() == 2 })
	again := second
	go func() { answered <- r.Heartbeat(&again) }() // stale, but of a seq that may not be told yet
	fresh := follow(t, r.Engine, hb.User)
	if n := r.Streams(hb.User); n != 2 { // also: the worker has dealt with the subscription
		t.Fatalf("%d streams", n)
	}
	for name, c := range map[string]*testConn{"live": live, "fresh": fresh} {
		for _, f := range c.waitFrames(t, 0) {
			if f.seq != 1 {
				t.Errorf("the %s stream saw seq %d before its commit", name, f.seq)
			}
		}
	}
	select {
	case res := <-answered:
		t.Fatalf("answered before the commit: %+v", res)
	default:
	}
	r.log.set(func() { r.log.held = false })
	outcomes := map[Outcome]int{(<-answered).Outcome: 1}
	outcomes[(<-answered).Outcome]++
	if outcomes[Accepted] != 1 || outcomes[Stale] != 1 {
		t.Errorf("outcomes %v", outcomes)
	}
	for _, c := range []*testConn{live, fresh} {
		frames := c.waitFrames(t, 1)
		for last := frames[len(frames)-1]; last.seq != 2; last = frames[len(frames)-1] {
			frames = c.waitFrames(t, len(frames)+1)
		}
	}
}

// TestSnapshotThenEveryChange opens streams while heartbeats come: each gets one state of each
// device that there was, and then every change after it, once and in order (I3).
func TestSnapshotThenEveryChange(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	const devices, seqs, streams = 3, 300, 20
	user := uuid.New()
	var daemons sync.WaitGroup
	for range devices {
		hb := newHeartbeat(0, 60_000)
		hb.User = user
		daemons.Go(func() {
			for hb.Seq < seqs {
				hb.Seq++
				r.mustAccept(hb)
			}
		})
	}
	var conns []*testConn
	for i := range streams {
		testwait.Until(t, "some heartbeats are accepted", func() bool {
			return r.Stats().Accepted > uint64(i*devices*seqs/streams)
		})
		conns = append(conns, follow(t, r.Engine, user))
	}
	daemons.Wait()
	for i, c := range conns {
		last := map[uuid.UUID]uint64{}
		checked, ended := 0, 0
		for ended < devices {
			frames := c.waitFrames(t, checked+1)
			for _, f := range frames[checked:] {
				if before, follows := last[f.device]; follows && f.seq != before+1 {
					t.Fatalf("stream %d got seq %d after %d", i, f.seq, before)
				}
				if last[f.device] = f.seq; f.seq == seqs {
					ended++
				}
			}
			checked = len(frames)
		}
	}
}

func (r *rig) appended() int {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return len(r.log.records)
}

func TestRecords(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	r.advance(time.Second)
	hb := newHeartbeat(1, 1000)
	r.mustAccept(hb)
	rec := r.wantStatus(hb, Online)
	if rec.HeartbeatAtMS != hb.SentAtMS || rec.OfflineAtMS != 0 ||
		rec.UpdatedAtMS != wallZero+1000 || rec.Source != "test" || rec.TTLMS != 1000 {
		t.Errorf("online: %+v", rec)
	}
	sent := hb.SentAtMS
	hb.Seq, hb.SentAtMS, hb.Status = 2, sent+50, Offline
	r.mustAccept(hb)
	if rec := r.wantStatus(hb, Offline); rec.HeartbeatAtMS != sent || rec.OfflineAtMS != sent+50 {
		t.Errorf("offline by its own word: %+v", rec)
	}
	hb.Seq, hb.Status = 3, Online
	r.mustAccept(hb)
	r.advance(1010 * time.Millisecond)
	if rec := r.wantStatus(hb, Offline); rec.HeartbeatAtMS != sent+50 ||
		rec.OfflineAtMS != rec.SentAtMS || rec.SentAtMS < wallZero+2000 {
		t.Errorf("expired: %+v", rec)
	}
}

func TestSourceChanges(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	hb := newHeartbeat(0, 60000)
	for seq := range uint64(50) {
		hb.Seq, hb.Source = seq, fmt.Appendf(nil, "source %d", seq%3)
		r.mustAccept(hb)
		if rec, _ := r.device(hb.User, hb.Device); rec.Source != string(hb.Source) {
			t.Fatalf("seq %d: source %q, want %q", seq, rec.Source, hb.Source)
		}
	}
	if texts, bytes := r.sources.size(); texts != 1 || bytes != int64(len(hb.Source)) {
		t.Errorf("%d texts of %d bytes are kept for one device", texts, bytes)
	}
}

// TestRecover: what was accepted is there again, and deadlines count the silence before the
// restart, plus the grace (I8).
func TestRecover(t *testing.T) {
	log := newMemLog()
	r := newRig(t, log, Options{})
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	user := uuid.New()
	long, short, gone := newHeartbeat(7, 60_000), newHeartbeat(1, 1_000), newHeartbeat(1, 100)
	for _, hb := range []*Heartbeat{long, short, gone} {
		hb.User = user
		r.mustAccept(hb)
	}
	r.advance(300 * time.Millisecond)
	before, err := allDevices(r, user)
	if err != nil {
		t.Fatal(err)
	}
	stoppedAt := r.now.Load()
	r.shut()

	log.closed, log.done = false, make(chan struct{})
	next := newRig(t, log, Options{RecoveryGrace: 400 * time.Millisecond})
	next.now.Store(stoppedAt + int64(10*time.Second)) // the process was away for ten seconds
	if err := next.open(); err != nil {
		t.Fatal(err)
	}
	defer next.shut()
	after, err := allDevices(next, user)
	if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Fatalf("recovered %v (%v)\nwant      %v", after, err, before)
	}
	next.advance(380 * time.Millisecond)
	next.wantStatus(short, Online)
	next.advance(40 * time.Millisecond)
	next.wantStatus(short, Offline)
	next.advance(49 * time.Second) // 10.3 s of its 60 had passed before the restart
	next.wantStatus(long, Online)
	next.advance(time.Second)
	next.wantStatus(long, Offline)
	if res := next.Heartbeat(long); res != (Result{Outcome: Stale, LastSeq: 7}) {
		t.Errorf("an acknowledged seq again: %+v", res)
	}
}

func TestReady(t *testing.T) {
	r := newRig(t, newMemLog(), Options{})
	if err := r.Ready(); !errors.Is(err, ErrRecovering) {
		t.Errorf("before Start: %v", err)
	}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	defer r.shut()
	r.phase.Store(serving)
	if err := r.Ready(); err != nil {
		t.Errorf("serving: %v", err)
	}
	r.log.noSpace.Store(true)
	if err := r.Ready(); !errors.Is(err, ErrNoSpace) {
		t.Errorf("no space: %v", err)
	}
	r.log.noSpace.Store(false)
	if err := r.Drain(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if err := r.Ready(); !errors.Is(err, ErrDraining) {
		t.Errorf("draining: %v", err)
	}
}

// TestConcurrentHeartbeats: per device exactly one of equal seqs wins, and log order is seq order
// (I1).
func TestConcurrentHeartbeats(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	const devices, goroutines, seqs = 4, 8, 200
	base := make([]*Heartbeat, devices)
	for i := range base {
		base[i] = newHeartbeat(0, 60000)
	}
	var accepted sync.Map
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for seq := range uint64(seqs) {
				for i := range base {
					hb := *base[i]
					hb.Seq = seq
					if r.Heartbeat(&hb).Outcome == Accepted {
						if _, twice := accepted.LoadOrStore([2]uint64{uint64(i), seq},
							true); twice {
							t.Errorf("device %d seq %d was accepted twice", i, seq)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	last := map[uuid.UUID]uint64{}
	for _, rec := range r.log.records {
		v := record.View(rec)
		if seq, ok := last[v.Device()]; ok && v.State().Seq <= seq {
			t.Fatalf("the log has seq %d after %d", v.State().Seq, seq)
		}
		last[v.Device()] = v.State().Seq
	}
}

// TestRecoverManySources: over the life of a log a device may have had any number of sources.
func TestRecoverManySources(t *testing.T) {
	log := newMemLog()
	r := newRig(t, log, Options{})
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	hb := newHeartbeat(0, 60000)
	for i := range 140_000 {
		hb.Seq, hb.Source = uint64(i), fmt.Appendf(nil, "source %d", i)
		r.mustAccept(hb)
	}
	r.shut()
	log.closed, log.done = false, make(chan struct{})
	again := newRig(t, log, Options{})
	if err := again.open(); err != nil {
		t.Fatalf("cannot start again: %v", err)
	}
	defer again.shut()
	if rec := again.wantStatus(hb, Online); rec.Source != string(hb.Source) {
		t.Errorf("source %q, want %q", rec.Source, hb.Source)
	}
}

// TestStalledCommitGivesGrace: while a commit hangs, daemons wait for their answers; that is not
// silence (I8).
func TestStalledCommitGivesGrace(t *testing.T) {
	r := startRig(t, newMemLog(), Options{RecoveryGrace: 2 * time.Second})
	hb := newHeartbeat(1, 5000)
	r.mustAccept(hb)
	r.log.stalled.Store(int64(3 * time.Second))
	r.advance(10 * time.Second)
	r.wantStatus(hb, Online)
	r.log.stalled.Store(0)
	r.advance(1990 * time.Millisecond)
	r.wantStatus(hb, Online)
	r.advance(20 * time.Millisecond)
	r.wantStatus(hb, Offline)
}
