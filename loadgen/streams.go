package loadgen

import (
	"fmt"
	"time"

	"rollcall/wire"
)

// streams is a worker's watches. Single owner: the worker's goroutine.
type streams struct {
	*turn
	crowd   *crowd
	meter   *meter
	oracle  *oracle
	outage  *outages
	reactor *reactor

	watches  []*watch
	lists    []*list
	all      []*stream     // of both
	toOpen   fifo[*stream] // streams that are due to connect
	swept    swept
	renewals []renewals // by node
	suffix   []byte     // of frames
	scratch  []byte
	scanned  int64      // when settled last looked
	down     int        // streams that were not up at the end
	checked  *histogram // of the final checks: connect due → last device of the snapshot
}

// follow makes a stream that follows a user. The caller opens it.
func (s *streams) follow(user uint32) *watch {
	w := &watch{user: user, shown: make([]shown, s.crowd.users[user].count)}
	w.stream = stream{streams: s, reader: w, retryMS: -1}
	return w
}

// plan sets the timers of the streams: they open during the warm-up, and some come and go. phase
// shifts the latter, so that several workers interleave.
func (s *streams) plan(at int64, phase float64) {
	for i, w := range s.all {
		due := at + int64(float64(s.o.Warmup)*0.8*float64(i)/float64(len(s.all)))
		s.timers.add(due, func() { w.openSoon(due) })
	}
	if s.o.Churn > 0 && len(s.all) > 0 {
		rate := s.o.Churn * float64(len(s.all)) / max(1, float64(s.o.streams()))
		measured := at + int64(s.o.Warmup)
		s.churn(newPacer([]segment{{measured, measured + int64(s.o.Duration), rate}}, phase, nil))
	}
}

// churn lets a random stream hang up and come back at each instant of the schedule.
func (s *streams) churn(p *pacer) {
	due, ok := p.next()
	if !ok {
		return
	}
	s.timers.add(due, func() {
		s.churn(p)
		if s.stage == loading {
			s.all[s.rng.IntN(len(s.all))].hangUp(due)
		}
	})
}

// hangUp lets all streams hang up and come back.
func (s *streams) hangUp(due int64) {
	for _, w := range s.all {
		w.hangUp(due)
	}
}

const opensPerTurn = 8

// openDue connects some of the streams that are due to.
func (s *streams) openDue() {
	for n := 0; n < opensPerTurn && s.toOpen.len() > 0; n++ {
		w := s.toOpen.pop()
		if w.leaving {
			w.close(false)
			w.state = watchQueued
		}
		if w.state == watchQueued {
			w.open()
		}
		w.leaving = false
	}
}

// mint makes the stream token of a user, once.
func (s *streams) mint(u *user) error {
	if u.token != "" {
		return nil
	}
	token, err := s.o.StreamToken(u.text, s.o.wholeRun())
	if err != nil {
		return fmt.Errorf("loadgen: mint a stream token: %w", err)
	}
	u.token, u.prefix = token, framePrefix(u.text)
	return nil
}

// hostOf is what a stream says in Host.
func (s *streams) hostOf(w *stream) string { return s.reactor.targets[w.node].host }

// requestOf is the request for a user's stream, valid until the next call.
func (s *streams) requestOf(u *user, on *stream) []byte {
	b := append(s.scratch[:0], "GET "+wire.StreamPath+"?user_id="...)
	b = append(b, u.text...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, s.hostOf(on)...)
	b = append(b, "\r\nAccept: text/event-stream\r\nAuthorization: Bearer "...)
	b = append(b, u.token...)
	b = append(b, "\r\n\r\n"...)
	s.scratch = b
	return b
}

// checkTimeouts gives up on connects that were not answered since limit.
func (s *streams) checkTimeouts(limit int64) {
	for _, w := range s.all {
		if (w.state == watchConnecting || w.state == watchHead) && w.since < limit {
			w.failed()
		}
	}
}

// up is how many streams are connected.
func (s *streams) up() (n int) {
	for _, w := range s.all {
		if w.state == watchLive {
			n++
		}
	}
	return n
}

// catchUp lets slow streams read on.
func (s *streams) catchUp() {
	for _, w := range s.all {
		if w.slow {
			w.resume(w.id)
		}
	}
}

// settled reports, some times a second, whether no frame is owed any more or the server had time
// enough.
func (s *streams) settled() bool {
	if s.now-s.scanned < int64(20*time.Millisecond) {
		return false
	}
	s.scanned = s.now
	return s.complete() || s.now > s.settleLimit()
}

// complete reports whether every stream is up and shows the truth, and each silent device offline.
func (s *streams) complete() bool {
	for _, w := range s.watches {
		if w.state != watchLive {
			return false
		}
		devices := s.crowd.devicesOf(w.user)
		for i := range w.shown {
			d, sh := &devices[i], &w.shown[i]
			if sh.number < d.acked || d.silent != never && d.acked > 0 &&
				sh.flags&shownOffline == 0 {
				return false
			}
		}
	}
	return s.listsComplete()
}

// settleLimit is how long settled waits: MaxWait from the last heartbeat, or until the last silent
// device must be offline.
func (s *streams) settleLimit() int64 {
	limit := s.since + int64(s.o.MaxWait)
	if len(s.all) > 0 {
		for i := range s.crowd.devices {
			d := &s.crowd.devices[i]
			if m, ok := s.crowd.moment(d, d.acked); ok && d.silent != never {
				limit = max(limit, m.written+s.oracle.mustExpire()+int64(100*time.Millisecond))
			}
		}
	}
	return limit + int64(s.outage.allowance(s.o))
}

// judgeAll compares what every stream ended with to the truth.
func (s *streams) judgeAll() {
	for i := range s.crowd.devices {
		s.oracle.checked.Acknowledged += int64(s.crowd.devices[i].acked)
	}
	for _, w := range s.watches {
		if w.state != watchLive {
			s.down++
			continue
		}
		s.oracle.checked.Streams++
		s.oracle.judge(w, "a stream")
	}
	s.judgeLists()
}
