package loadgen

import "time"

// checks is the last act: after the load every user's snapshot is fetched on a new stream and
// compared with what was acknowledged. It sees what no stream of the run could, such as users
// without streams and a server that forgets. Single owner: the worker's goroutine.
type checks struct {
	*turn
	crowd     *crowd
	oracle    *oracle
	streams   *streams
	users     []uint32 // still to do
	active    []*watch
	unchecked int // users whose final snapshot did not come
}

const activeChecks = 32 // per worker

func (c *checks) begin() {
	if c.o.NoOracle || c.o.NoVerify || c.o.StreamToken == nil {
		return
	}
	step := max(1, c.o.Users/max(1, c.o.VerifyUsers))
	for u := 0; u < len(c.crowd.users); u += step {
		c.users = append(c.users, uint32(u))
	}
}

// done goes on with the checks and reports whether all are done.
func (c *checks) done() bool {
	kept := c.active[:0]
	for _, w := range c.active {
		if !c.over(w) {
			kept = append(kept, w)
		}
	}
	clear(c.active[len(kept):])
	c.active = kept
	for len(c.active) < activeChecks && len(c.users) > 0 {
		w := c.streams.follow(c.users[0])
		w.check, w.source = true, c.o.source(len(c.users))
		w.node = len(c.users) % len(c.streams.reactor.targets)
		c.users = c.users[1:]
		c.active = append(c.active, w)
		w.openSoon(c.now)
	}
	return len(c.active) == 0
}

// over closes a check that has seen everything, or that had time enough to.
func (c *checks) over(w *watch) bool {
	if (w.state != watchLive || w.owed >= 0) && c.now-w.due <= int64(c.o.MaxWait) {
		return false
	}
	if w.state == watchLive {
		c.oracle.checked.Snapshots++
		c.oracle.checked.Devices += int64(len(w.shown))
		c.oracle.judge(w, "the final snapshot")
	} else {
		c.unchecked++
	}
	w.close(true)
	w.state = watchGone
	return true
}

// wholeRun is longer than any stream of the run lasts.
func (o *Options) wholeRun() time.Duration {
	return o.Warmup + o.Duration + 10*(o.TTL+o.Grace+o.MaxWait) + 10*time.Minute
}
