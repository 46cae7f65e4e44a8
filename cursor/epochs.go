package cursor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// MaxEpochs is how many epochs a history knows; the oldest goes first (Q5).
const MaxEpochs = 256

// Epoch is one life of a server.
type Epoch struct {
	ID    uint64 // random
	First uint64 // the first LSN that it may write
}

const epochBytes = 16

// ErrEpochs says that bytes are no list of epochs.
var ErrEpochs = errors.New("cursor: not a list of epochs")

// parseEpochs reads what appendEpochs made, oldest first.
func parseEpochs(b []byte) ([]Epoch, error) {
	if len(b)%epochBytes != 0 || len(b) > MaxEpochs*epochBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrEpochs, len(b))
	}
	list := make([]Epoch, 0, len(b)/epochBytes+1)
	for ; len(b) > 0; b = b[epochBytes:] {
		list = append(list, Epoch{
			ID:    binary.LittleEndian.Uint64(b),
			First: binary.LittleEndian.Uint64(b[8:]),
		})
	}
	return list, nil
}

func appendEpochs(dst []byte, list []Epoch) []byte {
	for _, e := range list {
		dst = binary.LittleEndian.AppendUint64(dst, e.ID)
		dst = binary.LittleEndian.AppendUint64(dst, e.First)
	}
	return dst
}

// epochs is a list of epochs in the form in which cursors are judged, newest first. Immutable.
type epochs struct{ list []judged }

// judged is an epoch and where other epochs take its numbers.
type judged struct {
	id uint64
	// before is the first LSN of a later epoch, the lowest of them: when a crash takes more of the
	// log than one life has written, it is not that of the next one. The running epoch has none.
	before uint64
}

func newEpochs(oldestFirst []Epoch) *epochs {
	e := &epochs{}
	before := uint64(math.MaxUint64)
	for i := len(oldestFirst) - 1; i >= 0; i-- {
		e.list = append(e.list, judged{oldestFirst[i].ID, before})
		before = min(before, oldestFirst[i].First)
	}
	return e
}

func (e *epochs) running() judged { return e.list[0] }

// has reports whether the history has everything that a cursor of an epoch says through an LSN
// (Q1).
func (h *History) has(epoch, lsn uint64) bool {
	e := h.epochs.Load()
	if e == nil {
		return false
	}
	for i, j := range e.list {
		if j.id == epoch {
			return i == 0 && lsn <= h.committed() || i > 0 && lsn < j.before
		}
	}
	return false
}

// Begin begins an epoch that writes from the LSN first on, and gives it to keep, which must make
// the bytes durable (Q2): they are what Load takes the next time. With an error of keep the history
// is what it was. Cursors are made and honoured from here on. The owner calls it once in a life,
// before anything is written or shown.
func (h *History) Begin(id, first uint64, keep func(epochs []byte) error) error {
	list := append(h.loaded, Epoch{ID: id, First: first})
	list = list[max(0, len(list)-MaxEpochs):]
	if err := keep(appendEpochs(nil, list)); err != nil {
		return err
	}
	h.epochs.Store(newEpochs(list))
	return nil
}
