package wal

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/dirsync"
)

// tail is the end of the log as Replay found it.
type tail struct {
	next   uint64 // LSN of the next record
	number uint64 // last segment with a valid header; 0: none
	first  uint64 // its first LSN
	end    int64  // where its readable blocks end

	// unproven is where the blocks begin that no later block or header calls durable: after a failed sync the kernel
	// may have dropped them while its cache still shows them. Start writes them again.
	unproven int64
	torn     bool // bytes behind end were cut
	reused   bool // the segment was another before: only a block header behind end is a trace of a torn write
}

// findSegments lists the directory and reads every segment header. Segments at the end whose header was never written
// or not finished hold nothing; they are removed by Start. After an error l.segments are those before the damage.
//
// Headers are read from the last to the first: beside a server that runs, a segment that had begun when it was looked at
// must not come after one that had not.
func (l *Log) findSegments() error {
	names, err := l.o.FS.List(l.dir)
	if err != nil {
		return fmt.Errorf("wal: list %s: %w", l.dir, err)
	}
	var numbers []uint64
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	found := make([]foundSegment, len(numbers))
	for i, n := range slices.Backward(numbers) {
		found[i] = l.findSegment(n)
	}
	return l.takeSegments(found)
}

// takeSegments takes up what was found in ascending order, as far as it is a log.
func (l *Log) takeSegments(found []foundSegment) error {
	var lost error // what is wrong with the header before this one
	for i, s := range found {
		if i > 0 && s.number != found[i-1].number+1 {
			missing := found[i-1].number + 1
			return l.corrupt(missing, 0, 0, fmt.Errorf("segment %d is missing: the next one is %d", missing, s.number))
		}
		switch {
		case s.err != nil:
			return s.err
		case s.unused != nil:
			l.unused = append(l.unused, s.number)
			lost = s.unused
		case len(l.unused) > 0:
			return l.corrupt(l.unused[0], 0, 0, fmt.Errorf("%w, though segment %d was begun after it", lost, s.number))
		default:
			if last := len(l.segments) - 1; last >= 0 && s.first < l.segments[last].first {
				return l.corrupt(s.number, 0, s.first, fmt.Errorf("the segment begins before the previous one, at %d", l.segments[last].first))
			}
			l.segments = append(l.segments, s.segmentName)
		}
	}
	return nil
}

// foundSegment is a segment by its header.
type foundSegment struct {
	segmentName
	unused error // what is wrong with the header of a segment that has no block: it was never begun
	err    error // damage, a later version, or it cannot be read
}

// findSegment reads one header. A segment without a valid one may be unused only if it has no block: any block would
// have been written after the header was durable (W4).
func (l *Log) findSegment(number uint64) (s foundSegment) {
	s.number = number
	r, err := l.openSegment(number)
	if err != nil {
		s.err = err
		return s
	}
	defer func() { s.err = errors.Join(s.err, r.close()) }()
	s.size = r.size
	for again := true; ; again = false {
		h, wrong := r.header(l.segmentPath(number))
		switch wrong {
		case nil:
			s.first, s.reused = h.first, h.reused
			return s
		case errHeaderPlace: // its checksum matches: somebody renamed it
			s.err = l.corrupt(number, 0, 0, wrong)
			return s
		case errHeaderBlank, errHeaderMagic, errHeaderSum:
		default: // a later version, or it cannot be read
			s.err = wrong
			return s
		}
		found, err := r.scan(segmentHeaderBytes)
		if err != nil {
			s.err = err
			return s
		}
		if found.blocks == 0 {
			s.unused = wrong
			break
		}
		if !again {
			s.err = l.corrupt(number, 0, 0, fmt.Errorf("%w: %w", errLostHeader, wrong))
			return s
		}
		r.reread() // beside a server that runs, it may have been begun since the header was read
	}
	if s.unused != errHeaderBlank {
		l.o.Logger.Warn("log segment was never begun: its header is unfinished and it holds no block",
			"dir", l.dir, "segment", number, "err", s.unused)
	}
	return s
}

