package wal

import (
	"sync/atomic"
	"time"
)

// counters are written in turns and read by Stats.
type counters struct {
	batches, records, payloadBytes  atomic.Uint64
	syncs, syncNanos, lastSyncNanos atomic.Uint64
}

func (c *counters) addBatch(records uint64, bytes int) {
	c.batches.Add(1)
	c.records.Add(records)
	c.payloadBytes.Add(uint64(bytes))
}

func (c *counters) addSync(took time.Duration) {
	c.syncs.Add(1)
	c.syncNanos.Add(uint64(took))
	c.lastSyncNanos.Store(uint64(took))
}

// Stats is what the log has done since Start and how it stands, for metrics. The fields are read
// one after the other, not at one instant.
type Stats struct {
	Batches      uint64        // batches committed
	Records      uint64        // records committed
	PayloadBytes uint64        // bytes of these with their lengths, without headers and padding
	Syncs        uint64        // syncs of segments
	SyncTime     time.Duration // all of them together
	LastSync     time.Duration // the last one

	Segments     int   // segments with records, the current one included
	SegmentBytes int64 // size of their files, and of those that will be recycled
	RoomLeft     int64 // bytes left in the current segment

	Appended, Committed, Durable uint64 // LSNs

	BufferBytes     int  // capacity for records that are reserved or filling
	BufferUsedBytes int  // of it in use
	NoSpace         bool // see Log.NoSpace
	Failed          bool // see Log.Failed

	Committing time.Duration // see Log.Committing
	Stalls     uint64        // commits that were in flight for longer than a second
}

// Stats returns the log's figures. Any goroutine.
func (l *Log) Stats() Stats {
	free := l.credits.free()
	s := Stats{
		Batches:         l.stats.batches.Load(),
		Records:         l.stats.records.Load(),
		PayloadBytes:    l.stats.payloadBytes.Load(),
		Syncs:           l.stats.syncs.Load(),
		SyncTime:        time.Duration(l.stats.syncNanos.Load()),
		LastSync:        time.Duration(l.stats.lastSyncNanos.Load()),
		RoomLeft:        l.gate.roomLeft(),
		Appended:        l.Appended(),
		Committed:       l.Committed(),
		Durable:         l.Durable(),
		BufferBytes:     l.o.BufferBytes,
		BufferUsedBytes: l.o.BufferBytes - int(free),
		NoSpace:         l.NoSpace(),
		Failed:          l.Err() != nil,
		Committing:      l.Committing(),
		Stalls:          l.stall.count.Load(),
	}
	all := l.segments.list()
	s.Segments = len(all)
	for _, segment := range all {
		s.SegmentBytes += segment.size
	}
	s.SegmentBytes += int64(l.recycler.count()) * l.o.SegmentBytes
	return s
}
