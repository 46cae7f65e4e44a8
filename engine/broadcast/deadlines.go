package broadcast

// deadlines say when a stream is to be looked at: for its keepalive, its write timeout, the end of
// its token, its turn in draining or the end of its linger time. Single owner: its worker.
type deadlines struct {
	clock
	ring         ring
	keepalive    uint32 // ticks; 0: never
	writeTimeout uint32 // ticks
}

func (d *deadlines) start(nowNanos int64) {
	d.clock.start(nowNanos)
	d.ring.start(d.now)
}

// due is the tick at which a stream is to be looked at, as things stand. Only a shutdown and
// draining move it earlier, and they file anew, and a write that does not fit: so no stream is
// filed further ahead than the write timeout.
func (d *deadlines) due(s *stream) uint32 {
	due := d.now + min(d.writeTimeout, ringHorizon)
	switch {
	case s.backlog != nil:
		due = min(due, s.wrote+d.writeTimeout+1) // one more: wrote may lie late in its tick
	case s.state == open && d.keepalive > 0:
		due = min(due, s.wrote+d.keepalive)
	}
	if s.ends != 0 {
		due = min(due, s.ends)
	}
	return due
}

// file puts a stream into the ring at the tick when it is due. Its earlier item becomes void.
func (d *deadlines) file(s *stream) {
	due := d.ring.clip(d.due(s))
	if s.filed != due {
		s.filed = due
		d.ring.add(s.slot, due)
	}
}

// next takes the slot of a stream that may be due; tick is that of its item.
func (d *deadlines) next() (slot, tick uint32, ok bool) { return d.ring.next(d.now) }

// behind reports whether streams may be due.
func (d *deadlines) behind() bool { return d.ring.behind(d.now) }

func (d *deadlines) ended(s *stream) bool { return s.ends != 0 && d.now >= s.ends }

// timedOut reports whether a stream with a backlog has taken nothing for the write timeout.
func (d *deadlines) timedOut(s *stream) bool { return d.now > s.wrote+d.writeTimeout }

// silent reports whether a stream needs a keepalive.
func (d *deadlines) silent(s *stream) bool {
	return d.keepalive > 0 && d.now >= s.wrote+d.keepalive
}
