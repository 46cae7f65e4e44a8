package broadcast

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// listRig is a broadcaster of people whose clock a test moves.
type listRig struct {
	t   *testing.T
	p   *people
	b   *Broadcaster
	now int64
}

func withPeople(t *testing.T, users int, change func(*Options), test func(*listRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &listRig{t: t, p: newPeople(users), now: second}
		s.p.wall = time.Hour
		s.p.epoch = s.now - int64(time.Hour)
		o := testOptions(newModel())
		o.Codec = s.p
		if change != nil {
			change(&o)
		}
		s.b = mustNew(t, o)
		defer s.b.Close()
		s.b.Lose(0)
		s.b.Flush(0, 0, 0)
		s.b.Start(s.now)
		test(s)
	})
}

// pass lets time pass, in ticks.
func (s *listRig) pass(d time.Duration) {
	for ; d > 0; d -= tickTime {
		s.now += int64(tickTime)
		s.p.mu.Lock()
		s.p.wall += tickTime
		s.p.mu.Unlock()
		s.b.Tick(s.now)
		synctest.Wait()
	}
}

// open opens a stream of the first so many users.
func (s *listRig) open(view View, linger time.Duration, users int) *fakeConn {
	c := newFakeConn(s.t)
	s.subscribe(c, view, linger, users, 0)
	return c
}

func (s *listRig) subscribe(
	c *fakeConn, view View, linger time.Duration, users int, expiresNanos int64,
) {
	list := &List{View: view, Linger: linger, IDs: &cursorIDs{p: s.p, told: s.p.now()}}
	for user := range users {
		list.Users = append(list.Users, userOf(user))
	}
	mustSubscribe(s.t, s.b, Subscription{
		Conn: c, Head: []byte(testHead), ExpiresNanos: expiresNanos, List: list,
	})
	synctest.Wait()
}

// tell commits one change.
func (s *listRig) tell(user, device int, online bool) {
	s.p.change(user, device, online)
	s.p.flushAll(s.b)
	synctest.Wait()
}

func text(c *fakeConn) string { return string(c.seen().received) }

// TestRenewalStaysInTheDrain: a token that lives longer does not take its stream out of the drain.
func TestRenewalStaysInTheDrain(t *testing.T) {
	withPeople(t, 1, nil, func(s *listRig) {
		c := newFakeConn(t)
		s.subscribe(c, ViewDevices, 0, 1, s.now+2*second)
		done := s.b.Drain(20 * time.Second)
		synctest.Wait()
		fits := func([16]byte, func(func(uuid.UUID) bool)) bool { return true }
		if err := s.b.Renew(c.id, s.now+3600*second, fits); err != nil {
			t.Fatal(err)
		}
		s.pass(30 * time.Second)
		select {
		case <-done:
		default:
			t.Error("the renewed stream is open ten seconds after the drain")
		}
	})
}

// TestRenewal: who may not, what is not there, and what the text of an id is good for.
func TestRenewal(t *testing.T) {
	withPeople(t, 1, nil, func(s *listRig) {
		c := newFakeConn(t)
		head := []byte("Rollcall-Stream: " + strings.Repeat("?", StreamIDLen) + "\r\n")
		mustSubscribe(t, s.b, Subscription{
			User: userOf(0), Conn: c, Head: head, IDAt: len("Rollcall-Stream: "),
			ExpiresNanos: s.now + 2*second,
		})
		synctest.Wait()
		name := text(c)[len("Rollcall-Stream: "):][:StreamIDLen]
		id, ok := s.b.ParseStreamID(name)
		if !ok || id != c.id {
			t.Errorf("%q is stream %x, %v, not %x", name, id, ok, c.id)
		}
		for _, bad := range []string{"", name[1:], name + "0", "x" + name[1:],
			fmt.Sprintf("%08x%s", s.b.ids.boot^1, name[8:])} {
			if _, ok := s.b.ParseStreamID(bad); ok {
				t.Errorf("%q is a stream's id", bad)
			}
		}
		answer := func(want error, id StreamID, fits bool) {
			t.Helper()
			err := s.b.Renew(id, s.now+10*second,
				func(owner [16]byte, users func(func(uuid.UUID) bool)) bool {
					n := 0
					for user := range users {
						if n++; user != userOf(0) || owner != user {
							t.Errorf("stream of %v, owned by %v", user, owner)
						}
					}
					return fits && n == 1
				})
			if err != want {
				t.Errorf("renewed: %v, want %v", err, want)
			}
		}
		answer(ErrUnfit, id, false)
		for _, none := range []StreamID{0, id + 1, id + 1<<reuseBits, id + 1<<(slotBits+reuseBits),
			^StreamID(0)} {
			answer(ErrNoStream, none, true)
		}
		answer(nil, id, true)
		s.pass(8 * time.Second)
		if c.seen().fin {
			t.Error("the stream ended before its new token")
		}
		s.pass(4 * time.Second)
		if !c.seen().fin {
			t.Error("the stream outlived its new token")
		}
		answer(ErrNoStream, id, true)
	})
}

