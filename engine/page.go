package engine

import (
	"bytes"
	"container/heap"
	"slices"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
)

// page is what is known of the user's devices with the lowest ids above after, at most limit, in
// their order. more says that there are others.
func (d *devices) page(user, after uuid.UUID, limit int) (page []Device, more bool) {
	lowest := d.lowest(user, after, limit+1)
	for _, n := range lowest[:min(limit, len(lowest))] {
		if r, ok := d.recordOf(user, n.ref); ok {
			page = append(page, r)
		}
	}
	return page, len(lowest) > limit && len(page) > 0
}

// named is a device of a user.
type named struct {
	id  uuid.UUID
	ref table.Ref
}

func compareNamed(a, b named) int { return bytes.Compare(a.id[:], b.id[:]) }

// lowest finds the devices with the lowest ids above after. It looks at all devices of the user, in
// slices between which it rests.
func (d *devices) lowest(user, after uuid.UUID, most int) []named {
	pace := pace{began: time.Now()}
	var kept highestFirst
	for i, ref := range d.table.Devices(user, nil) {
		if i%paceItems == paceItems-1 {
			pace.step()
		}
		owner, id, _, ok := d.table.Entry(ref).Read()
		if !ok || owner != user || bytes.Compare(id[:], after[:]) <= 0 {
			continue
		}
		n := named{id, ref}
		switch {
		case len(kept) < most:
			heap.Push(&kept, n)
		case compareNamed(n, kept[0]) < 0:
			kept[0] = n
			heap.Fix(&kept, 0)
		}
	}
	slices.SortFunc(kept, compareNamed)
	return kept
}

// highestFirst is a heap of devices with the highest id on top.
type highestFirst []named

func (h highestFirst) Len() int           { return len(h) }
func (h highestFirst) Less(i, j int) bool { return compareNamed(h[i], h[j]) > 0 }
func (h highestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *highestFirst) Push(n any)        { *h = append(*h, n.(named)) }
func (h *highestFirst) Pop() any {
	n := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return n
}
