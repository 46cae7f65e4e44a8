package loadgen

import (
	"fmt"
	"time"
)

// oracle judges one worker's server. It knows for each device which heartbeats were acknowledged (device.acked), which may
// have been (device.sent), and for each stream what it showed last (shown). Its rules are the promises of the wire contract,
// as far as a client can see them broken; docs/loadgen.md has them in words.
//
// It never blames the server for what the network may have done: a heartbeat whose answer was lost may be accepted or not, a
// frame may come before its own 204, a stream that reconnects has missed what it missed.
type oracle struct {
	rules    *Options
	counts   [ruleCount]int64
	examples []string
	checked  Checked
}

type rule int

const (
	lost             rule = iota // an acknowledged heartbeat that a stream or the final snapshot does not have
	backwards                    // a device went back: a lower seq, or online again without a heartbeat
	doubled                      // a frame twice on one connection
	expiredTwice                 // two offline frames for one expiry
	expiredEarly                 // offline before the TTL was over
	notExpired                   // silent for longer than TTL and patience, and not offline
	unearnedConflict             // 409 for a heartbeat that had not been accepted
	acceptedAgain                // 204 for a seq that had been accepted
	invented                     // a frame that nobody sent
	brokenProtocol               // bytes that the contract does not allow
	skippedFrame                 // a skipped frame, when NoConflation forbids it
	ruleCount
)

var ruleNames = [ruleCount]string{"lost", "backwards", "doubled", "expired_twice", "expired_early", "not_expired",
	"unearned_409", "accepted_twice", "invented", "protocol", "skipped"}

// found notes a violation and keeps the first few as text.
func (o *oracle) found(r rule, format string, args ...any) {
	if o.rules.NoOracle {
		return
	}
	o.counts[r]++
	const perWorker = 5
	if o.counts[r] <= 2 && len(o.examples) < perWorker*int(ruleCount) {
		o.examples = append(o.examples, ruleNames[r]+": "+fmt.Sprintf(format, args...))
	}
}

// clean says that nothing was found.
func (o *oracle) clean() bool { return o.counts == [ruleCount]int64{} }

func (o *oracle) protocol(format string, args ...any) { o.found(brokenProtocol, format, args...) }

// conflict judges a 409 and says whether the heartbeat counts as accepted: it does when an earlier try, whose answer was
// lost or a refusal, may have been.
func (o *oracle) conflict(w *worker, f flight, a lineAnswer) (acceptedBefore bool) {
	d := &w.devices[f.device]
	seq := w.run.seqBase + int64(f.number)
	last, told := a.last, a.told
	switch {
	case f.kind == repeat && (!told || last == seq):
		return false // earned, and nothing new
	case f.kind == again && (!told || last == seq):
		return true
	}
	o.found(unearnedConflict, "device %v: 409 for seq %d with last_seq %d; %s", d.id, seq, last,
		[...]string{fresh: "it was sent for the first time", again: "a resend", repeat: "a repeat of an accepted one"}[f.kind])
	// Go on from where the server is, or every later heartbeat would be one more finding.
	if n := last - w.run.seqBase; told && n > int64(d.acked) && n < 1<<32 {
		d.sent, d.acked = max(d.sent, uint32(n)), uint32(n)
	}
	return false
}

// acceptedTwice judges the 204 for a heartbeat that was sent again on purpose.
func (o *oracle) acceptedTwice(w *worker, f flight) {
	o.found(acceptedAgain, "device %v: seq %d was accepted a second time", w.devices[f.device].id, w.run.seqBase+int64(f.number))
}

// event judges a frame of device d with heartbeat number n on stream s, which last showed sh.
func (o *oracle) event(s *watch, d *device, sh *shown, n uint32, offline bool) {
	w := s.w
	o.checked.Frames++
	seen := sh.flags&shownBefore != 0
	wasOffline := sh.flags&shownOffline != 0
	switch {
	case n < sh.number:
		o.found(backwards, "device %v: seq %d after %d on one client's streams", d.id, n, sh.number)
	case n == sh.number && wasOffline && !offline:
		o.found(backwards, "device %v: online again with seq %d, which had expired", d.id, n)
	case n == sh.number && seen && wasOffline && offline:
		o.found(expiredTwice, "device %v: offline twice at seq %d", d.id, n)
	case n == sh.number && seen && !wasOffline && !offline:
		o.found(doubled, "device %v: seq %d twice on one connection", d.id, n)
	case n > sh.number && seen:
		o.gap(s, d, sh, n, offline)
	}
	if m, ok := w.moment(d, n); offline && ok && w.now < m.written+int64(w.o.TTL) {
		o.found(expiredEarly, "device %v: offline at seq %d, %v before its TTL was over", d.id, n,
			time.Duration(m.written+int64(w.o.TTL)-w.now))
	}
}

