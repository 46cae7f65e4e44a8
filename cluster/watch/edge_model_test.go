package watch

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/internal/testseed"
	"rollcall/record"
)

// TestEdgeModel lets a cluster live through claims, lost and late messages, cuts, nodes that start
// anew or are cut off, and streams that come and go. No stream is told a step back, twice, or too
// little without a doubt (E1 to E5, C6, C7), what a node has of a user that it was told is what the
// log has, and when the faults are over every stream has what the owners have.
func TestEdgeModel(t *testing.T) {
	rounds := testseed.Rounds(t, "ROLLCALL_EDGE_ROUNDS", 100, 1000)
	seeds := testseed.Rand(t)
	began := 0
	for range rounds {
		began += runModel(t, seeds)
	}
	if began < rounds {
		t.Errorf("only %d streams began in %d rounds", began, rounds)
	}
}

func runModel(t *testing.T, seeds *rand.Rand) (began int) {
	w := newWorld(t, seeds.Uint64(), 3, 3, false)
	for _, p := range w.parts {
		w.claim(p, w.nodes[w.rng.IntN(len(w.nodes))])
	}
	for range 300 {
		w.pass(time.Duration(w.rng.IntN(40)) * time.Millisecond)
		w.step()
	}
	w.settle()
	return w.check()
}

// step does one thing of many.
func (w *world) step() {
	rng := w.rng
	n := w.nodes[rng.IntN(len(w.nodes))]
	p := w.parts[rng.IntN(len(w.parts))]
	switch at := rng.IntN(100); {
	case at < 25:
		p.owner.heartbeat()
	case at < 37:
		p.owner.commit()
	case at < 60:
		w.deliver()
	case at < 67:
		w.doWork()
	case at < 74:
		n.pulse(w.nodes[rng.IntN(len(w.nodes))])
	case at < 82:
		n.follower.tick()
		n.edge.tick()
	case at < 85:
		n.edge.ask()
	case at < 90:
		w.open(n)
	case at < 94:
		n.follower.endSome()
	case at < 96:
		w.claim(p, n)
	case at < 97: // a connection breaks
		for r := range w.queues {
			if r.from == n.name && r.to != n.name {
				delete(w.queues, r)
			}
		}
	case at < 98:
		w.cut[[2]string{n.name, w.nodes[rng.IntN(len(w.nodes))].name}] = rng.IntN(2) == 0
		delete(w.cut, [2]string{n.name, n.name})
	case at < 99:
		w.pass(time.Duration(rng.IntN(4000)) * time.Millisecond)
	case rng.IntN(3) == 0:
		w.restart(n)
	default:
		n.edge.Isolate(!n.edge.isolated, shedTime)
	}
}

// shedTime is how long a node that is cut off takes to end its streams.
const shedTime = 2 * time.Second

// rejoin checks that a node that is cut off keeps no stream, and ends that.
func (n *testNode) rejoin() {
	for range 2 {
		n.w.pass(shedTime)
		n.edge.tick()
		n.follower.tick()
	}
	n.w.pass(shedTime)
	if n.follower.tick(); n.edge.isolated && len(n.follower.streams) > 0 {
		n.w.fail("%s is cut off, and has %d streams", n.name, len(n.follower.streams))
	}
	n.edge.Isolate(false, 0)
}

func (w *world) doWork() {
	work := w.work
	w.work = nil
	for _, fn := range work {
		fn()
	}
}

// open opens a stream of some users.
func (w *world) open(n *testNode) {
	s := broadcast.Subscription{User: userOf(w.rng.IntN(len(w.parts)), w.rng.IntN(worldUsers))}
	if w.rng.IntN(2) == 0 {
		s.List = new(broadcast.List)
		for range 1 + w.rng.IntN(4) {
			user := userOf(w.rng.IntN(len(w.parts)), w.rng.IntN(worldUsers))
			if !slices.Contains(s.List.Users, user) {
				s.List.Users = append(s.List.Users, user)
			}
		}
	}
	if err := n.edge.Subscribe(s); err != nil != n.edge.isolated {
		w.fail("subscribe: %v", err)
	}
	w.say("%s opens a stream", n.name)
}

