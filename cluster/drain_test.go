package cluster

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/engine"
)

// drainRig is the node a, which drains, as handOver sees it. It leads the logs that have copies.
type drainRig struct {
	*handOver
	now int64

	mu     sync.Mutex
	copies map[string]map[string]bool // by log and node: current. guarded by mu
	given  map[string]string          // guarded by mu: logs, and to whom
	step   func(stream, to string) error
}

func newDrainRig(partitions int) *drainRig {
	r := &drainRig{
		now: int64(time.Hour), copies: map[string]map[string]bool{}, given: map[string]string{},
	}
	d := newDirectory(func() engine.Instant { return engine.Instant{Nanos: r.now} }, partitions)
	d.reached("a", []string{"b", "c"})
	for _, name := range []string{"a", "b", "c"} {
		d.hear(&pulse{Node: name, Draining: name == "a"})
	}
	for p := range partitions {
		r.copies[streamOf(p)] = map[string]bool{"b": true, "c": true}
	}
	r.step = func(stream, to string) error {
		r.owns(to)
		return nil
	}
	r.handOver = &handOver{
		self: "a", partitions: partitions, server: r, directory: d,
		pass:   func(_ context.Context, _ int, step func() error) error { return step() },
		logger: slog.New(slog.DiscardHandler),
	}
	return r
}

// owns has a pulse say that a node owns what it was given.
func (r *drainRig) owns(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &pulse{Node: node}
	for i := range r.partitions {
		if r.given[streamOf(i)] == node {
			p.Partitions = append(p.Partitions, pulsePartition{Partition: i, Epoch: 2, Sure: true})
		}
	}
	r.directory.hear(p)
}

func (r *drainRig) LearnGroups() {}

func (r *drainRig) Leads(stream string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.copies[stream] != nil && r.given[stream] == ""
}

func (r *drainRig) Copies(stream string, of []string) map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	copies := maps.Clone(r.copies[stream])
	maps.DeleteFunc(copies, func(name string, _ bool) bool { return !slices.Contains(of, name) })
	return copies
}

func (r *drainRig) StepDown(stream, to string) error {
	r.mu.Lock()
	r.given[stream] = to
	r.mu.Unlock()
	return r.step(stream, to)
}

// count is how many logs a node was given.
func (r *drainRig) count(to string) (n int) {
	for _, is := range r.given {
		if is == to {
			n++
		}
	}
	return n
}

// TestHandOver: what a node leads goes to those that own the fewest partitions, whether the node
// owns, claims or only leads it.
func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newDrainRig(20)
		r.directory.hear(&pulse{Node: "c", Partitions: []pulsePartition{
			{Partition: 0, Epoch: 1}, {Partition: 1, Epoch: 1},
		}})
		delete(r.copies, streamOf(0)) // which c leads
		delete(r.copies, streamOf(1))
		if left := r.run(t.Context()); left != 0 || r.count("b") != 10 || r.count("c") != 8 {
			t.Errorf("%d are left; %v", left, r.given)
		}
	})
}

// TestHeirs: which nodes are handed nothing. What has no heir stays, and is not waited for.
func TestHeirs(t *testing.T) {
	const partitions = 4
	for name, spoil := range map[string]func(r *drainRig){
		"it drains":          func(r *drainRig) { r.directory.hear(&pulse{Node: "b", Draining: true}) },
		"it is not in reach": func(r *drainRig) { r.directory.reached("a", []string{"c"}) },
		"it is silent": func(r *drainRig) {
			r.now += conversesNanos
			r.directory.hear(&pulse{Node: "c"})
		},
		"it has lost messages": func(r *drainRig) {
			r.directory.hear(&pulse{Node: "b", Missing: map[string]uint64{
				streamOf(0): 1, streamOf(1): 1, streamOf(2): 1, streamOf(3): 1,
			}})
		},
		"it cannot use its copies": func(r *drainRig) {
			r.directory.hear(&pulse{Node: "b", Unusable: []string{
				streamOf(0), streamOf(1), streamOf(2), streamOf(3),
			}})
		},
		"it has no copies": func(r *drainRig) {
			for _, copies := range r.copies {
				delete(copies, "b")
			}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newDrainRig(partitions)
			spoil(r)
			for p := range partitions / 2 { // has no copy anywhere else
				delete(r.copies[streamOf(p)], "c")
			}
			began := time.Now()
			if left := r.run(t.Context()); left != partitions/2 || r.count("c") != partitions/2 ||
				r.count("b") != 0 {
				t.Errorf("%s: %d are left; %v", name, left, r.given)
			}
			if took := time.Since(began); took >= handOverWait {
				t.Errorf("%s: it waited %v", name, took)
			}
		})
	}
}

