package engine

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
	"rollcall/record"
)

// TestTimesDoNotGoBack (I9): the wall clock goes back, as from one owner of a partition to the
// next. The times of devices and users do not follow it.
func TestTimesDoNotGoBack(t *testing.T) {
	log := newMemLog()
	r := startRig(t, log, Options{RecoveryGrace: time.Nanosecond})
	at := func(d time.Duration) { r.now.Store(int64(d)) }
	const ms = time.Millisecond
	first, second := newHeartbeat(1, 5), newHeartbeat(1, 60_000)
	second.User = first.User
	at(20 * ms)
	r.mustAccept(first)
	at(10 * ms)
	first.Seq++
	r.mustAccept(first)
	want := uint64(wallZero + 20)
	if d := r.wantStatus(first, Online); d.SeenAtMS != want || d.UpdatedAtMS != want {
		t.Errorf("a known device was seen at %d, updated at %d, want %d", d.SeenAtMS, d.UpdatedAtMS, want)
	}
	r.mustAccept(second) // a turn that was received before the user's last one
	if d := r.wantStatus(second, Online); d.UpdatedAtMS != want {
		t.Errorf("a new device of the user was updated at %d, want %d", d.UpdatedAtMS, want)
	}
	at(16 * ms)
	for r.expiry.turn(r.now.Load()) <= 0 {
	}
	if d := r.wantStatus(first, Offline); d.UpdatedAtMS != want || d.SentAtMS != want {
		t.Errorf("it expired at %d, sent at %d, want %d", d.UpdatedAtMS, d.SentAtMS, want)
	}
	if changed, _ := r.Turned(first.User); changed != want {
		t.Errorf("the user changed at %d, want %d", changed, want)
	}

	r.shut() // the next owner's clock is behind
	log.closed, log.done = false, make(chan struct{})
	r = newRig(t, log, Options{})
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	r.phase.Store(serving)
	defer r.Close(context.Background())
	at(5 * ms)
	second.Seq++
	r.mustAccept(second)
	if d := r.wantStatus(second, Online); d.SeenAtMS != want {
		t.Errorf("after a restart it was seen at %d, want %d", d.SeenAtMS, want)
	}
}

// TestTimesOfAClockThatWasWrong (I9): the wall clock is a year ahead for a moment and is put right.
// The next change of a device, and the next turn of a user, have the right time, and frames show no
// time that is ahead.
func TestTimesOfAClockThatWasWrong(t *testing.T) {
	r := startRig(t, newMemLog(), Options{RecoveryGrace: time.Nanosecond})
	const year = 365 * 24 * time.Hour
	first, second := newHeartbeat(1, 60_000), newHeartbeat(1, 60_000)
	third := newHeartbeat(1, 60_000)
	second.User, third.User = first.User, first.User
	seen := func(text []byte) (ms uint64) {
		_, at, _ := strings.Cut(string(text), `"last_seen_ms":`)
		if _, err := fmt.Sscan(strings.Split(at, ",")[0], &ms); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		return ms
	}
	frames := func() (all []uint64) {
		text, _ := r.Codec().AppendUser(nil, 0, first.User, 0, r.log.Committed(), 0)
		record := r.log.records[len(r.log.records)-1]
		if !bytes.Contains(record, first.User[:]) {
			record = r.log.records[0]
		}
		last := r.Codec().AppendUserFrame(nil, record, false)
		_, _, told := r.AppendStates(nil, first.User, r.log.Committed())
		return []uint64{seen(text), seen(last), told.SeenAtMS}
	}
	r.now.Store(int64(year))
	for _, hb := range []*Heartbeat{first, second, third} {
		r.mustAccept(hb)
	}
	gone := newHeartbeat(1, 60_000)
	r.mustAccept(gone)
	gone.Seq, gone.Status = 2, Offline
	r.mustAccept(gone)
	r.now.Store(int64(time.Second))
	want := uint64(wallZero + 1000)
	text, _ := r.Codec().AppendUser(nil, 0, gone.User, 0, r.log.Committed(), 0)
	if ms := seen(text); ms > want {
		t.Errorf("a user that is gone was seen at %d, and it is %d", ms, want)
	}
	for _, ms := range frames() {
		if ms > want {
			t.Errorf("the clock is right, and the user was seen at %d, not %d", ms, want)
		}
	}
	first.Seq++
	r.mustAccept(first)
	if d := r.wantStatus(first, Online); d.SeenAtMS != want || d.UpdatedAtMS != want {
		t.Errorf("it was seen at %d, updated at %d, want %d", d.SeenAtMS, d.UpdatedAtMS, want)
	}
	second.Seq, second.Status = 2, Offline
	r.mustAccept(second)
	if d := r.wantStatus(second, Offline); d.SeenAtMS != want || d.UpdatedAtMS != want {
		t.Errorf("it left at %d, seen at %d, want %d", d.UpdatedAtMS, d.SeenAtMS, want)
	}
	if changed, _ := r.Turned(first.User); changed != want {
		t.Errorf("the user changed at %d, want %d", changed, want)
	}
	for _, hb := range []*Heartbeat{first, third} {
		_, entry := r.table.Find(hb.User, hb.Device)
		s, _ := entry.Load()
		if !r.expiry.expire(entry, hb.User, hb.Device, &s, 0) {
			t.Fatal("it does not expire")
		}
		if d := r.wantStatus(hb, Offline); d.SeenAtMS != want || d.UpdatedAtMS != want {
			t.Errorf("it expired at %d, seen at %d, want %d", d.UpdatedAtMS, d.SeenAtMS, want)
		}
	}
	if a, _ := r.table.Aggregate(first.User); a.SeenAtMS != want || a.ChangedAtMS != want {
		t.Errorf("the user is %+v, want %d", a, want)
	}
	for _, ms := range frames() {
		if ms != want {
			t.Errorf("a frame says %d, want %d", ms, want)
		}
	}
}

