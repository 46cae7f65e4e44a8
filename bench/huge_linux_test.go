package bench

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// hugeSlice maps n values outside the Go heap, with huge pages where the system gives them. T holds
// no pointer.
func hugeSlice[T any](n int) []T {
	var t T
	bytes := n*int(unsafe.Sizeof(t)) + hugePage
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(bytes), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	_ = unix.Madvise(unsafe.Slice((*byte)(p), bytes), unix.MADV_HUGEPAGE) // a wish
	return unsafe.Slice((*T)(p), n)
}

func freeHuge[T any](s []T) {
	var t T
	_ = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(s)),
		uintptr(len(s)*int(unsafe.Sizeof(t))+hugePage))
}
