package wal

import (
	"iter"
	"math"
	"runtime"
	"sync/atomic"
)

// The state word says everything about the batch that is filling now:
//
//	 63                         31 30 29                        0
//	┌─────────────────────────────┬──┬──────────────────────────┐
//	│ count: records ever appended│ p│ bytes: used in buffer p  │
//	└─────────────────────────────┴──┴──────────────────────────┘
//
// One atomic add of (1 record, its bytes) tells an appender all three things that it needs: which buffer (p), where in
// it (bytes), and its LSN (count). So LSN order is byte order without further proof (W1), and no appender ever retries
// or waits: there is no second word that could disagree with the first.
//
// The commit loop seals the filling batch by one compare-and-swap that flips p, sets bytes to 0 and leaves count alone.
// That single step ends the old batch, begins the new one and fixes its first LSN. The usual shape, a pointer to the
// current batch and a state word in each batch, cannot have all of that:
//
//	appender                               commit loop
//	                                       current = B
//	reads current: B, adds to B: index 0
//	LSN = B.first + 0: not known yet,      (preempted before it seals A and so learns how many records A got)
//	since A may still grow: must spin,
//	holding the device it claimed
//
// or, when A is sealed first, the appender spins on the sealed A until current is set. And an appender that read
// current = A long ago may add to A after it was emptied for reuse. Here every add lands in the batch that is filling
// at that instant, and none is ever turned away.
//
// Why no field overflows:
//   - bytes: credit + reserved + bytes <= BufferBytes at all times (W2). Reserve moves bytes from credit to reserved,
//     Append from reserved to the state word, sealing sets them to 0 and only then gives them back as credit. So a
//     record always fits, and bytes never carries into p, since BufferBytes <= 2^28 < 2^30.
//   - count: wraps at 2^33 out of the word's top, harming nobody. An LSN is rebuilt from its low 33 bits and
//     committed, which is below it by at most the records of two buffers, fewer than 2^29.
const (
	bytesBits   = 30
	parityShift = bytesBits
	countShift  = bytesBits + 1
	countBits   = 64 - countShift

	bytesMask  = 1<<bytesBits - 1
	parityFlip = 1 << parityShift
	oneRecord  = 1 << countShift
	countMask  = 1<<countBits - 1
)

// extend returns the number next to near whose low bits are those of a state word's count. The number is within 2^32
// of near.
func extend(near, state uint64) uint64 {
	ahead := (state>>countShift - near) & countMask
	return near + uint64(int64(ahead<<countShift)>>countShift) // sign-extended: near may be ahead of the state's reader
}

// batch is one of the two commit buffers and what the commit loop knows of its content.
type batch struct {
	// finished counts the copies that are complete. An appender adds 1 after its last write to the buffer; the commit
	// loop, having sealed the batch, reads the buffer when finished has reached the number of records. Reset by the
	// commit loop before the batch becomes the filling one, when no appender can know it.
	finished atomic.Uint64
	_        [56]byte // keeps finished, which every appender writes, off the line of the fields below

	block   []byte // header and payload, in one piece so that one write takes them; never reallocated
	payload []byte // the part of block behind the header, BufferBytes long

	// Single writer and reader: the commit loop, from sealing to the end of the commit.
	first   uint64 // LSN of the first record
	records uint64
	bytes   int           // of payload in use
	done    chan struct{} // closed when the batch is committed, or never will be
	all     iter.Seq[[]byte]
}

func newBatch(bufferBytes int) *batch {
	b := &batch{block: make([]byte, blockBytes(int64(bufferBytes)))}
	b.payload = b.block[blockHeaderBytes : blockHeaderBytes+bufferBytes]
	b.all = func(yield func([]byte) bool) { recordsIn(b.payload[:b.bytes])(yield) }
	return b
}

func (b *batch) last() uint64 { return b.first + b.records - 1 }

// waiting tells a waiter which channel to wait on. It is immutable; the commit loop publishes a new one after each
// sealing.
type waiting struct {
	sealed   uint64        // the last LSN of the batch in flight; later ones are in the filling batch
	inFlight chan struct{} // done of the batch in flight
	filling  chan struct{} // done of the filling batch
}

