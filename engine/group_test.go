package engine

// inGroup sends heartbeats, GroupSize at most, as an event loop does: a Group takes those that it
// can, of which none is told before the commit, and those behind are sent alone.
func inGroup(e *Engine, hbs []Heartbeat) (results []Result, err error) {
	g := e.NewGroup()
	results = make([]Result, len(hbs))
	for done := 0; done < len(hbs); {
		n, lsn := g.Apply(hbs[done:], results[done:])
		if n > 0 {
			err := g.Commit(lsn)
			accepted := 0
			for _, r := range results[done : done+n] {
				if r.Outcome == Accepted {
					accepted++
				}
			}
			g.Told(accepted, n-accepted, err)
			if err != nil {
				return nil, err
			}
			done += n
		}
		if done < len(hbs) {
			results[done] = e.Heartbeat(&hbs[done])
			done++
		}
	}
	return results, nil
}
