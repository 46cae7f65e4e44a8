package cursor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
)

// MaxForgotten is of how many users a history knows exactly when a device of theirs was forgotten;
// the oldest goes first (Q5).
const MaxForgotten = 1 << 16

// forgotten has the LSN at which the last device of a user was forgotten: exactly for the last
// MaxForgotten users, and a floor for all others.
type forgotten struct {
	changes atomic.Uint64 // see Changes

	mu sync.RWMutex
	// floor is the LSN through which a device of any user may have been forgotten: what was, was
	// not kept or fell out. It only grows. Guarded by mu.
	floor uint64
	// exact has the LSN by the user's hash; nil before the first. Guarded by mu.
	exact map[uint64]uint64
	// order is the ring of what came into exact, the oldest at next once it is full. One whose
	// user has a newer LSN in exact means nothing. Guarded by mu.
	order []forgottenUser
	next  int // guarded by mu
}

type forgottenUser struct{ hash, lsn uint64 }

// Forgotten is the LSN at which the last device of a user was forgotten, or a higher one, when that
// is long ago; 0: none was. A cursor below it does not bring the user up to date. It only grows
// (Q4). Any goroutine.
func (h *History) Forgotten(user uuid.UUID) uint64 {
	f := &h.forgotten
	hash := h.hash(user)
	f.mu.RLock()
	defer f.mu.RUnlock()
	return max(f.floor, f.exact[hash])
}

// Forget says that a device of a user with this hash was forgotten at an LSN. Any goroutine.
func (h *History) Forget(hash, lsn uint64) { h.forgotten.add(hash, lsn) }

// Changes counts the calls of Forget that changed anything: the forgotten are worth keeping again
// when it has moved on. Any goroutine.
func (h *History) Changes() uint64 { return h.forgotten.changes.Load() }

func (f *forgotten) add(hash, lsn uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lsn <= max(f.floor, f.exact[hash]) {
		return
	}
	if f.exact == nil {
		f.exact = make(map[uint64]uint64)
	}
	f.changes.Add(1)
	f.exact[hash] = lsn
	came := forgottenUser{hash, lsn}
	if len(f.order) < MaxForgotten {
		f.order = append(f.order, came)
		return
	}
	old := f.order[f.next]
	f.order[f.next] = came
	f.next = (f.next + 1) % MaxForgotten
	if f.exact[old.hash] == old.lsn {
		delete(f.exact, old.hash)
		f.floor = max(f.floor, old.lsn)
	}
}

// Compact makes room for others where devices of the same users were forgotten again and again. It
// takes some milliseconds, in which Forget and Forgotten wait: at most once in many calls of
// Forget. Any goroutine.
func (h *History) Compact() {
	f := &h.forgotten
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.order) > MaxForgotten/2 && len(f.exact) <= len(f.order)/2 {
		f.order, f.next = f.live(), 0
	}
}

// live is what of order means something, the oldest first. The caller holds mu.
func (f *forgotten) live() []forgottenUser {
	var live []forgottenUser
	for i := range f.order {
		u := f.order[(f.next+i)%len(f.order)]
		if f.exact[u.hash] == u.lsn {
			live = append(live, u)
		}
	}
	return live
}

// ErrForgotten says that bytes are no list of what was forgotten.
var ErrForgotten = errors.New("cursor: not a list of what was forgotten")

const forgottenBytes = 8 + 8

// AppendForgotten appends what was forgotten, for Load of the next life: the floor, then hash and
// LSN of each user, the oldest first. Any goroutine.
func (h *History) AppendForgotten(dst []byte) []byte {
	f := &h.forgotten
	f.mu.RLock()
	defer f.mu.RUnlock()
	dst = binary.LittleEndian.AppendUint64(dst, f.floor)
	for _, u := range f.live() {
		dst = binary.LittleEndian.AppendUint64(dst, u.hash)
		dst = binary.LittleEndian.AppendUint64(dst, u.lsn)
	}
	return dst
}

// load takes up what AppendForgotten made.
func (f *forgotten) load(b []byte) error {
	if len(b) < 8 || (len(b)-8)%forgottenBytes != 0 || len(b)-8 > MaxForgotten*forgottenBytes {
		return fmt.Errorf("%w: %d bytes", ErrForgotten, len(b))
	}
	f.floor = binary.LittleEndian.Uint64(b)
	for b = b[8:]; len(b) > 0; b = b[forgottenBytes:] {
		f.add(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
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
		h.forgotten.floor = floor
		return nil
	}
	return h.forgotten.load(forgotten)
}
