package broadcast

import (
	"container/heap"
	"slices"
)

// lingers are the users whom a list stream was told to be online although they have no device
// online: at a tick each is looked at, and told offline if the user has not come back. There is one
// item for each follow at most. Single owner: the worker.
type lingers struct {
	items lingerHeap
	live  int // items whose stream is still there
}

// lingerItem names a follow by its number, and its stream by slot and reuse, since the number may
// be given to another's.
type lingerItem struct {
	due, follow, slot, reuse uint32

	late bool // it was due, and was put off; the stream counts those
}

func (l *lingers) add(i lingerItem) { heap.Push(&l.items, i) }

// compact drops the items of streams that have ended, when these are most.
func (l *lingers) compact(slots *slots) {
	if len(l.items) < 2*l.live+minLingers {
		return
	}
	l.items = slices.DeleteFunc(l.items, func(i lingerItem) bool {
		s := slots.at(i.slot)
		return s.reuse != i.reuse || s.list == nil
	})
	heap.Init(&l.items)
}

// minLingers items are not worth compacting.
const minLingers = 1024

// behind reports whether there are items that are due.
func (l *lingers) behind(now uint32) bool { return len(l.items) > 0 && l.items[0].due <= now }

// next takes an item that is due.
func (l *lingers) next(now uint32) (i lingerItem, ok bool) {
	if !l.behind(now) {
		return i, false
	}
	return heap.Pop(&l.items).(lingerItem), true
}

// lingerHeap has the item on top that is due first.
type lingerHeap []lingerItem

func (h lingerHeap) Len() int           { return len(h) }
func (h lingerHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h lingerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lingerHeap) Push(x any)        { *h = append(*h, x.(lingerItem)) }
func (h *lingerHeap) Pop() any {
	last := len(*h) - 1
	i := (*h)[last]
	if *h = (*h)[:last]; last == 0 {
		*h = nil
	}
	return i
}
