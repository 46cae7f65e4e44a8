package test

import (
	"strings"
	"testing"
	"time"
)

// history is a chaos run by hand: instants are in milliseconds.
type history struct {
	*chaosLedger
	d *chaosDevice
}

const historyTTL = 5 * time.Second

func newHistory() *history {
	l := newChaosLedger()
	return &history{l, l.add("u", "d")}
}

func at(ms int) time.Duration { return time.Duration(ms) * time.Millisecond }

func (h *history) try(seq int64, ms int) {
	h.written(h.d, seq, chaosBeat{status: "online", sentMS: seq * 10, ttl: historyTTL}, at(ms))
}

func (h *history) ack(seq int64, ms int) {
	h.try(seq, ms)
	h.accepted(h.d, seq, at(ms), at(ms+10))
}

func (h *history) state(seq int64) chaosState {
	return chaosState{User: "u", Device: "d", Status: "online", SentMS: seq * 10, Seq: seq,
		TTLMS: historyTTL.Milliseconds()}
}

// expired is the state after an expiry at an instant.
func (h *history) expired(seq int64, ms int) chaosState {
	s := h.state(seq)
	s.Status, s.SentMS = "offline", h.began.Add(at(ms)).UnixMilli()
	return s
}

// TestChaosLedger: the judge of the chaos runs finds each kind of broken promise, and nothing in
// histories that keep them.
func TestChaosLedger(t *testing.T) {
	for name, c := range map[string]struct {
		want chaosRule // "": nothing
		play func(h *history)
	}{
		"all is well": {"", func(h *history) {
			h.ack(1, 0)
			v := h.view("s", at(5))
			v.frame(h.state(1), at(20))
			h.try(2, 100)
			h.try(2, 3100)
			v.frame(h.state(2), at(3110)) // before its 204
			h.accepted(h.d, 2, at(3100), at(3120))
			v.frame(h.expired(2, 8101), at(8105))
			h.ack(3, 9000)
			v.frame(h.state(3), at(9030))
			h.read([]string{"u"}, []chaosState{h.state(3)}, at(9100), at(9110), true, "q")
			if text := v.behind([]chaosState{h.state(3)}); text != "" {
				h.found(ruleLeft, "%s", text)
			}
		}},
		"a second try was known": {"", func(h *history) {
			h.try(1, 0)
			h.try(1, 9)
			h.conflict(h.d, 1, 1, at(9), at(20))
		}},
		"a read just behind": {"", func(h *history) {
			h.ack(1, 0)
			h.ack(2, 100)
			h.query(1, 1000, false)
		}},
		"a snapshot just behind": {"", func(h *history) {
			h.ack(1, 0)
			h.ack(2, 100)
			h.view("s", at(999)).frame(h.state(1), at(1000))
		}},
		"a new stream starts anywhere": {"", func(h *history) {
			h.ack(1, 0)
			h.show(1, 1)
			h.ack(2, 20)
			h.show(2)
		}},
		"an empty first read": {"", func(h *history) {
			h.try(1, 0)
			h.query(0, 9000, true)
		}},

		"the last read lacks an acknowledged one": {ruleLost, func(h *history) {
			h.ack(1, 0)
			h.ack(2, 5)
			h.query(1, 20, true)
		}},
		"the last read lacks a device": {ruleLost, func(h *history) {
			h.ack(1, 0)
			h.query(0, 20, true)
		}},
		"the last read lacks what was shown": {ruleLost, func(h *history) {
			h.ack(1, 0)
			h.try(2, 20)
			h.show(2)
			h.query(1, 9000, true)
		}},
		"a 409 forgot": {ruleLost, func(h *history) {
			h.ack(1, 0)
			h.ack(2, 20)
			h.try(3, 40)
			h.conflict(h.d, 3, 1, at(40), at(50))
		}},
		"a 409 of the future": {rulePhantom, func(h *history) {
			h.ack(1, 0)
			h.try(2, 20)
			h.conflict(h.d, 2, 7, at(20), at(30))
		}},
		"a frame of the future": {rulePhantom, func(h *history) {
			h.ack(1, 0)
			h.show(2)
		}},
		"a frame of a stranger": {rulePhantom, func(h *history) {
			h.view("s", 0).frame(chaosState{User: "u", Device: "x", Seq: 1}, 0)
		}},
		"a frame with another time": {rulePhantom, func(h *history) {
			h.ack(1, 0)
			s := h.state(1)
			s.SentMS++
			h.view("s", 0).frame(s, at(20))
		}},
		"a query with another ttl": {rulePhantom, func(h *history) {
			h.ack(1, 0)
			s := h.state(1)
			s.TTLMS++
			h.read([]string{"u"}, []chaosState{s}, at(20), at(30), false, "q")
		}},
		"the first try is refused": {ruleFalse409, func(h *history) {
			h.ack(1, 0)
			h.try(2, 20)
			h.conflict(h.d, 2, 2, at(20), at(30))
		}},
		"refused as if it were older": {ruleFalse409, func(h *history) {
			h.ack(1, 0)
			h.try(2, 20)
			h.try(2, 30)
			h.conflict(h.d, 2, 1, at(30), at(40))
		}},
		"a stream goes back": {ruleStepBack, func(h *history) {
			h.ack(1, 0)
			h.ack(2, 20)
			h.show(2, 1)
		}},
		"a stream undoes an expiry": {ruleStepBack, func(h *history) {
			h.ack(1, 0)
			v := h.view("s", 0)
			v.frame(h.expired(1, 6000), at(6000))
			v.frame(h.state(1), at(6001))
		}},
		"a stream is told twice": {ruleDoubled, func(h *history) {
			h.ack(1, 0)
			v := h.view("s", 0)
			v.frame(h.state(1), at(20))
			v.frame(h.state(1), at(30))
		}},
		"offline too early": {ruleEarly, func(h *history) {
			h.ack(1, 100)
			h.view("s", 0).frame(h.expired(1, 5200), at(5050))
		}},
		"offline says too early a time": {ruleEarly, func(h *history) {
			h.ack(1, 100)
			h.view("s", 0).frame(h.expired(1, 5000), at(5500))
		}},
		"offline too early for the try that was accepted": {ruleEarly, func(h *history) {
			h.try(1, 0)
			h.ack(1, 3000)
			h.view("s", 0).frame(h.expired(1, 6000), at(6000))
		}},
		"a query says offline too early": {ruleEarly, func(h *history) {
			h.ack(1, 0)
			h.read([]string{"u"}, []chaosState{h.expired(1, 4000)}, at(4000), at(4001), false, "q")
		}},
		"an old read": {ruleOldRead, func(h *history) {
			h.ack(1, 0)
			h.ack(2, 100)
			h.query(1, 3000, false)
		}},
		"an old snapshot": {ruleOldRead, func(h *history) {
			h.ack(1, 0)
			h.ack(2, 100)
			h.view("s", at(3000)).frame(h.state(1), at(3010))
		}},
		"a read without a device": {ruleOldRead, func(h *history) {
			h.ack(1, 0)
			h.query(0, 3000, false)
		}},
		"a list without a device": {ruleOldRead, func(h *history) {
			h.ack(1, 0)
			h.view("s", at(3000)).synced([]string{"u"})
		}},
		"a read older than another read": {ruleOldRead, func(h *history) {
			h.ack(1, 0)
			h.try(2, 100)
			h.query(2, 200, false)
			h.query(1, 3000, false)
		}},
		"a stream is left behind": {ruleLeft, func(h *history) {
			h.ack(1, 0)
			v := h.view("s", 0)
			v.frame(h.state(1), at(20))
			h.ack(2, 30)
			if text := v.behind([]chaosState{h.state(2)}); text != "" {
				h.found(ruleLeft, "%s", text)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHistory()
			c.play(h)
			if c.want == "" && h.verdict() != "" {
				t.Errorf("found\n%s", h.verdict())
			}
			if c.want != "" && (h.findings[c.want] == 0 ||
				!strings.Contains(h.verdict(), string(c.want))) {
				t.Errorf("did not find %q, but %q", c.want, h.verdict())
			}
		})
	}
}

// show is a new stream that is told these seqs.
func (h *history) show(seqs ...int64) {
	v := h.view("s", 0)
	for i, seq := range seqs {
		if i > 0 && seqs[i-1] == seq {
			v = h.view("s", 0)
		}
		v.frame(h.state(seq), at(20))
	}
}

// query is a read that shows a seq; 0: no device.
func (h *history) query(seq int64, ms int, last bool) {
	var states []chaosState
	if seq > 0 {
		states = append(states, h.state(seq))
	}
	h.read([]string{"u"}, states, at(ms), at(ms+1), last, "q")
}

// TestChaosGaps: the gap after a fault counts heartbeats that were written after it.
func TestChaosGaps(t *testing.T) {
	h := newHistory()
	h.try(1, 0)
	h.accepted(h.d, 1, at(0), at(150)) // written before the fault
	h.ack(2, 400)
	h.ack(3, 500)
	gaps, silent := h.gaps([]string{"u"}, at(100))
	if len(gaps) != 1 || gaps[0] != at(310) || silent != 0 {
		t.Errorf("gaps %v, %d silent", gaps, silent)
	}
	if gaps, silent = h.gaps([]string{"u"}, at(600)); len(gaps) != 0 || silent != 1 {
		t.Errorf("afterwards: gaps %v, %d silent", gaps, silent)
	}

	// A witness tries in vain right after the fault and is mute then; the other device was silent
	// of its own all the while.
	witness := h.add("u", "w")
	h.written(witness, 1, chaosBeat{status: "online", ttl: historyTTL}, at(1010))
	h.ack(4, 9000)
	if gaps, silent = h.gaps([]string{"u"}, at(1000)); len(gaps) != 0 || silent != 0 {
		t.Errorf("with a witness: gaps %v, %d silent", gaps, silent)
	}
}
