package forward

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"rollcall/cluster/bus"
	"rollcall/cluster/bus/bustest"
	"rollcall/engine"
	"rollcall/internal/testseed"
)

// two makes a node that owns partition 0 and one that sends to it.
func two(t *testing.T, o Options) (from, owner *node, e *fakeEngine, net *bustest.Net) {
	net = bustest.New()
	from, owner = newNode(t, net, "a", 2, o), newNode(t, net, "b", 2, o)
	e = newFakeEngine()
	owner.own(0, e)
	return from, owner, e, net
}

func TestHeartbeat(t *testing.T) {
	from, owner, e, _ := two(t, Options{})
	d := newDevice()
	if r := from.Heartbeat("b", 0, newHeartbeat(d, 7)); r != (engine.Result{}) {
		t.Fatalf("%+v", r)
	}
	want := engine.Result{Outcome: engine.Stale, LastSeq: 7}
	if r := from.Heartbeat("b", 0, newHeartbeat(d, 6)); r != want {
		t.Fatalf("%+v", r)
	}
	if r := from.Heartbeat("b", 1, newHeartbeat(d, 8)); !errors.Is(r.Err, engine.ErrNotMine) {
		t.Fatalf("a partition that is not the node's: %+v", r)
	}
	if r := owner.Heartbeat("b", 0, newHeartbeat(d, 8)); r != (engine.Result{}) {
		t.Fatalf("a node's own partition: %+v", r)
	}
	if got := e.seqs(d); !slices.Equal(got, []uint64{7, 8}) {
		t.Errorf("accepted %v", got)
	}
}

// TestReasonsSurvive: a refusal of the owner's is the same at the entry node.
func TestReasonsSurvive(t *testing.T) {
	from, _, e, _ := two(t, Options{})
	for _, why := range []error{
		engine.ErrTooManyDevices, engine.ErrTooManyDevicesOfUser, engine.ErrNotMine,
	} {
		e.refuse = engine.Result{Outcome: engine.Unavailable, Err: fmt.Errorf("so: %w", why)}
		if r := from.Heartbeat("b", 0, newHeartbeat(newDevice(), 1)); !errors.Is(r.Err, why) {
			t.Errorf("%+v is not %v", r, why)
		}
	}
	e.refuse = engine.Result{Outcome: engine.Unavailable, Err: errors.New("full"), LogFull: true}
	r := from.Heartbeat("b", 0, newHeartbeat(newDevice(), 1))
	if !r.LogFull || !errors.Is(r.Err, ErrNoRoom) {
		t.Errorf("%+v", r)
	}
	e.refuse.LogFull = false
	if r = from.Heartbeat("b", 0, newHeartbeat(newDevice(), 1)); !errors.Is(r.Err, ErrNotStored) {
		t.Errorf("%+v", r)
	}
	e.refuse, e.failed = engine.Result{}, errors.New("the disk is gone")
	if r = from.Heartbeat("b", 0, newHeartbeat(newDevice(), 1)); !errors.Is(r.Err, ErrNotStored) {
		t.Errorf("of a commit that failed: %+v", r)
	}
}

// gate is a Sender that admits so many new devices.
type gate struct{ left, asked int }

func (g *gate) AdmitsNew() bool {
	g.asked++
	g.left--
	return g.left >= 0
}

// TestNewDevicesAreAsked: the entry node's sender is asked for a new device, and for no other.
func TestNewDevicesAreAsked(t *testing.T) {
	from, _, e, _ := two(t, Options{})
	g := &gate{left: 1}
	d := newDevice()
	for seq := range uint64(3) {
		hb := newHeartbeat(d, seq+1)
		hb.Sender = g
		if r := from.Heartbeat("b", 0, hb); r != (engine.Result{}) {
			t.Fatalf("%+v", r)
		}
	}
	if g.asked != 1 {
		t.Errorf("the sender was asked %d times for one new device", g.asked)
	}
	hb := newHeartbeat(newDevice(), 1)
	hb.Sender = g
	if r := from.Heartbeat("b", 0, hb); !errors.Is(r.Err, engine.ErrTooManyNew) {
		t.Errorf("one device too many: %+v", r)
	}
	if got := e.seqs(d); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("accepted %v", got)
	}
}

