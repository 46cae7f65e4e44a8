//go:build linux && !race

package table

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Chunks are anonymous mappings that ask for huge pages once the table is not small: a lookup in a
// large table misses the TLB less often, and the collector neither scans nor counts them.
const (
	mapped        = true // chunks are outside the Go heap and aligned
	chunkBytes    = int(unsafe.Sizeof(chunk{}))
	hugePageBytes = 2 << 20
)

// newChunk maps zeroed memory, aligned to huge pages: it maps one page too many and gives back what
// sticks out. Nothing of it is resident before it is used, and then in small pages.
func newChunk() (*chunk, error) {
	const size = chunkBytes + hugePageBytes
	const access, kind = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_ANON | unix.MAP_PRIVATE
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), access, kind)
	if err != nil {
		return nil, err
	}
	before := int(-uintptr(p) & (hugePageBytes - 1))
	c := unsafe.Add(p, before)
	unmap(p, before)
	unmap(unsafe.Add(c, chunkBytes), hugePageBytes-before)
	fresh := (*chunk)(c)
	fresh.advise(unix.MADV_NOHUGEPAGE, chunkBytes)
	return fresh, nil
}

// useHugePages asks for huge pages.
func (c *chunk) useHugePages() { c.advise(unix.MADV_HUGEPAGE, chunkBytes) }

// collapse makes a huge page of the small ones at the beginning, which are in use.
func (c *chunk) collapse() { c.advise(unix.MADV_COLLAPSE, hugePageBytes) }

// advise is refused where the kernel was built without huge pages, or is older than the advice. The
// memory is as good, only slower.
func (c *chunk) advise(advice, bytes int) {
	_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Pointer(c)), bytes), advice)
}

func freeChunk(c *chunk) { unmap(unsafe.Pointer(c), chunkBytes) }

// unmap gives back memory of ours. It fails only for a range that is not page-aligned, and when the
// kernel has no room for one more mapping: then the address space is lost, not the memory.
func unmap(p unsafe.Pointer, n int) {
	if n == 0 {
		return
	}
	_ = unix.MunmapPtr(p, uintptr(n))
}
