//go:build linux && !race

package table

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Chunks are anonymous mappings that ask for huge pages: a lookup in a large table misses the TLB less often, and the
// collector neither scans nor counts them.
const (
	mapped        = true // chunks are outside the Go heap and aligned
	chunkBytes    = int(unsafe.Sizeof(chunk{}))
	hugePageBytes = 2 << 20
)

// newChunk maps zeroed memory, aligned to huge pages: it maps one page too many and gives back what sticks out.
func newChunk() (*chunk, error) {
	const size, access, kind = chunkBytes + hugePageBytes, unix.PROT_READ | unix.PROT_WRITE, unix.MAP_ANON | unix.MAP_PRIVATE
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size), access, kind)
	if err != nil {
		return nil, err
	}
	before := int(-uintptr(p) & (hugePageBytes - 1))
	c := unsafe.Add(p, before)
	unmap(p, before)
	unmap(unsafe.Add(c, chunkBytes), hugePageBytes-before)
	// Refused where the kernel was built without huge pages. The memory is as good, only slower.
	_ = unix.Madvise(unsafe.Slice((*byte)(c), chunkBytes), unix.MADV_HUGEPAGE)
	return (*chunk)(c), nil
}

func freeChunk(c *chunk) { unmap(unsafe.Pointer(c), chunkBytes) }

// unmap gives back memory of ours. It fails only for a range that is not page-aligned, and when the kernel has no room
// for one more mapping: then the address space is lost, not the memory.
func unmap(p unsafe.Pointer, n int) {
	if n == 0 {
		return
	}
	_ = unix.MunmapPtr(p, uintptr(n))
}
