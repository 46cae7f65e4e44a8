package engine

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
)

// counted is a Sender that admits so many new devices.
type counted struct{ asked, admits int }

func (c *counted) AdmitsNew() bool {
	c.asked++
	return c.asked <= c.admits
}

// TestFullTableRefusesBeforeTheLog: a new device that has no place is told so at once, also while
// the log has no room, and takes none (I5). A known one goes on in a full table, also behind its
// own first heartbeat in one group of a batch.
func TestFullTableRefusesBeforeTheLog(t *testing.T) {
	r := startRig(t, newMemLog(), Options{MaxDevices: 2})
	r.mustAccept(newHeartbeat(1, 60_000))
	last := newHeartbeat(1, 60_000)
	group := []Heartbeat{*last, *last, *newHeartbeat(1, 60_000)}
	group[1].Seq = 2
	b := r.NewBatch()
	b.Add(group)
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
	if c := b.Counts(); c.Accepted != 2 || c.Unavailable != 1 || c.Err != ErrTooManyDevices {
		t.Errorf("the last place, its device again, and one more: %+v", c)
	}
	b.Release()
	r.log.set(func() { r.log.full = true })
	if res := r.Heartbeat(newHeartbeat(1, 60_000)); res.Err != ErrTooManyDevices || res.LogFull {
		t.Errorf("a new device in a full table while the log is full: %+v", res)
	}
	if n := r.Stats().DevicesRefused; n != 2 {
		t.Errorf("%d refused devices are counted, want 2", n)
	}
}

// TestSenderAdmitsNew: a sender is asked once for each device that is not known, before anything of
// it is kept; for known ones, alone or in a batch, it is not asked.
func TestSenderAdmitsNew(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	from := &counted{admits: 2}
	one := newHeartbeat(1, 60_000)
	one.Sender = from
	r.mustAccept(one)
	one.Seq = 2
	r.mustAccept(one)

	other, third := newHeartbeat(1, 60_000), newHeartbeat(1, 60_000)
	other.Sender, third.Sender = from, from
	group := []Heartbeat{*other, *other, *third, *one}
	for i := range group {
		group[i].Index = i
	}
	group[1].Seq, group[3].Seq = 2, 3
	b := r.NewBatch()
	b.Add(group)
	if err := b.Settle(); err != nil {
		t.Fatal(err)
	}
	refused := b.Rejections()
	if c := b.Counts(); c.Accepted != 3 || len(refused) != 1 || refused[0].Index != 2 ||
		refused[0].Err != ErrTooManyNew {
		t.Errorf("%+v, refused %+v", c, refused)
	}
	b.Release()
	if from.asked != 3 {
		t.Errorf("the sender was asked %d times for 3 new devices", from.asked)
	}
	if s := r.Stats(); s.Devices != 2 || s.Unavailable != 0 || r.log.reserved != 0 {
		t.Errorf("%+v, %d credits are out", s, r.log.reserved)
	}
}

// TestMaxTTLOfKnownDevices: what was accepted for ever goes offline after a start with a bound,
// which counts from the device's last heartbeat; a shorter TTL stays what it is.
func TestMaxTTLOfKnownDevices(t *testing.T) {
	log := newMemLog()
	r := newRig(t, log, Options{})
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	user := uuid.New()
	immortal, mortal := newHeartbeat(1, table.MaxInteger), newHeartbeat(1, 30_000)
	immortal.User, mortal.User = user, user
	r.mustAccept(immortal)
	r.mustAccept(mortal)
	r.shut()
	log.closed, log.done = false, make(chan struct{})
	again := newRig(t, log, Options{MaxTTL: time.Minute, RecoveryGrace: time.Second})
	if err := again.open(); err != nil {
		t.Fatal(err)
	}
	again.phase.Store(serving)
	defer again.shut()
	again.advance(29 * time.Second)
	again.wantStatus(mortal, Online)
	again.advance(2 * time.Second)
	again.wantStatus(mortal, Offline)
	again.wantStatus(immortal, Online)
	again.advance(30 * time.Second)
	if rec := again.wantStatus(immortal, Offline); rec.TTLMS != table.MaxInteger {
		t.Errorf("its record says a TTL of %d", rec.TTLMS)
	}
}
