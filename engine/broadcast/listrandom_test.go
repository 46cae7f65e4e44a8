package broadcast

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// listRun is one random run of list streams: changes, batches that are lost now and then, clients
// that block, go, come back with their cursors, and renew.
type listRun struct {
	t       *testing.T
	rng     *rand.Rand
	p       *people
	b       *Broadcaster
	o       Options
	now     int64
	lost    bool
	clients []*listClient
	gate    sync.Mutex // held: a worker waits in its next write
	gated   bool
	last    bool    // streams that open now do not end by themselves
	holds   []*Hold // of streams that have not begun
}

type listClient struct {
	watcher
	conn    *fakeConn
	chunked bool
	owner   [16]byte
	starved bool // one of its connections refused a write at some time
	expires bool // its stream ends, unless it is renewed
}

// TestListStreamsFollowTheTable (I3, B1, B2, B3, B9, B10, B11): whatever happens, no list stream is
// told a step back or a double, a cursor loses nothing, one that never blocked is told each event,
// and in the end each client knows what the table has, whatever it was told by which connection.
func TestListStreamsFollowTheTable(t *testing.T) {
	runSeeded(t, 80, 20, runLists)
}

func runLists(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &listRun{t: t, rng: rng, p: newPeople(2 + rng.IntN(30)), now: second}
	s.p.epoch = s.now
	s.o = testOptions(newModel())
	s.o.Codec = s.p
	s.o.Workers = 1 + rng.IntN(3)
	s.o.visits = 1 + rng.IntN(5)
	s.o.BacklogBytes = 100 + rng.IntN(800)
	if rng.IntN(2) == 0 {
		s.o.piece = 1 + rng.IntN(500)
	}
	if rng.IntN(2) == 0 {
		s.o.budget = 1 + rng.IntN(10_000)
	}
	if rng.IntN(3) == 0 {
		s.o.QueueBytes = 100 + rng.IntN(3000)
	}
	if rng.IntN(3) == 0 {
		s.o.debts = 1 + rng.IntN(40)
	}
	s.b = mustNew(t, s.o)
	defer s.b.Close()
	s.p.inBatch = func() {
		if s.rng.IntN(10) == 0 {
			s.disturb()
		}
	}
	for range rng.IntN(40) { // what recovery would have found
		s.change()
	}
	s.p.flush(s.b, len(s.p.queued), true)
	s.b.Start(s.now)
	for range 600 {
		s.step()
	}
	s.finish()
}

func (s *listRun) change() {
	s.p.change(s.rng.IntN(len(s.p.users)), s.rng.IntN(3), s.rng.IntN(3) > 0)
}

func (s *listRun) step() {
	switch r := s.rng.IntN(100); {
	case r < 44:
		s.change()
	case r == 44 && s.rng.IntN(4) == 0:
		s.p.forget(s.rng.IntN(len(s.p.users)), s.rng.IntN(3))
	case r < 65:
		lose := s.rng.IntN(40) == 0
		s.lost = s.lost || lose
		s.p.flush(s.b, s.rng.IntN(len(s.p.queued)+1), lose)
	case r < 85:
		s.disturb()
	case r < 89:
		if s.gated {
			s.gate.Unlock()
		} else {
			s.gate.Lock()
		}
		s.gated = !s.gated
	case r < 95:
		s.tick(time.Duration(s.rng.IntN(400)) * time.Millisecond)
	case !s.gated:
		synctest.Wait()
	}
}

func (s *listRun) tick(d time.Duration) {
	s.now += int64(d)
	s.p.mu.Lock()
	s.p.wall += d
	s.p.mu.Unlock()
	s.b.Tick(s.now)
}

// beginOne lets a stream begin.
func (s *listRun) beginOne() {
	if n := len(s.holds); n > 0 {
		i := s.rng.IntN(n)
		s.b.Begin(s.holds[i])
		s.holds[i] = s.holds[n-1]
		s.holds = s.holds[:n-1]
	}
}

// disturb is what clients do.
func (s *listRun) disturb() {
	if s.rng.IntN(3) == 0 {
		s.beginOne()
	}
	if len(s.clients) == 0 || s.rng.IntN(6) == 0 {
		s.meet()
		return
	}
	c := s.clients[s.rng.IntN(len(s.clients))]
	switch r := s.rng.IntN(20); {
	case r < 5:
		c.conn.allow(0)
	case r < 9:
		c.conn.allow(s.rng.IntN(300))
	case r < 15:
		c.conn.allow(-1)
	case r == 15:
		s.renew(c)
	case r < 19:
		s.reconnect(c)
	}
}