func (l *Log) corrupt(segment uint64, offset int64, lsn uint64, err error) error {
	return &CorruptionError{Dir: l.dir, Segment: segment, Path: l.segmentPath(segment), Offset: offset, LSN: lsn, Err: err}
}

// Replay calls apply with every record whose LSN is above after, in order, and stops at its first error. The record is
// valid during the call only. Damage is a *CorruptionError, a log that is gone a *MissingError; the unfinished end that a
// crash leaves is cut and logged. What apply sees may still be only in the operating system's cache: serve nothing from it
// before Start returned. Call it before Start, after Open, from one goroutine.
func (l *Log) Replay(after uint64, apply func(lsn uint64, record []byte) error) error {
	if len(l.segments) == 0 {
		if l.damage != nil {
			return l.damage
		}
		if after > 0 {
			return &MissingError{Dir: l.dir, After: after}
		}
		return l.Begin(0)
	}
	if first := l.segments[0].first; first > after+1 {
		return l.corrupt(l.segments[0].number, 0, after+1,
			fmt.Errorf("the log begins at record %d: an older segment is missing, or the checkpoint that held what was in it", first))
	}
	end, err := l.replay(after, apply)
	if err != nil {
		return err
	}
	if l.damage != nil {
		return l.damage
	}
	if end.next <= after {
		return l.corrupt(end.number, end.end, end.next, fmt.Errorf("the log ends before record %d, which was durable: it is older than what it is replayed onto", after))
	}
	l.replayed = end
	return nil
}

// Begin takes the place of Replay in a directory without a segment, for a copy: its log goes on behind an LSN up to which
// everything is in the checkpoint beside it.
func (l *Log) Begin(after uint64) error {
	if len(l.segments) > 0 || l.damage != nil {
		return fmt.Errorf("wal: begin a log in %s: it has segments", l.dir)
	}
	l.replayed = &tail{next: after + 1}
	l.survey.next.Store(after + 1)
	return nil
}

