package wal

import (
	"iter"
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
// One atomic add of (1 record, its bytes) tells an appender all three things that it needs: which
// buffer (p), where in it (bytes), and its LSN (count). So LSN order is byte order without further
// proof (W1), and no appender ever retries or waits: there is no second word that could disagree
// with the first.
//
// A turn seals the filling batch by one compare-and-swap that flips p, sets bytes to 0 and
// leaves count alone. That single step ends the old batch, begins the new one and fixes its first
// LSN. The usual shape, a pointer to the current batch and a state word in each batch, cannot have
// all of that:
//
//	appender                               turn
//	                                       current = B
//	reads current: B, adds to B: index 0
//	LSN = B.first + 0: not known yet,      (preempted before it seals A and so learns how many
//	since A may still grow: must spin,      records A got)
//	holding the device it claimed
//
// or, when A is sealed first, the appender spins on the sealed A until current is set. And an
// appender that read current = A long ago may add to A after it was emptied. Here every add lands
// in the batch that is filling at that instant, and none is ever turned away.
//
// Why no field overflows:
//   - bytes: credit + reserved + bytes <= BufferBytes at all times (W2). Reserve moves bytes from
//     credit to reserved, Append from reserved to the state word, sealing sets them to 0 and only
//     then gives them back as credit. So a record always fits, and bytes never carries into p,
//     since BufferBytes <= 2^28 < 2^30.
//   - count: wraps at 2^33 out of the word's top, which does no harm. An LSN is rebuilt from its
//     low 33 bits and committed, which is below it by at most the records of two buffers, fewer
//     than 2^29.
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

// extend returns the number next to near whose low bits are those of a state word's count. The
// number is within 2^32 of near.
func extend(near, state uint64) uint64 {
	ahead := (state>>countShift - near) & countMask
	// Sign-extended: near may be ahead of the state's reader.
	return near + uint64(int64(ahead<<countShift)>>countShift)
}

// buffers are the two commit buffers and the word that says which one is filling.
type buffers struct {
	_     [64]byte      // keeps state, which every appender writes, off the lines before
	state atomic.Uint64 // the filling batch, see above
	_     [56]byte      // and off those behind

	batches [2]*batch // set before Start returns, then immutable
	sealed  uint64    // last LSN that is not in the filling batch. Guarded by turns
}

// begin lets appenders in behind the given last LSN, into buffers of the given size.
func (bs *buffers) begin(last uint64, bytes int) {
	bs.batches = [2]*batch{newBatch(bytes), newBatch(bytes)}
	bs.sealed = last
	bs.state.Store(last << countShift)
}

// filling returns the bytes of the filling batch.
func (bs *buffers) filling() int { return int(bs.state.Load() & bytesMask) }

// seal ends the filling batch and returns it; nil when it is empty. Its copies may still be in
// progress, see batch.awaitCopies. With turns held.
func (bs *buffers) seal() *batch {
	for {
		state := bs.state.Load()
		if state&bytesMask == 0 {
			return nil
		}
		p := state >> parityShift & 1
		b, next := bs.batches[p], bs.batches[p^1]
		next.finished.Store(0)
		next.stamp.Store(0)
		// Fails only when a record was appended meanwhile, so at most as often as there is credit
		// for.
		if bs.state.CompareAndSwap(state, state&^bytesMask^parityFlip) {
			b.bytes = int(state & bytesMask)
			b.first = bs.sealed + 1
			bs.sealed = extend(bs.sealed, state)
			b.records = bs.sealed - b.first + 1
			return b
		}
	}
}

// batch is one of the two commit buffers and what the turn knows of its content.
type batch struct {
	// finished counts the copies that are complete. An appender adds 1 after its last write to the
	// buffer; the turn, having sealed the batch, reads the buffer when finished has reached the
	// number of records. Reset by the turn before the batch becomes the filling one, when no
	// appender can know it.
	finished atomic.Uint64
	// stamp is the first stamp that an appender brought, 0 before. An appender sets it before it
	// adds to finished. Reset together with finished.
	stamp atomic.Int64
	_     [48]byte // keeps finished, which every appender writes, off the fields below

	block   []byte // header and payload in one piece, so that one write takes them; immutable
	payload []byte // the part of block behind the header, BufferBytes long

	// Guarded by turns, from sealing to the end of the commit.
	first   uint64 // LSN of the first record
	records uint64
	bytes   int // of payload in use
	all     iter.Seq[[]byte]
}

func newBatch(bufferBytes int) *batch {
	b := &batch{block: make([]byte, blockBytes(int64(bufferBytes)))}
	b.payload = b.block[blockHeaderBytes : blockHeaderBytes+bufferBytes]
	b.all = func(yield func([]byte) bool) { recordsIn(b.payload[:b.bytes])(yield) }
	return b
}

func (b *batch) last() uint64 { return b.first + b.records - 1 }

// awaitCopies returns when every record of a sealed batch is in its buffer. With turns held.
func (b *batch) awaitCopies() {
	for b.finished.Load() != b.records {
		runtime.Gosched() // an appender between its add and the end of its copy; it never blocks
	}
}

// Append puts a record into the log's buffer and returns its LSN. The caller holds a credit for
// exactly this many bytes, from Reserve; Append uses it up. It takes no lock, does no I/O,
// allocates nothing and cannot fail, so it may be called while a device is claimed (I1). The record
// is copied. It is not durable yet, and does not become so by itself: call Wait, Commit or Kick
// soon after it, once for any number of records. Any goroutine.
//
// A stamp is a number of the caller's, 0 for none, that is not written: the first one of a batch is
// handed back when the batch is committed.
func (l *Log) Append(record []byte, stamp int64) uint64 {
	if len(record) > MaxRecord {
		panic("bug: wal: record longer than MaxRecord")
	}
	add := uint64(oneRecord + recordOverhead + len(record))
	state := l.buffers.state.Add(add) - add
	b := l.buffers.batches[state>>parityShift&1]
	at := state & bytesMask
	putRecord(b.payload[at:], record)
	// Until this copy is finished the batch cannot be committed, so committed is below our LSN.
	lsn := extend(l.progress.committed.Load(), state) + 1
	if stamp != 0 && b.stamp.Load() == 0 {
		b.stamp.CompareAndSwap(0, stamp)
	}
	b.finished.Add(1)
	if at == 0 && l.credits.closed() {
		l.committer.wakeUp() // Close may be waiting for this very credit
	}
	return lsn
}
