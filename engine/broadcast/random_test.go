package broadcast

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
)

// randomRun is one random run: changes, batches, subscriptions, connections that block, go and come
// back.
type randomRun struct {
	t       *testing.T
	rng     *rand.Rand
	m       *model
	b       *Broadcaster
	users   int
	now     int64
	started [3]bool   // by source
	loses   bool      // a source may lose events
	lost    sourceSet // sources that lost events, or began when there were streams already
	streams []*randomStream
	perUser int        // streams of a user at most; 0: any number
	gate    sync.Mutex // held: the worker waits in its next write, and mail piles up
	gated   bool
	holds   []*Hold // of streams that have not begun
	ended   atomic.Int64
}

type randomStream struct {
	user    uuid.UUID
	conn    *fakeConn
	chunked bool
	left    bool // by its own will
}

// TestStreamsFollowTheTable (I3, B1, B2, B3, B7, B8, B9): whatever happens, no stream is told a
// step back or a double. A stream that never blocked is told every event, unless a queue was full
// or its own source lost events. In the end every stream was told the newest state of each device.
func TestStreamsFollowTheTable(t *testing.T) {
	runSeeded(t, 60, 10, runRandomly)
}

// runSeeded does so many random runs, each with the seed behind the one before, until one fails.
func runSeeded(t *testing.T, runs, short int, run func(t *testing.T, seed uint64)) {
	t.Helper()
	seed := testseed.Of(t)
	if testing.Short() {
		runs = short
	}
	for range runs {
		synctest.Test(t, func(t *testing.T) { run(t, seed) })
		if t.Failed() {
			t.Fatalf("ROLLCALL_SEED=%d", seed)
		}
		seed++
	}
}

func runRandomly(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	m := newModelOf(1 + rng.IntN(3))
	o := testOptions(m)
	o.Workers = 1 + rng.IntN(3)
	o.visits = 1 + rng.IntN(5)
	o.BacklogBytes = 40 + rng.IntN(400)
	if rng.IntN(2) == 0 {
		o.piece = 1 + rng.IntN(500)
	}
	if rng.IntN(2) == 0 {
		o.budget = 1 + rng.IntN(10_000)
	}
	if rng.IntN(2) == 0 {
		o.QueueBytes = 100 + rng.IntN(1500)
	}
	if rng.IntN(3) == 0 {
		o.PendingBytes = 500 + rng.IntN(4000)
	}
	if rng.IntN(2) == 0 {
		o.MaxStreamsPerUser = 1 + rng.IntN(8)
	}
	s := &randomRun{
		t: t, rng: rng, m: m, b: mustNew(t, o), now: second,
		users: 1 + rng.IntN(4), perUser: o.MaxStreamsPerUser, loses: rng.IntN(2) == 0,
	}
	defer s.b.Close()
	if rng.IntN(2) == 0 {
		s.users = 100 // most of them without a stream
	}
	m.inBatch = s.stepInBatch
	for range rng.IntN(20) { // what recovery would have found
		m.change(userOf(rng.IntN(s.users)), rng.IntN(15))
	}
	s.lost = newSourceSet(len(m.lsn))
	for source := range m.queued {
		if rng.IntN(2) == 0 {
			s.start(Source(source))
		}
	}
	s.b.Start(s.now)
	for range 600 {
		s.step()
	}
	s.finish()
}

// start begins a source. Its log is replayed; a stream may follow one of its users already, which
// then gets the newest states.
func (s *randomRun) start(source Source) {
	_, through := s.m.take(source, len(s.m.queued[source]))
	s.b.Lose(source)
	s.b.Flush(source, through, 0)
	s.started[source] = true
}

// flush commits some changes of a source, which it now and then loses.
func (s *randomRun) flush(source Source) {
	n := s.rng.IntN(len(s.m.queued[source]) + 1)
	switch {
	case !s.started[source]:
		s.lost.add(source)
		s.start(source)
	case s.loses && s.rng.IntN(20) == 0:
		s.lost.add(source)
		s.m.lose(s.b, source, n, s.rng.IntN(n+1))
	default:
		s.m.flush(s.b, source, n)
	}
}

