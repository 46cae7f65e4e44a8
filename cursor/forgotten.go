package cursor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/google/uuid"
)

// Buckets is how many groups of users there are that share the LSN of what was forgotten.
const (
	Buckets    = 1 << bucketBits
	bucketBits = 14
)

// forgotten has the LSN of the last device forgotten in each bucket.
type forgotten struct {
	// floor is the LSN through which any device may have been forgotten: what was, was not kept.
	floor atomic.Uint64
	// buckets is nil until the first is set: most partitions of a process with many stay without.
	buckets atomic.Pointer[[Buckets]atomic.Uint64]
	changes atomic.Uint64 // counts what changed, see Changes
}

// Forgotten is the LSN at which the last device of a user was forgotten, or of another user in the
// same bucket; 0: none was. A cursor below it does not bring the user up to date. It only grows
// (C4). Any goroutine.
func (h *History) Forgotten(user uuid.UUID) uint64 {
	lsn := h.forgotten.floor.Load()
	if b := h.forgotten.buckets.Load(); b != nil {
		lsn = max(lsn, b[bucket(h.hash(user))].Load())
	}
	return lsn
}

// Forget says that a device of a user with this hash was forgotten at an LSN. Any goroutine.
func (h *History) Forget(hash, lsn uint64) { h.forgotten.raise(bucket(hash), lsn) }

// Changes counts the calls of Forget that changed anything: the forgotten are worth keeping again
// when it has moved on. Any goroutine.
func (h *History) Changes() uint64 { return h.forgotten.changes.Load() }

func bucket(hash uint64) uint64 { return hash >> (64 - bucketBits) }

func (f *forgotten) raise(bucket, lsn uint64) {
	b := f.buckets.Load()
	if b == nil {
		f.buckets.CompareAndSwap(nil, new([Buckets]atomic.Uint64))
		b = f.buckets.Load()
	}
	for old := b[bucket].Load(); old < lsn; old = b[bucket].Load() {
		if b[bucket].CompareAndSwap(old, lsn) {
			f.changes.Add(1)
			return
		}
	}
}

// ErrForgotten says that bytes are no list of what was forgotten.
var ErrForgotten = errors.New("cursor: not a list of what was forgotten")

const forgottenBytes = 2 + 8

// AppendForgotten appends what was forgotten, for Load of the next life: the floor, then bucket and
// LSN of each bucket that has one. Any goroutine.
func (h *History) AppendForgotten(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, h.forgotten.floor.Load())
	b := h.forgotten.buckets.Load()
	if b == nil {
		return dst
	}
	for i := range b {
		if lsn := b[i].Load(); lsn > 0 {
			dst = binary.LittleEndian.AppendUint16(dst, uint16(i))
			dst = binary.LittleEndian.AppendUint64(dst, lsn)
		}
	}
	return dst
}

// load takes up what AppendForgotten made.
func (f *forgotten) load(b []byte) error {
	if len(b) < 8 || (len(b)-8)%forgottenBytes != 0 || len(b)-8 > Buckets*forgottenBytes {
		return fmt.Errorf("%w: %d bytes", ErrForgotten, len(b))
	}
	f.floor.Store(binary.LittleEndian.Uint64(b))
	for b = b[8:]; len(b) > 0; b = b[forgottenBytes:] {
		i := binary.LittleEndian.Uint16(b)
		if i >= Buckets {
			return fmt.Errorf("%w: bucket %d", ErrForgotten, i)
		}
		f.raise(uint64(i), binary.LittleEndian.Uint64(b[2:]))
	}
	return nil
}

// Load takes up what an earlier life kept, before Begin. Without a list of what was forgotten (nil)
// every device may have been, through the LSN floor.
func (h *History) Load(epochs, forgotten []byte, floor uint64) (err error) {
	if h.loaded, err = parseEpochs(epochs); err != nil {
		return err
	}
	if forgotten == nil {
		h.forgotten.floor.Store(floor)
		return nil
	}
	return h.forgotten.load(forgotten)
}