// TestHandOverWaits: for a copy that becomes current, for the heir that owns the partition, and for
// neither longer than it may.
func TestHandOverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newDrainRig(3)
		r.copies[streamOf(1)] = map[string]bool{"b": false, "c": false}
		r.copies[streamOf(2)] = map[string]bool{"b": false}
		r.step = func(_, to string) error {
			time.AfterFunc(time.Second, func() { r.owns(to) })
			return nil
		}
		time.AfterFunc(time.Second, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.copies[streamOf(1)] = map[string]bool{"b": false, "c": true}
		})
		ctx, cancel := context.WithTimeout(t.Context(), handOverWait)
		defer cancel()
		if left := r.run(ctx); left != 1 || r.given[streamOf(1)] != "c" || r.given[streamOf(2)] != "" {
			t.Errorf("%d are left; %v", left, r.given)
		}
	})
}

// TestHandOverWithoutTime: the node gives away what it leads, and waits for no heir.
func TestHandOverWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newDrainRig(3)
		r.step = func(stream, _ string) error {
			if stream == streamOf(0) {
				return errors.New("not this one")
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if left := r.run(ctx); left != 3 || len(r.given) != 3 {
			t.Errorf("%d are left; %v", left, r.given)
		}
	})
}

// TestDrainDuringAClaim: a partition that is being claimed when the node begins to drain is handed
// over like one that is owned. The claim is over by then, so that nothing of it comes behind the
// heir's, and the lead goes to the heir, not to just any node.
func TestDrainDuringAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := claimsWithoutEnd(t)
		r := newDrainRig(1)
		r.pass = s.pass
		claimed := false // when the lead went
		r.step = func(_, to string) error {
			claimed = s.parts[0].busy.Load()
			time.Sleep(2 * lookEvery)
			l.leads.Store(false)
			time.AfterFunc(3*lookEvery, func() { r.owns(to) })
			return nil
		}
		time.Sleep(2 * lookEvery)
		if l.claims.Load() != 1 || !s.parts[0].busy.Load() {
			t.Fatal("the partition is not being claimed")
		}
		l.may.Store(false) // it drains
		if left := r.run(t.Context()); left != 0 || len(r.given) != 1 || claimed ||
			l.abdicate.Load() != 0 || l.claims.Load() != 1 {
			t.Errorf("%d are left; given %v, while it was claimed: %v; abdicated %d times, %d claims",
				left, r.given, claimed, l.abdicate.Load(), l.claims.Load())
		}
	})
}

// TestDrainWithoutAnHeirDuringAClaim: the claim goes on. The node that drains serves the users
// until it ends, and no other one can.
func TestDrainWithoutAnHeirDuringAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := claimsWithoutEnd(t)
		r := newDrainRig(1)
		r.pass = s.pass
		r.copies[streamOf(0)] = map[string]bool{}
		time.Sleep(2 * lookEvery)
		l.may.Store(false)
		left := r.run(t.Context())
		time.Sleep(2 * lookEvery)
		if left != 1 || !s.parts[0].busy.Load() || l.abdicate.Load() != 0 {
			t.Errorf("%d are left; it is claimed: %v", left, s.parts[0].busy.Load())
		}
	})
}

// TestPassServes: what a node owns it serves until another one leads the log.
func TestPassServes(t *testing.T) {
	l := new(lead)
	l.leads.Store(true)
	s := l.holdings(nil)
	pt, o := own(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	pt.resign = cancel
	pt.busy.Store(true)
	err := s.pass(t.Context(), 0, func() error {
		if s.look(pt); ctx.Err() != nil || !s.serves(pt) {
			t.Error("it resigns although it leads the log")
		}
		l.leads.Store(false)
		if s.look(pt); ctx.Err() == nil {
			t.Error("it does not resign")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	s.resigned(pt, o)
}
