package broadcast

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// rig is a broadcaster of one worker on fake time, inside a synctest bubble.
type rig struct {
	t   *testing.T
	m   *model
	b   *Broadcaster
	now int64
}

func withRig(t *testing.T, change func(*Options), test func(*testing.T, *rig)) {
	t.Helper()
	withSources(t, 1, change, test)
}

// pass lets time go by, tick after tick.
func (s *rig) pass(d time.Duration) {
	for end := s.now + int64(d); s.now < end; {
		s.now = min(s.now+int64(tickTime), end)
		s.b.Tick(s.now)
		synctest.Wait()
	}
}

func (s *rig) tell(user, device int) {
	s.m.change(userOf(user), device)
	s.m.flushAll(s.b)
	synctest.Wait()
}

func (s *rig) subscribe(user int) *fakeConn {
	s.t.Helper()
	c := subscribe(s.t, s.b, userOf(user))
	synctest.Wait()
	return c
}

func (s *rig) closed(reason Reason) uint64 { return s.b.Stats().Closed[reason] }

func TestBytesOfAStream(t *testing.T) {
	for _, chunked := range []bool{true, false} {
		retry := func(o *Options) {
			o.RetryMin, o.RetryMax = 1500*time.Millisecond, 1500*time.Millisecond
		}
		withRig(t, retry, func(t *testing.T, s *rig) {
			s.tell(0, 0)
			c := newFakeConn(t)
			mustSubscribe(t, s.b, Subscription{
				User: userOf(0), Conn: c, Head: []byte("HEAD\r\n\r\n"), Chunked: chunked,
			})
			synctest.Wait()
			s.m.change(userOf(0), 0)
			s.m.change(userOf(0), 0)
			s.m.flushAll(s.b)
			synctest.Wait()
			s.b.Drain(0)
			s.pass(tickTime)
			want := []string{
				"HEAD\r\n\r\n", "data: 0 1 1\n\n", "data: 0 2 2\n\ndata: 0 3 3\n\n",
				"retry: 2500\n\n", "", // drainLinger on top
			}
			if chunked {
				for i, text := range want[1:] {
					want[i+1] = fmt.Sprintf("%x\r\n%s\r\n", len(text), text)
				}
			}
			seen := c.seen()
			if got := string(seen.received); got != strings.Join(want, "") {
				t.Errorf("chunked %v: received %q, want %q", chunked, got, want)
			}
			if seen.writes != 3 || !seen.fin || seen.closed != 0 {
				t.Errorf("%d writes, not one per batch; fin %v; closed %d times, too early",
					seen.writes, seen.fin, seen.closed)
			}
			c.hangUp()
			synctest.Wait()
			if c.seen().closed != 1 || s.closed(Drained) != 1 {
				t.Errorf("not closed as drained once the client had closed: %+v", s.b.Stats())
			}
		})
	}
}

func TestStreamWithoutDevicesGetsItsHead(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		if c := s.subscribe(0); string(c.seen().received) != testHead {
			t.Errorf("received %q, want the head: an empty chunk ends the body", c.seen().received)
		}
	})
}

func TestFlushMovesWorkersWithoutEvents(t *testing.T) {
	withRig(t, func(o *Options) { o.Workers = 4 }, func(t *testing.T, s *rig) {
		s.subscribe(0)
		s.tell(1, 0) // a user without streams, on a worker without events for others
		for user := range 20 {
			s.m.change(userOf(user), 1)
		}
		s.m.flushAll(s.b)
		for user := range 20 {
			if r := s.subscribe(user).told(); r.last[1].seq != 1 {
				t.Errorf("user %d: the snapshot does not reach the last Flush", user)
			}
		}
	})
}

func TestKeepaliveAfterSilence(t *testing.T) {
	withRig(t, func(o *Options) { o.Keepalive = 15 * time.Second }, func(t *testing.T, s *rig) {
		c := s.subscribe(0)
		s.pass(14 * time.Second)
		s.tell(0, 0) // not silent
		s.pass(14 * time.Second)
		if n := c.told().comments; n != 0 {
			t.Fatalf("%d keepalives before 15 s of silence", n)
		}
		s.pass(1500 * time.Millisecond)
		if n := c.told().comments; n != 1 {
			t.Fatalf("%d keepalives after 15 s of silence", n)
		}
		s.pass(10 * time.Minute)
		if n := c.told().comments; n < 38 || n > 41 {
			t.Errorf("%d keepalives in ten minutes", n)
		}
	})
}

