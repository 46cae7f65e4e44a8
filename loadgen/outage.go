package loadgen

import "time"

// outages are the stretches in which a worker's heartbeats were refused or cut.
type outages struct {
	open    bool
	from    int64
	last    int64 // end of the latest one; 0: there was none
	longest int64
	// waited is the longest that a heartbeat waited which was refused or cut at first: with several
	// nodes, others are accepted meanwhile, so that stretches tell nothing.
	waited int64
}

func (u *outages) begin(now int64) {
	if !u.open {
		u.open, u.from = true, now
	}
}

func (u *outages) end(now int64) {
	if u.open {
		u.open, u.last = false, now
		u.longest = max(u.longest, now-u.from)
	}
}

// over notes that a heartbeat which was refused or cut is accepted after all.
func (u *outages) over(due, now int64) { u.waited = max(u.waited, now-due) }

// near reports whether the server may have been away within the given time before now, so that it
// owes its grace.
func (u *outages) near(now, within int64) bool {
	return u.open || u.last > 0 && now-u.last < within
}

// allowance is how much longer than usual the server may take to show a silent device offline: it
// may have postponed expiries.
func (u *outages) allowance(o *Options) time.Duration {
	if u.open || u.last > 0 {
		return min(o.TTL, o.Grace)
	}
	return 0
}