// TestHeartbeatsGather while messages are unanswered, and leave with the first answer.
func TestHeartbeatsGather(t *testing.T) {
	from, _, e, _ := two(t, Options{InFlight: 1, Linger: time.Minute, Timeout: time.Minute})
	e.commit = make(chan struct{}, 100)
	c := newCollected(t)
	d := newDevice()
	var b Beats
	for i := range 1 + 200 {
		b.Reset()
		b.Add(0, newHeartbeat(d, uint64(i+1)), c, i)
		from.Send("b", &b, nil)
	}
	l := from.lane("b")
	l.mu.Lock()
	inFlight, gathered := len(l.inFlight), l.open.Len()
	l.mu.Unlock()
	if inFlight != 1 || gathered != 200 {
		t.Fatalf("%d messages left and %d heartbeats gather", inFlight, gathered)
	}
	e.commit <- struct{}{}
	c.wait(1)
	e.commit <- struct{}{}
	for i, r := range c.wait(200) {
		if r != (engine.Result{}) {
			t.Fatalf("heartbeat %d: %+v", i, r)
		}
	}
	if got := e.seqs(d); len(got) != 201 || !slices.IsSorted(got) {
		t.Errorf("accepted %v", got)
	}
}

// TestHungPartition: a partition without commits does not hold up the others of its node.
func TestHungPartition(t *testing.T) {
	from, owner, e, _ := two(t, Options{InFlight: 2, Timeout: time.Minute})
	e.commit = make(chan struct{})
	other := newFakeEngine()
	owner.own(1, other)
	hung := newCollected(t)
	var b Beats
	for i := range 100 {
		b.Reset()
		b.Add(0, newHeartbeat(newDevice(), 1), hung, i)
		from.Send("b", &b, nil)
	}
	for range 20 {
		if r := from.Heartbeat("b", 1, newHeartbeat(newDevice(), 1)); r != (engine.Result{}) {
			t.Fatalf("%+v", r)
		}
	}
	close(e.commit)
	hung.wait(100)
}

// TestBounds: what is too much is refused as the log's own want of room is.
func TestBounds(t *testing.T) {
	t.Run("lane", func(t *testing.T) {
		from, _, e, _ := two(t, Options{MaxWaiting: 10, MaxWait: time.Millisecond})
		e.commit = make(chan struct{})
		testFull(t, from, e)
	})
	t.Run("inbox", func(t *testing.T) {
		from, _, e, _ := two(t, Options{MaxInbox: 10, InFlight: 1000})
		e.commit = make(chan struct{})
		testFull(t, from, e)
	})
}

func testFull(t *testing.T, from *node, e *fakeEngine) {
	t.Helper()
	c := newCollected(t)
	var b Beats
	for i := range 25 {
		b.Reset()
		b.Add(0, newHeartbeat(newDevice(), 1), c, i)
		from.Send("b", &b, nil)
	}
	for i, r := range c.wait(15) {
		if !r.LogFull || i < 10 {
			t.Errorf("heartbeat %d: %+v", i, r)
		}
	}
	close(e.commit)
	c.wait(10)
}

// TestWaitsForRoom: Send comes back when there is room, and gives up its turn meanwhile.
func TestWaitsForRoom(t *testing.T) {
	from, _, e, _ := two(t, Options{MaxWaiting: 100, MaxWait: time.Minute})
	e.commit = make(chan struct{})
	c := newCollected(t)
	var b Beats
	for i := range 1000 {
		b.Add(0, newHeartbeat(newDevice(), 1), c, i)
	}
	away, back := 0, 0
	from.Send("b", &b, &Waits{
		Before: func() {
			if away++; away == 1 {
				close(e.commit)
			}
		},
		After: func() { back++ },
	})
	for i, r := range c.wait(1000) {
		if r != (engine.Result{}) {
			t.Fatalf("heartbeat %d: %+v", i, r)
		}
	}
	if away == 0 || away != back {
		t.Errorf("%d turns given up, %d taken again", away, back)
	}
}

// TestNoAnswer: what is lost is Unavailable in the end, and at once when the node is gone.
func TestNoAnswer(t *testing.T) {
	for _, lost := range []bus.Subject{subject, answerSubject} {
		from, _, _, net := two(t, Options{Timeout: 50 * time.Millisecond})
		net.Drop(func(_, _ string, s bus.Subject, _ []byte) bool { return s == lost })
		r := from.Heartbeat("b", 0, newHeartbeat(newDevice(), 1))
		if r.Outcome != engine.Unavailable || !errors.Is(r.Err, engine.ErrNotMine) {
			t.Errorf("%s is lost: %+v", lost, r)
		}
		net.Drop(nil)
		for from.Heartbeat("b", 0, newHeartbeat(newDevice(), 1)) != (engine.Result{}) {
		} // the machine may be slower than the timeout, but not for ever
	}
	from, _, e, _ := two(t, Options{Timeout: time.Hour})
	e.commit = make(chan struct{})
	c := newCollected(t)
	var b Beats
	for i := range 3 * MaxBeats {
		b.Add(0, newHeartbeat(newDevice(), 1), c, i)
	}
	from.Send("b", &b, nil)
	from.Down("b")
	for i, r := range c.wait(3 * MaxBeats) {
		if !errors.Is(r.Err, errDown) {
			t.Fatalf("heartbeat %d: %+v", i, r)
		}
	}
	close(e.commit)
}