func TestTokenExpires(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		c, never := newFakeConn(t), s.subscribe(0)
		expires := s.now + 400*second
		mustSubscribe(t, s.b, Subscription{
			User: userOf(0), Conn: c, Head: []byte(testHead), Chunked: true, ExpiresNanos: expires,
		})
		s.pass(400*time.Second - 1)
		if r := c.told(); r.ended {
			t.Fatal("ended before its token")
		}
		s.pass(tickTime + 1)
		if r := c.told(); !r.ended || r.retry != "" {
			t.Errorf("after its token: %+v, want the end and no retry line", r)
		}
		s.pass(lingerTime + tickTime)
		if c.seen().closed != 1 || never.seen().closed != 0 || s.closed(TokenExpired) != 1 {
			t.Errorf("a client that does not close has its time: %+v", s.b.Stats())
		}
		gone := newFakeConn(t)
		mustSubscribe(t, s.b, Subscription{User: userOf(0), Conn: gone, ExpiresNanos: 1})
		s.pass(2 * tickTime)
		if !gone.seen().fin {
			t.Error("a token that expired before the stream began does not end it")
		}
	})
}

func TestSlowStreamIsClosed(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		stuck, drip := s.subscribe(0), s.subscribe(0)
		s.pass(time.Minute)
		stuck.allow(0)
		drip.allow(0)
		for device := range 10 {
			s.tell(0, device)
		}
		for range 8 {
			s.pass(14 * time.Second)
			drip.allow(1)
			synctest.Wait()
			if stuck.seen().closed == 0 && s.now > 100*second+int64(92*time.Second) {
				t.Fatal("a stream that took nothing for 30 s is open")
			}
		}
		if stuck.seen().closed != 1 || drip.seen().closed != 0 || s.closed(Slow) != 1 {
			t.Errorf("stuck closed %d times, drip %d times, as slow %d",
				stuck.seen().closed, drip.seen().closed, s.closed(Slow))
		}
	})
}

func TestSlowStreamHasItsTime(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		c := s.subscribe(0)
		s.pass(45 * time.Second)
		c.allow(0)
		s.tell(0, 0)
		s.pass(30 * time.Second)
		if c.seen().closed != 0 {
			t.Error("closed before WriteTimeout was over")
		}
		c.mu.Lock()
		c.room = -1 // without a report: the server was the one who slept
		c.mu.Unlock()
		s.now += int64(time.Hour)
		s.b.Tick(s.now)
		synctest.Wait()
		if c.seen().closed != 0 || c.told().last[0].seq != 1 {
			t.Error("closed although it takes again")
		}
	})
}

func TestDrainSpreadsEnds(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		conns := make([]*fakeConn, 400)
		for i := range conns {
			conns[i] = s.subscribe(i % 7)
		}
		done := s.b.Drain(10 * time.Second)
		if err := s.b.Subscribe(Subscription{Conn: newFakeConn(t)}); err != ErrDraining {
			t.Errorf("Subscribe while draining: %v", err)
		}
		ended := func() (n int) {
			for _, c := range conns {
				if c.told().ended {
					n++
				}
			}
			return n
		}
		s.pass(5 * time.Second)
		if n := ended(); n < 120 || n > 280 {
			t.Errorf("%d of 400 ended in the first half", n)
		}
		s.tell(0, 0) // those who stay are told
		s.pass(5*time.Second + 2*tickTime)
		if n := ended(); n != 400 {
			t.Errorf("%d of 400 ended in time", n)
		}
		select {
		case <-done:
			t.Error("done before the connections are closed")
		default:
		}
		for _, c := range conns {
			c.mu.Lock()
			open := c.closed == 0
			c.mu.Unlock()
			if open {
				c.hangUp()
			}
		}
		<-done
	})
}

