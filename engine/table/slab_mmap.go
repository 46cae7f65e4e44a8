//go:build linux && !race

package table

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extents are anonymous mappings that ask for huge pages: a look-up in a large table misses the TLB
// less often, and the collector neither scans nor counts them.
const (
	mapped        = true // extents are outside the Go heap and aligned
	extentBytes   = int(unsafe.Sizeof(extent{}))
	hugePageBytes = 2 << 20
)

// newExtent maps zeroed memory whose first entries, so many, are in small pages and the others in
// huge ones, which begin with them: it maps one huge page too many and gives back what sticks out.
// Nothing of it is resident before it is used.
func newExtent(small int) (*extent, error) {
	const access, kind = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_ANON | unix.MAP_PRIVATE
	size, smallBytes := mappedBytes(small), small*entryBytes
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(size+hugePageBytes), access, kind)
	if err != nil {
		return nil, err
	}
	before := int(-(uintptr(p) + uintptr(smallBytes)) & (hugePageBytes - 1))
	c := unsafe.Add(p, before)
	unmap(p, before)
	unmap(unsafe.Add(c, size), hugePageBytes-before)
	// Refused where the kernel was built without huge pages. The memory is as good, only slower.
	memory := unsafe.Slice((*byte)(c), size)
	_ = unix.Madvise(memory[smallBytes:], unix.MADV_HUGEPAGE)
	if small > 0 {
		_ = unix.Madvise(memory[:smallBytes], unix.MADV_NOHUGEPAGE)
	}
	return (*extent)(c), nil
}

// mappedBytes is the size of an extent's mapping: the entries behind those in small pages end with
// a whole huge page, as they begin with one.
func mappedBytes(small int) int {
	smallBytes := small * entryBytes
	return smallBytes + (extentBytes-smallBytes+hugePageBytes-1)&^(hugePageBytes-1)
}

func freeExtent(c *extent, small int) { unmap(unsafe.Pointer(c), mappedBytes(small)) }

// unmap gives back mapped memory. It fails only for a range that is not page-aligned, and when the
// kernel has no room for one more mapping: then the address space is lost, not the memory.
func unmap(p unsafe.Pointer, n int) {
	if n == 0 {
		return
	}
	_ = unix.MunmapPtr(p, uintptr(n))
}

// adviseHuge asks for huge pages in what whole ones there are of some memory. The next owner of the
// memory may get them, too.
func adviseHuge(p unsafe.Pointer, n int) {
	before := int(-uintptr(p) & (hugePageBytes - 1))
	if whole := (n - before) &^ (hugePageBytes - 1); whole > 0 {
		_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(p, before)), whole), unix.MADV_HUGEPAGE)
	}
}