// channel returns a channel that is closed no later than lsn is committed. It may be an earlier batch's: then the
// waiter looks again (Wait loops). It is never a later one's, which might not come:
//
//	waiter                                 commit loop
//	                                       seals batch 7, whose waiting says {sealed: 6's last, filling: 7}
//	appends to batch 8, loads waiting:
//	lsn > 6's last: waits for 7            publishes {sealed: 7's last, inFlight: 7, filling: 8}
//	                                       commits 7, closes its channel
//	wakes, loads waiting: waits for 8
func (w *waiting) channel(lsn uint64) <-chan struct{} {
	if lsn <= w.sealed {
		return w.inFlight
	}
	return w.filling
}

// Append puts a record into the log's buffer and returns its LSN. The caller holds a credit for exactly this many
// bytes, from Reserve; Append uses it up. It takes no lock, does no I/O, allocates nothing and cannot fail, so it may
// be called while a device is claimed (I1). The record is copied. It is not durable yet: see Wait. Any goroutine.
func (l *Log) Append(record []byte) uint64 {
	if len(record) > MaxRecord {
		panic("bug: wal: record longer than MaxRecord")
	}
	add := uint64(oneRecord + recordOverhead + len(record))
	state := l.state.Add(add) - add
	b := l.batches[state>>parityShift&1]
	at := state & bytesMask
	putRecord(b.payload[at:], record)
	// Until this copy is finished the batch cannot be committed, so committed is below our LSN.
	lsn := extend(l.committed.Load(), state) + 1
	b.finished.Add(1)
	if at == 0 { // the first of its batch: the commit loop may be parked
		l.wakeLoop()
	}
	return lsn
}

// seal ends the filling batch and returns it with all copies finished; nil when it is empty. Commit loop only.
func (l *Log) seal() *batch {
	var b, next *batch
	for {
		state := l.state.Load()
		if state&bytesMask == 0 {
			return nil
		}
		p := state >> parityShift & 1
		b, next = l.batches[p], l.batches[p^1]
		next.finished.Store(0)
		// Fails only when somebody appended meanwhile, so at most as often as there is credit for.
		if l.state.CompareAndSwap(state, state&^bytesMask^parityFlip) {
			b.bytes = int(state & bytesMask)
			b.first = l.sealed + 1
			l.sealed = extend(l.sealed, state)
			b.records = l.sealed - b.first + 1
			break
		}
	}
	next.done = make(chan struct{})
	l.waiting.Store(&waiting{sealed: l.sealed, inFlight: b.done, filling: next.done})
	l.giveCredit(b.bytes)
	for b.finished.Load() != b.records {
		runtime.Gosched() // an appender between its add and the end of its copy; it waits for nothing
	}
	return b
}

// The credit word is the number of free bytes, minus a bias for each reason to refuse. The biases make the hot path of
// Reserve one load and one compare-and-swap: whatever the reason, there is simply not enough. They also make closing
// exact: a credit is taken either before the log is closed, and then Close waits for it, or not at all.
const (
	biasGated  = 1 << 60 // no room for the next segment
	biasFailed = 1 << 61
	biasClosed = 1 << 62 // also before Start
)

// takeCredit takes n bytes of credit if there are so many.
func (l *Log) takeCredit(n int) bool {
	for {
		c := l.credit.Load()
		if c < int64(n) {
			return false
		}
		if l.credit.CompareAndSwap(c, c-int64(n)) {
			return true
		}
	}
}

// giveCredit returns n bytes and tells those who wait for them.
func (l *Log) giveCredit(n int) {
	l.credit.Add(int64(n))
	if l.reservers.Load() > 0 { // pairs with Reserve: it counts itself first and tries again then
		l.wakeReservers()
	}
}

// credits returns the free bytes whatever the biases.
func credits(word int64) int64 {
	// The biases are multiples of 2^60 and the credit is far below that, so the low 60 bits are the credit.
	return word & (math.MaxInt64 >> 3)
}
