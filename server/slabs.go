package server

import (
	"io"
	"sync"
	"sync/atomic"
)

const (
	// slabBytes is what an answer grows by.
	slabBytes = 64 << 10
	// maxSlabs bounds what all answers that are being made or written hold together: 128 MiB, the
	// answers to 150 queries for 1,000 users with two devices each.
	maxSlabs = 2048
)

type slab [slabBytes]byte

// slabs is the memory of large answers. Any goroutine may use it.
type slabs struct {
	limit int64
	taken atomic.Int64
	stock stock[slab]
}

func newSlabs(limit int) *slabs {
	return &slabs{limit: int64(limit), stock: stock[slab]{
		most: limit / 16, make: func() *slab { return new(slab) },
	}}
}

// bytes is how many are taken.
func (s *slabs) bytes() int { return int(s.taken.Load()) * slabBytes }

func (s *slabs) get() *slab {
	if s.taken.Add(1) > s.limit {
		s.taken.Add(-1)
		return nil
	}
	return s.stock.get()
}

func (s *slabs) put(b *slab) {
	s.stock.put(b)
	s.taken.Add(-1)
}

// slabBody is the body of an answer, in slabs: fasthttp writes it and then closes it, whatever
// happens meanwhile. One goroutine has it.
type slabBody struct {
	of    *slabs
	slabs []*slab
	sizes []int // of what is in each slab but the last
	last  []byte
	size  int  // of all of it, set by end
	full  bool // there was no slab
}

var slabBodies = sync.Pool{New: func() any { return new(slabBody) }}

func newSlabBody(of *slabs) *slabBody {
	b := slabBodies.Get().(*slabBody)
	b.of = of
	return b
}

// room returns where to append at most n bytes, and put takes what was appended. false: there is no
// more memory, and all that follows is in vain.
func (b *slabBody) room(n int) (dst []byte, ok bool) {
	if cap(b.last)-len(b.last) >= n {
		return b.last, true
	}
	if b.full {
		return nil, false
	}
	next := b.of.get()
	if next == nil {
		b.full = true
		b.last = nil
		return nil, false
	}
	if len(b.slabs) > 0 {
		b.sizes = append(b.sizes, len(b.last))
	}
	b.slabs = append(b.slabs, next)
	b.last = next[:0]
	return b.last, true
}

func (b *slabBody) put(dst []byte) { b.last = dst }

// end returns the size of the body: nothing more is appended.
func (b *slabBody) end() int {
	b.size = len(b.last)
	for _, n := range b.sizes {
		b.size += n
	}
	return b.size
}

// SupportsBodyWriteTo implements fasthttp.BodyWriterTo.
func (*slabBody) SupportsBodyWriteTo() bool { return true }

// WriteTo implements io.WriterTo.
func (b *slabBody) WriteTo(w io.Writer) (written int64, err error) {
	for i, s := range b.slabs {
		part := b.last
		if i < len(b.sizes) {
			part = s[:b.sizes[i]]
		}
		n, err := w.Write(part)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Read implements io.Reader for fasthttp, which uses WriteTo.
func (*slabBody) Read([]byte) (int, error) { return 0, io.EOF }

// Close gives the memory back. Once.
func (b *slabBody) Close() error {
	for _, s := range b.slabs {
		b.of.put(s)
	}
	clear(b.slabs)
	*b = slabBody{slabs: b.slabs[:0], sizes: b.sizes[:0]}
	slabBodies.Put(b)
	return nil
}
