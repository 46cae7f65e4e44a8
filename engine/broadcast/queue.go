package broadcast

import "github.com/google/uuid"

// event is one event of a run; its bytes end at end, and begin where those of the event before it
// end.
type event struct {
	user   uuid.UUID
	lsn    uint64
	end    uint32
	source Source
}

const eventBytes = 32 // of an event, in a run's size

// run is a sequence of events, in LSN order by source.
type run struct {
	events []event
	bytes  []byte
}

func (r *run) size() int { return len(r.bytes) + eventBytes*len(r.events) }

func (r *run) add(e event, bytes []byte) {
	r.bytes = append(r.bytes, bytes...)
	e.end = uint32(len(r.bytes))
	r.events = append(r.events, e)
}

// addAll appends another run.
func (r *run) addAll(o *run) {
	base := uint32(len(r.bytes))
	r.bytes = append(r.bytes, o.bytes...)
	for _, e := range o.events {
		e.end += base
		r.events = append(r.events, e)
	}
}

// drop removes the events of one source and returns how many there were.
func (r *run) drop(source Source) int {
	before := len(r.events)
	kept := run{r.events[:0], r.bytes[:0]} // in place: it never overtakes the reading
	start := uint32(0)
	for _, e := range r.events {
		if e.source != source {
			kept.add(e, r.bytes[start:e.end])
		}
		start = e.end
	}
	*r = kept
	return before - len(kept.events)
}

func (r *run) reset() { r.events, r.bytes = r.events[:0], r.bytes[:0] }

// batch is what a source publishes until its next Flush. Single writer: the source's commit loop.
type batch struct {
	begun  bool    // the inboxes know of it (B9)
	lists  bool    // there are list streams that may get something of it
	last   uint64  // LSN that was published last
	stages []stage // by worker
}

// stage collects what a source publishes for one worker until its next Flush. Past its bound it
// drops the events and is lost: the worker makes up for them with snapshots. Single writer: the
// source's commit loop.
type stage struct {
	run
	wanted  bool // there are streams that may get something of it
	lost    bool
	full    bool   // lost because of the bound
	dropped uint64 // events
}

func (s *stage) add(e event, bytes []byte, limit int) {
	if !s.lost && s.size()+len(bytes)+eventBytes > limit {
		s.full = true
		s.lose()
	}
	if s.lost {
		s.dropped++
		return
	}
	s.run.add(e, bytes)
}

// lose drops the events, and those that come before the next Flush.
func (s *stage) lose() {
	s.lost = true
	s.dropped += uint64(len(s.events))
	s.run.reset()
}

func (s *stage) reset() {
	*s = stage{run: run{s.events[:0], s.bytes[:0]}}
}

// queue is what waits for a worker, of all sources, up to a bound of bytes. A source in lost has
// lost events: the worker makes up for them with snapshots.
type queue struct {
	run
	lost    sourceSet
	full    bool   // something was dropped because of the bound
	dropped uint64 // events
	since   int64  // receipt of the first event; 0: not known
}

// take appends a source's stage and empties it.
func (q *queue) take(source Source, s *stage, sinceNanos int64, limit int) {
	switch {
	case s.lost:
		q.lost.add(source)
		q.full = q.full || s.full
		q.dropped += s.dropped + uint64(q.run.drop(source))
	case q.lost.has(source): // its streams get the newest states, these events' too
		q.dropped += uint64(len(s.events))
	case q.size()+s.size() > limit:
		q.full = true
		q.lost.add(source)
		for i := range q.events {
			q.lost.add(q.events[i].source)
		}
		q.dropped += uint64(len(q.events) + len(s.events))
		q.run.reset()
	default:
		if q.since == 0 {
			q.since = sinceNanos
		}
		if len(q.events) == 0 {
			q.run, s.run = s.run, q.run
		} else {
			q.run.addAll(&s.run)
		}
	}
	s.reset()
}

func (q *queue) reset() {
	q.run.reset()
	clear(q.lost)
	q.full, q.dropped, q.since = false, 0, 0
}
