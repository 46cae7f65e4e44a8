package loadgen

// resumeChecks is the last act of lists: a fresh list of the same users must have what a list has,
// and once more when that has hung up and resumed. Single owner: the worker's goroutine.
type resumeChecks struct {
	*turn
	oracle    *oracle
	streams   *streams
	lists     []*list // still to do
	active    []*resumeCheck
	unchecked int
}

// resumeCheck is one list on its way.
type resumeCheck struct {
	list, fresh *list
	resumed     bool
	since       int64 // of the step
}

func (c *resumeChecks) begin() {
	s := c.streams
	if c.o.NoOracle || c.o.NoVerify || len(s.lists) == 0 {
		return
	}
	// As many users as the checks of single users have, and at least one list.
	most := max(1, c.o.VerifyUsers/c.o.ListSize/c.o.Workers)
	step := (len(s.lists) + most - 1) / most
	for i := 0; i < len(s.lists); i += step {
		c.lists = append(c.lists, s.lists[i])
	}
}

// done goes on with the checks and reports whether all are done.
func (c *resumeChecks) done() bool {
	kept := c.active[:0]
	for _, check := range c.active {
		if !c.over(check) {
			kept = append(kept, check)
		}
	}
	clear(c.active[len(kept):])
	c.active = kept
	for len(c.active) < activeChecks && len(c.lists) > 0 {
		l := c.lists[0]
		c.lists = c.lists[1:]
		if !l.steady() {
			c.unchecked++
			continue
		}
		fresh := c.streams.newList(l.users, l.byUsers, l.digest)
		fresh.check, fresh.source = true, l.source
		fresh.node = (l.node + 1) % len(c.streams.reactor.targets)
		c.active = append(c.active, &resumeCheck{list: l, fresh: fresh, since: c.now})
		fresh.openSoon(c.now)
	}
	return len(c.active) == 0
}

// over takes a check a step further, and reports whether it is over.
func (c *resumeChecks) over(check *resumeCheck) bool {
	l, fresh := check.list, check.fresh
	late := c.now-check.since > int64(c.o.MaxWait)
	what := "a list, and a fresh one"
	if check.resumed {
		what = "a list that resumed, and a fresh one"
	}
	switch {
	case !fresh.steady() || !l.steady():
		if !late {
			return false
		}
		c.unchecked++
	default:
		text := l.differ(fresh)
		if text != "" && !late {
			return false // what changed meanwhile may be on its way
		}
		if text != "" {
			c.oracle.found(unequal, "%s: %s", what, text)
		} else if !check.resumed {
			check.resumed, check.since = true, c.now
			l.hangUp(c.now)
			l.synced = false
			return false
		}
		c.oracle.checked.Resumed++
	}
	fresh.close(true)
	fresh.state = watchGone
	return true
}
