package broadcast

import "sync/atomic"

// maxListWorkers is how many workers hold list streams: a mark has a bit for each.
const maxListWorkers = 64

// marks say which workers have list streams that follow a user, or may: a bit for each worker, by
// the hash of the user, as follows has it for the streams of one user.
type marks struct {
	// bits are stored under the mu of the worker's inbox, and loaded by commit loops without it
	// after inbox.begin, as those of follows.
	bits [followBuckets]atomic.Uint64
}

// of is the set of workers.
func (m *marks) of(hash uint64) uint64 { return m.bits[hash>>(64-followBits)].Load() }

// listMarks are one worker's part of the marks: how many of its follows there are by bucket.
// Guarded by the inbox's mu.
type listMarks struct {
	shared *marks
	bit    uint64
	counts []uint32 // nil: none so far
}

func (l *listMarks) add(hash uint64) {
	if l.counts == nil {
		l.counts = make([]uint32, followBuckets)
	}
	i := hash >> (64 - followBits)
	if l.counts[i]++; l.counts[i] == 1 {
		l.shared.bits[i].Or(l.bit)
	}
}

func (l *listMarks) remove(hash uint64) {
	i := hash >> (64 - followBits)
	if l.counts[i]--; l.counts[i] == 0 {
		l.shared.bits[i].And(^l.bit)
	}
}
