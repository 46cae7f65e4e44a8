package wal

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/uuid"
)

// errGone: look found nothing under a name.
var errGone = errors.New("it is gone")

// look looks at the files under the names of the control file and of the newest segment, and
// returns an error when one of them is not what the log wrote: removed, cut, of another directory,
// or an older one, as when a backup is copied into the directory of a running server. What is only
// damaged is left to the next start, and so is a file that cannot be looked at.
func (c *control) look() error {
	c.mu.Lock() // so that nothing is written meanwhile
	defer c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	if err := c.lookAtControlLocked(); err != nil {
		return fmt.Errorf("%s: %w", c.path(), err)
	}
	if n := c.state.newest; n.number != 0 {
		if err := c.dir.lookAtSegment(n, c.state.id); err != nil {
			return fmt.Errorf("%s: %w", c.dir.segment(n.number), err)
		}
	}
	return nil
}

// lookAtControlLocked looks at the control file. The newer copy has the last generation that was
// written, and the other one the last but one, unless one of them is damaged.
func (c *control) lookAtControlLocked() error {
	b, err := c.readFile()
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return nil
	}
	newest := uint64(0)
	for slot := range controlSlots {
		s, ok, _ := decodeControl(b[min(slot*controlSlotBytes, len(b)):], c.path())
		if ok && s.id != c.state.id {
			return fmt.Errorf("it is another directory's now, the one with the id %s, not %s",
				s.id, c.state.id)
		}
		if ok {
			newest = max(newest, s.generation)
		}
	}
	if newest != 0 && newest+1 < c.state.generation {
		return errors.New("it is an older one now than the one that was written")
	}
	return nil
}

// lookAtSegment looks at a segment that was begun.
func (d *directory) lookAtSegment(n segmentName, id uuid.UUID) (err error) {
	path := d.segment(n.number)
	f, err := d.fs.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < n.size {
		return fmt.Errorf("it has %d bytes now, but was made with %d", info.Size(), n.size)
	}
	b := make([]byte, segmentHeaderBytes)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil
	}
	h, err := decodeSegmentHeader(b, path, n.number)
	if err == nil && (h.id != id || h.first != n.first) {
		return errors.New("it is another segment now than the one that was begun")
	}
	return nil
}
