package engine

import (
	"sync/atomic"
	"time"

	"rollcall/engine/broadcast"
	"rollcall/engine/table"
)

// stripes is how many sets of counters there are: more than the processors that work on heartbeats
// at a time.
const stripes = 32

// counters count heartbeats and devices. Every heartbeat counts something. A caller uses its
// Heartbeats again, mostly on the processor where it used them before, so each has a stripe and
// processors do not fight for a cache line.
type counters struct {
	stripes [stripes]stripe
	next    atomic.Uint32 // the stripe that the next new Heartbeat gets
}

// stripe is one set of counters.
type stripe struct {
	accepted, stale, unavailable atomic.Uint64

	// devices with each Status: those that came minus those that went. Below zero here and there,
	// never in the sum.
	devices [2]atomic.Int64

	// 128 bytes: stripes share no cache line, nor the pair of lines that processors fetch together.
	_ [88]byte
}

// stripe returns the counters of a Heartbeat.
func (c *counters) stripe(hb *Heartbeat) *stripe {
	if hb.stripe == 0 {
		hb.stripe = uint8(1 + c.next.Add(1)%(stripes-1))
	}
	return &c.stripes[hb.stripe]
}

// loops returns the counters of the engine's own loops, stripe 0.
func (c *counters) loops() *stripe { return &c.stripes[0] }

// count counts heartbeats whose outcome may be reported.
func (t *stripe) count(o Outcome, n uint64) {
	if o == Accepted {
		t.accepted.Add(n)
	} else {
		t.stale.Add(n)
	}
}

// moved counts a device whose state changed. Most heartbeats change no status, and count nothing
// here.
func (t *stripe) moved(was, is *table.State) {
	if was.LSN != 0 {
		if was.Online == is.Online {
			return
		}
		t.devices[was.Status()].Add(-1)
	}
	t.devices[is.Status()].Add(1)
}

// Stats is a reading of the engine's counters since New.
type Stats struct {
	Accepted, Stale, Unavailable uint64 // heartbeats by outcome
	Expired, Forgotten           uint64
	DevicesRefused               uint64 // heartbeats of new devices that found the table full
	UserDevicesRefused           uint64 // heartbeats of new devices of a user with too many

	Online, Offline int // devices by status
	Devices         int // slots in use: these, and for a moment those that are coming or going
	MaxDevices      int // that may be in use
	Users           int
	UsersOnline     int // that have a device online

	Sources     int   // distinct source texts of the devices
	SourceBytes int64 // their length together

	CheckpointFailures uint64
	Checkpointed       time.Time     // when the last checkpoint was done; of New before the first
	CheckpointTook     time.Duration // how long it took

	Streams broadcast.Stats
}

// Stats reads the counters; they are not one consistent cut.
func (e *Engine) Stats() Stats {
	c := e.checkpoints
	s := Stats{
		Expired:            e.expiry.expired.Load(),
		Forgotten:          c.forgotten.Load(),
		DevicesRefused:     e.acceptor.tableFull.count.Load(),
		UserDevicesRefused: e.acceptor.userFull.count.Load(),
		Devices:            e.table.Len(),
		MaxDevices:         e.table.MaxDevices(),
		Users:              e.table.Users(),
		UsersOnline:        e.table.UsersOnline(),
		CheckpointFailures: c.failures.Load(),
		Checkpointed:       time.Unix(0, c.doneAt.Load()),
		CheckpointTook:     time.Duration(c.took.Load()),
		Streams:            e.streams.Stats(),
	}
	s.Sources, s.SourceBytes = e.sources.size()
	e.counters.sum(&s)
	return s
}

// sum adds the stripes up.
func (c *counters) sum(s *Stats) {
	var devices [2]int64
	for i := range c.stripes {
		t := &c.stripes[i]
		s.Accepted += t.accepted.Load()
		s.Stale += t.stale.Load()
		s.Unavailable += t.unavailable.Load()
		devices[Online] += t.devices[Online].Load()
		devices[Offline] += t.devices[Offline].Load()
	}
	// A device that moved between two stripes while they were summed may be in neither.
	s.Online, s.Offline = int(max(0, devices[Online])), int(max(0, devices[Offline]))
}
