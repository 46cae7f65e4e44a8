package loadgen

import "math/rand/v2"

// crowd is a worker's users with their devices. Single owner: the worker's goroutine.
type crowd struct {
	users   []user
	devices []device
	moments []moment
}

// user is one simulated user: some devices, some streams that follow them.
type user struct {
	id     uuid
	text   string
	token  string // of its streams; minted at the first connect
	prefix []byte // of its frames; set with the token
	first  uint32 // its devices are crowd.devices[first : first+count]
	count  uint32
	turn   uint32 // under skew: which of its devices sends next
}

// device is one simulated daemon. Its heartbeats are numbered 1, 2, …; on the wire seq is the run's
// base plus the number. A number is used until it is known to be accepted, so accepted numbers have
// no gaps and a gap on a stream is a finding.
type device struct {
	id uuid
	// a copy: a batch names thousands of devices, and each look at a user is a cache miss
	userID uuid
	user   uint32
	acked  uint32 // number of the last heartbeat that is known to be accepted; 0: none
	sent   uint32 // highest number that was written to a socket
	ring   uint32 // its moments are crowd.moments[ring : ring+mask+1], by number
	mask   uint32
	busy   bool  // a heartbeat is outstanding or waits for its retry
	silent int64 // from this instant of the run's clock on it sends nothing
} // 64 bytes, a cache line: devices are met in random order

// idle reports whether a closed loop may use the device.
func (d *device) idle(now int64) bool { return !d.busy && now < d.silent }

// moment is when a heartbeat was due and when it was first written. The last few of each device are
// kept, for the latency of frames and the lateness of expiries.
type moment struct{ due, written int64 }

// add makes a user with its devices. rate is the heartbeats per second of each.
func (c *crowd) add(o *Options, rng *rand.Rand, rate float64) {
	// Frames may come this many heartbeats of their device after their own and are still measured.
	const memory = 10 // seconds
	size := uint32(2)
	for float64(size) < rate*memory && size < 1<<14 && size < uint32(1<<20/o.DevicesPerUser) {
		size *= 2
	}
	u := user{id: newUUID(rng), first: uint32(len(c.devices)), count: uint32(o.DevicesPerUser)}
	u.id.setIndex(uint32(len(c.users)))
	u.text = u.id.String()
	if o.StreamsPerUser == 0 && o.Lists == 0 && o.NoVerify {
		// No frame asks for a moment: one for all devices saves a cache miss per heartbeat.
		c.moments, size = c.moments[:0], 1
	}
	for i := range u.count {
		d := device{id: newUUID(rng), userID: u.id, user: uint32(len(c.users)),
			ring: uint32(len(c.moments)), mask: size - 1, silent: never}
		d.id.setIndex(i)
		c.devices = append(c.devices, d)
		for range size {
			c.moments = append(c.moments, moment{never, never})
		}
	}
	c.users = append(c.users, u)
}

// devicesOf returns the devices of a user, by index.
func (c *crowd) devicesOf(u uint32) []device {
	first := c.users[u].first
	return c.devices[first : first+c.users[u].count]
}

// momentOf is where the moment of heartbeat n of d is kept.
func (c *crowd) momentOf(d *device, n uint32) *moment { return &c.moments[d.ring+n&d.mask] }

// moment returns when heartbeat n of d was due and written, if that is remembered.
func (c *crowd) moment(d *device, n uint32) (m moment, ok bool) {
	if n == 0 || d.sent-n > d.mask {
		return m, false
	}
	return *c.momentOf(d, n), true
}

// oldest is the moment of heartbeat n of d. That of a very late frame may be forgotten; then the
// oldest that is remembered stands in, and the frame counts as late as can be said.
func (c *crowd) oldest(d *device, n uint32) moment {
	if d.sent-n > d.mask {
		n = d.sent - d.mask
	}
	return *c.momentOf(d, n)
}

// silence chooses the devices that fall silent, and when: all at eventAt, or each at its own time,
// early enough to go offline during the load.
func (c *crowd) silence(o *Options, rng *rand.Rand, measured int64, together bool, eventAt int64) {
	if o.SilentShare == 0 {
		return
	}
	room := max(int64(o.Duration-o.TTL-o.MaxWait), int64(o.Duration/2))
	for i := range c.devices {
		if rng.Float64() >= o.SilentShare {
			continue
		}
		c.devices[i].silent = eventAt
		if !together {
			c.devices[i].silent = measured + rng.Int64N(room)
		}
	}
}
