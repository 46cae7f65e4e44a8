package broadcast

// delivery measures, one batch at a time, when a user's streams have been given what they were owed
// of it. Single owner: the worker.
type delivery struct {
	observe func(receivedNanos int64) // nil: nothing is measured

	user     *user  // nil: none of a user's streams is on its way
	lsn      uint64 // delivered once a lap has passed it
	received int64

	lists int64 // the same of list streams: receipt of a batch with events for some; 0: none
}

// begin starts a measurement unless one is on its way.
func (d *delivery) begin(u *user, receivedNanos int64) {
	if u != nil && receivedNanos != 0 && d.user == nil && d.observe != nil {
		d.user, d.lsn, d.received = u, u.last, receivedNanos
	}
}

// beginLists starts a measurement of list streams, which are queued for a visit, unless one is on
// its way.
func (d *delivery) beginLists(receivedNanos int64) {
	if d.lists == 0 && d.observe != nil {
		d.lists = receivedNanos
	}
}

// visited ends it, when every list stream that was queued has been visited.
func (d *delivery) visited() {
	if d.lists != 0 {
		d.observe(d.lists)
		d.lists = 0
	}
}

// lapped ends the measurement when a lap of the user has passed it.
func (d *delivery) lapped(u *user) {
	if d.user == u && u.lap >= d.lsn {
		d.observe(d.received)
		d.user = nil
	}
}

// forget gives the measurement up: the user's last stream has gone.
func (d *delivery) forget(u *user) {
	if d.user == u {
		d.user = nil
	}
}
