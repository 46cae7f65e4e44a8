package broadcast

import "time"

// mail is what one turn works on. It is taken from the inbox at once; what the turn's limits leave
// over stays for the next. Single owner: the worker.
type mail struct {
	queue    queue    // events at or below through, of each source
	through  []uint64 // by source: every event at or below it has been taken (B1)
	subs     []Subscription
	ready    []report
	queries  []func(*worker) // that other goroutines wait for
	nowNanos int64
	drain    time.Duration // how long draining takes, when draining
	draining bool
	closed   bool

	peak int // bytes of the longest queue since trim
}

func (m *mail) init(sources int) {
	m.through = make([]uint64, sources)
	m.queue.lost = newSourceSet(sources)
}

// left reports whether a limit of the last turn kept something back.
func (m *mail) left() bool { return len(m.subs) > 0 || len(m.ready) > 0 }

// opening takes the next subscription; false: there is none.
func (m *mail) opening() (sub Subscription, ok bool) {
	if len(m.subs) == 0 {
		return sub, false
	}
	sub, m.subs[0] = m.subs[0], Subscription{}
	if m.subs = m.subs[1:]; len(m.subs) == 0 {
		m.subs = nil
	}
	return sub, true
}

// trim gives the memory of an unusually long queue back.
func (m *mail) trim() {
	if cap(m.queue.bytes) > keepBytes && m.peak < cap(m.queue.bytes)/4 {
		m.queue.run = run{}
	}
	m.peak = 0
}
