package wal

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// preparer keeps one segment ready beyond the current one (W7). Its goroutine runs from Start until
// the commit loop is gone. A failure is no failure of the log (I6): it is logged once, retried, and
// meanwhile the gate may refuse new records.
type preparer struct {
	dir      *directory
	gate     *gate
	recycler *recycler
	largest  int64         // Options.SegmentBytes
	retry    time.Duration // between attempts

	spares  chan *segment   // prepared segments, for the writer
	closing <-chan struct{} // closed by Close: no rests any more
	stop    chan struct{}   // closed when the commit loop is gone: no more segments needed
	done    chan struct{}   // closed when the preparer is gone
}

// run prepares one segment after the other, from the given number and size on.
func (p *preparer) run(number uint64, size int64) {
	defer close(p.done)
	for {
		s, err := p.prepare(number, size)
		if p.dir.guard.failure() == nil { // or the log fails, which says why
			p.report(err)
		}
		if err != nil {
			select {
			case <-time.After(p.retry):
				continue
			case <-p.stop:
				return
			}
		}
		select {
		case p.spares <- s:
			number++
			size = p.next(size)
		case <-p.stop:
			p.discard(s)
			return
		}
	}
}

// prepare recycles a file, or makes a new one.
func (p *preparer) prepare(number uint64, size int64) (*segment, error) {
	if err := p.dir.guard.check(); err != nil {
		return nil, err
	}
	if s := p.recycler.recycle(number, size); s != nil {
		return s, nil
	}
	return p.dir.create(p.dir.segment(number), number, size, p.rest)
}

// next doubles a segment's size up to the configured one: a small server does not begin by filling
// 64 MiB. The second one has the size of the first, which has little room before it is wanted.
func (p *preparer) next(size int64) int64 { return min(2*size, p.largest) }

// rest leaves the disk to the commit loop for as long as it was taken, unless the segment would not
// be ready in time or the log closes. A young log's first segments are small, and none of them
// leaves time for a rest before most of the next one is filled.
func (p *preparer) rest(unfilled int64, took time.Duration) {
	if p.gate.behind(unfilled) {
		return
	}
	select {
	case <-time.After(min(took, 100*time.Millisecond)):
	case <-p.closing:
	}
}

// discard removes a segment that was prepared in vain. Recovery would do it too.
func (p *preparer) discard(s *segment) {
	err := s.file.Close()
	if p.dir.guard.check() == nil {
		err = errors.Join(err, p.dir.fs.Remove(p.dir.segment(s.number)))
	}
	if err != nil {
		p.dir.logger.Debug("prepared segment stays behind",
			"dir", p.dir.path, "segment", s.number, "err", err)
	}
}

// report counts a prepared segment, or logs once that there is none.
func (p *preparer) report(err error) {
	failing := err != nil
	if was := p.gate.noSpace.Swap(failing); was != failing {
		log := p.dir.logger
		switch {
		case !failing:
			log.Info("write-ahead log can prepare segments again", "dir", p.dir.path)
		case vfs.IsNoSpaceError(err):
			log.Warn("no disk space for the next log segment; "+
				"records are refused when the current one is full", "dir", p.dir.path, "err", err)
		default:
			log.Error("cannot prepare the next log segment; "+
				"records are refused when the current one is full", "dir", p.dir.path, "err", err)
		}
	}
	if !failing {
		p.gate.addPrepared()
	}
}
