package watch

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/record"
)

// calm is a world in which nothing is lost: node n0 owns all, and streams are at n1.
func calm(t *testing.T, partitions int) (w *world, owner, at *testNode) {
	w = newWorld(t, 1, 2, partitions, true)
	for _, p := range w.parts {
		w.claim(p, w.nodes[0])
	}
	w.pulses()
	return w, w.nodes[0], w.nodes[1]
}

// pulses has every node tell every other what it owns, and that arrives.
func (w *world) pulses() {
	for _, n := range w.nodes {
		for _, to := range w.nodes {
			n.pulse(to)
		}
	}
	w.run()
}

// run delivers and does everything that waits.
func (w *world) run() {
	for w.deliver() || len(w.work) > 0 {
		w.doWork()
	}
}

// beat commits a heartbeat of a device.
func (o *testOwner) beat(user uuid.UUID, device byte) {
	o.append(user, device)
	o.commitAll()
}

func (o *testOwner) append(user uuid.UUID, device byte) {
	lsn := uint64(len(o.partition.log) + len(o.pending) + 1)
	s := record.State{Seq: lsn, Online: true, UpdatedAtMS: lsn}
	rec := record.AppendUser(nil, user, uuid.UUID{15: device}, &s, []byte("x"), &record.User{})
	c := change{lsn: lsn, rec: rec}
	o.pending = append(o.pending, c)
	o.put(c)
}

func (o *testOwner) commitAll() {
	for len(o.pending) > 0 {
		o.commit()
	}
}

func (n *testNode) subscribe(users ...uuid.UUID) *testStream {
	n.w.Helper()
	s := broadcast.Subscription{User: users[0]}
	if len(users) > 1 {
		s.List = &broadcast.List{Users: users}
	}
	before := maps.Clone(n.follower.streams)
	if err := n.edge.Subscribe(s); err != nil || len(n.follower.streams) != len(before)+1 {
		n.w.Fatalf("subscribe: %v", err)
	}
	for st := range n.follower.streams {
		if !before[st] {
			return st
		}
	}
	return nil
}

// TestStreamBegins: with the states of its users, at once where they are there.
func TestStreamBegins(t *testing.T) {
	w, _, n := calm(t, 1)
	user := userOf(0, 1)
	o := w.parts[0].owner
	o.beat(user, 1)
	s := n.subscribe(user)
	if s.begun || n.edge.Fresh(user) || n.edge.Stats().Held != 1 {
		t.Fatal("it begins before its user was asked for")
	}
	n.edge.ask()
	w.run()
	if !s.begun || len(s.told) != 1 || !n.edge.Fresh(user) || n.edge.Stats().Held != 0 {
		t.Fatalf("it has begun: %v, with %v", s.begun, s.told)
	}
	o.beat(user, 2)
	w.run()
	if len(s.told) != 2 {
		t.Errorf("it was told %v", s.told)
	}
	n.follower.end(s)
	if again := n.subscribe(user); !again.begun || o.hub.Watched() != 1 {
		t.Error("the next one waits")
	}
	if messages := o.hub.Sent("n1"); messages != 2 {
		t.Errorf("%d messages", messages)
	}
}

// TestClosedEdgeAppliesNothing: an owner goes on to tell a node that stops, whose Follower may have
// given its memory back.
func TestClosedEdgeAppliesNothing(t *testing.T) {
	w, owner, n := calm(t, 1)
	user := userOf(0, 1)
	s := begin(w, n, user)
	waits := n.subscribe(userOf(0, 2))
	n.edge.ask() // its answer is on its way
	n.edge.Close()
	before := n.follower.updates
	w.parts[0].owner.beat(user, 1)
	owner.pulse(n)
	w.run()
	if n.follower.updates != before || len(s.told) > 0 || waits.begun {
		t.Errorf("%d updates, told %v, another stream has begun: %v", n.follower.updates-before,
			s.told, waits.begun)
	}
}

