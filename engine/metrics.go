package engine

import (
	"math"
	"sync/atomic"
	"time"

	"rollcall/engine/broadcast"
	"rollcall/engine/table"
	"rollcall/record"
)

// lanes is how many sets of counters there are: more than the processors that work on heartbeats at a time.
const lanes = 32

// counters are what Stats sums.
type counters struct {
	// Every heartbeat counts something. A caller uses its Heartbeats again, mostly on the processor where it used them
	// before, so each has a lane and processors do not fight for a cache line. Lane 0 is the loops'.
	lanes [lanes]lane
	next  atomic.Uint32 // the lane that the next new Heartbeat gets

	expired, forgotten atomic.Uint64
	devicesRefused     atomic.Uint64

	checkpointFailures atomic.Uint64
	checkpointed       atomic.Int64 // unix nanoseconds, of New before the first
	checkpointTook     atomic.Int64 // nanoseconds
}

// lane is one set of counters.
type lane struct {
	accepted, stale, unavailable atomic.Uint64

	// devices with each Status: those that came minus those that went. Below zero here and there, never in the sum.
	devices [2]atomic.Int64

	_ [88]byte // 128 bytes: lanes share no cache line, nor the pair of lines that processors fetch together
}

// lane returns the counters of a Heartbeat.
func (c *counters) lane(hb *Heartbeat) *lane {
	if hb.lane == 0 {
		hb.lane = uint8(1 + c.next.Add(1)%(lanes-1))
	}
	return &c.lanes[hb.lane]
}

// count counts heartbeats whose outcome may be told.
func (l *lane) count(o Outcome, n uint64) {
	if o == Accepted {
		l.accepted.Add(n)
	} else {
		l.stale.Add(n)
	}
}

// moved counts a device whose state changed. Most heartbeats change no status, and count nothing here.
func (l *lane) moved(was, is *table.State) {
	if was.LSN != 0 {
		if was.Online == is.Online {
			return
		}
		l.devices[statusOf(was)].Add(-1)
	}
	l.devices[statusOf(is)].Add(1)
}

func statusOf(s *table.State) Status {
	if s.Online {
		return Online
	}
	return Offline
}

// refuse answers a heartbeat that could not be taken.
func (e *Engine) refuse(hb *Heartbeat, err error) Result {
	e.counters.lane(hb).unavailable.Add(1)
	return Result{Outcome: Unavailable, Err: err}
}

// received is when the heartbeat behind a record was received, on the engine's clock. The device's entry knows, since its
// deadline is counted from then. 0: the record is an expiry, or the device has moved on.
func (e *Engine) received(r record.View, lsn uint64) int64 {
	s := r.State()
	if s.Expired {
		return 0
	}
	_, entry := e.table.Find(r.User(), r.Device())
	if entry == nil || entry.LSN() != lsn {
		return 0
	}
	deadline := entry.DeadlineNanos()
	if entry.LSN() != lsn || deadline == math.MaxInt64 { // the deadline is another commit's, or saturated
		return 0
	}
	return max(0, deadline-ttlNanos(s.TTLMS))
}

// Stats is a reading of the engine's counters since New.
type Stats struct {
	Accepted, Stale, Unavailable uint64 // heartbeats by outcome
	Expired, Forgotten           uint64
	DevicesRefused               uint64 // heartbeats of new devices that found the table full

	Online, Offline int // devices by status
	Devices         int // slots of the table in use: these, and for a moment those that are coming or going
	MaxDevices      int // that may be in use
	Users           int

	CheckpointFailures uint64
	Checkpointed       time.Time     // when the last checkpoint was done; when New was called before the first
	CheckpointTook     time.Duration // how long it took

	Streams broadcast.Stats
}

// Stats reads the counters; they are not one consistent cut.
func (e *Engine) Stats() Stats {
	c := &e.counters
	s := Stats{
		Expired: c.expired.Load(), Forgotten: c.forgotten.Load(), DevicesRefused: c.devicesRefused.Load(),
		Devices: e.table.Len(), MaxDevices: e.table.MaxDevices(), Users: e.table.Users(),
		CheckpointFailures: c.checkpointFailures.Load(), Checkpointed: time.Unix(0, c.checkpointed.Load()), CheckpointTook: time.Duration(c.checkpointTook.Load()),
		Streams: e.streams.Stats(),
	}
	var devices [2]int64
	for i := range c.lanes {
		l := &c.lanes[i]
		s.Accepted += l.accepted.Load()
		s.Stale += l.stale.Load()
		s.Unavailable += l.unavailable.Load()
		devices[Online] += l.devices[Online].Load()
		devices[Offline] += l.devices[Offline].Load()
	}
	// A device that moved between two lanes while they were summed may be in neither.
	s.Online, s.Offline = int(max(0, devices[Online])), int(max(0, devices[Offline]))
	return s
}