// meet makes a client with a stream.
func (s *listRun) meet() {
	if len(s.clients) > 12 {
		return
	}
	c := &listClient{watcher: watcher{
		t: s.t, p: s.p, view: View(s.rng.IntN(2)), users: s.anyUsers(),
		devices: make(map[[2]int]personDevice), people: make(map[int]toldPerson),
	}}
	c.owner[0] = byte(len(s.clients))
	if c.view == ViewUsers && s.rng.IntN(2) == 0 {
		c.linger = time.Duration(s.rng.IntN(2000)) * time.Millisecond
	}
	s.clients = append(s.clients, c)
	s.open(c, 0, 0)
}

func (s *listRun) anyUsers() []int {
	return s.rng.Perm(len(s.p.users))[:1+s.rng.IntN(len(s.p.users))]
}

// open gives a client a stream: of known of its users it has all through after.
func (s *listRun) open(c *listClient, known int, after uint64) {
	c.conn, c.chunked = newFakeConn(s.t), s.rng.IntN(4) > 0
	c.conn.onWrite = func() { pass(&s.gate) }
	if s.rng.IntN(4) == 0 {
		c.conn.room = s.rng.IntN(300)
	}
	c.synced, c.resumed = false, after > 0
	c.exact = c.linger == 0 && !c.starved
	ids := make([]uuid.UUID, len(c.users))
	for i, user := range c.users {
		ids[i] = userOf(user)
	}
	expires := int64(0)
	if c.expires = !s.last && s.rng.IntN(4) == 0; c.expires {
		expires = s.now + int64(s.rng.IntN(3000))*int64(time.Millisecond)
	}
	var hold *Hold
	if !s.last && s.rng.IntN(4) == 0 {
		hold = &Hold{UntilNanos: s.now + int64(time.Hour)}
		s.holds = append(s.holds, hold)
	}
	mustSubscribe(s.t, s.b, Subscription{
		Hold: hold,
		Conn: c.conn, Head: []byte(testHead), Chunked: c.chunked, Owner: c.owner,
		ExpiresNanos: expires,
		List: &List{
			Users: ids, Known: known, After: after, View: c.view, Linger: c.linger,
			IDs: &cursorIDs{c.cursor, s.p, s.p.now()}, Resumed: c.resumed,
		},
	})
}

// reconnect ends a client's stream, perhaps in the middle of something, and opens another one with
// its cursor, if it has one, perhaps for other users.
func (s *listRun) reconnect(c *listClient) {
	if !s.settle(c) {
		return
	}
	if s.rng.IntN(3) == 0 {
		c.users = s.anyUsers()
	}
	s.reopen(c)
}

// reopen opens a stream with the client's cursor, if it has one that is honoured.
func (s *listRun) reopen(c *listClient) {
	var after uint64
	var told time.Duration
	_, err := fmt.Sscanf(c.cursor, "%d/%d", &after, &told)
	if err != nil || after == 0 || s.p.Forgotten(0, uuid.Nil) > after {
		c.cursor, c.follows = "", nil
		c.devices, c.people = make(map[[2]int]personDevice), make(map[int]toldPerson)
		s.open(c, 0, 0)
		return
	}
	var known, fresh []int
	for _, user := range c.users {
		if slices.Contains(c.follows, user) && !s.p.lingered(user, c.linger, told) {
			known = append(known, user)
		} else {
			fresh = append(fresh, user)
			s.forget(c, user)
		}
	}
	c.users = append(known, fresh...)
	s.open(c, len(known), after)
}

// forget has a client forget a user that comes whole.
func (s *listRun) forget(c *listClient, user int) {
	delete(c.people, user)
	for key := range c.devices {
		if key[0] == user {
			delete(c.devices, key)
		}
	}
}

// settle hangs a client up and has it read what it got. What a mid-snapshot cursor says may lie
// before what the client knows by now: it keeps that, and is told again.
func (s *listRun) settle(c *listClient) bool {
	c.conn.mu.Lock()
	attached := c.conn.notifier != nil
	c.conn.mu.Unlock()
	if !attached || s.gated {
		return false
	}
	c.conn.hangUp()
	synctest.Wait()
	s.read(c)
	if !c.synced { // it will be told again what it was told: begin with nothing
		c.cursor = ""
	}
	return true
}

func (s *listRun) read(c *listClient) {
	seen := c.conn.seen()
	c.starved = c.starved || seen.starved
	c.read2(seen.received, s)
}