// TestMovesAndLosses: senders of many devices, a bus that loses messages, partitions that move.
// Each heartbeat gets one result; an accepted one is at an owner, a stale one is below or at what
// was sent before it (F1); each device's are applied in their order (F2).
func TestMovesAndLosses(t *testing.T) {
	const partitions, senders = 4, 8
	rng := testseed.Rand(t)
	net := bustest.New()
	o := Options{Timeout: 20 * time.Millisecond, MaxInbox: 200, MaxWaiting: 400,
		MaxWait: 5 * time.Millisecond}
	names := []string{"a", "b", "c"}
	var nodes []*node
	for _, name := range names {
		nodes = append(nodes, newNode(t, net, name, partitions, o))
	}
	var mu sync.Mutex
	engines, owners := make([]*fakeEngine, partitions), make([]int, partitions)
	for p := range engines {
		engines[p] = newFakeEngine() // of the partition, wherever it is: nothing is lost by a move
		owners[p] = p % len(nodes)
		nodes[owners[p]].own(p, engines[p])
	}
	loss := rand.New(rand.NewPCG(rng.Uint64(), 1))
	net.Drop(func(_, _ string, _ bus.Subject, _ []byte) bool { return loss.IntN(50) == 0 })
	stop := make(chan struct{})
	var moves sync.WaitGroup
	moves.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			mu.Lock()
			p := rand.IntN(partitions)
			nodes[owners[p]].own(p, nil)
			owners[p] = rand.IntN(len(nodes))
			nodes[owners[p]].own(p, engines[p])
			mu.Unlock()
		}
	})
	var all sync.WaitGroup
	for s := range senders {
		seed := rng.Uint64()
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(s)))
			sendOne := sender{t: t, rng: rng, entry: nodes[s%len(nodes)], partition: s % partitions,
				d: newDevice(), e: engines[s%partitions]}
			for range 150 {
				mu.Lock()
				to := names[owners[sendOne.partition]]
				mu.Unlock()
				if rng.IntN(20) == 0 {
					to = names[rng.IntN(len(names))] // what the entry node knew is old
				}
				sendOne.some(to)
			}
		})
	}
	all.Wait()
	close(stop)
	moves.Wait()
}

// sender sends the heartbeats of one device.
type sender struct {
	t         *testing.T
	rng       *rand.Rand
	entry     *node
	partition int
	d         device
	e         *fakeEngine
	seq       uint64 // of the last one
}

// some sends some heartbeats and checks what comes of them.
func (s *sender) some(to string) {
	c := newCollected(s.t)
	var b Beats
	first, n := s.seq, 1+s.rng.IntN(5)
	for i := range n {
		if s.seq++; s.rng.IntN(10) == 0 {
			s.seq-- // the same once more
		}
		b.Add(s.partition, newHeartbeat(s.d, s.seq), c, int(s.seq-first)<<8|i)
	}
	s.entry.Send(to, &b, nil)
	told := c.wait(n)
	seqs := s.e.seqs(s.d)
	if !slices.IsSorted(seqs) {
		s.t.Errorf("accepted out of order: %v", seqs)
	}
	for index, r := range told {
		seq := first + uint64(index>>8)
		switch r.Outcome {
		case engine.Accepted:
			if !slices.Contains(seqs, seq) {
				s.t.Errorf("%d was accepted and is lost: %v", seq, seqs)
			}
		case engine.Stale:
			if r.LastSeq < seq || !slices.Contains(seqs, r.LastSeq) {
				s.t.Errorf("%d is said to be stale for %d: %v", seq, r.LastSeq, seqs)
			}
		}
	}
}

// TestCloseBesideFirstHeartbeats: heartbeats for nodes that had none before may come while the
// Forwarder is closed. Each has its answer.
func TestCloseBesideFirstHeartbeats(t *testing.T) {
	for range 20 {
		f := New(bustest.New().Node("a"), 1, nil, Options{Timeout: time.Hour})
		var senders sync.WaitGroup
		for i := range 100 {
			senders.Go(func() {
				r := f.Heartbeat(fmt.Sprint("n", i), 0, newHeartbeat(newDevice(), 1))
				if !errors.Is(r.Err, engine.ErrNotMine) {
					t.Errorf("%+v", r)
				}
			})
		}
		f.Close()
		senders.Wait()
	}
}
