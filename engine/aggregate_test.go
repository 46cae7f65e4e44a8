package engine

import (
	"cmp"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/internal/testseed"
	"rollcall/record"
)

// aggregateModel is what the aggregates should be (T6), from the statuses of the devices before and
// after each step, and from when their heartbeats were sent.
type aggregateModel struct {
	seen  map[[2]uuid.UUID]uint64 // of devices: receipt of the last heartbeat that said online
	shown map[[2]uuid.UUID]Device // at the last look
	users map[uuid.UUID]table.Aggregate
}

func newAggregateModel() *aggregateModel {
	return &aggregateModel{make(map[[2]uuid.UUID]uint64), make(map[[2]uuid.UUID]Device),
		make(map[uuid.UUID]table.Aggregate)}
}

// beat notes a heartbeat that was accepted.
func (m *aggregateModel) beat(hb *Heartbeat, wallMS uint64) {
	if hb.Status == Online {
		m.seen[[2]uuid.UUID{hb.User, hb.Device}] = wallMS
	}
}

// look notes what changed since the last look.
func (m *aggregateModel) look(d *devices) {
	shown := make(map[[2]uuid.UUID]Device)
	users := make(map[uuid.UUID]bool)
	var turned []Device
	d.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		r, ok := d.record(entry)
		if !ok {
			return true
		}
		id := [2]uuid.UUID{r.User, r.Device}
		shown[id], users[r.User] = r, true
		if was, known := m.shown[id]; r.Status != was.Status || !known && r.Status == Online {
			turned = append(turned, r)
		}
		return true
	})
	for id := range m.shown {
		if _, known := shown[id]; !known {
			delete(m.seen, id)
		}
	}
	m.shown = shown
	slices.SortFunc(turned, func(a, b Device) int { return cmp.Compare(a.LSN, b.LSN) })
	for _, r := range turned {
		u := m.users[r.User]
		u.TurnLSN, u.ChangedAtMS = r.LSN, r.UpdatedAtMS
		if u.Online--; r.Status == Online {
			u.Online += 2
		}
		u.SeenAtMS = max(u.SeenAtMS, m.seen[[2]uuid.UUID{r.User, r.Device}])
		m.users[r.User] = u
	}
	for user := range m.users {
		if !users[user] {
			delete(m.users, user)
		}
	}
}

// compare compares the engine with the model, to the last millisecond.
func (m *aggregateModel) compare(t *testing.T, d *devices, when string) {
	t.Helper()
	devices := 0
	d.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		r, ok := d.record(entry)
		if want := m.seen[[2]uuid.UUID{r.User, r.Device}]; ok && r.SeenAtMS != want {
			t.Errorf("%s: device %s was seen at %d, want %d: %+v", when, r.Device, r.SeenAtMS, want, r)
		}
		devices++
		return true
	})
	if devices != len(m.shown) {
		t.Errorf("%s: %d devices, want %d", when, devices, len(m.shown))
	}
	online, users := 0, make(map[uuid.UUID]bool)
	for id := range m.shown {
		users[id[0]] = true
	}
	for user := range users {
		got, known := d.table.Aggregate(user)
		if want, turned := m.users[user]; got != want || known != turned {
			t.Errorf("%s: user %s is %+v, %v, want %+v, %v", when, user, got, known, want, turned)
		}
		if got.Online > 0 {
			online++
		}
	}
	if got := d.table.UsersOnline(); got != online {
		t.Errorf("%s: %d users are online, want %d", when, got, online)
	}
}

// TestAggregates drives heartbeats, offlines that repeat, expiries, forgetting, checkpoints and
// crashes at random: every aggregate and every last seen is what a model says, to the last
// millisecond, and a restart changes nothing of it (T6). ROLLCALL_SEED replays one seed.
func TestAggregates(t *testing.T) {
	rng := testseed.Rand(t)
	rounds := 100
	if testing.Short() {
		rounds = 15
	}
	for n := 0; n < rounds && !t.Failed(); n++ {
		seed := rng.Uint64()
		for name, m := range media() {
			t.Run(name, func(t *testing.T) { aggregateRound(t, m, seed) })
		}
	}
}

