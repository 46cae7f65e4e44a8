package wal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
)

// recovery is what a log does before Start: it finds the segments, replays their records, and makes
// the end durable. One goroutine, but for the atomics of survey.
type recovery struct {
	dir      *directory
	segments *segments
	control  *control

	known  controlState // what the control file says
	unused []uint64     // segments without a header
	tail   *tail        // what replay found; nil before
	damage error        // of a log that is only read: what find met behind the segments
	survey survey
}

// tail is the end of the log as replay found it.
type tail struct {
	next   uint64 // LSN of the next record
	number uint64 // last segment with a valid header; 0: none
	first  uint64 // its first LSN
	made   int64  // the size with which it was made; 0: unknown
	end    int64  // where its readable blocks end

	// unproven is where the blocks begin that no later block or header calls durable: after a
	// failed sync the kernel may have dropped them while its cache still shows them. settle writes
	// them again (W5).
	unproven int64
	torn     bool // bytes behind end were cut
	// recycled: the file was another segment before, so only a block header behind end is a trace
	// of a torn write.
	recycled bool
}

// find reads the control file, lists the directory and reads every segment header. Segments at the
// end whose header was never written or not finished hold nothing; settle removes them. After an
// error the segments are those before the damage. The control file comes first: beside a server
// that runs, what it says must be true of the segments that are looked at after it.
//
// Headers are read from the last to the first: beside a server that runs, a segment that had begun
// when it was looked at must not come after one that had not.
func (r *recovery) find() error {
	if err := r.control.read(); err != nil {
		return err
	}
	r.known = r.control.known()
	if r.known.incomplete {
		return fmt.Errorf("%w: %s", ErrIncomplete, r.dir.path)
	}
	numbers, err := r.dir.list(segmentSuffix)
	if err != nil {
		return err
	}
	slices.Sort(numbers)
	found := make([]foundSegment, len(numbers))
	for i, n := range slices.Backward(numbers) {
		found[i] = r.findSegment(n)
	}
	return r.take(found)
}

// take takes up what was found in ascending order, as far as it is a log.
func (r *recovery) take(found []foundSegment) error {
	var lost error      // what is wrong with the header before this one
	var previous uint64 // first LSN of the segment before this one
	for i, s := range found {
		if i > 0 && s.number != found[i-1].number+1 {
			return r.missing(found[i-1].number + 1)
		}
		if err := r.judge(s); err != nil {
			return err
		}
		switch {
		case s.unused != nil:
			r.unused = append(r.unused, s.number)
			lost = s.unused
		case len(r.unused) > 0:
			return r.dir.corrupt(r.unused[0], 0, 0,
				fmt.Errorf("%w, though segment %d was begun after it", lost, s.number))
		case s.first < previous:
			return r.dir.corrupt(s.number, 0, s.first,
				fmt.Errorf("the segment begins before the previous one, at %d", previous))
		default:
			r.segments.add(s.segmentName)
			previous = s.first
		}
	}
	return r.missingNewest(found)
}

// judge compares a segment's header with the control file.
func (r *recovery) judge(s foundSegment) error {
	wrong := func(format string, args ...any) error {
		return r.dir.corrupt(s.number, 0, s.first, fmt.Errorf(format, args...))
	}
	known, newest := r.known, r.known.newest.number
	switch {
	case s.err != nil:
		return s.err
	case s.unused != nil && s.number > newest:
		return nil
	case s.unused != nil:
		return r.dir.corrupt(s.number, 0, known.firstOf(s.number), fmt.Errorf(
			"%w (the file has %d bytes), but the segment was begun: %s",
			s.unused, s.size, known.describe()))
	case s.version == 1 && newest > 0 && s.number >= known.since:
		return wrong("the segment is of format version 1, but this log is of version 2 from "+
			"segment %d on: it is another log's", known.since)
	case s.version == 1:
		return nil
	case known.id == uuid.Nil:
		return &CorruptionError{
			Dir: r.dir.path, Path: r.control.path(), LSN: s.first, Err: errControlMissing,
		}
	case s.id != known.id:
		return wrong("the segment is of the directory with the id %s, but %s has %s: "+
			"one of the two is another log's", s.id, ControlName, known.id)
	// Beside a server that runs, the next segment may be begun and the one after it be prepared
	// when the control file is looked at, and both be begun when their headers are.
	case newest > 0 && s.number > newest+2:
		return wrong("the segment was begun after %s was written, which knows segment %d "+
			"as the newest: it is older than the log", ControlName, newest)
	}
	return nil
}

// missingNewest reports that segments are missing at the log's end. Where no segment is left,
// replay says so.
func (r *recovery) missingNewest(found []foundSegment) error {
	if len(found) == 0 || found[len(found)-1].number >= r.known.newest.number {
		return nil
	}
	return r.missing(found[len(found)-1].number + 1)
}

var errFileMissing = errors.New("the file is missing")

// missing reports that a segment is missing, with what is known of it.
func (r *recovery) missing(number uint64) error {
	newest := r.known.newest.number
	err := errFileMissing
	if number <= newest {
		err = fmt.Errorf("%w: %s", err, r.known.describe())
	}
	return r.dir.corrupt(number, 0, r.known.firstOf(number), err)
}

