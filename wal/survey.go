package wal

import (
	"slices"
	"sync/atomic"

	"github.com/google/uuid"
)

// Segment is what a segment of a log holds, as Replay found it.
type Segment struct {
	Number uint64 `json:"segment"`
	Bytes  int64  `json:"bytes"` // size of the file
	First  uint64 `json:"first_lsn"`
	// Last is the LSN of its last record, First-1 when it has none.
	Last uint64 `json:"last_lsn"`
	// Read says that its blocks were looked at: not those of segments that a checkpoint covers
	// whole.
	Read    bool   `json:"read"`
	Used    int64  `json:"used_bytes"` // where its readable blocks end
	Blocks  int    `json:"blocks"`
	Records uint64 `json:"records"`
	Durable uint64 `json:"durable_lsn"` // highest LSN that its header or a block calls durable
}

// Survey is what Replay found in a log. After an error of Replay it ends at the damage.
type Survey struct {
	Segments  []Segment
	Next      uint64   // LSN of the next record; 0 when none was looked for
	TornBytes int64    // length of the torn tail in the last segment, where its readable blocks end
	Prepared  []uint64 // numbers of segments that were never begun
	ID        string   // of the directory; empty: it is of format version 1
	Closed    bool     // the log was closed in order, and nothing was begun since
}

// survey is filled by Replay: one goroutine, but for the atomics.
type survey struct {
	segments []Segment
	reading  *Segment // one of segments
	torn     int64

	next        atomic.Uint64 // LSN of the next record
	done, total atomic.Int64  // bytes of segments that were read, and that are to be read
	before      int64         // done when the segment that is being read was begun
}

// begin lists the segments; those from start on will be read.
func (s *survey) begin(all []segmentName, start int) {
	s.segments = unread(all)
	for _, n := range all[start:] {
		s.total.Add(n.size)
	}
	s.next.Store(all[start].first)
}

// unread is what the headers tell of segments.
func unread(all []segmentName) []Segment {
	segments := make([]Segment, len(all))
	for i, n := range all {
		before := n.first - 1
		segments[i] = Segment{
			Number: n.number, Bytes: n.size, First: n.first, Last: before, Durable: before,
		}
		if i+1 < len(all) {
			segments[i].Last = all[i+1].first - 1
		}
	}
	return segments
}

// enter begins to read a segment.
func (s *survey) enter(i int) {
	if s.reading != nil {
		s.before += s.reading.Bytes
	}
	s.reading = &s.segments[i]
	s.reading.Read, s.reading.Last, s.reading.Used = true, s.reading.First-1, segmentHeaderBytes
}

// add counts a block that was read.
func (s *survey) add(b block) {
	at := s.reading
	at.Blocks++
	at.Records += uint64(b.records)
	at.Last = b.last()
	at.Durable = max(at.Durable, b.durable)
	at.Used = min(b.offset+b.bytes(), at.Bytes) // the last block's padding may be cut off
	s.done.Store(s.before + at.Used)
	s.next.Store(b.last() + 1)
}

// surveyed is Log.Survey.
func (r *recovery) surveyed() Survey {
	s := Survey{
		Segments:  r.survey.segments,
		Next:      r.survey.next.Load(),
		TornBytes: r.survey.torn,
		Prepared:  slices.Clone(r.unused),
		Closed:    r.known.closed,
	}
	if r.known.id != uuid.Nil {
		s.ID = r.known.id.String()
	}
	if s.Segments == nil { // Replay read none
		s.Segments = unread(r.segments.list())
	}
	return s
}