func (c *listClient) read2(received []byte, s *listRun) {
	stats := s.b.Stats()
	// A device that was forgotten comes back with its old seq here.
	lossy := c.starved || s.lost || stats.Overflows > 0 || stats.Conflated > 0 || s.p.forgotten > 0
	c.exact = c.exact && !lossy
	c.read(received, c.chunked)
	if c.gaps > 0 && !lossy {
		s.t.Errorf("a stream kept up, and was not told %d events", c.gaps)
	}
	c.gaps = 0
}

// drain ends all streams, and each client is told when to come back.
func (s *listRun) drain() {
	var open []*listClient
	for _, c := range s.clients {
		if seen := c.conn.seen(); seen.closed == 0 && !seen.fin && !c.expires && c.chunked {
			open = append(open, c)
		}
	}
	done := s.b.Drain(2 * time.Second)
	for range 20 {
		s.tick(250 * time.Millisecond)
		synctest.Wait()
	}
	for _, c := range open {
		body, ended := dechunk(s.t, bytes.TrimPrefix(c.conn.seen().received, []byte(testHead)))
		if last := body[max(0, len(body)-20):]; !ended || !bytes.Contains(last, []byte("retry: ")) {
			s.t.Errorf("a drained stream ends with %q", last)
		}
	}
	select {
	case <-done:
	default:
		s.t.Error("the drain does not end")
	}
}

// renew moves the end of a client's stream.
func (s *listRun) renew(c *listClient) {
	c.conn.mu.Lock()
	id, attached := c.conn.id, c.conn.notifier != nil
	c.conn.mu.Unlock()
	if !attached || s.gated {
		return
	}
	users := 0
	fits := func(owner [16]byte, each func(func(uuid.UUID) bool)) bool {
		each(func(id uuid.UUID) bool {
			users++
			return slices.Contains(c.users, number(id))
		})
		return owner == c.owner
	}
	err := s.b.Renew(id, s.now+int64(time.Hour), fits)
	if err == ErrNoStream && (c.conn.seen().closed > 0 || s.p.forgotten > 0 || c.expires) {
		return // it has ended, or is about to
	}
	c.expires = false
	if err != nil || users != len(c.users) {
		s.t.Errorf("renewed with %v, of %d users, not %d", err, users, len(c.users))
	}
}

// finish lets every stream read, waits until nothing is owed, and checks.
func (s *listRun) finish() {
	for len(s.holds) > 0 {
		s.beginOne()
	}
	if s.gated {
		s.gate.Unlock()
	}
	s.last = true
	s.p.flushAll(s.b)
	for range 10 { // lingers end, streams that were refused go on
		synctest.Wait()
		for _, c := range s.clients {
			c.conn.allow(-1)
		}
		synctest.Wait()
		for _, c := range s.clients {
			if c.conn.seen().fin && s.settle(c) { // its token ended, or a device was forgotten
				s.reopen(c)
			}
		}
		s.tick(time.Second)
	}
	synctest.Wait()
	follows := 0
	for _, c := range s.clients {
		s.read(c)
		if c.conn.seen().closed > 0 {
			continue
		}
		follows += len(c.users)
		if !c.synced {
			s.t.Error("a stream was never synced")
		}
		c.check(s.p)
	}
	stats := s.b.Stats()
	if owed := stats.Lagging + stats.BlockedNow + stats.PendingBytes + stats.InSnapshot +
		stats.Lingering; owed != 0 || stats.Follows != follows {
		s.t.Errorf("%d users are followed, nothing is owed, and the figures are %+v",
			follows, stats)
	}
	if s.rng.IntN(2) == 0 {
		s.drain()
	}
	s.b.Close()
	for _, w := range s.b.workers {
		ls := &w.lists
		if ls.follows.users.inUse()+ls.follows.blocks.inUse()+ls.debts.nodes.inUse()+
			ls.open+ls.taking != 0 || len(w.writer.owners) != 0 {
			s.t.Errorf("a worker keeps %d users, %d follows, %d debts, %d streams, %d of them in "+
				"a catch-up, and %d owners", ls.follows.users.inUse(), ls.follows.blocks.inUse(),
				ls.debts.nodes.inUse(), ls.open, ls.taking, len(w.writer.owners))
		}
		for view := range w.in.marks {
			if slices.ContainsFunc(w.in.marks[view].counts, func(n uint32) bool { return n > 0 }) {
				s.t.Error("a worker without list streams wants events")
			}
		}
	}
	if s.b.quota.follows != 0 || len(s.b.quota.owners) != 0 {
		s.t.Errorf("follows are counted without streams: %d, %v", s.b.quota.follows, s.b.quota.owners)
	}
}
