package engine

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
	"rollcall/record"
)

// tap keeps what an engine committed, for a follower that is told later.
type tap struct {
	mu      sync.Mutex
	records [][]byte // guarded by mu
	through uint64   // guarded by mu
}

func (p *tap) Publish(_ broadcast.Source, _ uuid.UUID, _ uint64, rec []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records = append(p.records, bytes.Clone(rec))
}

func (p *tap) Flush(_ broadcast.Source, through uint64, _ int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.through = through
}

func (p *tap) Forget(source broadcast.Source, user uuid.UUID, lsn uint64, rec []byte) {
	p.Publish(source, user, lsn, rec)
}

func (p *tap) Lose(broadcast.Source) {}
func (p *tap) Tick(int64)            {}

// take takes what was committed through an LSN, which is as far as the engine is.
func (p *tap) take(t *testing.T, through uint64) [][]byte {
	t.Helper()
	testwait.Until(t, "the engine tells its events", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.through >= through
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	recs := p.records
	p.records = nil
	return recs
}

// followerRun is a random run of an engine, of a follower that is told its changes, misses some and
// is told all anew, and of streams of the follower's users.
type followerRun struct {
	t       *testing.T
	rng     *rand.Rand
	e       *rig
	tap     *tap
	f       *Follower
	users   []uuid.UUID
	watched map[uuid.UUID]bool
	seq     uint64
	conns   map[uuid.UUID][]*testConn
}

// TestFollowerIsWhatItWasTold (I3): whatever of an owner's changes a follower is told one by one,
// loses, and is told at once, it ends up with the owner's devices and aggregates, its streams are
// never told a step back, and the last that they are told is what it holds.
func TestFollowerIsWhatItWasTold(t *testing.T) {
	seed := testseed.Of(t)
	for range 20 {
		runFollower(t, seed)
		if t.Failed() {
			t.Fatalf("ROLLCALL_SEED=%d", seed)
		}
		seed++
	}
}

func runFollower(t *testing.T, seed uint64) {
	tap := new(tap)
	r := startRig(t, newMemLog(), Options{Events: tap})
	f, err := NewFollower(Options{Shards: 16})
	if err != nil {
		t.Fatal(err)
	}
	f.Start()
	defer f.Close(context.Background())
	run := &followerRun{
		t: t, rng: rand.New(rand.NewPCG(seed, 3)), e: r, tap: tap, f: f,
		watched: make(map[uuid.UUID]bool), conns: make(map[uuid.UUID][]*testConn),
	}
	for range 6 {
		run.users = append(run.users, uuid.New())
	}
	for range 150 {
		run.step()
	}
	run.finish()
}

func (s *followerRun) step() {
	user := s.users[s.rng.IntN(len(s.users))]
	switch r := s.rng.IntN(20); {
	case r < 12:
		s.change(user)
	case r < 15:
		s.tell(s.rng.IntN(4) == 0)
	case r < 17 && !s.watched[user]:
		s.tell(false)
		s.watched[user] = true
		s.replace(user)
		s.follow(user)
	case r == 17 && s.watched[user] && len(s.conns[user]) == 0:
		s.tell(false)
		delete(s.watched, user)
		s.f.Update(0, func(u *Update) { u.Drop(user) })
	case r == 18 && s.watched[user]:
		s.follow(user)
	}
}

// change has a device of a user send a heartbeat, or forgets it.
func (s *followerRun) change(user uuid.UUID) {
	device := user
	device[15] = byte(s.rng.IntN(3))
	s.seq++
	hb := newHeartbeat(s.seq, 60_000)
	hb.User, hb.Device, hb.Status = user, device, Status(s.rng.IntN(2))
	hb.Source = fmt.Appendf(nil, "source-%d", s.rng.IntN(3))
	s.e.mustAccept(hb)
	if ref, entry := s.e.table.Find(user, device); s.rng.IntN(15) == 0 && hb.Status == Offline {
		lsn := entry.LSN()
		held, _ := entry.Load()
		rec := record.View(record.AppendUser(nil, user, device, &held.State, hb.Source,
			&record.User{}))
		if _, err := s.e.checkpoints.forget(rec, lsn); err != nil || ref == 0 {
			s.t.Error(err)
		}
	}
}

// tell tells the follower what was committed since, or loses it and tells all that is there.
func (s *followerRun) tell(lose bool) {
	recs := s.tap.take(s.t, s.e.log.Appended())
	if lose {
		for user := range s.watched {
			s.replace(user)
		}
		return
	}
	s.f.Update(0, func(u *Update) {
		for _, rec := range recs {
			if s.watched[record.View(rec).User()] {
				if err := u.Change(rec); err != nil {
					s.t.Error(err)
				}
			}
		}
	})
}

// replace tells all that the owner knows of a user. It is the newest, so what was committed and not
// told is told a second time, and is no news: the seq of a device only grows here.
func (s *followerRun) replace(user uuid.UUID) {
	s.tap.take(s.t, s.e.log.Appended())
	states, newer, told := s.e.AppendStates(nil, user, s.e.log.Appended())
	if newer != 0 {
		s.t.Errorf("states were left out up to LSN %d", newer)
	}
	s.f.Update(0, func(u *Update) {
		err := u.Replace(user, told, func(yield func([]byte) bool) {
			if !EachState(states, yield) {
				s.t.Error("states cannot be read")
			}
		})
		if err != nil {
			s.t.Error(err)
		}
	})
	for other := range s.watched { // what was taken above is lost for all
		if other != user {
			s.again(other)
		}
	}
}

func (s *followerRun) again(user uuid.UUID) {
	states, _, told := s.e.AppendStates(nil, user, s.e.log.Appended())
	s.f.Update(0, func(u *Update) {
		_ = u.Replace(user, told, func(yield func([]byte) bool) { EachState(states, yield) })
	})
}

func (s *followerRun) follow(user uuid.UUID) {
	c := newTestConn()
	err := s.f.Subscribe(broadcast.Subscription{User: user, Conn: c})
	if err != nil {
		s.t.Error(err)
		return
	}
	s.conns[user] = append(s.conns[user], c)
}

func (s *followerRun) finish() {
	s.tell(false)
	for user := range s.watched {
		s.compare(user)
	}
	for user, conns := range s.conns {
		for _, c := range conns {
			s.checkStream(user, c)
		}
	}
}

// compare: owner and follower know the same of a user.
func (s *followerRun) compare(user uuid.UUID) {
	shown := func(page []Device) []Device {
		page = slices.Clone(page)
		for i := range page {
			page[i].LSN = 0
		}
		return page
	}
	want, _ := s.e.page(user, uuid.Nil, 10)
	got, _ := s.f.Devices(user, uuid.Nil, 10)
	if !slices.EqualFunc(shown(want), shown(got), func(a, b Device) bool { return a == b }) {
		s.t.Errorf("the owner has %+v, the follower %+v", want, got)
	}
	was, _ := s.e.table.Aggregate(user)
	is, _ := s.f.table.Aggregate(user)
	was.TurnLSN, is.TurnLSN = 0, 0
	if len(want) > 0 && was != is {
		s.t.Errorf("the owner's aggregate is %+v, the follower's %+v", was, is)
	}
}

// checkStream: seqs of a device only grow, and the last frame of each is what is held.
func (s *followerRun) checkStream(user uuid.UUID, c *testConn) {
	held, _ := s.f.Devices(user, uuid.Nil, 10)
	last := make(map[uuid.UUID]uint64)
	testwait.Until(s.t, "the stream is told the newest states", func() bool {
		clear(last)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, f := range c.frames {
			if f.seq < last[f.device] {
				s.t.Errorf("a stream was told seq %d behind %d", f.seq, last[f.device])
			}
			last[f.device] = f.seq
		}
		for _, d := range held {
			if last[d.Device] != d.Seq {
				return false
			}
		}
		return true
	})
}

// TestFollowerForgets: what is dropped leaves nothing behind, and a cursor from before is not
// enough for it.
func TestFollowerForgets(t *testing.T) {
	r := startRig(t, newMemLog(), Options{Events: new(tap)})
	f, err := NewFollower(Options{Shards: 16})
	if err != nil {
		t.Fatal(err)
	}
	f.Start()
	defer f.Close(context.Background())
	hb := newHeartbeat(1, 60_000)
	r.mustAccept(hb)
	states, _, told := r.AppendStates(nil, hb.User, r.log.Committed())
	f.Update(0, func(u *Update) {
		_ = u.Replace(hb.User, told, func(yield func([]byte) bool) { EachState(states, yield) })
	})
	if s := f.Stats(); s.Devices != 1 || s.Users != 1 || s.UsersOnline != 1 || s.Online != 1 {
		t.Fatalf("it holds %+v", s)
	}
	before := f.told.shown.Load()
	f.Update(0, func(u *Update) { u.Drop(hb.User) })
	if s := f.Stats(); s.Devices != 0 || s.Users != 0 || s.UsersOnline != 0 || s.Online != 0 ||
		s.Sources != 0 {
		t.Errorf("after all was dropped it holds %+v", s)
	}
	if f.History().Forgotten(hb.User) <= before {
		t.Error("a cursor from before the drop would be honoured")
	}
}

// TestFollowerTellsWhenTheUserChanged: where a follower has missed a turn, its device has been
// heard of since. The streams are told when the user changed, not when the device was heard of
// last.
func TestFollowerTellsWhenTheUserChanged(t *testing.T) {
	f, err := NewFollower(Options{Shards: 16})
	if err != nil {
		t.Fatal(err)
	}
	f.Start()
	defer f.Close(t.Context())
	user := uuid.New()
	state := func(device byte, ms uint64, online bool) []byte {
		s := record.State{Seq: ms, Online: online, UpdatedAtMS: ms, SeenAtMS: ms}
		return record.AppendUser(nil, user, uuid.UUID{15: device}, &s, []byte("d"), &record.User{})
	}
	tell := func(changed uint64, recs ...[]byte) {
		f.Update(0, func(u *Update) {
			err := u.Replace(user, Told{SeenAtMS: changed, ChangedAtMS: changed},
				func(yield func([]byte) bool) {
					for _, rec := range recs {
						if !yield(rec) {
							return
						}
					}
				})
			if err != nil {
				t.Error(err)
			}
		})
	}
	tell(1000, state(1, 1000, true))
	c := &textConn{*newTestConn()}
	if err := f.Subscribe(broadcast.Subscription{Conn: c, List: &broadcast.List{
		Users: []uuid.UUID{user}, View: broadcast.ViewUsers, IDs: plainIDs{},
	}}); err != nil || f.Streams(user) != 1 {
		t.Fatal("there is no stream", err)
	}
	// Device 2 came at 1500, and has been heard of since; so has device 1.
	tell(1500, state(1, 1900, true), state(2, 2000, true))
	// Device 2 was forgotten, and 3 came at 2500.
	tell(2500, state(1, 3000, true), state(3, 3100, true))
	told := func(text, name string) (values []string) {
		for _, frame := range strings.Split(text, "\n\n") {
			if _, at, ok := strings.Cut(frame, `"`+name+`":`); ok {
				values = append(values, at[:strings.IndexAny(at, ",}")])
			}
		}
		return values
	}
	var online, changed []string
	testwait.Until(t, "the stream is told all", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		online = told(string(c.buf), "devices_online")
		changed = told(string(c.buf), "changed_at_ms")
		return len(changed) == 4
	})
	if got := fmt.Sprint(online, changed); got != "[1 2 1 2] [1000 1500 2500 2500]" {
		t.Errorf("devices online, and when: %s", got)
	}
	if at, _ := f.Turned(user); at != 2500 {
		t.Errorf("the follower holds %d", at)
	}
	if d, _ := f.Devices(user, uuid.Nil, 10); len(d) != 2 || d[1].UpdatedAtMS != 3100 {
		t.Errorf("it holds %+v", d)
	}
}