// TestLingerIsToldOnce, whichever way the news comes.
func TestLingerIsToldOnce(t *testing.T) {
	short := func(o *Options) { o.BacklogBytes = 100 }
	withPeople(t, 2, short, func(s *listRig) {
		s.tell(0, 0, true)
		s.tell(1, 0, true)
		c := s.open(ViewUsers, 10*time.Second, 2)
		c.allow(0)
		s.tell(1, 1, true) // into the backlog
		s.tell(1, 2, true)
		s.tell(0, 0, false) // does not fit: the stream lags
		s.tell(1, 3, true)
		s.pass(15 * time.Second)
		c.allow(-1)
		synctest.Wait()
		s.pass(15 * time.Second)
		if n := strings.Count(text(c), "data: 0 false 0"); n != 1 {
			t.Errorf("told offline %d times:\n%s", n, text(c))
		}
	})
}

// TestLingerCountsFromTheChange, and not from when a slow disk let it be told.
func TestLingerCountsFromTheChange(t *testing.T) {
	for slow, want := range map[time.Duration]string{
		8 * time.Second:  "data: 0 true 0",
		12 * time.Second: "data: 0 false 0",
	} {
		withPeople(t, 1, nil, func(s *listRig) {
			s.tell(0, 0, true)
			c := s.open(ViewUsers, 10*time.Second, 1)
			s.p.change(0, 0, false)
			s.pass(slow)
			s.p.flushAll(s.b)
			synctest.Wait()
			if !strings.Contains(text(c), want) {
				t.Errorf("%v late, it is not told %q:\n%s", slow, want, text(c))
			}
			s.pass(13*time.Second - slow)
			if n := strings.Count(text(c), "data: 0 false 0"); n != 1 {
				t.Errorf("told offline %d times 13 s after the change:\n%s", n, text(c))
			}
		})
	}
}

// TestLingerOutlivesAReconnect: while a user lingers, cursors say when the client knew all. So one
// who comes back after the time, with a cursor from behind the turn, is told.
func TestLingerOutlivesAReconnect(t *testing.T) {
	small := func(o *Options) { o.BacklogBytes, o.piece = 100, 100 }
	withPeople(t, 1, nil, func(s *listRig) { // on time, a linger does not hold cursors back
		s.tell(0, 0, true)
		c := s.open(ViewUsers, 10*time.Second, 1)
		s.tell(0, 0, false)
		s.pass(5 * time.Second)
		s.tell(0, 0, true)
		s.tell(0, 0, false)
		if want := fmt.Sprintf("id: 4/%d\n", s.p.now()); !strings.Contains(text(c), want) {
			t.Errorf("no %q in\n%s", want, text(c))
		}
		s.pass(11 * time.Second)
		last := text(c)[strings.LastIndex(text(c), "id: "):]
		var told time.Duration
		if _, err := fmt.Sscanf(last, "id: 4/%d", &told); err != nil ||
			told < s.p.now()-2*time.Second || !strings.Contains(last, "data: 0 false 0") {
			t.Errorf("told of the end as %q", last)
		}
	})
	withPeople(t, 40, small, func(s *listRig) {
		for user := range 40 {
			s.tell(user, 0, true)
		}
		c := s.open(ViewUsers, 10*time.Second, 40)
		changed := s.p.now()
		s.tell(39, 0, false)
		c.allow(0)
		for user := range 20 {
			s.tell(user, 1, true)
		}
		s.pass(25 * time.Second)
		before := len(text(c))
		c.allow(700) // a part of the catch-up, and the connection dies
		synctest.Wait()
		got := text(c)[before:]
		if strings.Contains(got, "data: 39 false") {
			t.Fatalf("this is no test of it:\n%s", got)
		}
		for _, line := range strings.Split(got, "\n") {
			var lsn uint64
			var told time.Duration
			if n, _ := fmt.Sscanf(line, "id: %d/%d", &lsn, &told); n == 2 && told > changed+time.Second {
				t.Errorf("cursor %q of a client that does not know of the end at %v", line, changed)
			}
		}
	})
}