// TestRetryDoesNotLeadBackIntoTheDrain: who obeys comes back when the drain is over, the last
// client had its time to hang up and the server has started again; and not with all the others. It
// is the same for those who ask for a stream meanwhile.
func TestRetryDoesNotLeadBackIntoTheDrain(t *testing.T) {
	const over, restart = 10 * time.Second, 3 * time.Second
	retries := func(o *Options) { o.RetryMin, o.RetryMax = 1*time.Second, 10*time.Second }
	withRig(t, retries, func(t *testing.T, s *rig) {
		for range 100 {
			if d := s.b.Retry(); d < time.Second || d > 10*time.Second {
				t.Fatalf("without a drain: %v", d)
			}
		}
		waiting := make(map[*fakeConn]bool)
		for i := range 400 {
			waiting[s.subscribe(i%7)] = true
		}
		s.b.SetRestart(restart)
		s.b.Drain(over)
		back := s.now + int64(over+drainLinger+restart) // of the server
		var low, high int64 = 1 << 60, 0
		comes := func(at int64) {
			t.Helper()
			if at < back+int64(time.Second) {
				t.Fatalf("comes back %v before the server", time.Duration(back-at))
			}
			low, high = min(low, at-back), max(high, at-back)
		}
		for len(waiting) > 0 {
			comes(s.now + int64(s.b.Retry()))
			s.pass(tickTime)
			for c := range waiting {
				r := c.told()
				if !r.ended {
					continue
				}
				delete(waiting, c)
				ms, err := strconv.ParseInt(r.retry, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				comes(s.now + ms*1e6)
			}
		}
		if low > 2*second || high < 9*second || high > int64(10*time.Second+2*tickTime) {
			t.Errorf("they come back %v to %v after the server", time.Duration(low),
				time.Duration(high))
		}
		s.pass(time.Minute) // the drain is over, the process is not
		if d := s.b.Retry(); d < drainLinger+restart+time.Second {
			t.Errorf("after the drain: %v", d)
		}
	})
}

// TestDrainWaitsShortlyForHangUps: one client that keeps its side open delays the restart, and with
// it the return of all others.
func TestDrainWaitsShortlyForHangUps(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		expired := newFakeConn(t)
		mustSubscribe(t, s.b, Subscription{
			User: userOf(0), Conn: expired, ExpiresNanos: s.now + second,
		})
		s.pass(time.Second)
		s.subscribe(0)
		done := s.b.Drain(time.Second)
		s.pass(time.Second + drainLinger + 3*tickTime)
		select {
		case <-done:
		default:
			t.Errorf("the drain is not done after a second for each client to hang up")
		}
	})
}

func TestCloseTellsStreams(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		c, blocked := s.subscribe(0), s.subscribe(0)
		blocked.allow(0)
		s.tell(0, 0)
		s.b.Close()
		if r := c.told(); !r.ended || r.retry == "" || c.seen().closed != 1 {
			t.Errorf("Close: %+v", r)
		}
		if blocked.seen().closed != 1 {
			t.Error("Close left a blocked stream open")
		}
		if err := s.b.Subscribe(Subscription{Conn: newFakeConn(t)}); err != ErrDraining {
			t.Errorf("Subscribe after Close: %v", err)
		}
		s.tell(0, 1) // no effect
		s.b.Tick(s.now)
		s.b.Ready(c.id, HangUp)
		if n := s.b.Streams(userOf(0)); n != 0 {
			t.Errorf("%d streams after Close", n)
		}
	})
}

func TestCloseBeforeStart(t *testing.T) {
	b := mustNew(t, testOptions(newModel()))
	c := subscribe(t, b, userOf(0))
	b.Close()
	if r := c.told(); !r.ended || c.seen().closed != 1 {
		t.Errorf("told %+v, closed %d times", r, c.seen().closed)
	}
}

func TestInputIsBounded(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		c := s.subscribe(0)
		for range inputLimit / 1024 {
			c.send(1024)
			synctest.Wait()
		}
		if c.seen().closed != 0 {
			t.Error("closed for input within the limit")
		}
		c.send(1)
		synctest.Wait()
		if c.seen().closed != 1 || s.closed(ServerLimit) != 1 {
			t.Error("not closed for too much input")
		}
	})
}

func TestMaxStreams(t *testing.T) {
	withRig(t, func(o *Options) { o.MaxStreams = 2 }, func(t *testing.T, s *rig) {
		c := s.subscribe(0)
		s.subscribe(1)
		if err := s.b.Subscribe(Subscription{Conn: newFakeConn(t)}); err != ErrTooMany {
			t.Errorf("a third stream: %v", err)
		}
		c.hangUp()
		synctest.Wait()
		s.subscribe(2)
	})
}

