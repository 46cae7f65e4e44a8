package loadgen

import "time"

// series is the run by the second, made from what the workers hand over four times a second.
// A past second keeps a few numbers of its histograms, so that a long run costs little.
type series struct {
	seconds []Second
	open    tally // of the last element of seconds
	latest  map[int]handover
	recent  tally // since the last progress
}

// Second is one second of the run. Latencies are of what was answered in it, in milliseconds.
type Second struct {
	At         int     `json:"at"` // since the schedule began; the warm-up comes first
	Offered    int64   `json:"offered"`
	Accepted   int64   `json:"accepted"`
	Errors     int64   `json:"errors"`
	Frames     int64   `json:"frames"`
	Conflated  int64   `json:"conflated"`
	Streams    int     `json:"streams"`
	Backlog    int     `json:"backlog"` // due heartbeats without a connection
	AnswerP50  float64 `json:"answer_p50_ms"`
	AnswerP99  float64 `json:"answer_p99_ms"`
	AnswerMax  float64 `json:"answer_max_ms"`
	FrameP50   float64 `json:"frame_p50_ms"`
	FrameP99   float64 `json:"frame_p99_ms"`
	FrameMax   float64 `json:"frame_max_ms"`
	OfflineMax float64 `json:"offline_max_ms"`
	Lag        float64 `json:"own_lag_max_ms"`
}

func (s *series) add(h handover, start int64) {
	if s.latest == nil {
		s.latest = map[int]handover{}
	}
	s.latest[h.worker] = h
	s.recent.add(h.tally)
	if start == 0 || h.at < start {
		return
	}
	at := int((h.at - start) / 1e9)
	for len(s.seconds) <= at {
		s.seconds = append(s.seconds, Second{At: len(s.seconds)})
		s.open.reset()
	}
	s.open.add(h.tally)
	p := &s.seconds[len(s.seconds)-1]
	p.fill(&s.open)
	p.Streams, p.Backlog = s.streams(), s.backlog()
}

func (p *Second) fill(t *tally) {
	p.Offered, p.Accepted, p.Errors = t.n[offered], t.n[accepted], t.errors()
	p.Frames, p.Conflated = t.n[frames]+t.n[listEvents], t.n[skipped]
	answer, frame := t.hist[toAnswer], t.hist[toFrame]
	p.AnswerP50, p.AnswerP99, p.AnswerMax = answer.at(50), answer.at(99), answer.at(100)
	p.FrameP50, p.FrameP99, p.FrameMax = frame.at(50), frame.at(99), frame.at(100)
	p.OfflineMax = t.hist[toOffline].at(100)
	p.Lag = t.hist[ownLag].at(100)
}

func (s *series) streams() (n int) {
	for _, h := range s.latest {
		n += h.streams
	}
	return n
}

func (s *series) backlog() (n int) {
	for _, h := range s.latest {
		n += h.backlog
	}
	return n
}

// Progress is the run at a glance, of the time since the last one.
type Progress struct {
	Stage    string // a phase's name, or what comes before and after
	Left     time.Duration
	Offered  float64 // heartbeats per second
	Achieved float64
	P99      float64 // heartbeat → 204, milliseconds
	FrameP99 float64 // heartbeat → frame
	Frames   float64 // per second
	Errors   int64   // since the start
	Streams  int
	Backlog  int
	CPU      float64 // cores that the generator uses
	Lag      float64 // its own delay at p99, milliseconds
	Seconds  float64 // since the start
}

// teller turns tallies into progress.
type teller struct {
	last    int64
	lastCPU time.Duration
	errors  int64
}

// tell reports progress.
func (r *runner) tell() {
	now, cpu := r.orders.clock(), ownCPU()
	since := float64(now-r.teller.last) / 1e9
	t := &r.series.recent
	r.teller.errors += t.errors()
	start := r.orders.startAt.Load()
	p := Progress{Stage: "connecting", Left: r.o.Warmup + r.o.Duration,
		Offered: float64(t.n[offered]) / since, Achieved: float64(t.n[accepted]) / since,
		P99:      t.hist[toAnswer].at(99),
		FrameP99: max(t.hist[toFrame].at(99), t.hist[toListEvent].at(99)),
		Frames:   float64(t.n[frames]+t.n[listEvents]) / since,
		Errors:   r.teller.errors, Streams: r.series.streams(), Backlog: r.series.backlog(),
		CPU: (cpu - r.teller.lastCPU).Seconds() / since, Lag: t.hist[ownLag].at(99)}
	if start > 0 {
		stop := r.orders.stopAt.Load()
		p.Stage, p.Left = r.phaseName(now), time.Duration(max(0, stop-now))
		p.Seconds = float64(now-start) / 1e9
		slowest := finished
		for _, h := range r.series.latest {
			switch {
			case now < stop:
			case h.stage >= draining:
				p.Stage = stageNames[min(slowest, h.stage)]
				slowest = min(slowest, h.stage)
			}
		}
	}
	r.teller.last, r.teller.lastCPU = now, cpu
	t.reset()
	if r.o.Progress != nil {
		r.o.Progress(p)
	}
}

func (r *runner) phaseName(now int64) string {
	for i := len(r.plan) - 1; i > 0; i-- {
		if now >= r.plan[i].start {
			return r.plan[i].name
		}
	}
	return r.plan[0].name
}

// endPastKnee ends a ramp when a second's worth of heartbeats waits in the generator: higher steps
// would only measure that.
func (r *runner) endPastKnee(now int64) {
	if r.scenario.name != "ramp" || r.o.Closed {
		return
	}
	for _, p := range r.plan[1:] {
		if now >= p.start && now < p.end && float64(r.series.backlog()) > r.o.Rate*p.factor {
			r.end("past the knee")
		}
	}
}