func aggregateRound(t *testing.T, on medium, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	d := on.open(t, Options{ForgetAfter: time.Hour}, 1)
	defer func() { d.shut() }()
	users := make([]uuid.UUID, 6) // some of them with one device
	for i := range users {
		users[i] = uuid.New()
	}
	devices := make([]*Heartbeat, 10)
	for i := range devices {
		devices[i] = newHeartbeat(0, 1)
		devices[i].User = users[i%len(users)]
	}
	m := newAggregateModel()
	look := func() { m.look(d.devices) }
	beat := func() {
		look()
		hb := devices[rng.IntN(len(devices))]
		hb.Seq++
		hb.TTLMS = 1 + rng.Uint64N(600_000)
		hb.Status = Status(rng.IntN(2))
		if res := d.Heartbeat(hb); res.Outcome != Accepted {
			t.Fatalf("seed %d: %+v", seed, res)
		}
		m.beat(hb, d.clock().WallMS)
		look()
	}
	for range 4 {
		var crashed medium
		crash := func() {
			beat() // waits until all before it is durable
			crashed = on.crash(rng)
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
				at := rng.IntN(8) // the crash falls after this range, or into no range
				*d.after = func() {
					if crashed != nil {
						return
					}
					if beat(); at == 0 {
						crash()
					}
					at--
				}
				if _, err := d.Checkpoint(nil); err != nil {
					t.Fatal(err)
				}
				*d.after = nil
			default:
				d.now.Add(rng.Int64N(int64(time.Second)))
				beat()
			}
			if crashed == nil {
				look()
				m.compare(t, d.devices, fmt.Sprintf("seed %d", seed))
			}
		}
		if crashed == nil {
			crash()
		}
		now := d.now.Load()
		d.shut()
		on = crashed
		d = on.open(t, Options{ForgetAfter: time.Hour}, now)
		m.compare(t, d.devices, fmt.Sprintf("seed %d, after the crash", seed))
		if t.Failed() {
			return
		}
	}
}

// TestTurnsOfAUserAreInOrder: several goroutines turn the devices of the same users while others
// expire. The records of a user, in the log's order, say counts that differ by one from turn to
// turn, and by none from an offline that is no turn.
func TestTurnsOfAUserAreInOrder(t *testing.T) {
	log := newMemLog()
	r := startRig(t, log, Options{RecoveryGrace: time.Nanosecond})
	const users, perUser, beaters = 3, 6, 4
	ids := [users]uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	seed := testseed.Of(t)
	var devices [beaters][]*Heartbeat
	for i := range users * perUser {
		hb := newHeartbeat(0, 1)
		hb.User = ids[i%users]
		devices[i%beaters] = append(devices[i%beaters], hb)
	}
	beats := 2000
	if testing.Short() || raceEnabled {
		beats = 400
	}
	done := make(chan struct{})
	var expiring, beating sync.WaitGroup
	expiring.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				r.now.Add(int64(time.Millisecond))
				r.expiry.turn(r.now.Load())
			}
		}
	})
	for g := range beaters {
		beating.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)))
			group := r.NewGroup()
			results := make([]Result, GroupSize)
			for range beats {
				hb := devices[g][rng.IntN(len(devices[g]))]
				hb.Seq++
				hb.TTLMS = 1 + rng.Uint64N(5)
				hb.Status = Status(rng.IntN(2))
				if rng.IntN(2) == 0 {
					group.Apply([]Heartbeat{*hb}, results)
					continue
				}
				r.Heartbeat(hb)
			}
		})
	}
	beating.Wait()
	close(done)
	expiring.Wait()

	online := make(map[uuid.UUID]int)
	status := make(map[uuid.UUID]bool)
	seen := make(map[uuid.UUID]uint64)
	turns := 0
	log.mu.Lock()
	records := log.records
	log.mu.Unlock()
	for i, b := range records {
		rec, err := record.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		user, device := rec.User(), rec.Device()
		if moves := rec.Online() != status[device]; moves != rec.Turn() {
			t.Fatalf("LSN %d: the device moves: %v, the record says %v", i+1, moves, rec.Turn())
		}
		if rec.Turn() {
			turns++
			if online[user]--; rec.Online() {
				online[user] += 2
			}
			seen[user] = max(seen[user], rec.Seen())
			status[device] = rec.Online()
		} else if rec.Online() {
			continue
		}
		if rec.UserOnline() != online[user] || rec.UserSeen() != seen[user] {
			t.Fatalf("LSN %d: the user has %d online and was seen at %d, want %d and %d", i+1,
				rec.UserOnline(), rec.UserSeen(), online[user], seen[user])
		}
	}
	checkAggregates(t, r.devices)
	if turns == 0 {
		t.Error("no device turned")
	}
	t.Logf("%d records, %d turns", len(records), turns)
}

// TestTurnsDoNotAllocate counts allocations of a heartbeat that turns its device.
func TestTurnsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	e, err := New(new(noLog), Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	hb := benchHeartbeat(1, 1)
	if n := testing.AllocsPerRun(1000, func() {
		hb.Seq++
		hb.Status = Status(hb.Seq % 2)
		if r := e.Heartbeat(&hb); r.Outcome != Accepted {
			t.Fatal(r)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
