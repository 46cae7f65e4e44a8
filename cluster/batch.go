package cluster

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/forward"
	"rollcall/engine"
)

// flushAfter is how long a batch keeps heartbeats back for others to the same node, while more of
// them come.
const flushAfter = 20 * time.Millisecond

// batch is an engine.Batch over partitions. It gathers the heartbeats for each node, this one
// included, and has the forwarder take them there; the owners apply them at the same time, and
// Settle waits for all. So Full says nothing before Settle, and then names the first heartbeat that
// could not be taken for now: some behind it may have been accepted, and are stale when they are
// sent again.
//
// One goroutine calls its methods but Told.
type batch struct {
	of     *router
	nodes  []*nodeBeats
	waits  forward.Waits
	sender engine.Sender // of all heartbeats; nil: every device may be new
	done   bool          // it is settled

	mu         sync.Mutex // after a lane's; never held while calling the forwarder
	settled    sync.Cond  // waiting is 0
	waiting    int        // heartbeats given to the forwarder. guarded by mu
	counts     engine.Counts
	refused    int                // the first Unavailable one, whose counts.Err is. guarded by mu
	full       int                // the first not taken for now; -1: none. guarded by mu
	rejections []engine.Rejection // the first ones, by their Index. guarded by mu
	strangers  []stranger         // guarded by mu
}

// nodeBeats are the heartbeats that gather for a node.
type nodeBeats struct {
	node  string
	beats forward.Beats
	since time.Time // when the first of them came
	full  bool      // of a batch: it has waited for room there in vain
}

// stranger is a heartbeat whose device its owner does not know, and whose sender is asked.
type stranger struct {
	index int
	beat  forward.Beat
}

var batches = sync.Pool{New: func() any {
	b := new(batch)
	b.settled.L = &b.mu
	return b
}}

func newBatch(r *router) *batch {
	b := batches.Get().(*batch)
	b.of, b.full = r, -1
	return b
}

// Release implements engine.Batch.
func (b *batch) Release() {
	b.mu.Lock()
	idle := b.waiting == 0
	b.mu.Unlock()
	if !idle {
		return // it was not settled: its heartbeats still come back to it
	}
	for _, n := range b.nodes {
		n.beats.Reset()
		n.full = false
	}
	clear(b.rejections)
	clear(b.strangers)
	b.of, b.sender, b.done, b.waits = nil, nil, false, forward.Waits{}
	b.counts, b.refused = engine.Counts{}, 0
	b.rejections, b.strangers = b.rejections[:0], b.strangers[:0]
	batches.Put(b)
}

// AroundWaits implements engine.Batch.
func (b *batch) AroundWaits(before, after func()) {
	b.waits = forward.Waits{Before: before, After: after}
}

// Add implements engine.Batch.
func (b *batch) Add(hbs []engine.Heartbeat) {
	var now time.Time
	for i := range hbs {
		hb := &hbs[i]
		p := b.of.partitions.Of(hb.User)
		owner := b.of.partitions.Owner(p)
		if owner == "" {
			b.note(hb.Index, notOwned)
			continue
		}
		if hb.Sender != nil {
			b.sender = hb.Sender
		}
		n := nodeOf(&b.nodes, owner)
		if n.beats.Len() == 0 {
			if now.IsZero() {
				now = time.Now()
			}
			n.since = now
		}
		n.beats.Add(p, hb, b, hb.Index)
	}
	b.flushDue()
}

// nodeOf returns the heartbeats that gather for a node.
func nodeOf(all *[]*nodeBeats, name string) *nodeBeats {
	for _, n := range *all {
		if n.node == name {
			return n
		}
	}
	n := &nodeBeats{node: name}
	*all = append(*all, n)
	return n
}

// flushDue hands over what makes a message, or has waited for others for long.
func (b *batch) flushDue() {
	for _, n := range b.nodes {
		if n.beats.Len() >= forward.MaxBeats ||
			n.beats.Len() > 0 && time.Since(n.since) > flushAfter {
			b.flush(n)
		}
	}
}