func TestMaxStreamsPerUser(t *testing.T) {
	withRig(t, func(o *Options) { o.MaxStreamsPerUser = 2 }, func(t *testing.T, s *rig) {
		first := s.subscribe(0)
		broken := newFakeConn(t)
		broken.attach = syscall.ENOMEM
		mustSubscribe(t, s.b, Subscription{User: userOf(0), Conn: broken})
		synctest.Wait() // its place is free again
		short := newFakeConn(t)
		mustSubscribe(t, s.b, Subscription{
			User: userOf(0), Conn: short, ExpiresNanos: s.now + second,
		})
		refused := func() {
			t.Helper()
			err := s.b.Subscribe(Subscription{User: userOf(0), Conn: newFakeConn(t)})
			if err != ErrTooManyOfUser {
				t.Errorf("a third stream of a user: %v", err)
			}
		}
		refused()
		s.subscribe(1) // others have their own
		s.pass(2 * time.Second)
		s.subscribe(0) // in the place of the expired one, though its client has not hung up
		if n := short.seen().closed; n != 0 {
			t.Errorf("the expired stream's connection was closed %d times", n)
		}
		refused()
		first.hangUp()
		synctest.Wait()
		s.subscribe(0)
		if n := s.b.Open(); n != 4 {
			t.Errorf("%d streams are open, want 4", n)
		}
	})
}

// opensPerTurn is the most streams that a turn opens, when their users have no devices.
const opensPerTurn = turnBudget / 2 / openCost

// TestSubscriptionsBehindACrowd: those that come while the worker still has a crowd to open are
// opened after it, without waiting for a tick to wake the worker up.
func TestSubscriptionsBehindACrowd(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		const late = 10
		first := newFakeConn(t)
		comes := sync.OnceFunc(func() { // in the turn that leaves a part of the crowd for the next
			for range late {
				subscribe(t, s.b, userOf(1))
			}
		})
		first.onWrite = comes
		s.b.workers[0].in.mu.Lock() // so that all are taken at once
		for i := range opensPerTurn + 1 {
			c := newFakeConn(t)
			if i == 0 {
				c = first
			}
			in := &s.b.workers[0].in
			sub := Subscription{User: userOf(0), Conn: c, Head: []byte(testHead)}
			in.joinLocked(sub)
			s.b.count.enter()
		}
		s.b.workers[0].in.mu.Unlock()
		s.tell(0, 0)
		if n := s.b.Stats().Opened; n != opensPerTurn+1+late {
			t.Errorf("%d streams were opened of %d", n, opensPerTurn+1+late)
		}
	})
}

func TestLateReportDoesNotReachTheNextStream(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		first := s.subscribe(0)
		first.hangUp()
		synctest.Wait()
		next := s.subscribe(0)
		if first.id.slot() != next.id.slot() || first.id == next.id {
			t.Fatalf("ids %x and %x: want one slot, used twice", first.id, next.id)
		}
		first.hangUp()
		synctest.Wait()
		if next.seen().closed != 0 {
			t.Error("closed by a report about the stream before it")
		}
	})
}

func TestFailedConnections(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		unwatched := newFakeConn(t)
		unwatched.attach = syscall.ENOSPC
		mustSubscribe(t, s.b, Subscription{User: userOf(0), Conn: unwatched})
		reset, odd, well := s.subscribe(0), s.subscribe(0), s.subscribe(0)
		reset.err, odd.err = syscall.ECONNRESET, syscall.EINVAL
		s.tell(0, 0)
		for _, c := range []*fakeConn{unwatched, reset, odd} {
			if n := c.seen().closed; n != 1 {
				t.Errorf("a failed connection was closed %d times", n)
			}
		}
		if well.seen().closed != 0 {
			t.Error("a connection that did not fail was closed")
		}
		if s.closed(Failed) != 2 || s.closed(ClientGone) != 1 || well.told().last[0].seq != 1 {
			t.Errorf("closed: %v", s.b.Stats().Closed)
		}
	})
}

