package cluster

import (
	"sync"

	"rollcall/cluster/forward"
	"rollcall/engine"
)

// later is an engine.Later over partitions: the heartbeats of one event loop go to their owners,
// this node included, with those of others.
type later struct {
	of *router

	nodes []*nodeBeats // single owner: Submit

	mu     sync.Mutex // after a lane's; never held while calling the forwarder
	came   sync.Cond  // told is not empty, or closed
	told   []engine.LaterResult
	tokens []uint64 // of the heartbeats on their way, by the index that the sink has. guarded by mu
	free   []int    // indexes. guarded by mu
	closed bool     // guarded by mu
}

func newLater(r *router) *later {
	l := &later{of: r}
	l.came.L = &l.mu
	return l
}

// Submit implements engine.Later.
func (l *later) Submit(hbs []engine.Heartbeat, tokens []uint64) {
	var at [engine.GroupSize]int
	l.take(tokens, at[:])
	for i := range hbs {
		p := l.of.partitions.Of(hbs[i].User)
		owner := l.of.partitions.Owner(p)
		if owner == "" {
			l.Told(at[i], notOwned, nil)
			continue
		}
		nodeOf(&l.nodes, owner).beats.Add(p, &hbs[i], l, at[i])
	}
	for _, n := range l.nodes {
		if n.beats.Len() > 0 && !l.of.forward.TrySend(n.node, &n.beats) {
			n.beats.Refuse()
		}
		n.beats.Reset()
	}
}

// take notes tokens, and sets the index of each.
func (l *later) take(tokens []uint64, at []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, token := range tokens {
		if n := len(l.free); n > 0 {
			at[i], l.free = l.free[n-1], l.free[:n-1]
		} else {
			at[i] = len(l.tokens)
			l.tokens = append(l.tokens, 0)
		}
		l.tokens[at[i]] = token
	}
}

// Told implements forward.Sink.
func (l *later) Told(index int, r engine.Result, _ forward.Beat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, engine.LaterResult{Token: l.tokens[index], Result: r})
	l.free = append(l.free, index)
	if len(l.told) == 1 {
		l.came.Signal()
	}
}

// Collect implements engine.Later.
func (l *later) Collect(spare []engine.LaterResult) []engine.LaterResult {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.told) == 0 && !l.closed {
		l.came.Wait()
	}
	if l.closed {
		return nil
	}
	told := l.told
	l.told = spare
	return told
}

// Close implements engine.Later.
func (l *later) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.came.Signal()
}
