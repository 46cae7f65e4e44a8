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
	maxRun     = 64             // slots handed to a shard at a time, at most
	maxSlots   = math.MaxUint32 // a Ref is a slot number + 1 in 32 bits
)

// chunk is a part of the slab. It never moves; it is memory outside the Go heap where the platform has it
// (slab_mmap.go) and without pointers everywhere, so that the garbage collector never looks inside.
type chunk [chunkSlots]Entry

// slab is all entries of a table by slot number.
type slab struct {
	// chunks is the directory, of fixed length. take stores a chunk under mu before any slot of it is handed out; entry
	// loads it. The ref it is asked for came through an index word or the mutex, so that the chunk is there.
	chunks []atomic.Pointer[chunk]

	mu    sync.Mutex
	slots uint64 // handed out so far; guarded by mu
}

// newSlab makes a slab that has room for so many slots, rounded up to whole chunks.
func newSlab(slots uint64) *slab {
	slots = min(slots, maxSlots)
	return &slab{chunks: make([]atomic.Pointer[chunk], (slots+chunkSlots-1)/chunkSlots)}
}

// entry returns the entry of a ref that was handed out.
func (s *slab) entry(r Ref) *Entry {
	slot := uint32(r) - 1
	return &s.chunks[slot>>chunkBits].Load()[slot%chunkSlots]
}

// take hands out the next n slots, at most maxRun, and returns the ref of the first. ErrFull: not so many refs are
// left.
func (s *slab) take(n int) (Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.slots + uint64(n)
	if end > min(maxSlots, uint64(len(s.chunks))*chunkSlots) {
		return 0, ErrFull
	}
	for at := s.slots; at < end; at = (at/chunkSlots + 1) * chunkSlots { // one chunk or, across a boundary, two
		if c := &s.chunks[at/chunkSlots]; c.Load() == nil {
			fresh, err := newChunk()
			if err != nil {
				return 0, fmt.Errorf("table: map a chunk of entries: %w", err)
			}
			c.Store(fresh)
		}
	}
	first := Ref(s.slots + 1)
	s.slots = end
	return first, nil
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
	for i := range s.chunks {
		if c := s.chunks[i].Swap(nil); c != nil {
			freeChunk(c)
		}
	}
}