// TestConflation: a stream that cannot take all gets the newest state of each device that changed,
// once, and nothing of those that did not.
func TestConflation(t *testing.T) {
	withRig(t, func(o *Options) { o.BacklogBytes = 100 }, func(t *testing.T, s *rig) {
		s.tell(0, 7) // does not change again
		c, other := s.subscribe(0), s.subscribe(0)
		c.allow(3)
		for range 50 {
			s.tell(0, 0)
			s.tell(0, 1)
		}
		stats := s.b.Stats()
		if stats.Lagging != 1 || stats.BlockedNow != 1 || stats.PendingBytes > 300 {
			t.Errorf("while lagging: %+v", stats)
		}
		c.allow(-1)
		synctest.Wait()
		r := c.told()
		s.m.checkLast(t, userOf(0), r)
		if r.frames > 15 || r.gaps != 2 {
			t.Errorf("%d frames, %d gaps: want some, and the newest of both", r.frames, r.gaps)
		}
		if r := other.told(); r.frames != 101 || r.gaps != 0 {
			t.Errorf("a stream that kept up was told %d of 101 events", r.frames)
		}
		if n := s.b.Stats().Conflated; n != 1 {
			t.Errorf("conflated %d times", n)
		}
		s.tell(0, 0)
		s.m.checkLast(t, userOf(0), c.told())
	})
}

// TestPendingIsBounded (B6): streams lag, and one in the middle of a chunk is closed.
func TestPendingIsBounded(t *testing.T) {
	small := func(o *Options) { o.PendingBytes, o.BacklogBytes = 4000, 400 }
	withRig(t, small, func(t *testing.T, s *rig) {
		conns := make([]*fakeConn, 200)
		for i := range conns {
			conns[i] = s.subscribe(0)
			conns[i].allow(0)
		}
		for range 100 {
			s.tell(0, 0)
			if p := s.b.Stats().PendingBytes; p > 5000 {
				t.Fatalf("%d bytes pending", p)
			}
		}
		if s.closed(Overload) == 0 {
			t.Fatal("no stream was closed")
		}
		for _, c := range conns {
			if c.seen().closed == 0 {
				c.allow(-1)
				synctest.Wait()
				s.m.checkLast(t, userOf(0), c.told())
			}
		}
	})
}

// TestPendingCountsWhatTheSystemHolds (B6): its memory is as short as ours.
func TestPendingCountsWhatTheSystemHolds(t *testing.T) {
	const held = 1000
	small := func(o *Options) { o.PendingBytes, o.BacklogBytes = 4000, 400 }
	withRig(t, small, func(t *testing.T, s *rig) {
		var blocked []*fakeConn
		for user := range 5 {
			c := s.subscribe(user)
			c.held = held
			c.allow(0)
			blocked = append(blocked, c)
		}
		for user := range 5 {
			s.tell(user, 0)
		}
		stats := s.b.Stats()
		if p := stats.PendingBytes; p < 3*held || p > 4000 || s.closed(Overload) != 2 {
			t.Errorf("%d bytes are pending, %d streams closed", p, s.closed(Overload))
		}
		for _, c := range blocked {
			if c.seen().closed == 0 {
				c.allow(-1)
			}
		}
		synctest.Wait()
		if p := s.b.Stats().PendingBytes; p != 0 {
			t.Errorf("%d bytes are pending when all is written", p)
		}
	})
}

// TestOneUserLeavesRoomForOthers: however many clients of a user take nothing, another user's
// stream that is behind for a moment is not closed for it. What a user's streams gave back, others
// of the user may have.
func TestOneUserLeavesRoomForOthers(t *testing.T) {
	small := func(o *Options) { o.PendingBytes, o.BacklogBytes = 4000, 400 }
	withRig(t, small, func(t *testing.T, s *rig) {
		var conns []*fakeConn
		for range 200 {
			c := s.subscribe(0)
			c.allow(0)
			conns = append(conns, c)
		}
		for range 100 {
			s.tell(0, 0)
		}
		closed := s.closed(Overload)
		other := s.subscribe(1)
		other.allow(0)
		s.tell(1, 0)
		if closed == 0 || s.closed(Overload) != closed {
			t.Errorf("%d of the user's streams were closed, %d of another's", closed,
				s.closed(Overload)-closed)
		}
		other.allow(-1)
		for i, c := range conns {
			if c.seen().closed == 0 {
				if i%2 == 0 {
					c.allow(-1)
				} else {
					c.hangUp()
				}
			}
		}
		synctest.Wait()
		if p := s.b.Stats().PendingBytes; p != 0 {
			t.Fatalf("%d bytes are pending when all have gone or read", p)
		}
		if n := len(s.b.workers[0].writer.pending); n != 0 {
			t.Errorf("bytes are counted for %d users", n)
		}
		again := s.subscribe(0)
		again.allow(0)
		s.tell(0, 0)
		if again.seen().closed != 0 {
			t.Error("a stream of the user is closed though the room is free again")
		}
	})
}

