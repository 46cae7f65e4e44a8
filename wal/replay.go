package wal

import (
	"errors"
	"fmt"
)

// replay is Log.Replay.
func (r *recovery) replay(after uint64, apply func(lsn uint64, record []byte) error) error {
	all := r.segments.list()
	if len(all) == 0 {
		if r.damage != nil {
			return r.damage
		}
		if after > 0 || r.known.newest.number > 0 {
			return &MissingError{Dir: r.dir.path, After: after, Newest: r.known.newest.number}
		}
		return r.begin(0)
	}
	if first := all[0].first; first > after+1 {
		return r.dir.corrupt(all[0].number, 0, after+1, fmt.Errorf("the log begins at record %d: "+
			"an older segment is missing, or the checkpoint that held what was in it", first))
	}
	p := replayer{dir: r.dir, survey: &r.survey, after: after, apply: apply}
	if r.damage == nil { // else the segments end before the log does
		p.durable = r.known.durable
	}
	if err := p.run(all); err != nil {
		return err
	}
	if r.damage != nil {
		return r.damage
	}
	if p.next <= after {
		return r.dir.corrupt(p.number, p.end, p.next, fmt.Errorf("the log ends before record %d, "+
			"which was durable: it is older than what it is replayed onto", after))
	}
	r.tail = &p.tail
	return nil
}

// replayer reads the records above an LSN. Its tail is where it is.
type replayer struct {
	dir    *directory
	survey *survey
	tail
	after   uint64
	durable uint64 // an LSN that the control file calls durable
	apply   func(lsn uint64, record []byte) error
}

// run reads the segments that hold records above after.
func (p *replayer) run(all []segmentName) error {
	start := 0
	for start+1 < len(all) && all[start+1].first <= p.after+1 {
		start++
	}
	for _, s := range all[:start] {
		if s.size < s.made { // its records are in the checkpoint, but the log is not what it was
			return p.dir.corrupt(s.number, s.size, s.first, cutOff(s.size, s.made))
		}
	}
	p.survey.begin(all, start)
	p.next = all[start].first
	for i, s := range all[start:] {
		p.survey.enter(start + i)
		p.number, p.first, p.made, p.recycled = s.number, s.first, s.made, s.recycled
		p.end, p.unproven = segmentHeaderBytes, segmentHeaderBytes
		var following *segmentName
		if start+i+1 < len(all) {
			following = &all[start+i+1]
		}
		if err := p.segment(following); err != nil {
			return err
		}
	}
	return nil
}

// cutOff says that a file is shorter than it was made: before its first block a segment has its
// whole size, so no crash leaves that.
func cutOff(size, made int64) error {
	return fmt.Errorf("the file has %d bytes, but was made with %d: its end was cut off", size, made)
}

// segment reads one segment's blocks and judges where they end.
func (p *replayer) segment(following *segmentName) (err error) {
	file, err := p.dir.open(p.number)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.close()) }()
	var unproven unprovenBlocks
	for {
		b, wrong, err := file.block(p.end)
		if err != nil {
			return err
		}
		if wrong != nil {
			p.end = min(p.end, file.size) // the last block's padding may be cut off
			p.unproven = unproven.first(p.end)
			if more, err := p.judgeEnd(file, following, wrong); !more {
				return err
			}
			continue
		}
		if b.first != p.next {
			return p.dir.corrupt(p.number, b.offset, p.next,
				fmt.Errorf("the block there begins with record %d", b.first))
		}
		unproven.add(b)
		p.end += b.bytes()
		p.survey.add(b)
		if err := p.records(b); err != nil {
			return err
		}
	}
}

// records applies the records of a block.
func (p *replayer) records(b block) error {
	for record := range recordsIn(b.payload) {
		lsn := p.next
		p.next++
		if lsn <= p.after {
			continue
		}
		if err := p.apply(lsn, record); err != nil {
			return fmt.Errorf("wal: replay record %d: %w", lsn, err)
		}
	}
	return nil
}

// judgeEnd decides what it means that no block of the next record could be read where it should be;
// doc.go has the picture. True: now there is one.
func (p *replayer) judgeEnd(
	file *segmentReader, following *segmentName, wrong error,
) (more bool, err error) {
	if file.size < p.made {
		return false, p.dir.corrupt(p.number, p.end, p.next, cutOff(file.size, p.made))
	}
	if following != nil {
		if following.first == p.next {
			return false, nil // the segment was full, or an earlier recovery cut it here
		}
		return false, p.dir.corrupt(p.number, p.end, p.next, fmt.Errorf(
			"%w, and segment %d begins with record %d", wrong, following.number, following.first))
	}
	found, err := file.scan(p.end)
	if err != nil {
		return false, err
	}
	if max(found.promised, p.durable) >= p.next {
		// Beside a server that runs, the block may have come after the reader was there, and the
		// promise after the block. A reader that sees the promise sees the block, unless it is
		// damaged.
		file.reread()
		if _, stillWrong, err := file.block(p.end); err != nil || stillWrong == nil {
			return err == nil, err
		}
	}
	return false, p.judgeTail(file, found, wrong)
}

// judgeTail decides whether what lies behind the last block of the log is damage, and cuts it when
// it is not.
func (p *replayer) judgeTail(file *segmentReader, found remains, wrong error) error {
	if wrong != errNoBlock && wrong != errPayload && wrong != errTruncated {
		// The checksums match: no crash does that.
		return p.dir.corrupt(p.number, p.end, p.next, wrong)
	}
	if found.promised >= p.next {
		return p.dir.corrupt(p.number, p.end, p.next, fmt.Errorf(
			"%w: %w, through record %d", wrong, errPromised, found.promised))
	}
	if p.durable >= p.next {
		return p.dir.corrupt(p.number, p.end, p.next, fmt.Errorf(
			"%w: %s calls the records through %d durable, and they cannot be read",
			wrong, ControlName, p.durable))
	}
	end := found.end
	if p.recycled {
		end = min(found.blockEnd, file.size)
	}
	if end > p.end {
		p.torn = true
		p.survey.torn = end - p.end
	}
	return nil
}

// unprovenBlocks are the blocks that no later block calls durable yet.
type unprovenBlocks []struct {
	offset int64
	last   uint64
}

func (u *unprovenBlocks) add(b block) {
	proven := 0
	for proven < len(*u) && (*u)[proven].last <= b.durable {
		proven++
	}
	*u = append((*u)[proven:], struct {
		offset int64
		last   uint64
	}{b.offset, b.last()})
}

// first returns where the unproven blocks begin, end if there are none.
func (u unprovenBlocks) first(end int64) int64 {
	if len(u) == 0 {
		return end
	}
	return u[0].offset
}
