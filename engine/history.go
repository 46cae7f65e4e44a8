package engine

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"rollcall/cursor"
	"rollcall/engine/table"
)

// newHistory returns the history of a log whose table has this key.
func newHistory(key [4]uint64, t *table.Table, log Log) *cursor.History {
	var secret []byte
	for _, w := range key {
		secret = binary.LittleEndian.AppendUint64(secret, w)
	}
	return cursor.New(cursor.Options{
		Secret: secret, Hash: t.UserHash, Committed: log.Committed,
	})
}

// noKept says that the store has no list of what was forgotten: the next checkpoint keeps one,
// though nothing changes.
const noKept = math.MaxUint64

// loadHistory takes up what the store has of earlier lives. What was forgotten up to the store's
// LSN is in the list, what was forgotten later is in the log. A store of an older version has no
// list: until its LSN any device may have been forgotten.
func (c *checkpointer) loadHistory() error {
	epochs, err := c.store.Epochs()
	if err != nil {
		return fmt.Errorf("engine: epochs of the store: %w", err)
	}
	forgotten, err := c.store.Forgotten()
	if err != nil {
		return fmt.Errorf("engine: the store's list of what was forgotten: %w", err)
	}
	if err := c.history.Load(epochs, forgotten, c.store.LSN()); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	if c.kept = noKept; forgotten != nil {
		c.kept = c.history.Changes()
	}
	return nil
}

// beginEpoch begins the epoch of this life, whose first record gets this LSN. The store is started,
// and nothing was appended to the log.
func (c *checkpointer) beginEpoch(first uint64) error {
	return c.history.Begin(rand.Uint64(), first, func(epochs []byte) error {
		if c.store == nil {
			return nil
		}
		if err := c.store.SetEpochs(epochs); err != nil {
			return fmt.Errorf("engine: keep the epoch of this start: %w", err)
		}
		return nil
	})
}

// keepForgotten gives the store what was forgotten, if that changed. A checkpoint as of S calls it
// behind its walk: what was forgotten at or below S was noted under the claim of its device, for
// which the walk waited.
func (c *checkpointer) keepForgotten() error {
	changes := c.history.Changes()
	if changes == c.kept {
		return nil
	}
	if err := c.store.SetForgotten(c.history.AppendForgotten(nil)); err != nil {
		return err
	}
	c.kept = changes
	return nil
}