// flush hands over what has gathered for a node. It waits for room, until it has done so in vain:
// the heartbeats for other nodes wait behind it, and are not to do so for each message again.
func (b *batch) flush(n *nodeBeats) {
	if n.beats.Len() == 0 {
		return
	}
	b.mu.Lock()
	b.waiting += n.beats.Len()
	b.mu.Unlock()
	if !n.full {
		n.full = !b.of.forward.Send(n.node, &n.beats, &b.waits)
	} else if !b.of.forward.TrySend(n.node, &n.beats) {
		n.beats.Refuse()
	}
	n.beats.Reset()
}

// Settle implements engine.Batch. Its outcomes may always be reported: where some were not
// committed, these are Unavailable.
func (b *batch) Settle() error {
	b.wait()
	if len(b.strangers) > 0 {
		b.askForStrangers()
		b.wait()
	}
	b.done = true
	return nil
}

// wait hands over what has gathered, and waits until all results are in.
func (b *batch) wait() {
	for _, n := range b.nodes {
		b.flush(n)
	}
	b.mu.Lock()
	for b.waiting > 0 {
		b.settled.Wait()
	}
	b.mu.Unlock()
}

// askForStrangers has the sender admit the devices that their owners do not know, each once, and
// adds their heartbeats again, in their order.
func (b *batch) askForStrangers() {
	strangers := b.strangers // until there are no others: all results are in
	b.strangers = nil
	slices.SortFunc(strangers, func(x, y stranger) int { return cmp.Compare(x.index, y.index) })
	admitted := map[[2]uuid.UUID]bool{}
	for _, s := range strangers {
		user, device := s.beat.Names()
		id := [2]uuid.UUID{user, device}
		in, asked := admitted[id]
		if !asked {
			in = b.sender.AdmitsNew()
			admitted[id] = in
		}
		owner := b.of.partitions.Owner(b.of.partitions.Of(user))
		switch {
		case !in:
			b.note(s.index, tooManyNew)
		case owner == "":
			b.note(s.index, notOwned)
		default:
			nodeOf(&b.nodes, owner).beats.AddAdmitted(s.beat, b, s.index)
		}
	}
}

// Told implements forward.Sink.
func (b *batch) Told(index int, r engine.Result, beat forward.Beat) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.Outcome == engine.Accepted:
		b.counts.Accepted++
	case beat.Asks() && errors.Is(r.Err, engine.ErrTooManyNew):
		b.strangers = append(b.strangers, stranger{index: index, beat: slices.Clone(beat)})
	default:
		b.noteLocked(index, r)
	}
	if b.waiting--; b.waiting == 0 {
		b.settled.Signal()
	}
}

// note counts a heartbeat that was not accepted, and remembers it as one of the first.
func (b *batch) note(index int, r engine.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noteLocked(index, r)
}

func (b *batch) noteLocked(index int, r engine.Result) {
	if r.Outcome == engine.Stale {
		b.counts.Stale++
	} else {
		if b.counts.Unavailable++; b.counts.Err == nil || index < b.refused {
			b.counts.Err, b.refused = r.Err, index
		}
		if (r.LogFull || errors.Is(r.Err, engine.ErrNotMine) ||
			errors.Is(r.Err, forward.ErrNotStored)) && (b.full < 0 || index < b.full) {
			b.full = index
		}
	}
	at, _ := slices.BinarySearchFunc(b.rejections, index, func(r engine.Rejection, index int) int {
		return cmp.Compare(r.Index, index)
	})
	if at == engine.MaxRejections {
		return
	}
	if len(b.rejections) == engine.MaxRejections {
		b.rejections = b.rejections[:engine.MaxRejections-1]
	}
	b.rejections = slices.Insert(b.rejections, at, engine.Rejection{Index: index, Result: r})
}

// Full implements engine.Batch. Before Settle it says nothing, since more is to be added: other
// partitions have room.
func (b *batch) Full() (index int, full bool) {
	return b.full, b.done && b.full >= 0
}

// Counts implements engine.Batch.
func (b *batch) Counts() engine.Counts { return b.counts }

// Rejections implements engine.Batch.
func (b *batch) Rejections() []engine.Rejection { return b.rejections }