// TestTimesInTheLog (I9): heartbeats that were received in another order than the one in which they
// claim their devices, from several goroutines, are told in the order of their records.
func TestTimesInTheLog(t *testing.T) {
	log := newMemLog()
	r := startRig(t, log, Options{})
	seed := testseed.Of(t)
	user := uuid.New()
	devices := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	beats := 3000
	if testing.Short() || raceEnabled {
		beats = 500
	}
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			for n := range beats {
				hb := newHeartbeat(uint64(n), 60_000)
				hb.User, hb.Device = user, devices[rng.IntN(len(devices))]
				hb.Status = Status(rng.IntN(4)/3 ^ 1) // mostly online
				ref, entry := r.table.Find(hb.User, hb.Device)
				received := Instant{Nanos: 1, WallMS: wallZero + uint64(n) + rng.Uint64N(20)}
				r.acceptor.submit(hb, ref, entry, received, nil)
			}
		})
	}
	all.Wait()
	log.mu.Lock()
	defer log.mu.Unlock()
	updated, changed, seen := make(map[uuid.UUID]uint64), uint64(0), uint64(0)
	for i, b := range log.records {
		rec, err := record.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		at := rec.UpdatedAt()
		if at < updated[rec.Device()] || rec.Online() && rec.Seen() != at {
			t.Fatalf("LSN %d: updated at %d behind %d, seen at %d", i+1, at, updated[rec.Device()],
				rec.Seen())
		}
		updated[rec.Device()] = at
		if !rec.Turn() {
			continue
		}
		if at < changed || rec.UserSeen() < seen {
			t.Fatalf("LSN %d: a turn at %d behind one at %d, seen at %d behind %d", i+1, at, changed,
				rec.UserSeen(), seen)
		}
		changed, seen = at, rec.UserSeen()
	}
	if len(log.records) < beats || changed == 0 {
		t.Errorf("%d records", len(log.records))
	}
}

// TestLastSeenWhileTurnsAreInFlight (T7): frames of a batch are made one after the other. What one
// of them showed of the user is shown by the next one, too, although turns and heartbeats that are
// not committed have taken its place meanwhile; of those nothing is shown.
func TestLastSeenWhileTurnsAreInFlight(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	user := uuid.New()
	var a, b, c Heartbeat
	group := r.NewGroup()
	beat := func(hb *Heartbeat, at time.Duration, status Status) {
		t.Helper()
		if hb.Seq++; hb.Seq == 1 {
			*hb = *newHeartbeat(1, 60_000)
			hb.User = user
		}
		hb.Status = status
		r.now.Store(int64(at))
		if n, _ := group.Apply([]Heartbeat{*hb}, make([]Result, 1)); n != 1 {
			t.Fatal("it was not applied")
		}
	}
	shows := func(lsn int, at time.Duration) {
		t.Helper()
		text := string(r.Codec().AppendUserFrame(nil, r.log.records[lsn-1], false))
		want := fmt.Sprintf(`"last_seen_ms":%d,`, wallZero+at.Milliseconds())
		if !strings.Contains(text, want) {
			t.Errorf("the frame of LSN %d: %s, want %s", lsn, text, want)
		}
	}
	beat(&a, 1*time.Second, Online)  // LSN 1
	beat(&b, 2*time.Second, Online)  // 2
	beat(&a, 3*time.Second, Offline) // 3
	beat(&c, 4*time.Second, Online)  // 4
	beat(&a, 5*time.Second, Online)  // 5
	if err := group.Commit(5); err != nil {
		t.Fatal(err)
	}
	shows(3, 5*time.Second)
	r.log.set(func() { r.log.held = true })
	beat(&a, 6*time.Second, Online)  // 6
	beat(&b, 7*time.Second, Offline) // 7: it was seen before the others
	shows(4, 5*time.Second)
	beat(&a, 8*time.Second, Offline) // 8
	shows(5, 5*time.Second)
	states, newer, told := r.AppendStates(nil, user, 5)
	if told.SeenAtMS != wallZero+5000 || told.ChangedAtMS != 0 || newer != 8 {
		t.Errorf("the states say %+v, and that LSN %d comes", told, newer)
	}
	EachState(states, func(rec []byte) bool {
		if got := record.View(rec).UserSeen(); got > told.SeenAtMS {
			t.Errorf("a record says that the user was seen at %d", got)
		}
		return true
	})
	r.log.set(func() { r.log.held = false })
	if err := group.Commit(8); err != nil {
		t.Fatal(err)
	}
	shows(7, 6*time.Second)
	shows(8, 6*time.Second)
}
