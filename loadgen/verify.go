package loadgen

import "time"

// checks is the last act: after the load every user's snapshot is fetched on a new stream and compared with what was
// acknowledged. It sees what no stream of the run could, such as users without streams and a server that forgets.
type checks struct {
	users     []uint32 // still to do
	active    []*watch
	histogram *histogram
}

const activeChecks = 32 // per worker

func (w *worker) beginVerify() {
	w.checks.histogram = newHistogram()
	o := w.o
	if o.NoOracle || o.NoVerify || o.StreamToken == nil {
		return
	}
	step := max(1, o.Users/max(1, o.VerifyUsers))
	for u := 0; u < len(w.users); u += step {
		w.checks.users = append(w.checks.users, uint32(u))
	}
}

// verified goes on with the checks and says whether all are done.
func (w *worker) verified() bool {
	c := &w.checks
	kept := c.active[:0]
	for _, s := range c.active {
		if !w.checkDone(s) {
			kept = append(kept, s)
		}
	}
	clear(c.active[len(kept):])
	c.active = kept
	for len(c.active) < activeChecks && len(c.users) > 0 {
		s := newWatch(w, c.users[0])
		s.check, s.source = true, w.o.source(len(c.users))
		c.users = c.users[1:]
		c.active = append(c.active, s)
		s.openSoon(w.now)
	}
	return len(c.active) == 0
}

// checkDone closes a check that has seen everything, or that had time enough to.
func (w *worker) checkDone(s *watch) bool {
	if s.state == watchLive && s.owed < 0 || w.now-s.due > int64(w.o.Patience) {
		if s.state == watchLive {
			w.oracle.checked.Snapshots++
			w.oracle.checked.Devices += int64(len(s.shown))
			w.judge(s, "the final snapshot")
		} else {
			w.unchecked++
		}
		s.close(true)
		s.state = watchGone
		return true
	}
	return false
}

// endLoad lets slow streams catch up.
func (w *worker) endLoad() {
	for _, s := range w.watches {
		if s.slow {
			s.resume(s.id)
		}
	}
}

// wholeRun is longer than any stream of the run lasts.
func (o *Options) wholeRun() time.Duration {
	return o.Warmup + o.Duration + 10*(o.TTL+o.Grace+o.Patience) + 10*time.Minute
}
