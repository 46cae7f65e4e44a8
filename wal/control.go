package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/internal/dirsync"
)

// ControlName is the name of the control file in the log's directory: what the log knows of itself,
// so that a log that is shorter than it was made is noticed. The name is PostgreSQL's
// (https://www.postgresql.org/docs/current/app-pgcontroldata.html).
const ControlName = "CONTROL"

// freshControlName is no control file's name: the next Start overwrites what a crash leaves under
// it.
const freshControlName = "fresh" + ControlName

const (
	controlSlots      = 2
	controlSlotBytes  = 4096 // a slot for each copy: no write of a disk touches both
	controlStateBytes = 128  // used of a slot: less than a sector, which a disk writes whole
)

var controlMagic = [8]byte{'r', 'o', 'l', 'l', 'c', 'C', 'T', 'L'}

// controlState is what the control file says. All of it was true when it was written, and stays
// true: numbers only grow.
type controlState struct {
	generation uint64    // of the copy; the higher one counts
	id         uuid.UUID // of the directory; each segment's header repeats it
	since      uint64    // number of the first segment of format version 2
	newest     segmentName
	durable    uint64 // an LSN that was durable
	cut        uint64 // a checkpoint holds everything up to this LSN: segments may be gone
	closed     bool   // the log was closed in order; durable is its last LSN
	incomplete bool   // the directory is a copy that is not finished
}

const (
	controlClosed = 1 << iota
	controlIncomplete
)

// What can be wrong with a control file.
var (
	errControlMissing = errors.New("the file is missing, though there is a segment of format " +
		"version 2: where the log ended cannot be told")
	errControlDamaged = errors.New("neither of its two copies matches its checksum: where the log " +
		"ended cannot be told")
)

func (s controlState) encode() []byte {
	b := make([]byte, controlStateBytes)
	copy(b, controlMagic[:])
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint64(b[16:], s.generation)
	copy(b[24:], s.id[:])
	binary.LittleEndian.PutUint64(b[40:], s.since)
	binary.LittleEndian.PutUint64(b[48:], s.newest.number)
	binary.LittleEndian.PutUint64(b[56:], s.newest.first)
	binary.LittleEndian.PutUint64(b[64:], uint64(s.newest.size))
	binary.LittleEndian.PutUint64(b[72:], s.durable)
	binary.LittleEndian.PutUint64(b[80:], s.cut)
	if s.closed {
		b[88] |= controlClosed
	}
	if s.incomplete {
		b[88] |= controlIncomplete
	}
	binary.LittleEndian.PutUint32(b[12:], controlSum(b))
	return b
}

// decodeControl reads one copy; false: it is none. A later version is an error whatever its
// checksum, as in a segment's header.
func decodeControl(b []byte, path string) (s controlState, ok bool, err error) {
	if len(b) < controlStateBytes || [8]byte(b[:8]) != controlMagic {
		return s, false, nil
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > formatVersion {
		return s, false, &VersionError{Path: path, Found: v, Reads: formatVersion}
	}
	if binary.LittleEndian.Uint32(b[12:]) != controlSum(b) {
		return s, false, nil
	}
	return controlState{
		generation: binary.LittleEndian.Uint64(b[16:]),
		id:         uuid.UUID(b[24:40]),
		since:      binary.LittleEndian.Uint64(b[40:]),
		newest: segmentName{
			number: binary.LittleEndian.Uint64(b[48:]),
			first:  binary.LittleEndian.Uint64(b[56:]),
			size:   int64(binary.LittleEndian.Uint64(b[64:])),
		},
		durable:    binary.LittleEndian.Uint64(b[72:]),
		cut:        binary.LittleEndian.Uint64(b[80:]),
		closed:     b[88]&controlClosed != 0,
		incomplete: b[88]&controlIncomplete != 0,
	}, true, nil
}

// controlSum covers every byte of a copy but the sum itself.
func controlSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[16:controlStateBytes])
}

// control is the control file. It has two copies of its state. What must be known before a step is
// taken is written to both, one after the other, each synced: the damage of one copy loses nothing,
// and a crash in between finds either state, neither of which the log contradicts. The durable LSN
// is written to one of them each second: it may be old.
//
// A new one appears under its name whole. Before Start it is only read. Any goroutine may call its
// methods once the log has started.
type control struct {
	dir *directory

	mu    sync.Mutex
	state controlState // guarded by mu
	found bool         // guarded by mu: there is a file
	file  vfs.File     // guarded by mu: nil before Start and after close

	complete bool // guarded by mu: ended takes the mark of a copy away

	stop chan struct{} // closed when run is to end
	done chan struct{} // closed when run has ended; nil: it never ran
}

func (c *control) path() string { return c.dir.join(ControlName) }

// read reads the file; none is the state of a new directory, or of one of version 1. A damaged copy
// beside a whole one is logged.
func (c *control) read() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.readFile()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wal: read %s: %w", c.path(), err)
	}
	whole := 0
	for slot := range controlSlots {
		s, ok, err := decodeControl(b[min(slot*controlSlotBytes, len(b)):], c.path())
		if err != nil {
			return err
		}
		if ok {
			if whole++; s.generation >= c.state.generation {
				c.state = s
			}
		}
	}
	if whole == 0 {
		return &CorruptionError{Dir: c.dir.path, Path: c.path(), Err: errControlDamaged}
	}
	c.found = true
	if whole < controlSlots {
		c.dir.logger.Warn("one of the two copies in the control file is damaged; "+
			"the other one is used", "file", c.path())
	}
	return nil
}

func (c *control) readFile() (_ []byte, err error) {
	f, err := c.dir.fs.Open(c.path())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(info.Size(), controlSlots*controlSlotBytes))
	if len(b) > 0 {
		_, err = f.ReadAt(b, 0)
	}
	return b, err
}

