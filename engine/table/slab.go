package table

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

const (
	extentBits  = 16
	extentSlots = 1 << extentBits // 65,536 entries of 96 bytes: 6 MiB, three huge pages
	maxRun      = 64              // slots handed to a shard at a time, at most
	maxSlots    = math.MaxUint32  // a Ref is a slot number + 1 in 32 bits
	// smallSlots is how many entries, at the beginning of the first extent, are in small pages: 384
	// KiB.
	smallSlots = 1 << 12
)

// extent is a part of the slab. It never moves; it is memory outside the Go heap where the platform
// has it (slab_mmap.go) and without pointers everywhere, so that the garbage collector never looks
// inside.
type extent [extentSlots]Entry

// directory is the extents, by slot number.
type directory struct{ extents []atomic.Pointer[extent] }

// slab is all entries of a table by slot number. It grows from small: an extent is made when a slot
// of it is handed out, and the first slots are resident in small pages, as far as they are used.
// Only a table with more has huge ones.
type slab struct {
	// directory is never nil. take stores an extent in it, or a longer copy, under mu before any
	// slot of the extent is handed out; entry loads both. The ref it is asked for came through an
	// index word or the mutex, so that the extent is there.
	directory atomic.Pointer[directory]

	spare uint64 // slots that shards may hold without a device; immutable

	mu    sync.Mutex
	limit uint64 // slots that may be handed out; guarded by mu
	slots uint64 // handed out so far; guarded by mu
}

// newSlab makes a slab that has room for so many devices, and as many slots without one, rounded up
// to whole extents.
func newSlab(devices, spare uint64) *slab {
	s := &slab{limit: slotLimit(devices + spare), spare: spare}
	s.directory.Store(&directory{make([]atomic.Pointer[extent], 1)})
	return s
}

// entry returns the entry of a ref that was handed out.
func (s *slab) entry(r Ref) *Entry {
	slot := uint32(r) - 1
	return &s.directory.Load().extents[slot>>extentBits].Load()[slot%extentSlots]
}

func slotLimit(slots uint64) uint64 {
	extents := (slots + extentSlots - 1) / extentSlots
	return min(extents*extentSlots, maxSlots)
}

// take hands out the next n slots, at most maxRun, and returns the ref of the first. ErrFull: not
// so many refs are left. With over it raises the limit where that is in the way.
func (s *slab) take(n int, over bool) (Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.slots + uint64(n)
	if over && end > s.limit {
		s.limit = slotLimit(end + s.spare)
	}
	if end > s.limit {
		return 0, ErrFull
	}
	// One extent or, across a boundary, two.
	for at := s.slots; at < end; at = (at/extentSlots + 1) * extentSlots {
		if err := s.mapExtentLocked(int(at / extentSlots)); err != nil {
			return 0, fmt.Errorf("table: map an extent of entries: %w", err)
		}
	}
	first := Ref(s.slots + 1)
	s.slots = end
	return first, nil
}

// mapExtentLocked makes the i-th extent, if it is not there.
func (s *slab) mapExtentLocked(i int) error {
	d := s.directory.Load()
	if i >= len(d.extents) {
		d = d.doubled(i)
		s.directory.Store(d)
	}
	if d.extents[i].Load() != nil {
		return nil
	}
	fresh, err := newExtent(smallOf(i))
	if err != nil {
		return err
	}
	d.extents[i].Store(fresh)
	return nil
}

// smallOf is how many entries of the i-th extent are in small pages.
func smallOf(i int) int {
	if i == 0 {
		return smallSlots
	}
	return 0
}

// doubled returns a copy of at least twice the length, which holds the i-th extent.
func (d *directory) doubled(i int) *directory {
	longer := &directory{make([]atomic.Pointer[extent], max(2*len(d.extents), i+1))}
	for i := range d.extents {
		longer.extents[i].Store(d.extents[i].Load())
	}
	return longer
}

// handedOut returns the number of slots and of mapped extents.
func (s *slab) handedOut() (slots, extents int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.slots), int((s.slots + extentSlots - 1) / extentSlots)
}

func (s *slab) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.directory.Load()
	for i := range d.extents {
		if c := d.extents[i].Swap(nil); c != nil {
			freeExtent(c, smallOf(i))
		}
	}
}