// TestQueueOverflow: the events of a full queue are made up for, for users with events in it and
// for those without.
func TestQueueOverflow(t *testing.T) {
	var gate sync.Mutex
	withRig(t, func(o *Options) { o.QueueBytes = 2000 }, func(t *testing.T, s *rig) {
		conns := make([]*fakeConn, 3)
		for i := range conns {
			conns[i] = s.subscribe(i)
			conns[i].onWrite = func() { pass(&gate) }
		}
		gate.Lock()
		s.m.change(userOf(0), 0)
		s.m.flushAll(s.b)
		for range 500 {
			s.m.change(userOf(0), 0)
			s.m.change(userOf(1), 1)
			s.m.flushAll(s.b)
			if q := s.b.Stats().QueueBytes; q > 2*2000 {
				t.Fatalf("%d bytes queued", q)
			}
		}
		gate.Unlock()
		synctest.Wait()
		for i, c := range conns {
			s.m.checkLast(t, userOf(i), c.told())
		}
		if st := s.b.Stats(); st.Overflows == 0 || st.DroppedEvents < 800 || st.Conflated == 0 {
			t.Errorf("%+v", st)
		}
		if n := conns[2].seen().writes; n != 1 {
			t.Errorf("a user without events was written to %d times", n)
		}
	})
}

// TestCrowdDoesNotHoldUpOthers: a user's many streams are visited in portions, and what comes
// meanwhile is joined.
func TestCrowdDoesNotHoldUpOthers(t *testing.T) {
	const crowd = 3000
	withRig(t, nil, func(t *testing.T, s *rig) {
		var gate sync.Mutex
		var mu sync.Mutex
		writes, atFew := 0, 0
		count := func(few bool) func() {
			return func() {
				pass(&gate)
				mu.Lock()
				defer mu.Unlock()
				if writes++; few {
					atFew = writes
				}
			}
		}
		conns := make([]*fakeConn, crowd)
		for i := range conns {
			conns[i] = s.subscribe(0)
			conns[i].onWrite = count(false)
		}
		few := s.subscribe(1)
		few.onWrite = count(true)
		gate.Lock()
		s.m.change(userOf(0), 0)
		s.m.change(userOf(1), 0)
		s.m.flushAll(s.b)
		s.m.change(userOf(0), 0)
		s.m.flushAll(s.b)
		gate.Unlock()
		synctest.Wait()
		if atFew == 0 || atFew > visitsPerUser+1 {
			t.Errorf("another user's frame was write number %d", atFew)
		}
		if writes > 1+crowd+2*visitsPerUser {
			t.Errorf("%d writes for two batches to %d streams: not joined", writes, crowd)
		}
		for _, c := range conns {
			if r := c.told(); r.gaps != 0 || r.last[0].seq != 2 {
				t.Fatalf("a stream of the crowd was told %+v", r)
			}
		}
	})
}

// TestEventOvertakesCrowd: what comes in the middle of a crowd's lap does not wait for its end, and
// the crowd goes on however much comes.
func TestEventOvertakesCrowd(t *testing.T) {
	const crowd = 1000
	withRig(t, nil, func(t *testing.T, s *rig) {
		wrote, goOn := make(chan struct{}), make(chan struct{})
		conns := make([]*fakeConn, crowd)
		for i := range conns {
			conns[i] = s.subscribe(0)
			conns[i].onWrite = func() { wrote <- struct{}{}; <-goOn }
		}
		other := s.subscribe(1)
		s.m.change(userOf(0), 0)
		s.m.flushAll(s.b)
		before, published, waited, longest := other.seen().writes, 0, 0, 0
		for range crowd {
			<-wrote // the worker waits for us
			if told := other.seen().writes - before; told == published {
				published, waited = published+1, 0
				s.m.change(userOf(1), 0)
				s.m.flushAll(s.b)
			} else {
				waited++
				longest = max(longest, waited)
			}
			goOn <- struct{}{}
		}
		synctest.Wait()
		if longest > 2*visitsPerUser || published < crowd/2 {
			t.Errorf("an event waited for %d writes to a crowd, of %d events", longest, published)
		}
		for i, c := range append(conns, other) {
			c.onWrite = nil
			s.m.checkLast(t, userOf(min(i/crowd, 1)), c.told())
		}
	})
}