// known returns the state.
func (c *control) known() controlState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// setID gives a directory without an id one.
func (c *control) setID(id uuid.UUID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.id != uuid.Nil && c.state.id != id {
		return fmt.Errorf("wal: %s has the id %s, not %s", c.dir.path, c.state.id, id)
	}
	c.state.id = id
	return nil
}

// open opens the file for writing, and creates it where there is none. since is the number of the
// segment with which the log goes on. It is there before the first segment of version 2 is.
func (c *control) open(since uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil { // a copy's
		return nil
	}
	if c.state.id == uuid.Nil {
		c.state.id = uuid.New()
	}
	if c.state.newest.number == 0 {
		c.state.since = since
	}
	if !c.found {
		if err := c.createLocked(); err != nil {
			return fmt.Errorf("wal: create %s: %w", c.path(), err)
		}
		c.found = true
	}
	f, err := c.dir.fs.OpenReadWrite(c.path(), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("wal: open %s: %w", c.path(), err)
	}
	c.file = f
	return nil
}

// try finds out whether open will be able to write to the file.
func (c *control) try() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.found || c.file != nil {
		return nil
	}
	return c.dir.tryWriting(c.path())
}

// createLocked makes the file under another name and renames it, each step durable before the next.
func (c *control) createLocked() (err error) {
	fresh := c.dir.join(freshControlName)
	f, err := c.dir.fs.Create(fresh, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	b := make([]byte, controlSlots*controlSlotBytes)
	for slot := range controlSlots {
		c.state.generation++
		copy(b[slot*controlSlotBytes:], c.state.encode())
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, c.dir.fs.Remove(fresh))
	}
	if err := c.dir.fs.Rename(fresh, c.path()); err != nil {
		return err
	}
	return dirsync.Sync(c.dir.fs, c.dir.path)
}

// change changes the state and makes it durable in both copies. After an error the state is one
// that is durable in one of them.
func (c *control) change(change func(s *controlState)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.state
	change(&next)
	for range controlSlots {
		if err := c.writeLocked(next); err != nil {
			return err
		}
	}
	return nil
}

// writeLocked makes a state durable in the copy that is the older one, and then takes it up. A
// write that failed may have damaged its copy: the next one goes there again, so that the other
// copy stays whole.
func (c *control) writeLocked(next controlState) error {
	next.generation = c.state.generation + 1
	at := int64(next.generation%controlSlots) * controlSlotBytes
	n, err := c.file.WriteAt(next.encode(), at)
	if err == nil && n < controlStateBytes {
		err = fmt.Errorf("short write: %d of %d bytes", n, controlStateBytes)
	}
	if err == nil {
		err = c.file.SyncData()
	}
	if err != nil {
		return fmt.Errorf("wal: write %s: %w", c.path(), err)
	}
	c.state = next
	return nil
}

// begun says that a segment was begun: before its first block (W10). Everything before it is
// durable.
func (c *control) begun(s segmentName) error {
	return c.change(func(state *controlState) {
		state.newest, state.closed = s, false
		state.durable = max(state.durable, s.first-1)
	})
}

// ended says that the log was closed in order: through an LSN, behind which nothing follows.
func (c *control) ended(durable uint64) error {
	return c.change(func(state *controlState) {
		state.closed, state.durable = true, durable
		state.incomplete = state.incomplete && !c.complete
	})
}

// beginCopy marks a new directory as a copy that is not finished.
func (c *control) beginCopy() error {
	c.mu.Lock()
	c.state.incomplete = true
	c.mu.Unlock()
	return c.open(1)
}

// completeCopy lets ended take the mark away.
func (c *control) completeCopy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complete = true
}

// covered says that a checkpoint holds everything through an LSN.
func (c *control) covered(cut uint64) error {
	if c.known().cut >= cut {
		return nil
	}
	return c.change(func(state *controlState) { state.cut = cut })
}

// refreshEvery is how old the durable LSN in the control file may be: how much of the end of a log
// that was not closed can be lost without being noticed.
const refreshEvery = time.Second

// start lets run keep the durable LSN.
func (c *control) start(durable func() uint64) {
	c.stop, c.done = make(chan struct{}), make(chan struct{})
	go c.run(durable)
}

// run writes the durable LSN down, when it has moved, until stop is closed. A failure to is not one
// of the log: what the file says stays true. Before, it looks at the files: they must be the log's.
func (c *control) run(durable func() uint64) {
	defer close(c.done)
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
		}
		if err := c.look(); err != nil {
			c.dir.guard.replaced(err)
			return
		}
		err := c.refresh(durable())
		if err != nil && !failing {
			c.dir.logger.Warn("the control file is not refreshed; it is tried again", "err", err)
		}
		failing = err != nil
	}
}

// refresh writes the durable LSN to one copy, if it has moved.
func (c *control) refresh(durable uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil || durable <= c.state.durable {
		return nil
	}
	next := c.state
	next.durable = durable
	return c.writeLocked(next)
}

// close ends run and closes the file.
func (c *control) close() error {
	if c.done != nil {
		close(c.stop)
		<-c.done
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}

// describe says what is known of the newest segment.
func (s controlState) describe() string {
	held := fmt.Sprintf("holds the records from %d", s.newest.first)
	switch last := s.durable; {
	case s.closed && last < s.newest.first:
		held = "holds no record"
	case s.closed:
		held += fmt.Sprintf(" to %d", last)
	case last >= s.newest.first:
		held += fmt.Sprintf(" to %d at least", last)
	}
	return fmt.Sprintf("%s says that segment %d, the newest, was begun with %d bytes and %s",
		ControlName, s.newest.number, s.newest.size, held)
}