func (s *randomRun) step() {
	switch r := s.rng.IntN(100); {
	case r < 45:
		s.m.change(userOf(s.rng.IntN(s.users)), s.rng.IntN(12))
	case r < 65:
		s.flush(Source(s.rng.IntN(len(s.m.queued))))
	case r < 73:
		s.subscribe()
	case r < 88 && len(s.streams) > 0:
		s.disturb(s.streams[s.rng.IntN(len(s.streams))])
	case r < 92:
		if s.gated {
			s.gate.Unlock()
		} else {
			s.gate.Lock()
		}
		s.gated = !s.gated
	case r < 97:
		s.now += int64(s.rng.IntN(300)) * int64(time.Millisecond)
		s.b.Tick(s.now)
	case !s.gated:
		synctest.Wait()
	}
}

// stepInBatch is what others do while a commit loop publishes.
func (s *randomRun) stepInBatch() {
	switch r := s.rng.IntN(10); {
	case r == 0:
		if s.subscribe(); !s.gated {
			synctest.Wait() // the worker opens it, if it may
		}
	case r == 1 && len(s.streams) > 0:
		s.disturb(s.streams[s.rng.IntN(len(s.streams))])
	}
}

func (s *randomRun) subscribe() {
	st := &randomStream{
		user: userOf(s.rng.IntN(s.users)), conn: newFakeConn(s.t), chunked: s.rng.IntN(4) > 0,
	}
	st.conn.onWrite = func() { pass(&s.gate) }
	if s.rng.IntN(4) == 0 {
		st.conn.room = s.rng.IntN(200)
	}
	full := s.full(st.user) // asked first: the worker may free streams at any time
	sub := Subscription{
		User: st.user, Source: s.m.sourceOf(st.user),
		Conn: st.conn, Head: []byte(testHead), Chunked: st.chunked, Done: func() { s.ended.Add(1) },
	}
	if s.rng.IntN(4) == 0 {
		sub.Hold = &Hold{UntilNanos: s.now + int64(time.Hour)}
	}
	err := s.b.Subscribe(sub)
	switch {
	case err == nil:
		if sub.Hold != nil {
			s.holds = append(s.holds, sub.Hold)
		}
		s.streams = append(s.streams, st)
	case err != ErrTooManyOfUser || !full:
		s.t.Errorf("Subscribe: %v", err)
	}
}

// full: at least as many streams follow the user as may. Some may be gone without the broadcaster
// knowing it yet.
func (s *randomRun) full(user uuid.UUID) bool {
	n := 0
	for _, st := range s.streams {
		if st.user == user && st.conn.seen().closed == 0 {
			n++
		}
	}
	return s.perUser > 0 && n >= s.perUser
}

// beginOne lets a stream begin.
func (s *randomRun) beginOne() {
	if n := len(s.holds); n > 0 {
		i := s.rng.IntN(n)
		s.b.Begin(s.holds[i])
		s.holds[i] = s.holds[n-1]
		s.holds = s.holds[:n-1]
	}
}

func (s *randomRun) disturb(st *randomStream) {
	if s.rng.IntN(4) == 0 {
		s.beginOne()
	}
	st.conn.mu.Lock()
	attached := st.conn.notifier != nil
	st.conn.mu.Unlock()
	switch r := s.rng.IntN(20); {
	case r < 5:
		st.conn.allow(0)
	case r < 10:
		st.conn.allow(s.rng.IntN(150))
	case r < 17:
		st.conn.allow(-1)
	case r == 17 && attached:
		st.conn.send(s.rng.IntN(100))
	case r == 18 && attached:
		st.conn.hangUp()
		st.left = true
	}
}

// finish lets every stream read, waits until nothing is owed, and checks.
func (s *randomRun) finish() {
	if s.gated {
		s.gate.Unlock()
	}
	for source := range s.m.queued {
		if !s.started[source] {
			s.lost.add(Source(source))
			s.start(Source(source))
		}
	}
	s.m.flushAll(s.b)
	for len(s.holds) > 0 {
		s.beginOne()
	}
	for range 2 { // a stream is opened, then refused, then let go on
		synctest.Wait()
		for _, st := range s.streams {
			st.conn.allow(-1)
		}
	}
	synctest.Wait()
	stats := s.b.Stats()
	alive := 0
	for i, st := range s.streams {
		seen := st.conn.seen()
		told := readTold(s.t, seen.received, testHead, st.chunked)
		if seen.closed > 0 {
			continue
		}
		alive++
		if st.left {
			s.t.Errorf("stream %d hung up and is still open", i)
		}
		s.m.checkLast(s.t, st.user, told)
		lost := s.lost.has(s.m.sourceOf(st.user))
		conflated := lost || stats.Overflows > 0 || stats.FanOverflows > 0
		if told.gaps > 0 && !seen.starved && !conflated {
			s.t.Errorf("stream %d kept up, and was not told %d events", i, told.gaps)
		}
	}
	s.checkFigures(stats, alive)
}