// endSome ends some streams.
func (f *testFollower) endSome() {
	for s := range f.streams {
		if f.w.rng.IntN(2) == 0 {
			f.end(s)
		}
	}
}

// restart starts a node anew: nothing is left of it but its name, and what waits for it.
func (w *world) restart(n *testNode) {
	w.say("%s starts anew", n.name)
	for _, o := range n.owns {
		o.hub.Close()
	}
	at := slices.Index(w.nodes, n)
	w.nodes[at] = w.newNode(n.name)
	for r := range w.queues {
		if r.from == n.name || r.to == n.name {
			delete(w.queues, r)
		}
	}
	for _, p := range w.parts {
		if p.owner.node == n {
			w.claim(p, w.nodes[w.rng.IntN(len(w.nodes))])
		}
	}
}

// settle ends the faults and lets the cluster come to rest, with streams that open meanwhile.
func (w *world) settle() {
	w.quiet = true
	clear(w.cut)
	w.say("the faults are over")
	for _, n := range w.nodes {
		n.rejoin()
	}
	for round := range 40 {
		w.pass(200 * time.Millisecond)
		for _, p := range w.parts {
			for len(p.owner.pending) > 0 {
				p.owner.commit()
			}
			p.owner.hub.Tick(w.nanos)
		}
		w.doWork()
		for _, n := range w.nodes {
			for _, to := range w.nodes {
				n.pulse(to)
			}
			if round == 20 {
				w.open(n)
			}
		}
		for w.deliver() {
		}
		for _, n := range w.nodes {
			n.follower.tick()
			n.edge.tick()
		}
		for w.deliver() {
		}
		w.doWork()
		for w.deliver() {
		}
	}
	for _, p := range w.parts {
		_ = p.owner.vouch(0)
	}
	w.pulses()
}

// check compares what every stream was told last with what is committed.
func (w *world) check() (began int) {
	for _, n := range w.nodes {
		for s := range n.follower.streams {
			if !s.begun {
				w.fail("%s: a stream of %v has not begun", n.name, s.users)
			}
			began++
			for _, user := range s.users {
				if !n.edge.Fresh(user) {
					w.fail("%s: %v is not fresh", n.name, user)
				}
				w.compare(n, s, user)
			}
		}
		if held := n.edge.Stats().Held; held != 0 {
			w.fail("%s: %d streams are held", n.name, held)
		}
		for i := range n.edge.parts {
			p := &n.edge.parts[i]
			begun, doubted, flying := 0, 0, 0
			for _, u := range p.users {
				if u.round == p.round {
					flying++
				}
				if u.generation == p.generation {
					begun++
				} else if u.generation != 0 {
					doubted++
				}
			}
			if begun != p.begun || doubted != p.doubted || flying+p.flying+len(p.bulk) != 0 ||
				p.doubtNanos != 0 {
				w.fail("%s: partition %d counts %d and %d users, has %d and %d; %+v", n.name, i,
					p.begun, p.doubted, begun, doubted, p)
			}
		}
	}
	return began
}

func (w *world) compare(n *testNode, s *testStream, user uuid.UUID) {
	held, has := n.follower.table[user], w.parts[user[0]].owner.user(user).devices
	for device, c := range has {
		if got := s.told[deviceKey{user, device}]; got.seq != c.rec.State().Seq {
			w.fail("%s: device %v of %v was told seq %d, not %d", n.name, device, user, got.seq,
				c.rec.State().Seq)
		}
		if string(held[device]) != string(c.rec) {
			w.fail("%s: device %v of %v is held as %v", n.name, device, user, record.View(held[device]))
		}
	}
	if len(held) != len(has) {
		w.fail("%s: %v has devices %v", n.name, user, slices.Collect(maps.Keys(held)))
	}
}