// TestLingersOfClosedStreamsGo: clients that come and go leave nothing behind.
func TestLingersOfClosedStreamsGo(t *testing.T) {
	withPeople(t, 1, nil, func(s *listRig) {
		s.tell(0, 0, true)
		s.tell(0, 0, false)
		for range 3 * minLingers {
			s.open(ViewUsers, 10*time.Minute, 1).hangUp()
			synctest.Wait()
		}
		w := s.b.workers[0]
		s.b.Streams(userOf(0)) // the worker has had its turn
		if n := len(w.lists.lingers.items); n > minLingers || w.lists.lingers.live != 0 {
			t.Errorf("%d items are left, %d of them of streams", n, w.lists.lingers.live)
		}
	})
}

// TestStreamWaitsOnceInTheCrowd: a stream that is owed by a crowd and by few, turn after turn, has
// one item in each queue (B6).
func TestStreamWaitsOnceInTheCrowd(t *testing.T) {
	w := &worker{}
	w.slots.init(&w.in.mu)
	s := w.slots.allocate()
	s.state, s.list = shut, &listStream{}
	ls := &w.lists
	for range 100 {
		ls.wake(s, true)
		ls.wake(s, false)
		if !w.visitQueued(popAt(&ls.woken), inWoken) {
			t.Fatal("it was not visited")
		}
	}
	if len(ls.crowd) != 1 || len(ls.woken) != 0 {
		t.Errorf("%d and %d items of one stream", len(ls.crowd), len(ls.woken))
	}
	if w.visitQueued(popAt(&ls.crowd), inCrowd) {
		t.Error("a void item was visited")
	}
	if ls.wake(s, true); len(ls.crowd) != 1 {
		t.Error("it does not come back into the crowd")
	}
}

// TestSlowListStreamTakesNoRoom: one that reads nothing in its catch-up has no other one conflated.
func TestSlowListStreamTakesNoRoom(t *testing.T) {
	small := func(o *Options) { o.debts, o.piece, o.WriteTimeout = 64*debtShares, 50, time.Hour }
	withPeople(t, 40, small, func(s *listRig) {
		for user := range 40 {
			s.tell(user, 0, true)
		}
		slow := newFakeConn(t)
		slow.room = 10
		s.subscribe(slow, ViewDevices, 0, 40, 0)
		good := s.open(ViewDevices, 0, 1)
		for range 1000 {
			s.tell(1, 0, true)
		}
		for range 10 {
			s.tell(0, 0, true)
		}
		if n := s.b.Stats().Conflated; n > 0 {
			t.Errorf("a stream that keeps up was conflated %d times", n)
		}
		if n := strings.Count(text(good), "data: 0 0"); n != 11 {
			t.Errorf("it was told %d events", n)
		}
		s.b.Streams(userOf(0))
		if n := s.b.workers[0].lists.debts.nodes.inUse(); n > 64 {
			t.Errorf("the slow one is owed %d events", n)
		}
	})
}

// TestListStreamsOfSources (B1, B3): each source has LSNs of its own, and may repeat itself.
func TestListStreamsOfSources(t *testing.T) {
	withSources(t, 2, nil, func(t *testing.T, s *rig) {
		open := func(user int) *fakeConn {
			c := newFakeConn(t)
			mustSubscribe(t, s.b, Subscription{
				Source: Source(user), Conn: c, Head: []byte(testHead),
				List: &List{Users: []uuid.UUID{userOf(user)}, IDs: &cursorIDs{}},
			})
			synctest.Wait()
			return c
		}
		s.m.change(userOf(0), 0)
		s.m.change(userOf(0), 0)
		batch, through := s.m.take(0, 2)
		publish := func() {
			for _, e := range batch {
				s.b.Publish(0, e.user, e.lsn, e.bytes)
			}
			s.b.Flush(0, through, 0)
			synctest.Wait()
		}
		publish()
		first, second := open(0), open(1)
		publish() // again
		s.tell(1, 0)
		s.tell(0, 0)
		for c, want := range map[*fakeConn]int{first: 2, second: 1} {
			if n := strings.Count(text(c), "presence"); n != want {
				t.Errorf("%d events, want %d:\n%s", n, want, text(c))
			}
		}
	})
}
