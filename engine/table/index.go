package table

import "sync/atomic"

// index is an open-addressing set of words, tag << 32 | ref, with linear probing. Its array never
// grows or moves: a full index is replaced by a rebuilt one. A word's home is given by the low bits
// of its tag, so that rebuilding reads nothing but the words.
//
// Any goroutine may probe; everything that changes it is called with the shard's mu held. A word
// that is present stays findable: the words between its home and itself are never emptied while it
// is there (see remove).
type index struct {
	words []atomic.Uint64 // a power of two of them; stores publish the entry behind the ref (T1)
	mask  uint32
	live  int // words with a ref; guarded by the shard's mu
	used  int // live and tombstones; guarded by the shard's mu
}

const (
	vacant    uint64 = 0       // ends a probe
	tombstone uint64 = 1 << 32 // ref 0 with a tag: a removed word that a probe must pass
)

// minWords is the size of the smallest index that can hold anything.
const minWords = 8

// noWords is what every shard begins with: one vacant word, full by definition, never written.
var noWords = &index{words: make([]atomic.Uint64, 1)}

func wordOf(tag uint32, r Ref) uint64    { return uint64(tag)<<32 | uint64(r) }
func split(w uint64) (tag uint32, r Ref) { return uint32(w >> 32), Ref(w) }

// full reports that one more word would fill more than 7/8, beyond which probes for the absent grow
// long.
func (ix *index) full() bool { return (ix.used+1)*8 > len(ix.words)*7 }

// rebuilt returns a copy without tombstones, at most 7/16 full: double the size when the words are
// live, the same or less when they were removed. So a rebuild is paid for by at least 7/16 of its
// size in inserts since the last.
func (ix *index) rebuilt(memory *blocks) *index {
	size := minWords
	for ix.live*16 > size*7 {
		size *= 2
	}
	to := &index{words: memory.words(size), mask: uint32(size - 1)}
	for i := range ix.words {
		if tag, r := split(ix.words[i].Load()); r != 0 {
			to.insert(tag, r)
		}
	}
	return to
}

// insert adds a word that is not there; the index must not be full.
func (ix *index) insert(tag uint32, r Ref) {
	for i := tag & ix.mask; ; i = (i + 1) & ix.mask {
		w := ix.words[i].Load()
		if _, taken := split(w); taken != 0 {
			continue
		}
		if w == vacant {
			ix.used++
		}
		ix.live++
		ix.words[i].Store(wordOf(tag, r))
		return
	}
}

// locate returns the position of a word, which must be there.
func (ix *index) locate(tag uint32, r Ref) uint32 {
	for i := tag & ix.mask; ; i = (i + 1) & ix.mask {
		switch ix.words[i].Load() {
		case wordOf(tag, r):
			return i
		case vacant:
			panic("bug: table: a word is missing from its index")
		}
	}
}

// replace puts another ref in a word's place.
func (ix *index) replace(i uint32, r Ref) {
	tag, _ := split(ix.words[i].Load())
	ix.words[i].Store(wordOf(tag, r))
}

// remove takes out the word at i. It leaves a tombstone where a probe may have to go on; where the
// next word is vacant none does, and the tombstones before it are vacated with it. That never cuts
// off a present word: the word after it in its own probe would have to be vacant first.
func (ix *index) remove(i uint32) {
	ix.live--
	ix.words[i].Store(tombstone)
	if ix.words[(i+1)&ix.mask].Load() != vacant {
		return
	}
	for ix.words[i].Load() == tombstone {
		ix.words[i].Store(vacant)
		ix.used--
		i = (i - 1) & ix.mask
	}
}