// TestStreamWaitsForASureOwner (E4): it does not begin with what an owner said that was heard of
// too long ago, or that was not sure. Nothing is read here meanwhile.
func TestStreamWaitsForASureOwner(t *testing.T) {
	w, owner, n := calm(t, 1)
	user := userOf(0, 1)
	n.follower.end(begin(w, n, user))
	w.pass(1001 * time.Millisecond)
	s := n.subscribe(user)
	if s.begun || n.edge.Fresh(user) {
		t.Fatal("what is old is told")
	}
	w.parts[0].owner.ackNanos = w.nanos - 6e9
	owner.pulse(n)
	w.run()
	if s.begun || n.edge.Fresh(user) {
		t.Fatal("what an owner told that is not sure is told")
	}
	w.parts[0].owner.ackNanos = w.nanos
	owner.pulse(n)
	w.run()
	if !s.begun || !n.edge.Fresh(user) {
		t.Error("it waits for ever")
	}
}

// TestStreamAsksForAnOwner (E4): where nothing was appended for a while, a stream has the owner
// show that it is one, once for all that wait; one that is none any more, and does not know, begins
// no stream.
func TestStreamAsksForAnOwner(t *testing.T) {
	w, owner, n := calm(t, 1)
	user := userOf(0, 1)
	o := w.parts[0].owner
	n.follower.end(begin(w, n, user))
	w.pass(2 * time.Second)
	owner.pulse(n)
	w.run()
	before, sent := o.vouches, o.hub.Sent("n1")
	first := n.subscribe(user)
	n.edge.ask()
	second := n.subscribe(user)
	n.edge.ask()
	if first.begun || second.begun || n.edge.Fresh(user) {
		t.Fatal("what is old is told")
	}
	w.run()
	if sent = o.hub.Sent("n1") - sent; sent != 1 || !first.begun || !second.begun ||
		!n.edge.Fresh(user) {
		t.Fatalf("the owner answers %d questions; begun: %v, %v", sent, first.begun, second.begun)
	}

	w.pass(2 * time.Second)
	o.partition.owner = &testOwner{} // another claim, of which neither has heard
	s := n.subscribe(user)
	for range 5 {
		w.pass(time.Second)
		owner.pulse(n)
		n.edge.tick()
		w.run()
	}
	if s.begun || n.edge.Fresh(user) || o.vouches < before+3 {
		t.Errorf("a stream begins without an owner, which was asked %d times", o.vouches-before-1)
	}
}

// TestStreamBeginsWithALateProof (E4): an owner whose appends take longer than a second is asked
// once, and what it shows is enough for the streams that were open then.
func TestStreamBeginsWithALateProof(t *testing.T) {
	w, _, n := calm(t, 1)
	user := userOf(0, 1)
	n.follower.end(begin(w, n, user))
	w.pass(2 * time.Second)
	s := n.subscribe(user)
	n.edge.ask()
	w.pass(1500 * time.Millisecond)
	late := n.subscribe(user)
	w.run()
	if !s.begun || late.begun || n.edge.Fresh(user) {
		t.Errorf("the first has begun: %v, the one behind it: %v", s.begun, late.begun)
	}
	n.edge.ask()
	w.run()
	if !late.begun {
		t.Error("it waits for ever")
	}
}

// begin opens a stream and lets it begin.
func begin(w *world, n *testNode, users ...uuid.UUID) *testStream {
	w.Helper()
	s := n.subscribe(users...)
	n.edge.ask()
	if w.run(); !s.begun {
		w.Fatal("the stream has not begun")
	}
	return s
}

