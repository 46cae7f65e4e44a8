package cluster

import (
	"errors"
	"slices"
	"sync"

	"rollcall/cluster/forward"
	"rollcall/engine"
)

// later is an engine.Later over partitions: the heartbeats of one event loop go to their owners,
// this node included, with those of others.
type later struct {
	of *router

	nodes []*nodeBeats // single owner: Submit
	again []*nodeBeats // single owner: Collect; heartbeats of devices that were admitted

	mu        sync.Mutex           // after a lane's; never held while calling the forwarder
	came      sync.Cond            // told or strangers is not empty, or closed
	told      []engine.LaterResult // guarded by mu
	strangers []stranger           // guarded by mu
	sent      []sent               // on their way, by the index that the sink has. guarded by mu
	free      []int                // indexes. guarded by mu
	closed    bool                 // guarded by mu
}

// sent is what is kept of a heartbeat on its way.
type sent struct {
	token  uint64
	sender engine.Sender // nil: its device may be a new one
}

func newLater(r *router) *later {
	l := &later{of: r}
	l.came.L = &l.mu
	return l
}

// Submit implements engine.Later.
func (l *later) Submit(hbs []engine.Heartbeat, tokens []uint64) {
	var at [engine.GroupSize]int
	l.take(hbs, tokens, at[:])
	for i := range hbs {
		p := l.of.partitions.Of(hbs[i].User)
		owner := l.of.partitions.Owner(p)
		if owner == "" {
			l.Told(at[i], notOwned, nil)
			continue
		}
		nodeOf(&l.nodes, owner).beats.Add(p, &hbs[i], l, at[i])
	}
	l.send(l.nodes)
}

// send hands over what has gathered for nodes.
func (l *later) send(nodes []*nodeBeats) {
	for _, n := range nodes {
		if n.beats.Len() > 0 && !l.of.forward.TrySend(n.node, &n.beats) {
			n.beats.Refuse()
		}
		n.beats.Reset()
	}
}

// take notes tokens and senders, and sets the index of each.
func (l *later) take(hbs []engine.Heartbeat, tokens []uint64, at []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, token := range tokens {
		if n := len(l.free); n > 0 {
			at[i], l.free = l.free[n-1], l.free[:n-1]
		} else {
			at[i] = len(l.sent)
			l.sent = append(l.sent, sent{})
		}
		l.sent[at[i]] = sent{token, hbs[i].Sender}
	}
}

// Told implements forward.Sink.
func (l *later) Told(index int, r engine.Result, beat forward.Beat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.came.Signal()
	if beat != nil && beat.Asks() && errors.Is(r.Err, engine.ErrTooManyNew) {
		l.strangers = append(l.strangers, stranger{index: index, beat: slices.Clone(beat)})
		return
	}
	l.told = append(l.told, engine.LaterResult{Token: l.sent[index].token, Result: r})
	l.sent[index] = sent{}
	l.free = append(l.free, index)
}

// Collect implements engine.Later.
func (l *later) Collect(spare []engine.LaterResult) []engine.LaterResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed {
		if len(l.strangers) > 0 {
			l.ask()
		}
		switch {
		case len(l.told) > 0:
			told := l.told
			l.told = spare
			return told
		case len(l.strangers) == 0:
			l.came.Wait()
		}
	}
	return nil
}

// ask asks the senders of devices that their owners do not know, and sends the heartbeats of those
// that are admitted again. mu is held, but not meanwhile.
func (l *later) ask() {
	strangers, senders := l.strangers, make([]engine.Sender, len(l.strangers))
	l.strangers = nil
	for i, s := range strangers {
		senders[i] = l.sent[s.index].sender
	}
	l.mu.Unlock()
	defer l.mu.Lock()
	for i, s := range strangers {
		user, _ := s.beat.Names()
		owner := l.of.partitions.Owner(l.of.partitions.Of(user))
		switch {
		case !senders[i].AdmitsNew():
			l.Told(s.index, tooManyNew, nil)
		case owner == "":
			l.Told(s.index, notOwned, nil)
		default:
			nodeOf(&l.again, owner).beats.AddAdmitted(s.beat, l, s.index)
		}
	}
	l.send(l.again)
}

// tooManyNew is the result of a heartbeat whose device was not admitted.
var tooManyNew = engine.Result{Outcome: engine.Unavailable, Err: engine.ErrTooManyNew}

// Close implements engine.Later.
func (l *later) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.came.Signal()
}
