package broadcast

import "math/bits"

// Source names one order of LSNs: the log of this process, or that of a partition in a cluster. A
// user is of one source for ever. LSNs of two sources have nothing to do with each other, so
// everything that is said of LSNs is said by source (B1 to B3). The only log of a process is source
// 0.
type Source uint16

const maxSources = 1 << 16

// sourceSet is a set of sources, one bit each.
type sourceSet []uint64

func newSourceSet(sources int) sourceSet { return make(sourceSet, (sources+63)/64) }

func (s sourceSet) add(source Source) { s[source/64] |= 1 << (source % 64) }

func (s sourceSet) remove(source Source) { s[source/64] &^= 1 << (source % 64) }

func (s sourceSet) has(source Source) bool { return s[source/64]&(1<<(source%64)) != 0 }

func (s sourceSet) len() (n int) {
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}