func (s *randomRun) checkFigures(stats Stats, alive int) {
	owed := stats.Lagging + stats.BlockedNow + stats.PendingBytes + stats.QueueBytes
	if stats.Streams != alive || owed != 0 {
		s.t.Errorf("%d streams are open, nothing is owed, and the figures are %+v", alive, stats)
	}
	sum := 0
	for u := range s.users {
		n := s.b.Streams(userOf(u))
		if sum += n; s.perUser > 0 {
			s.checkLimit(userOf(u), n)
		}
	}
	if sum != alive {
		s.t.Errorf("users have %d streams, %d are open", sum, alive)
	}
	opened := s.b.Stats().Opened
	s.b.Close()
	if ended := s.ended.Load(); ended > int64(opened) || s.perUser == 0 && ended < int64(opened) {
		s.t.Errorf("%d streams were opened, %d said that they have ended", opened, ended)
	}
	for i, st := range s.streams {
		if seen := st.conn.seen(); seen.closed != 1 {
			s.t.Errorf("stream %d was closed %d times", i, seen.closed)
		}
	}
	for _, w := range s.b.workers {
		if w.in.follows.any() {
			s.t.Error("a worker without streams wants events")
		}
		if w.fans.bytes != 0 || len(w.fans.holds) != 0 || w.users.index.users != 0 ||
			len(w.users.opening) != 0 {
			s.t.Errorf("worker keeps %d bytes of frames, %d users and counts %d",
				w.fans.bytes, w.users.index.users, len(w.users.opening))
		}
	}
}

// checkLimit: a user with n streams gets as many more as the limit leaves, and then none.
func (s *randomRun) checkLimit(user uuid.UUID, n int) {
	for ; n < s.perUser; n++ {
		st := &randomStream{user: user, conn: newFakeConn(s.t)}
		mustSubscribe(s.t, s.b, Subscription{User: user, Source: s.m.sourceOf(user), Conn: st.conn})
		s.streams = append(s.streams, st)
	}
	err := s.b.Subscribe(Subscription{User: user, Conn: newFakeConn(s.t)})
	if n != s.perUser || err != ErrTooManyOfUser {
		s.t.Errorf("a user with %d streams of %d asked for one more: %v", n, s.perUser, err)
	}
}

// TestSubscribeDrainCloseRace (B5): a connection that Subscribe took is closed once, one that it
// refused never.
func TestSubscribeDrainCloseRace(t *testing.T) {
	for run := range 30 {
		t.Run(strconv.Itoa(run), func(t *testing.T) {
			m := newModel()
			o := testOptions(m)
			o.Workers, o.MaxStreams = 2, 300
			b := mustNew(t, o)
			var taken, refused [4][]*fakeConn
			var group, loop sync.WaitGroup
			stop := make(chan struct{})
			loop.Go(func() {
				b.Start(second)
				for now := second; ; now += second / 4 {
					select {
					case <-stop:
						return
					default:
					}
					m.change(userOf(int(now)%5), 0)
					m.flushAll(b)
					b.Tick(now)
				}
			})
			for g := range taken {
				group.Go(func() {
					for i := range 100 {
						c := newFakeConn(t)
						s := Subscription{User: userOf(i % 5), Conn: c, Chunked: true}
						err := b.Subscribe(s)
						if err != nil {
							refused[g] = append(refused[g], c)
						} else {
							taken[g] = append(taken[g], c)
						}
					}
				})
			}
			if run%3 > 0 {
				group.Go(func() { b.Drain(time.Duration(run) * 10 * time.Millisecond) })
			}
			if run%3 < 2 {
				group.Go(b.Close)
			}
			group.Wait()
			if run%3 == 1 {
				<-b.Drain(0) // Close ended what draining had not
			}
			b.Close()
			<-b.Drain(0)
			close(stop)
			loop.Wait()
			for g := range taken {
				for _, c := range taken[g] {
					if n := c.seen().closed; n != 1 {
						t.Errorf("a stream's connection was closed %d times", n)
					}
				}
				for _, c := range refused[g] {
					if s := c.seen(); s.closed != 0 || s.writes != 0 {
						t.Error("a refused connection was touched")
					}
				}
			}
		})
	}
}
