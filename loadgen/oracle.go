package loadgen

import (
	"fmt"
	"time"
)

// oracle judges what one worker saw of the server. It knows for each device which heartbeats were
// acknowledged (device.acked), which may have been (device.sent), and for each stream what it
// showed last (shown). Its rules are the promises of the wire contract, as far as a client can see
// them broken; docs/loadgen.md has them in words. Single owner: the worker's goroutine.
//
// It never blames the server for what the network may have done (G4).
type oracle struct {
	turn   *turn
	crowd  *crowd
	meter  *meter
	outage *outages

	counts   [ruleCount]int64
	examples []string
	checked  Checked
}

type rule int

const (
	lost             rule = iota // a stream or the final snapshot lacks an acknowledged heartbeat
	backwards                    // a device went back: a lower seq, or online without a heartbeat
	doubled                      // a frame twice on one connection
	expiredTwice                 // two offline frames for one expiry
	expiredEarly                 // offline before the TTL was over
	notExpired                   // silent for longer than TTL and MaxWait, and not offline
	unearnedConflict             // 409 for a heartbeat that had not been accepted
	acceptedAgain                // 204 for a seq that had been accepted
	invented                     // a frame of a heartbeat that was not sent
	brokenProtocol               // bytes that the contract does not allow
	skippedFrame                 // a skipped frame, when NoConflation forbids it
	repeated                     // a resume sent what its cursor had
	notResumed                   // a cursor that the server gave out was not honoured
	miscounted                   // a user's status or devices_online contradicts its devices
	unequal                      // a stream that resumed has something else than a fresh one
	notRenewed                   // a list's token was not renewed, or it ended all the same
	ruleCount
)

var ruleNames = [ruleCount]string{"lost", "backwards", "doubled", "expired_twice", "expired_early",
	"not_expired", "unearned_409", "accepted_twice", "invented", "protocol", "skipped",
	"repeated", "not_resumed", "miscounted", "unequal", "not_renewed"}

// found notes a violation and keeps the first few as text.
func (o *oracle) found(r rule, format string, args ...any) {
	if o.turn.o.NoOracle {
		return
	}
	o.counts[r]++
	const perWorker = 5
	if o.counts[r] <= 2 && len(o.examples) < perWorker*int(ruleCount) {
		o.examples = append(o.examples, ruleNames[r]+": "+fmt.Sprintf(format, args...))
	}
}

// clean reports whether nothing was found.
func (o *oracle) clean() bool { return o.counts == [ruleCount]int64{} }

func (o *oracle) protocol(format string, args ...any) { o.found(brokenProtocol, format, args...) }

// conflict judges a 409 and reports whether the heartbeat counts as accepted: it does when an
// earlier try, whose answer was lost or a refusal, may have been.
func (o *oracle) conflict(f flight, a answer) (acceptedBefore bool) {
	run := o.turn.run
	d := &o.crowd.devices[f.device]
	seq := run.seq(f.number)
	own := !a.hasSeq || a.lastSeq == seq
	switch {
	case f.kind == repeat && own:
		return false // earned, and nothing new
	case f.kind == again && own:
		return true
	}
	how := [...]string{fresh: "it was sent for the first time", again: "a resend",
		repeat: "a repeat of an accepted one"}[f.kind]
	o.found(unearnedConflict, "device %v: 409 for seq %d with last_seq %d; %s", d.id, seq,
		a.lastSeq, how)
	// Go on from where the server is, or every later heartbeat would be one more finding.
	if n := a.lastSeq - run.seqBase; a.hasSeq && n > int64(d.acked) && n < 1<<32 {
		d.sent, d.acked = max(d.sent, uint32(n)), uint32(n)
	}
	return false
}

// acceptedTwice judges the 204 for a heartbeat that was sent again on purpose.
func (o *oracle) acceptedTwice(f flight) {
	o.found(acceptedAgain, "device %v: seq %d was accepted a second time",
		o.crowd.devices[f.device].id, o.turn.run.seq(f.number))
}

// event judges a frame of device d with heartbeat number n on stream w, which last showed sh.
func (o *oracle) event(w *watch, d *device, sh *shown, n uint32, offline bool) {
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
		o.gap(&w.stream, d, sh, n, offline)
	}
	if offline {
		o.expiry(d, n)
	}
}

// expiry judges when an offline frame came.
func (o *oracle) expiry(d *device, n uint32) {
	m, ok := o.crowd.moment(d, n)
	if early := m.written + int64(o.turn.o.TTL) - o.turn.now; ok && early > 0 {
		o.found(expiredEarly, "device %v: offline at seq %d, %v before its TTL was over", d.id, n,
			time.Duration(early))
	}
}

// gap judges a step forward on one connection: frames that were skipped, and an expiry that was not
// shown.
func (o *oracle) gap(w *stream, d *device, sh *shown, n uint32, offline bool) {
	skips := int64(n - sh.number - 1)
	if offline {
		skips++ // the online frame of the same heartbeat
	}
	if skips > 0 {
		w.skips += skips
		o.meter.count(skipped, skips)
		if o.turn.o.NoConflation && !w.slow {
			o.found(skippedFrame, "device %v: from seq %d to %d", d.id, sh.number, n)
		}
	}
	if w.slow || w.skips > 0 || sh.flags&shownOffline != 0 {
		return // what was skipped may have been the offline frame
	}
	from, ok := o.crowd.moment(d, sh.number)
	to, ok2 := o.crowd.moment(d, n)
	silent := to.written - from.written
	if ok && ok2 && silent > o.mustExpire() &&
		!o.outage.near(o.turn.now, silent+int64(o.turn.o.Grace)) {
		o.found(notExpired, "device %v: silent for %v between seq %d and %d and never offline",
			d.id, time.Duration(silent), sh.number, n)
	}
}

// mustExpire is how long a device may be silent and still be shown online.
func (o *oracle) mustExpire() int64 {
	return int64(o.turn.o.TTL + o.turn.o.MaxWait + o.outage.allowance(o.turn.o))
}

// judge compares what a stream shows to the truth.
func (o *oracle) judge(w *watch, what string) {
	devices := o.crowd.devicesOf(w.user)
	for i := range w.shown {
		if r, text := o.truth(&devices[i], &w.shown[i]); text != "" {
			o.found(r, "%s of user %s: %s", what, o.crowd.users[w.user].text, text)
		}
	}
}

// truth reports what is wrong with what a stream shows of d by now: it must have every acknowledged
// heartbeat, and be offline when the silence was long enough. Without a finding, text is empty.
func (o *oracle) truth(d *device, sh *shown) (r rule, text string) {
	if sh.number < d.acked {
		return lost, fmt.Sprintf("device %v: seq %d was acknowledged, the last one shown is %d "+
			"(counted from the first heartbeat)", d.id, d.acked, sh.number)
	}
	m, ok := o.crowd.moment(d, d.acked)
	silent := o.turn.now - m.written
	if ok && d.sent == d.acked && sh.flags&shownOffline == 0 && silent > o.mustExpire() {
		return notExpired,
			fmt.Sprintf("device %v: silent for %v with a TTL of %v, and online", d.id,
				time.Duration(silent).Round(time.Millisecond), o.turn.o.TTL)
	}
	return 0, ""
}