// gap judges a step forward on one connection: frames that were skipped, and an expiry that was not shown.
func (o *oracle) gap(s *watch, d *device, sh *shown, n uint32, offline bool) {
	w := s.w
	skips := int64(n - sh.number - 1)
	if offline {
		skips++ // the online frame of the same heartbeat
	}
	if skips > 0 {
		s.skips += skips
		w.count(skipped, skips)
		if w.o.NoConflation && !s.slow {
			o.found(skippedFrame, "device %v: from seq %d to %d", d.id, sh.number, n)
		}
	}
	if s.slow || s.skips > 0 || sh.flags&shownOffline != 0 {
		return // what was skipped may have been the offline frame
	}
	from, ok := w.moment(d, sh.number)
	to, ok2 := w.moment(d, n)
	if silent := to.written - from.written; ok && ok2 && silent > w.mustExpire() && !w.outage.near(w.now, silent+int64(w.o.Grace)) {
		o.found(notExpired, "device %v: silent for %v between seq %d and %d and never offline", d.id, time.Duration(silent), sh.number, n)
	}
}

// mustExpire is how long a device may be silent and still be shown online.
func (w *worker) mustExpire() int64 {
	return int64(w.o.TTL + w.o.Patience + w.outage.allowance(w))
}

// moment returns when heartbeat n of d was due and written, if that is remembered.
func (w *worker) moment(d *device, n uint32) (m moment, ok bool) {
	if n == 0 || d.sent-n > d.mask {
		return m, false
	}
	return w.moments[d.ring+n&d.mask], true
}

// truth says whether what a stream shows of d is what it must be by now: every acknowledged heartbeat, and offline when the
// silence was long enough. A finding has text.
func (w *worker) truth(d *device, sh *shown) (r rule, text string) {
	if sh.number < d.acked {
		return lost, fmt.Sprintf("device %v: seq %d was acknowledged, the last one shown is %d (counted from the first heartbeat)",
			d.id, d.acked, sh.number)
	}
	m, ok := w.moment(d, d.acked)
	if ok && d.sent == d.acked && sh.flags&shownOffline == 0 && w.now-m.written > w.mustExpire() {
		return notExpired, fmt.Sprintf("device %v: silent for %v with a TTL of %v, and online", d.id,
			time.Duration(w.now-m.written).Round(time.Millisecond), w.o.TTL)
	}
	return 0, ""
}

// answered says whether every heartbeat is.
func (w *worker) answered() bool { return w.queue.len() == 0 && len(w.waiting) == 0 && w.busy == 0 }

// settled says whether no frame is owed any more: every stream is up and at the truth, and who fell silent is offline.
func (w *worker) settled() bool {
	for _, s := range w.watches {
		if s.state != watchLive {
			return false
		}
		u := &w.users[s.user]
		for i := range s.shown {
			d, sh := &w.devices[u.first+uint32(i)], &s.shown[i]
			if sh.number < d.acked || d.silent != never && d.acked > 0 && sh.flags&shownOffline == 0 {
				return false
			}
		}
	}
	return true
}

// settleLimit is when waiting for that ends: patience, counted from the last heartbeat, or what the last silent device still has.
func (w *worker) settleLimit() int64 {
	limit := w.since + int64(w.o.Patience)
	if len(w.watches) > 0 {
		for i := range w.devices {
			d := &w.devices[i]
			if m, ok := w.moment(d, d.acked); ok && d.silent != never {
				limit = max(limit, m.written+w.mustExpire()+int64(100*time.Millisecond))
			}
		}
	}
	return limit + int64(w.outage.allowance(w))
}

// judgeStreams compares what every stream ended with to the truth.
func (w *worker) judgeStreams() {
	for i := range w.devices {
		w.oracle.checked.Acknowledged += int64(w.devices[i].acked)
	}
	for _, s := range w.watches {
		if s.state != watchLive {
			w.down++
			continue
		}
		w.oracle.checked.Streams++
		w.judge(s, "a stream")
	}
}

func (w *worker) judge(s *watch, what string) {
	u := &w.users[s.user]
	for i := range s.shown {
		if r, text := w.truth(&w.devices[u.first+uint32(i)], &s.shown[i]); text != "" {
			w.oracle.found(r, "%s of user %s: %s", what, u.text, text)
		}
	}
}