// replay reads the segments that hold records above after.
func (l *Log) replay(after uint64, apply func(uint64, []byte) error) (*tail, error) {
	start := 0
	for start+1 < len(l.segments) && l.segments[start+1].first <= after+1 {
		start++
	}
	l.survey.begin(l.segments, start)
	t := &tail{next: l.segments[start].first}
	for i := start; i < len(l.segments); i++ {
		s := l.segments[i]
		var next *segmentName
		if i+1 < len(l.segments) {
			next = &l.segments[i+1]
		}
		l.survey.enter(i)
		t.number, t.first, t.end, t.unproven, t.reused = s.number, s.first, segmentHeaderBytes, segmentHeaderBytes, s.reused
		if err := l.replaySegment(t, next, after, apply); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// replaySegment reads one segment's blocks and judges where they end.
func (l *Log) replaySegment(t *tail, next *segmentName, after uint64, apply func(uint64, []byte) error) (err error) {
	r, err := l.openSegment(t.number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var proof prover
	for {
		b, wrong, err := r.block(t.end)
		if err != nil {
			return err
		}
		if wrong != nil {
			t.end = min(t.end, r.size) // the last block's padding may be cut off
			t.unproven = proof.first(t.end)
			if more, err := l.judgeEnd(r, t, next, wrong); !more {
				return err
			}
			continue
		}
		if b.first != t.next {
			return l.corrupt(t.number, b.offset, t.next, fmt.Errorf("the block there begins with record %d", b.first))
		}
		proof.add(b)
		t.end += b.bytes()
		l.survey.add(b)
		for record := range recordsIn(b.payload) {
			lsn := t.next
			t.next++
			if lsn <= after {
				continue
			}
			if err := apply(lsn, record); err != nil {
				return fmt.Errorf("wal: replay record %d: %w", lsn, err)
			}
		}
	}
}

// judgeEnd decides what it means that no block of record t.next could be read at t.end. True: now there is one.
func (l *Log) judgeEnd(r *segmentReader, t *tail, next *segmentName, wrong error) (more bool, err error) {
	if next != nil {
		if next.first == t.next {
			return false, nil // the segment was full, or an earlier recovery cut it here
		}
		return false, l.corrupt(t.number, t.end, t.next, fmt.Errorf("%w, and segment %d begins with record %d", wrong, next.number, next.first))
	}
	found, err := r.scan(t.end)
	if err != nil {
		return false, err
	}
	if found.promised >= t.next {
		// Beside a server that runs the block may have come after the look at it, and the promise after the block. Whoever
		// sees the promise sees the block, unless it is damaged.
		r.reread()
		if _, stillWrong, err := r.block(t.end); err != nil || stillWrong == nil {
			return err == nil, err
		}
	}
	end := found.end
	if t.reused {
		end = min(found.blockEnd, r.size)
	}
	switch {
	case wrong != errNoBlock && wrong != errPayload && wrong != errTruncated:
		return false, l.corrupt(t.number, t.end, t.next, wrong) // the checksums match: no crash does that
	case found.promised >= t.next:
		return false, l.corrupt(t.number, t.end, t.next, fmt.Errorf("%w: %w, through record %d", wrong, errPromised, found.promised))
	case end > t.end:
		t.torn = true
		l.survey.torn = end - t.end
		l.o.Logger.Warn("cut the torn tail of the log: an unfinished write of a crash, never acknowledged",
			"dir", l.dir, "segment", t.number, "offset", t.end, "bytes", end-t.end, "next", t.next)
	}
	return false, nil
}

// prover keeps the blocks that no later block calls durable yet.
type prover struct {
	blocks []struct {
		offset int64
		last   uint64
	}
}

func (p *prover) add(b block) {
	proven := 0
	for proven < len(p.blocks) && p.blocks[proven].last <= b.durable {
		proven++
	}
	p.blocks = append(p.blocks[proven:], struct {
		offset int64
		last   uint64
	}{b.offset, b.last()})
}

// first returns where the unproven blocks begin, end if there are none.
func (p *prover) first(end int64) int64 {
	if len(p.blocks) == 0 {
		return end
	}
	return p.blocks[0].offset
}

// Start makes what was replayed durable, begins a new segment and starts the commit loop; it replays by itself what
// was not. The commit loop calls committed, which may be nil, after each batch with its LSNs, its records, valid during
// the call only, and the time that sealing, writing and syncing took: in LSN order, after waiters were woken. It must
// not block: the next batch waits for it. After an error only Close may be called. Not concurrently with Close.
func (l *Log) Start(committed func(first, last uint64, records iter.Seq[[]byte], took time.Duration)) error {
	l.mu.Lock()
	life := l.life
	l.mu.Unlock()
	if life != opened {
		return ErrClosed
	}
	if l.replayed == nil {
		if err := l.Replay(max(l.First(), 1)-1, func(uint64, []byte) error { return nil }); err != nil {
			return err
		}
	}
	t := l.replayed
	if err := l.settleTail(t); err != nil {
		return err
	}
	number := l.freshNumber(t)
	if err := l.removeUnused(number); err != nil {
		return err
	}
	if err := l.removeAllRetired(); err != nil {
		return err
	}
	if err := l.beginFresh(number, t.next); err != nil {
		return err
	}
	l.committedFunc = committed
	l.startAt(t.next - 1)
	return nil
}

// settleTail makes the end of the last segment durable, header and all, before anything is served from it or written
// after it. The unproven part is written again, with the same bytes: a sync alone would not help where an earlier one
// failed, since the kernel then calls pages clean that never reached the disk.
func (l *Log) settleTail(t *tail) (err error) {
	if t.number == 0 {
		return nil
	}
	f, err := l.o.FS.OpenReadWrite(l.segmentPath(t.number), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("wal: open segment %d: %w", t.number, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := rewrite(f, 0, segmentHeaderBytes); err != nil {
		return fmt.Errorf("wal: rewrite header of segment %d: %w", t.number, err)
	}
	if err := rewrite(f, t.unproven, t.end); err != nil {
		return fmt.Errorf("wal: rewrite tail of segment %d: %w", t.number, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("wal: sync segment %d: %w", t.number, err)
	}
	if err := dirsync.Sync(l.o.FS, l.dir); err != nil {
		return fmt.Errorf("wal: sync %s: %w", l.dir, err)
	}
	return nil
}

// rewrite writes the bytes of a file from one offset to another in their place.
func rewrite(f vfs.File, from, to int64) error {
	b := make([]byte, min(windowBytes, to-from))
	for from < to {
		n := min(int64(len(b)), to-from)
		if _, err := f.ReadAt(b[:n], from); err != nil {
			return err
		}
		if _, err := f.WriteAt(b[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// freshNumber is the number of the segment with which Start goes on. The last one, if nothing was ever appended to it, gives
// way to it: else a server that is restarted again and again would pile up empty files.
func (l *Log) freshNumber(t *tail) uint64 {
	if t.number == 0 || t.next != t.first || t.torn {
		return t.number + 1
	}
	l.mu.Lock() // Stats may look already
	defer l.mu.Unlock()
	l.segments = l.segments[:len(l.segments)-1]
	return t.number
}

// removeUnused removes segments that were prepared in vain, but not the one whose place the given number takes.
func (l *Log) removeUnused(fresh uint64) error {
	slices.Sort(l.unused)
	for _, n := range slices.Backward(l.unused) {
		if n == fresh {
			continue
		}
		if err := l.o.FS.Remove(l.segmentPath(n)); err != nil {
			return fmt.Errorf("wal: remove unused segment %d: %w", n, err)
		}
		// One by one: a crash must not bring back a later one without the one before it.
		if err := dirsync.Sync(l.o.FS, l.dir); err != nil {
			return fmt.Errorf("wal: sync %s: %w", l.dir, err)
		}
	}
	l.unused = nil
	return nil
}

// freshName is no segment's name: what a crash leaves under it is overwritten by the next Start.
const freshName = "fresh" + segmentSuffix

// beginFresh begins the first segment of this life. It appears under its name with its header in it, so that no crash leaves
// the directory without a segment: that would look like a log that somebody took away.
func (l *Log) beginFresh(number, first uint64) error {
	path := l.o.FS.PathJoin(l.dir, freshName)
	s, err := l.createSegment(path, number, segmentBuffers*int64(l.o.BufferBytes))
	if err != nil {
		return err
	}
	l.writer = writer{segment: s, written: first - 1, timer: newStoppedTimer()}
	l.prepared++
	if err := l.begin(s, first); err != nil {
		return errors.Join(err, s.file.Close())
	}
	if err := l.o.FS.Rename(path, l.segmentPath(number)); err != nil {
		return errors.Join(fmt.Errorf("wal: rename %s to segment %d: %w", path, number, err), s.file.Close())
	}
	if err := dirsync.Sync(l.o.FS, l.dir); err != nil {
		return errors.Join(fmt.Errorf("wal: sync %s: %w", l.dir, err), s.file.Close())
	}
	return nil
}

// startAt lets appenders in behind the given last LSN.
func (l *Log) startAt(last uint64) {
	l.batches = [2]*batch{newBatch(l.o.BufferBytes), newBatch(l.o.BufferBytes)}
	l.sealed = last
	l.state.Store(last << countShift)
	l.committed.Store(last)
	l.durable.Store(last)
	l.batches[0].done = make(chan struct{})
	before := l.waiting.Swap(&waiting{sealed: last, inFlight: make(chan struct{}), filling: l.batches[0].done})
	close(before.inFlight) // who waited for a record that was being replayed looks again
	close(before.filling)
	l.mu.Lock()
	l.life = started
	l.mu.Unlock()
	go l.prepareLoop(l.writer.segment.number+1, l.nextSize(l.writer.segment.size))
	go l.commitLoop()
	l.credit.Add(biasClosed)
}

func newStoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}