// TestAnswerFromBeforeAnUnwatch (E3) is no answer to who watches the user again: the hub has it
// unwatched behind the answer.
func TestAnswerFromBeforeAnUnwatch(t *testing.T) {
	w, _, n := calm(t, 1)
	user, other := userOf(0, 1), userOf(0, 2)
	begin(w, n, other) // so that there is a generation with users
	n.follower.end(n.subscribe(user))
	n.edge.ask() // WATCH 2
	n.edge.tick()
	w.pass(6 * time.Second)
	w.pulses() // the hub answers, and that is under way
	w.queues[route{"n0", "n1", EdgeSubject}] = nil
	n.edge.tick() // UNWATCH
	if n.edge.Stats().Users != 1 {
		t.Fatal("it is still watched")
	}
	s := n.subscribe(user)
	o := w.parts[0].owner
	answer := appendHead(nil, head{kindSnapshot, 0, o.epoch})
	answer = append(answer, make([]byte, numberedBytes-headBytes)...)
	p := &n.edge.parts[0]
	numbered{number: p.number + 1, word: p.question}.put(answer)
	n.edge.Receive(bus.Message{From: "n0", Data: appendPart(answer, &part{user: user})})
	if s.begun || p.users[user].generation != 0 {
		t.Error("the answer to an earlier question is taken")
	}
}

