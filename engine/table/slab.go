package table

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

const (
	chunkBits  = 16
	chunkSlots = 1 << chunkBits // 65,536 entries of 96 bytes: 6 MiB, three huge pages
	pageBits   = 8
	pageChunks = 1 << pageBits // 16.8 million slots a page of the directory, 2 KiB
	maxRun     = 64            // slots handed to a shard at a time, at most
	maxSlots   = math.MaxUint32
	// smallSlots is how many entries a table may have before it asks for huge pages: 384 KiB.
	smallSlots = 1 << 12
)

// chunk is a part of the slab. It never moves; it is memory outside the Go heap where the platform
// has it (slab_mmap.go) and without pointers everywhere, so that the garbage collector never looks
// inside.
type chunk [chunkSlots]Entry

// page is a part of the directory of chunks.
type page [pageChunks]atomic.Pointer[chunk]

// slab is all entries of a table by slot number. It grows from small: pages of the directory and
// chunks are made when a slot of them is handed out, the first chunk is resident in small pages as
// far as it is used, and only beyond smallSlots are there huge pages.
type slab struct {
	// pages is the directory. take stores a page, and a chunk in it, under mu before any slot of it
	// is handed out; entry loads both. The ref it is asked for came through an index word or the
	// mutex, so that they are there. The array lies in the slab so that a look-up loads two
	// pointers, no more.
	pages [1 << (32 - pageBits - chunkBits)]atomic.Pointer[page]

	limit uint64 // slots that may be handed out; immutable

	mu    sync.Mutex
	slots uint64 // handed out so far; guarded by mu
}

// newSlab makes a slab that has room for so many slots, rounded up to whole chunks.
func newSlab(slots uint64) *slab {
	chunks := (slots + chunkSlots - 1) / chunkSlots
	return &slab{limit: min(chunks*chunkSlots, maxSlots)} // a Ref is a slot number + 1 in 32 bits
}

// entry returns the entry of a ref that was handed out.
func (s *slab) entry(r Ref) *Entry {
	slot := uint32(r) - 1
	p := s.pages[slot>>(pageBits+chunkBits)].Load()
	return &p[slot>>chunkBits%pageChunks].Load()[slot%chunkSlots]
}

// take hands out the next n slots, at most maxRun, and returns the ref of the first. ErrFull: not
// so many refs are left.
func (s *slab) take(n int) (Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.slots + uint64(n)
	if end > s.limit {
		return 0, ErrFull
	}
	// One chunk or, across a boundary, two.
	for at := s.slots; at < end; at = (at/chunkSlots + 1) * chunkSlots {
		if err := s.mapChunkLocked(at); err != nil {
			return 0, fmt.Errorf("table: map a chunk of entries: %w", err)
		}
	}
	if s.slots < smallSlots && end >= smallSlots {
		small := s.pages[0].Load()[0].Load()
		small.useHugePages()
		small.collapse()
	}
	first := Ref(s.slots + 1)
	s.slots = end
	return first, nil
}

// mapChunkLocked makes the chunk that a slot lies in, if it is not there.
func (s *slab) mapChunkLocked(slot uint64) error {
	at := &s.pages[slot>>(pageBits+chunkBits)]
	if at.Load() == nil {
		at.Store(new(page))
	}
	c := &at.Load()[slot>>chunkBits%pageChunks]
	if c.Load() != nil {
		return nil
	}
	fresh, err := newChunk()
	if err != nil {
		return err
	}
	if slot >= chunkSlots {
		fresh.useHugePages()
	}
	c.Store(fresh)
	return nil
}

// handedOut returns the number of slots and of mapped chunks.
func (s *slab) handedOut() (slots, chunks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.slots), int((s.slots + chunkSlots - 1) / chunkSlots)
}

func (s *slab) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.pages {
		p := s.pages[i].Swap(nil)
		if p == nil {
			continue
		}
		for j := range p {
			if c := p[j].Swap(nil); c != nil {
				freeChunk(c)
			}
		}
	}
}
