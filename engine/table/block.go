package table

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// blockWords is the size of a block, in words: 16 MiB, of which at least 14 are whole huge
	// pages.
	blockWords = 16 << 20 / 8
	// minBlockPart is the size of the smallest index in a block, 32 KiB. The indexes of a table of
	// 1,024 shards have it from some 1.8 million devices on; those of smaller tables are no load
	// for the TLB.
	minBlockPart = 32 << 10 / 8
)

// blocks hands out the memory of large indexes, so that those of many shards lie in huge pages
// together: a look-up in a large table misses the TLB for its index otherwise. A block is memory of
// the Go heap that asks for huge pages, and the collector frees it when none of its indexes is used
// any more, by a reader that still probes one least of all. The shards of a table grow at about the
// same time, so that a block is not kept for one of its indexes. Any goroutine may call its method.
type blocks struct {
	mu   sync.Mutex
	rest []atomic.Uint64 // of the block that was made last; guarded by mu
}

// words returns so many vacant words.
func (b *blocks) words(n int) []atomic.Uint64 {
	if n < minBlockPart || n > blockWords/4 {
		return newWords(n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > len(b.rest) {
		b.rest = newWords(blockWords)
	}
	part := b.rest[:n:n]
	b.rest = b.rest[n:]
	return part
}

// newWords returns so many vacant words, in huge pages as far as it has whole ones.
func newWords(n int) []atomic.Uint64 {
	words := make([]atomic.Uint64, n)
	if n >= blockWords/4 {
		adviseHuge(unsafe.Pointer(&words[0]), n*8)
	}
	return words
}