// TestListAsksOncePerPartition: whatever the number of users, and of streams in a moment.
func TestListAsksOncePerPartition(t *testing.T) {
	w, _, n := calm(t, 64)
	var users []uuid.UUID
	for i := range 1000 {
		users = append(users, userOf(i%64, i%250+i/250))
	}
	slices.SortFunc(users, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	users = slices.Compact(users)
	n.subscribe(users...)
	n.subscribe(users[:500]...)
	n.edge.ask()
	if asked := len(w.queues[route{"n1", "n0", HubSubject}]); asked != 64 {
		t.Errorf("%d questions", asked)
	}
	w.run()
	for s := range n.follower.streams {
		if !s.begun {
			t.Errorf("a stream of %d users waits", len(s.users))
		}
	}
	for _, p := range w.parts {
		if v := p.owner.vouches; v != 1 {
			t.Fatalf("partition %d was vouched for %d times", p.index, v)
		}
	}
}

// TestManyUsersAndDevices: of a partition with more users than a message has, and of a user with
// more devices, all come in messages that can be read.
func TestManyUsersAndDevices(t *testing.T) {
	w, _, n := calm(t, 1)
	o := w.parts[0].owner
	users := []uuid.UUID{userOf(0, 0)}
	for i := range 5000 {
		users = append(users, uuid.UUID{1: 1, 14: byte(i >> 8), 15: byte(i)})
	}
	for i := range 4000 {
		lsn := uint64(len(o.pending) + 1)
		s := record.State{Seq: lsn, Online: true}
		rec := record.AppendUser(nil, users[0], uuid.UUID{1, 14: byte(i >> 8), 15: byte(i)}, &s,
			[]byte("x"), &record.User{})
		o.pending = append(o.pending, change{lsn: lsn, rec: rec})
		o.put(change{lsn: lsn, rec: rec})
	}
	o.commitAll()
	s := n.subscribe(users...)
	n.edge.ask()
	p := &n.edge.parts[0]
	if asked := len(w.queues[route{"n1", "n0", HubSubject}]); asked != 1 || p.flying != askWindow {
		t.Errorf("%d questions, about %d users", asked, p.flying)
	}
	if w.run(); !s.begun || len(s.told) != 4000 || n.edge.Stats().Unread != 0 ||
		p.flying != 0 || len(p.bulk) != 0 {
		t.Errorf("it has begun: %v, with %d devices; %+v", s.begun, len(s.told), n.edge.Stats())
	}
	if sent := o.hub.Sent("n1"); sent < 11 || sent > 20 {
		t.Errorf("%d messages", sent)
	}
	for i := range 4000 {
		rec := record.View(slices.Clone(o.partition.log[i].rec))
		rec[36], rec[37] = byte(4001+i), byte((4001+i)>>8) // the seq
		o.pending = append(o.pending, change{lsn: uint64(4001 + i), rec: rec})
		o.put(o.pending[i])
	}
	before := o.hub.Sent("n1")
	for o.commitAll(); w.deliver(); {
	}
	if sent := o.hub.Sent("n1") - before; sent < 4 {
		t.Errorf("the changes came in %d messages", sent)
	}
	for key, told := range s.told {
		if told.seq <= 4000 {
			t.Fatalf("device %v was told seq %d", key, told.seq)
		}
	}
}

// TestLostPart: a user whose states come in parts, of which one is lost, is not told without it.
func TestLostPart(t *testing.T) {
	for lost := range 3 {
		w, _, n := calm(t, 1)
		o := w.parts[0].owner
		o.hub.chunk = 60 // a device each
		user := userOf(0, 1)
		for d := range byte(3) {
			o.beat(user, d+1)
		}
		s := n.subscribe(user)
		n.edge.ask()
		for o.hub.Sent("n1") == 0 {
			w.deliver()
			w.doWork()
		}
		r := route{"n0", "n1", EdgeSubject}
		if len(w.queues[r]) != 3 {
			t.Fatalf("%d parts", len(w.queues[r]))
		}
		w.queues[r] = slices.Delete(w.queues[r], lost, lost+1)
		w.run()
		if w.pulses(); s.begun {
			t.Fatalf("it has begun without part %d", lost)
		}
		w.pass(1100 * time.Millisecond)
		n.edge.tick()
		w.run()
		w.pulses()
		if !s.begun || len(s.told) != 3 {
			t.Errorf("it has begun: %v, with %v", s.begun, s.told)
		}
	}
}

// TestSilence: users of an owner that says nothing are in doubt, and asked for again until it does.
func TestSilence(t *testing.T) {
	w, _, n := calm(t, 1)
	user := userOf(0, 1)
	s := begin(w, n, user)
	w.cut[[2]string{"n0", "n1"}] = true
	w.pass(3001 * time.Millisecond)
	n.edge.tick()
	n.edge.tick()
	if n.edge.Stats().Silences != 1 || n.edge.parts[0].told(n.edge.parts[0].users[user]) {
		t.Errorf("%+v", n.edge.Stats())
	}
	w.parts[0].owner.beat(user, 1)
	w.run()
	delete(w.cut, [2]string{"n0", "n1"})
	w.pass(1100 * time.Millisecond)
	n.edge.tick()
	w.run()
	w.pulses()
	if len(s.told) != 1 || !n.edge.Fresh(user) {
		t.Errorf("it was told %v", s.told)
	}
}

// TestHubForgetsNodesThatAreGone, and the node asks again when it is back.
func TestHubForgetsNodesThatAreGone(t *testing.T) {
	w, _, n := calm(t, 1)
	user, o := userOf(0, 1), w.parts[0].owner
	s := begin(w, n, user)
	gone := [2]string{"n0", "n1"}
	w.cut[gone] = true
	for range 2 {
		w.pass(61 * time.Second)
		o.hub.Tick(w.nanos)
		w.doWork()
	}
	if o.hub.Watched() != 0 {
		t.Fatal("it is still watched")
	}
	delete(w.cut, gone)
	o.beat(user, 1)
	w.pulses()
	if n.edge.Stats().Gaps != 1 {
		t.Errorf("%+v", n.edge.Stats())
	}
	n.edge.ask()
	if w.run(); len(s.told) != 1 {
		t.Errorf("it was told %v", s.told)
	}
}

// TestPlacesOfNodes: there are 64, and one of a node that is gone can be another's, whose numbers
// go on above all others.
func TestPlacesOfNodes(t *testing.T) {
	w, _, _ := calm(t, 1)
	h := w.parts[0].owner.hub
	list := userList(make([]byte, 16))
	for i := range maxNodes {
		if h.tell(string(rune('A'+i)), 1, list) != 1 {
			t.Fatalf("node %d cannot watch", i)
		}
	}
	for range 3 {
		h.tell("C", 1, list)
	}
	if h.tell("late", 1, list) != 0 || len(h.nodes) != maxNodes {
		t.Error("there are more places")
	}
	h.mu.Lock()
	h.forget(1)
	h.mu.Unlock()
	if h.tell("late", 1, list) != 1 || h.Sent("late") != 6 || h.Sent("B") != 0 {
		t.Errorf("the late one was sent %d messages, B %d", h.Sent("late"), h.Sent("B"))
	}
}

// TestForgettingLetsCommitsIn: a node that is forgotten and watched very many users holds up no
// commit for all of them, and the hub may be closed meanwhile.
func TestForgettingLetsCommitsIn(t *testing.T) {
	const users = 50_000
	in := [2]bool{}
	for round := 0; round < 200 && !(in[0] && in[1]); round++ { // of chances to get in
		w, _, _ := calm(t, 1)
		h := w.parts[0].owner.hub
		h.mu.Lock()
		if _, err := h.place("gone"); err != nil {
			t.Fatal(err)
		}
		for i := range users {
			h.users[uuid.UUID{13: byte(i >> 8), 14: byte(i), 15: 1}] = 1 | uint64(i%2)<<1
		}
		left := make(chan int)
		go func() { // as a commit loop does
			for {
				h.mu.Lock()
				n := len(h.users)
				h.mu.Unlock()
				if n == users {
					continue
				}
				if round%2 == 0 {
					h.Close()
				}
				left <- n
				return
			}
		}()
		h.forget(0)
		h.mu.Unlock()
		in[round%2] = in[round%2] || <-left > users/2
	}
	if !in[0] || !in[1] {
		t.Error("what wants the lock waits until all users are forgotten")
	}
}

// TestRefusedStreams: when there is no room, or the node is cut off.
func TestRefusedStreams(t *testing.T) {
	w, _, n := calm(t, 1)
	subscribe := func(i int) error {
		return n.edge.Subscribe(broadcast.Subscription{User: userOf(0, i)})
	}
	begin(w, n, userOf(0, 1))
	n.edge.o.MaxUsers = 2
	if err := errors.Join(subscribe(1), subscribe(2)); err != nil {
		t.Error(err)
	}
	if err := subscribe(3); !errors.Is(err, broadcast.ErrTooManyFollows) {
		t.Error(err)
	}
	n.edge.o.MaxUsers, n.edge.o.MaxHeld = 10, 1
	if err := subscribe(3); !errors.Is(err, broadcast.ErrTooMany) {
		t.Error(err)
	}
	if s := n.edge.Stats(); s.Users != 2 || s.Held != 1 {
		t.Errorf("%+v", s)
	}
	w.pass(10 * time.Second)
	n.follower.tick() // its hold is over
	n.edge.tick()
	if s := n.edge.Stats(); s.Held != 0 || s.Unanswered != 1 {
		t.Errorf("%+v", s)
	}
	n.edge.Isolate(true, time.Second)
	w.pass(time.Second)
	n.follower.tick()
	if err := subscribe(1); !errors.Is(err, engine.ErrNotMine) || len(n.follower.streams) != 0 {
		t.Errorf("%v, %d streams", err, len(n.follower.streams))
	}
	n.edge.Isolate(false, 0)
	if err := subscribe(1); err != nil {
		t.Error(err)
	}
	n.edge.tick()
	w.pass(3 * time.Second)
	if n.follower.tick(); len(n.follower.streams) != 1 {
		t.Error("a stream ends although the node is not isolated any more")
	}
}

// TestIsolatedNodeKeepsNoStream: neither one that was just opening when the others were told to
// end, nor one that waited for its users then and begins afterwards.
func TestIsolatedNodeKeepsNoStream(t *testing.T) {
	w, _, n := calm(t, 1)
	waits := n.subscribe(userOf(0, 1))
	n.edge.ask()
	n.follower.taking = func() { n.edge.Isolate(true, time.Second) }
	n.subscribe(userOf(0, 2))
	if w.run(); !waits.begun {
		t.Fatal("the owner has answered, and the stream has not begun")
	}
	for range 10 {
		w.pass(tickTime)
		n.edge.tick()
		n.follower.tick()
	}
	if left := len(n.follower.streams); left != 0 {
		t.Errorf("%d streams are left", left)
	}
}

// TestIdleUsersAreDropped, some time after their last stream, and their owners tell nothing more.
func TestIdleUsersAreDropped(t *testing.T) {
	w, _, n := calm(t, 1)
	o := w.parts[0].owner
	kept, gone := userOf(0, 1), userOf(0, 2)
	s := begin(w, n, kept, gone)
	n.follower.end(s)
	n.edge.tick()
	w.pass(4 * time.Second)
	w.pulses()
	if n.edge.Fresh(gone) {
		t.Error("a user that may be dropped at any moment is read")
	}
	begin(w, n, kept)
	w.pass(1100 * time.Millisecond)
	n.edge.tick()
	w.run()
	if n.edge.Stats().Users != 1 || o.hub.Watched() != 1 {
		t.Errorf("%d users, %d at the hub", n.edge.Stats().Users, o.hub.Watched())
	}
	// One whose UNWATCH was lost is unwatched when the hub tells of it.
	o.hub.tell("n1", 1, userList(gone[:]))
	o.beat(gone, 1)
	w.run()
	n.edge.tick()
	w.run()
	if o.hub.Watched() != 1 {
		t.Errorf("%d users at the hub", o.hub.Watched())
	}
}

// TestUnreadableMessage is one that is missing.
func TestUnreadableMessage(t *testing.T) {
	w, _, n := calm(t, 1)
	user, o := userOf(0, 1), w.parts[0].owner
	s := begin(w, n, user)
	o.beat(user, 1)
	r := route{"n0", "n1", EdgeSubject}
	m := w.queues[r][0].data
	w.queues[r][0].data = m[:len(m)-1]
	w.run()
	if st := n.edge.Stats(); st.Unread != 1 || st.Gaps != 1 || len(s.told) != 0 {
		t.Fatalf("%+v, told %v", st, s.told)
	}
	n.edge.ask()
	n.edge.tick()
	if w.run(); len(s.told) != 1 {
		t.Errorf("it was told %v", s.told)
	}
	for _, data := range [][]byte{nil, {format}, make([]byte, maxMessage+1),
		appendHead(nil, head{kindWatch, 0, 1}), appendHead(nil, head{kindDelta, 9, 1})} {
		n.edge.Receive(bus.Message{From: "n0", Data: data})
	}
	if st := n.edge.Stats(); st.Unread != 6 || st.Gaps != 1 {
		t.Errorf("%+v", st)
	}
}

// TestFollowerRefuses: what the Follower could not take is asked for again, and not at once.
func TestFollowerRefuses(t *testing.T) {
	w, _, n := calm(t, 1)
	user, o := userOf(0, 1), w.parts[0].owner
	s := begin(w, n, user)
	n.follower.err = errors.New("full")
	o.beat(user, 1)
	w.run()
	if n.edge.Fresh(user) || n.edge.Stats().Unread != 1 {
		t.Errorf("%+v", n.edge.Stats())
	}
	for range 3 {
		w.pass(1100 * time.Millisecond)
		before := n.follower.updates
		n.edge.tick()
		w.run()
		n.edge.tick()
		if w.run(); n.follower.updates != before+1 {
			t.Errorf("%d times", n.follower.updates-before)
		}
	}
	n.follower.err = nil
	w.pass(1100 * time.Millisecond)
	n.edge.tick()
	w.run()
	w.pulses()
	if len(s.told) != 1 || !n.edge.Fresh(user) {
		t.Errorf("it was told %v", s.told)
	}
}

// TestHubDoesNotAnswer what nothing vouches for (C5), what is for another claim, and what it has no
// room for.
func TestHubDoesNotAnswer(t *testing.T) {
	w, owner, n := calm(t, 1)
	user, o := userOf(0, 1), w.parts[0].owner
	delete(owner.owns, 0)
	h := o.hub
	list := append(appendHead(nil, head{kindWatch, 0, o.epoch}), make([]byte, 8)...)
	list = append(list, user[:]...)
	if err := h.Receive("n1", list); err != nil {
		t.Fatal(err)
	}
	w.doWork()
	if o.vouches != 1 || h.Sent("n1") != 0 {
		t.Errorf("%d vouches, %d messages", o.vouches, h.Sent("n1"))
	}
	owner.owns[0] = o
	other := slices.Clone(list)
	other[4]++ // the epoch
	if err := h.Receive("n1", other); err != nil || len(w.work) != 0 {
		t.Errorf("%v, %d to do", err, len(w.work))
	}
	h.o.MaxUsers = 1
	for i := range 2 * requestsPerNode {
		list[len(list)-1] = byte(i)
		if err := h.Receive("n1", list); err != nil {
			t.Fatal(err)
		}
	}
	w.doWork()
	if o.vouches != 2 || h.Watched() != 1 || h.Sent("n1") > requestsPerNode {
		t.Errorf("%d vouches, %d users, %d messages", o.vouches, h.Watched(), h.Sent("n1"))
	}
	h.Close()
	h.Receive("n1", list)
	if w.doWork(); h.Watched() != 0 || n.edge.Stats().Users != 0 {
		t.Error("it answers, and is closed")
	}
}

// TestWatchedHubVouches now and then, so that pulses know whether the owner is sure.
func TestWatchedHubVouches(t *testing.T) {
	w, _, n := calm(t, 1)
	o := w.parts[0].owner
	tick := func() {
		for range 20 {
			w.pass(250 * time.Millisecond)
			o.hub.Tick(w.nanos)
			w.doWork()
		}
	}
	if tick(); o.vouches != 0 {
		t.Errorf("%d vouches, and none watches", o.vouches)
	}
	begin(w, n, userOf(0, 1))
	o.vouches = 0
	if tick(); o.vouches < 2 || o.vouches > 3 {
		t.Errorf("%d vouches in five seconds", o.vouches)
	}
}

// TestLose has all who watch ask anew.
func TestLose(t *testing.T) {
	w, _, n := calm(t, 1)
	user, o := userOf(0, 1), w.parts[0].owner
	s := begin(w, n, user)
	o.append(user, 1)
	c := o.pending[0]
	o.pending = nil
	o.partition.commit(c, w.nanos)
	o.hub.Lose(0)
	o.hub.Flush(0, c.lsn, 0)
	w.pulses()
	w.pass(time.Second)
	n.edge.tick()
	if w.run(); len(s.told) != 1 || n.edge.Stats().Gaps != 1 {
		t.Errorf("it was told %v; %+v", s.told, n.edge.Stats())
	}
}

// TestSettlingTakesTheTurn: a turn that was not committed when the states were read says when the
// user changed, also where its device has been heard of since.
func TestSettlingTakesTheTurn(t *testing.T) {
	user := someUser(1)
	rec := func(seq uint64, turn bool) record.View {
		s := record.State{Seq: seq, Online: true, UpdatedAtMS: 100 * seq, SeenAtMS: 100 * seq}
		return record.AppendUser(nil, user, uuid.UUID{15: 1}, &s, nil,
			&record.User{SeenAtMS: 90 * seq, Turn: turn})
	}
	s := settling{told: engine.Told{SeenAtMS: 150}}
	s.add(rec(2, true))
	s.add(rec(3, false))
	if s.told != (engine.Told{SeenAtMS: 270, ChangedAtMS: 200}) {
		t.Errorf("%+v", s.told)
	}
	var all []record.View
	s.all(func(rec []byte) bool {
		all = append(all, rec)
		return true
	})
	if len(all) != 1 || all[0].State().Seq != 3 {
		t.Errorf("%v", all)
	}
}
