package loadgen

// meter counts and measures for a worker: by phase for the report, and by the second for the run.
// Single owner: the worker's goroutine.
type meter struct {
	turn    *turn
	phases  []phase
	tallies []tally // by phase
	second  tally   // since the last hand-over
}

// newMeter makes a meter for the phases of a plan, whose times begin at 0.
func newMeter(t *turn, plan []phase) meter {
	return meter{turn: t, phases: append([]phase(nil), plan...), tallies: make([]tally, len(plan))}
}

// begin moves the phases to where the run begins.
func (m *meter) begin(at int64) {
	for i := range m.phases {
		m.phases[i].moveTo(at)
	}
}

// phaseTally is the tally of the phase of an instant.
func (m *meter) phaseTally(at int64) *tally {
	for i := len(m.phases) - 1; i > 0; i-- {
		if at >= m.phases[i].start {
			return &m.tallies[i]
		}
	}
	return &m.tallies[0]
}

// count counts something that happened now.
func (m *meter) count(kind int, n int64) {
	m.phaseTally(m.turn.now).n[kind] += n
	m.second.n[kind] += n
}

// record counts a latency for the phase in which it was due.
func (m *meter) record(kind int, due int64) { m.recordMany(kind, due, 1) }

// recordMany counts it n times.
func (m *meter) recordMany(kind int, due, n int64) {
	m.phaseTally(due).recordMany(kind, m.turn.now-due, n)
	m.second.recordMany(kind, m.turn.now-due, n)
}

// offer counts a heartbeat that fell due, with how late the loop got to it (G6).
func (m *meter) offer(due int64) {
	for _, t := range [...]*tally{m.phaseTally(due), &m.second} {
		t.n[offered]++
		t.record(ownLag, m.turn.now-due)
	}
}

// abandon counts a heartbeat that was never answered, with the latency that it has by now (G2):
// leaving it out would leave out the slowest.
func (m *meter) abandon(due int64) {
	t := m.phaseTally(due)
	t.n[abandoned]++
	t.record(toAnswer, m.turn.now-due)
}

// sinceHandover returns a copy of what was counted since the last hand-over.
func (m *meter) sinceHandover() *tally {
	t := &tally{}
	t.add(&m.second)
	return t
}
