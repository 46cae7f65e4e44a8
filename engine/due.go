package engine

import (
	"slices"
	"sync"
	"sync/atomic"

	"rollcall/engine/wheel"
)

// queue takes items from heartbeats to the expire loop, and wakes the loop when it would sleep too
// long.
type queue struct {
	mu    sync.Mutex
	items []wheel.Item // guarded by mu
	taken []wheel.Item // single owner: the expire loop; the other half of the double buffer

	// wakeAt is the deadline before which a new one must wake the sleeping loop, 0 while it is
	// awake. The loop stores it and then checks items; a heartbeat appends to items and then loads
	// it: one of the two sees the other.
	wakeAt atomic.Int64
	wake   chan struct{}
}

// manyItems is how many places an empty list keeps: a burst does not hold its memory.
const manyItems = 1 << 16

// put adds an item whose deadline is due. Any goroutine.
func (q *queue) put(it wheel.Item, deadline int64) {
	q.mu.Lock()
	q.items = append(q.items, it)
	q.mu.Unlock()
	if at := q.wakeAt.Load(); at != 0 && deadline-tickNanos < at {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// putAll adds items before the loop runs. Any goroutine.
func (q *queue) putAll(items []wheel.Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.items == nil {
		q.items = items
	} else {
		q.items = append(slices.Grow(q.items, len(items)), items...)
	}
}

// take returns the items that were added since the last call. They are valid until the next one.
// The expire loop calls it.
func (q *queue) take() []wheel.Item {
	if cap(q.taken) > manyItems {
		q.taken = nil
	}
	q.mu.Lock()
	q.items, q.taken = q.taken[:0], q.items
	q.mu.Unlock()
	return q.taken
}

// sleep says that the loop sleeps, unless an item comes whose deadline is before an instant, and a
// tick. False: there are items now. The expire loop calls it.
func (q *queue) sleep(wakeAt int64) bool {
	q.wakeAt.Store(max(wakeAt, 1))
	q.mu.Lock()
	waiting := len(q.items)
	q.mu.Unlock()
	if waiting > 0 {
		q.awake()
	}
	return waiting == 0
}

// awake says that the loop looks at the items now. The expire loop calls it.
func (q *queue) awake() { q.wakeAt.Store(0) }

// dueItem waits for the last few milliseconds outside the wheel, so that lateness is not a whole
// tick.
type dueItem struct {
	deadline int64
	item     wheel.Item
}

// dueList is the items that are due within a tick or two: a binary heap by deadline
// (https://en.wikipedia.org/wiki/Binary_heap), so that a crowd that comes in slices costs n log n
// in all, however many are due at one tick. Single owner: the expire loop.
type dueList struct{ items []dueItem }

func (l *dueList) add(d dueItem) {
	l.items = append(l.items, d)
	at := len(l.items) - 1
	for at > 0 {
		parent := (at - 1) / 2
		if l.items[parent].deadline <= d.deadline {
			break
		}
		l.items[at] = l.items[parent]
		at = parent
	}
	l.items[at] = d
}

// take moves items whose deadline is at or before now into group, in the order of their deadlines,
// as far as it has room.
func (l *dueList) take(now int64, group []dueItem) []dueItem {
	for len(group) < cap(group) && len(l.items) > 0 && l.items[0].deadline <= now {
		group = append(group, l.pop())
	}
	return group
}

// pop takes out the item with the earliest deadline, of a list that is not empty.
func (l *dueList) pop() dueItem {
	first := l.items[0]
	last := len(l.items) - 1
	d := l.items[last]
	l.items = l.items[:last]
	if last == 0 {
		l.items = emptied(l.items)
		return first
	}
	at := 0
	for {
		child := 2*at + 1
		if child >= last {
			break
		}
		if child+1 < last && l.items[child+1].deadline < l.items[child].deadline {
			child++
		}
		if d.deadline <= l.items[child].deadline {
			break
		}
		l.items[at] = l.items[child]
		at = child
	}
	l.items[at] = d
	return first
}

// first returns the earliest deadline; false: the list is empty.
func (l *dueList) first() (deadline int64, ok bool) {
	if len(l.items) == 0 {
		return 0, false
	}
	return l.items[0].deadline, true
}

// heldItem is due, but waits until the server has read what its device may have sent in time: until
// it has listened for caughtUp, see listening.
type heldItem struct {
	caughtUp int64
	dueItem
}

// heldList is the items that are held, ascending by caughtUp, since that only grows. Single owner:
// the expire loop.
type heldList struct {
	items []heldItem
	taken int // of items
}

func (l *heldList) add(h heldItem) { l.items = append(l.items, h) }

// take moves items that need not be held once the server has listened for heard into group, as far
// as it has room.
func (l *heldList) take(heard int64, group []dueItem) []dueItem {
	for len(group) < cap(group) && l.taken < len(l.items) && l.items[l.taken].caughtUp <= heard {
		group = append(group, l.items[l.taken].dueItem)
		l.taken++
	}
	if l.taken == len(l.items) {
		l.items, l.taken = emptied(l.items), 0
	}
	return group
}

// first returns when the first item need not be held any more; false: none is held.
func (l *heldList) first() (caughtUp int64, ok bool) {
	if l.taken == len(l.items) {
		return 0, false
	}
	return l.items[l.taken].caughtUp, true
}

// emptied returns an empty list, which gives up the memory of one that was long.
func emptied[T any](items []T) []T {
	if cap(items) > manyItems {
		return nil
	}
	return items[:0]
}
