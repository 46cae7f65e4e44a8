package engine

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

// ask returns what Users shows.
func (r *rig) ask(limit int, ids ...uuid.UUID) (all []User, err error) {
	err = r.Users(ids, limit, func(u *User) {
		kept := *u
		kept.Devices = slices.Clone(u.Devices)
		all = append(all, kept)
	})
	return all, err
}

// TestUsers asks for known, unknown and repeated users, of none to many devices.
func TestUsers(t *testing.T) {
	r := startRig(t, newMemLog(), Options{RecoveryGrace: time.Nanosecond})
	send := func(user uuid.UUID, seq uint64, status Status) *Heartbeat {
		hb := newHeartbeat(seq, 60_000)
		hb.User, hb.Status = user, status
		r.mustAccept(hb)
		return hb
	}
	two, expires, never, unknown, many := uuid.New(), uuid.New(), uuid.New(), uuid.New(), uuid.New()
	online := send(two, 1, Online)
	gone := send(two, 7, Online)
	silent := send(expires, 3, Online)
	send(never, 4, Offline)
	for range 100 {
		send(many, 1, Online)
	}
	r.advance(50 * time.Second)
	gone.Seq, gone.Status = 8, Offline
	r.mustAccept(gone)
	online.Seq = 2
	r.mustAccept(online)
	r.advance(20 * time.Second) // silent and those of many have expired

	ids := []uuid.UUID{two, unknown, never, expires, two, many}
	for range 70 { // more than a group
		ids = append(ids, uuid.New(), two)
	}
	got, err := r.ask(1000, ids...)
	if err != nil || len(got) != len(ids) {
		t.Fatalf("%d users, %v", len(got), err)
	}
	for i, u := range got {
		if u.ID != ids[i] {
			t.Fatalf("user %d is %s, want %s", i, u.ID, ids[i])
		}
		summary := fmt.Sprint(len(u.Devices), u.Online, u.SeenAtMS)
		want := fmt.Sprint(0, 0, 0)
		switch u.ID {
		case two:
			want = fmt.Sprint(2, 1, wallZero+50_000)
		case never:
			want = fmt.Sprint(1, 0, 0)
		case expires:
			want = fmt.Sprint(1, 0, wallZero)
		case many:
			want = fmt.Sprint(100, 0, wallZero)
		}
		if summary != want {
			t.Errorf("user %d: devices, online, seen are %s, want %s", i, summary, want)
		}
		for _, d := range u.Devices {
			if shown, ok := r.device(u.ID, d.Device); !ok || shown != d {
				t.Errorf("user %d: %+v, but alone %+v", i, d, shown)
			}
		}
	}
	if d, _ := r.device(expires, silent.Device); d.SeenAtMS != wallZero ||
		d.OfflineAtMS != wallZero+60_000 {
		t.Errorf("the silent device: %+v", d)
	}
	if d, _ := r.device(two, gone.Device); d.SeenAtMS != wallZero {
		t.Errorf("the device that left was seen at %d", d.SeenAtMS)
	}
	for limit, want := range map[int]error{
		1: ErrTooManyDevicesAsked, 101: ErrTooManyDevicesAsked, 102: nil,
	} {
		if _, err := r.ask(limit, two, many); !errors.Is(err, want) {
			t.Errorf("at most %d devices: %v, want %v", limit, err, want)
		}
	}
	if got, err := r.ask(0, unknown); err != nil || len(got) != 1 || len(got[0].Devices) != 0 {
		t.Errorf("an unknown user: %+v, %v", got, err)
	}
}

// TestUsersAreDurable: what is shown has been committed when Users returns (I2), an expiry too.
func TestUsersAreDurable(t *testing.T) {
	r := startRig(t, newMemLog(), Options{RecoveryGrace: time.Nanosecond})
	hb := newHeartbeat(1, 1000)
	r.mustAccept(hb)
	r.log.set(func() { r.log.held = true })
	r.advance(2 * time.Second)
	shown := make(chan struct{})
	asked := make(chan []User, 1)
	go func() {
		var all []User
		err := r.Users([]uuid.UUID{hb.User}, 1, func(u *User) {
			all = append(all, User{Online: u.Online, SeenAtMS: u.SeenAtMS})
			close(shown)
		})
		if err != nil {
			t.Error(err)
		}
		asked <- all
	}()
	<-shown
	select {
	case <-asked:
		t.Error("an expiry was shown that is not committed")
	default:
	}
	r.log.set(func() { r.log.held = false })
	if all := <-asked; all[0].Online != 0 || all[0].SeenAtMS != wallZero {
		t.Errorf("%+v", all)
	}
}

// TestUsersDoesNotAllocate counts allocations of a query in the steady state.
func TestUsersDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := startRig(t, newMemLog(), Options{})
	var ids []uuid.UUID
	for range 100 {
		hb := newHeartbeat(1, 60_000)
		r.mustAccept(hb)
		ids = append(ids, hb.User)
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Users(ids, 1000, func(*User) {}); err != nil {
			t.Fatal(err)
		}
	}); n >= 1 { // a collection empties the pool now and then
		t.Errorf("%v allocations", n)
	}
}
