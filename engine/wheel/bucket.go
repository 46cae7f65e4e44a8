package wheel

import "unsafe"

const (
	blockBytes = 4096
	blockItems = (blockBytes - 16) / int(unsafe.Sizeof(Item{}))
)

// block is a page of items. Buckets are chains of blocks and not growing slices: filing never
// copies a large bucket, a drained block serves any other bucket, and a block is the natural
// bounded slice of work.
type block struct {
	next  *block // first, so that the collector looks at one word of the block
	n     int
	items [blockItems]Item
}

// bucket is a chain of blocks, of which only the first is not full. None of them is empty.
type bucket struct {
	head *block
}

func (b *bucket) push(p *pool, item Item) {
	if b.head == nil || b.head.n == blockItems {
		fresh := p.get()
		fresh.next = b.head
		b.head = fresh
	}
	b.head.items[b.head.n] = item
	b.head.n++
}

// pop takes the first block out.
func (b *bucket) pop() *block {
	first := b.head
	b.head = first.next
	first.next = nil
	return first
}

// spareBlocks is how many drained blocks are kept however few are in use: one for each bucket, 768
// KiB, so that a small wheel whose items are spread over all ticks does not allocate.
const spareBlocks = levels * buckets

// pool keeps drained blocks for the next buckets: at most half as many as are in use, and
// spareBlocks. The rest goes to the collector, so that a burst does not hold its memory for ever
// (H5).
type pool struct {
	free  *block
	frees int // length of free
	inUse int // blocks handed out
}

func (p *pool) get() *block {
	p.inUse++
	b := p.free
	if b == nil {
		return new(block)
	}
	p.free = b.next
	p.frees--
	b.next, b.n = nil, 0
	return b
}

func (p *pool) put(b *block) {
	p.inUse--
	b.next = p.free
	p.free = b
	p.frees++
	for p.frees > spareBlocks+p.inUse/2 {
		p.free = p.free.next
		p.frees--
	}
}