func TestStreamsOfAUser(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		s.subscribe(3)
		c := s.subscribe(3)
		if n := s.b.Streams(userOf(3)); n != 2 {
			t.Errorf("%d streams", n)
		}
		c.hangUp()
		if n := s.b.Streams(userOf(3)); n != 1 {
			t.Errorf("%d streams after a hang-up", n)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := New(Options{Workers: 1000, QueueBytes: -1, RetryMin: 2, RetryMax: 1})
	for _, want := range []string{"Codec", "Workers", "QueueBytes", "RetryMin"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestPublishAboveFlushPanics(t *testing.T) {
	b := mustNew(t, testOptions(newModel()))
	defer b.Close()
	defer func() {
		if recover() == nil {
			t.Error("an event above its batch's through went in")
		}
	}()
	b.Publish(0, userOf(0), 2, []byte("event"))
	b.Flush(0, 1, 0)
}

// TestLapGoesOnWhenItsNextStreamLeaves: the stream that a lap would visit next may go between two
// turns.
func TestLapGoesOnWhenItsNextStreamLeaves(t *testing.T) {
	withRig(t, func(o *Options) { o.visits = 2 }, func(t *testing.T, s *rig) {
		conns := make([]*fakeConn, 9)
		for i := range conns {
			conns[i] = s.subscribe(0)
		}
		began, goOn := make(chan struct{}), make(chan struct{})
		conns[8].onWrite = func() { // the newest is visited first
			began <- struct{}{}
			<-goOn
		}
		s.m.change(userOf(0), 0)
		s.m.flushAll(s.b)
		<-began
		conns[6].hangUp() // the third, and so the first of the second turn
		goOn <- struct{}{}
		synctest.Wait()
		conns[8].onWrite = nil
		for i, c := range conns {
			if i != 6 && c.told().last[0].seq != 1 {
				t.Errorf("stream %d was not told", i)
			}
		}
	})
}

// TestDrainReachesStreamsOpenedAfterIt: subscriptions that were taken before Drain, and are
// answered after it.
func TestDrainReachesStreamsOpenedAfterIt(t *testing.T) {
	withRig(t, nil, func(t *testing.T, s *rig) {
		conns := make([]*fakeConn, 3*opensPerTurn)
		for i := range conns {
			conns[i] = subscribe(t, s.b, userOf(i))
		}
		done := s.b.Drain(time.Second)
		s.pass(time.Second + 2*tickTime)
		s.pass(lingerTime + tickTime)
		<-done
		for _, c := range conns {
			if r := c.told(); !r.ended || r.retry == "" {
				t.Fatalf("told %+v", r)
			}
		}
	})
}

// pass waits until the test leaves the gate open.
func pass(gate *sync.Mutex) {
	gate.Lock()
	defer gate.Unlock()
}

// TestKeepaliveHasNoBlankLine: some clients dispatch an empty event at each blank line. The frame
// that follows the comment is whole.
func TestKeepaliveHasNoBlankLine(t *testing.T) {
	for chunked, want := range map[bool]string{
		true:  "c\r\n: keepalive\n\r\nd\r\ndata: 0 1 1\n\n\r\n",
		false: ": keepalive\ndata: 0 1 1\n\n",
	} {
		keepalive := func(o *Options) { o.Keepalive = 15 * time.Second }
		withRig(t, keepalive, func(t *testing.T, s *rig) {
			c := newFakeConn(t)
			mustSubscribe(t, s.b, Subscription{User: userOf(0), Conn: c, Chunked: chunked})
			s.pass(16 * time.Second)
			s.tell(0, 0)
			if got := string(c.seen().received); got != want {
				t.Errorf("chunked %v: received %q, want %q", chunked, got, want)
			}
		})
	}
}