// firstOf returns the first LSN of the newest segment, 0 for others: it is not known.
func (s controlState) firstOf(number uint64) uint64 {
	if number != s.newest.number {
		return 0
	}
	return s.newest.first
}

// foundSegment is a segment by its header.
type foundSegment struct {
	segmentName
	version uint32
	id      uuid.UUID
	unused  error // what is wrong with the header of a segment without a block: it was never begun
	err     error // damage, a later version, or it cannot be read
}

// findSegment reads one header.
func (r *recovery) findSegment(number uint64) (s foundSegment) {
	s.number = number
	file, err := r.dir.open(number)
	if err != nil {
		s.err = err
		return s
	}
	defer func() { s.err = errors.Join(s.err, file.close()) }()
	s.size = file.size
	wrong, err := s.readHeader(r.dir, file)
	if err == nil && wrong != nil {
		// Beside a server that runs, it may have been begun since the header was read.
		file.reread()
		if wrong, err = s.readHeader(r.dir, file); err == nil && wrong != nil {
			err = r.dir.corrupt(number, 0, 0, fmt.Errorf("%w: %w", errLostHeader, wrong))
		}
	}
	s.err = err
	if s.unused != nil && s.unused != errHeaderBlank {
		r.dir.logger.Warn(
			"log segment was never begun: its header is unfinished, and it has no block",
			"dir", r.dir.path, "segment", number, "err", s.unused)
	}
	return s
}

// readHeader takes over what a header says. A segment without a valid one may be unused only if it
// has no block: any block would have been written after the header was durable (W4). lost is what
// is wrong with the header of a segment that has blocks.
func (s *foundSegment) readHeader(dir *directory, file *segmentReader) (lost, err error) {
	h, wrong := file.header(dir.segment(s.number))
	switch wrong {
	case nil:
		s.first, s.made, s.recycled = h.first, h.size, h.recycled
		s.version, s.id = h.version, h.id
		return nil, nil
	case errHeaderPlace: // its checksum matches: the file was renamed
		return nil, dir.corrupt(s.number, 0, 0, wrong)
	case errHeaderBlank, errHeaderMagic, errHeaderSum:
	default: // a later version, or it cannot be read
		return nil, wrong
	}
	blocks, err := file.scan(segmentHeaderBytes)
	if err != nil || blocks.count > 0 {
		return wrong, err
	}
	s.unused = wrong
	return nil, nil
}

// begin takes the place of replay in a directory without a segment.
func (r *recovery) begin(after uint64) error {
	if r.segments.first() > 0 || r.damage != nil {
		return fmt.Errorf("wal: begin a log in %s: it has segments", r.dir.path)
	}
	r.tail = &tail{next: after + 1}
	r.survey.next.Store(after + 1)
	return nil
}

// settle makes the end of what was replayed durable and removes segments that hold nothing. It
// returns the number of the segment with which the log goes on, and the LSN of its first record.
func (r *recovery) settle() (number, next uint64, err error) {
	if err := r.settleTail(); err != nil {
		return 0, 0, err
	}
	if t := r.tail; t.torn {
		r.dir.logger.Warn(
			"cut the torn tail of the log: an unfinished write of a crash, as far as can be told",
			"dir", r.dir.path, "segment", t.number, "offset", t.end, "bytes", r.survey.torn,
			"next", t.next)
	}
	number = r.freshNumber()
	if err := r.removeUnused(number); err != nil {
		return 0, 0, err
	}
	return number, r.tail.next, nil
}

// settleTail makes the end of the last segment durable, header and all, before anything is served
// from it or written after it. The unproven part is written again, with the same bytes: a sync
// alone would not help where an earlier one failed, since the kernel then calls pages clean that
// never reached the disk (W5).
func (r *recovery) settleTail() (err error) {
	t := r.tail
	if t.number == 0 {
		return nil
	}
	f, err := r.dir.fs.OpenReadWrite(r.dir.segment(t.number), vfs.WriteCategoryUnspecified)
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
	return r.dir.sync()
}

// tryTail finds out whether settleTail may write.
func (r *recovery) tryTail() error {
	if r.tail.number == 0 {
		return nil
	}
	return r.dir.tryWriting(r.dir.segment(r.tail.number))
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

// freshNumber is the number of the segment with which Start goes on. It takes the place of the last
// one if nothing was ever appended to that: else a server that is restarted again and again would
// pile up empty files.
func (r *recovery) freshNumber() uint64 {
	t := r.tail
	if t.number == 0 || t.next != t.first || t.torn {
		return t.number + 1
	}
	r.segments.removeLast()
	return t.number
}

// removeUnused removes segments that were prepared in vain, but not the one whose place the given
// number takes.
func (r *recovery) removeUnused(fresh uint64) error {
	slices.Sort(r.unused)
	for _, n := range slices.Backward(r.unused) {
		if n == fresh {
			continue
		}
		if err := r.dir.fs.Remove(r.dir.segment(n)); err != nil {
			return fmt.Errorf("wal: remove unused segment %d: %w", n, err)
		}
		// One by one: a crash must not bring back a later one without the one before it.
		if err := r.dir.sync(); err != nil {
			return err
		}
	}
	r.unused = nil
	return nil
}
