package test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// chaosLedger is what the clients of a chaos run know: each heartbeat, its tries and its answer,
// and what every stream and query showed. It judges each entry as it comes, by the promises of
// a cluster. Instants are of one clock, that of the test. Any goroutine may call it.
type chaosLedger struct {
	began time.Time // of instant 0

	mu       sync.Mutex
	devices  map[string]*chaosDevice // by user + device
	users    map[string]*chaosUser
	findings map[chaosRule]int
	examples []string
	counts   map[string]int
	lags     []time.Duration // from a heartbeat's write to its frame, without snapshots
}

// chaosRule names a broken promise.
type chaosRule string

const (
	ruleLost     chaosRule = "lost"      // acknowledged, and gone
	rulePhantom  chaosRule = "phantom"   // shown, and never sent, or not like this
	ruleFalse409 chaosRule = "false 409" // refused as stale, and it was not
	ruleStepBack chaosRule = "step back" // a stream went back
	ruleDoubled  chaosRule = "doubled"   // a stream was told the same twice
	ruleEarly    chaosRule = "early"     // offline before the ttl was over
	ruleOldRead  chaosRule = "old read"  // a read lacks what was known for longer than readBound
	ruleLeft     chaosRule = "left"      // a stream that stayed is not at the truth in the end
	ruleWire     chaosRule = "protocol"  // bytes that the contract does not allow
	ruleDead     chaosRule = "dead"      // the cluster did not come back after a fault
)

// readBound is how old a read may be at most. A machine that is busy with something else makes no
// read older: an answer that comes late was asked for early, and an acknowledgement that is noticed
// late counts from then.
const readBound = time.Second

// chaosUser is one user and when its heartbeats were acknowledged.
type chaosUser struct {
	id      string
	devices []*chaosDevice
	tries   []time.Duration // when each try was written of a heartbeat of devices but the witness
	acks    []chaosAck
}

// chaosAck is an acknowledgement: of a heartbeat that was written then.
type chaosAck struct{ written, at time.Duration }

// chaosDevice is a device. It sends one heartbeat at a time, seqs from 1, each until it is known to
// be accepted.
type chaosDevice struct {
	user  *chaosUser
	id    string
	beats []chaosBeat // of seq 1 and on
	known []chaosKnown
}

// chaosBeat is one heartbeat of a device.
type chaosBeat struct {
	status string
	sentMS int64
	ttl    time.Duration
	first  time.Duration // when it was written first
	taken  time.Duration // when the try was written that was answered 204; first before that
	tries  int
}

// rank orders the states of a device: a heartbeat, then its expiry, then the next heartbeat.
type rank int

func rankOf(seq int64, expired bool) rank {
	if expired {
		return rank(2*seq + 1)
	}
	return rank(2 * seq)
}

func (r rank) String() string {
	if r%2 == 1 {
		return fmt.Sprintf("seq %d expired", r/2)
	}
	return fmt.Sprintf("seq %d", r/2)
}

// chaosKnown says since when a state is known to be committed: it was acknowledged or shown.
type chaosKnown struct {
	rank rank
	at   time.Duration
}

// chaosState is a device as a stream or a query shows it.
type chaosState struct {
	User   string `json:"user_id"`
	Device string `json:"device_id"`
	Status string `json:"status"`
	SentMS int64  `json:"sent_at_ms"`
	Seq    int64  `json:"seq"`
	TTLMS  int64  `json:"ttl_ms"`
}

func newChaosLedger() *chaosLedger {
	return &chaosLedger{began: time.Now(), devices: map[string]*chaosDevice{},
		users: map[string]*chaosUser{}, findings: map[chaosRule]int{}, counts: map[string]int{}}
}

func (l *chaosLedger) now() time.Duration { return time.Since(l.began) }

// add makes a device known.
func (l *chaosLedger) add(user, device string) *chaosDevice {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.users[user]
	if u == nil {
		u = &chaosUser{id: user}
		l.users[user] = u
	}
	d := &chaosDevice{user: u, id: device}
	u.devices = append(u.devices, d)
	l.devices[user+device] = d
	return d
}

// found notes a broken promise.
func (l *chaosLedger) found(rule chaosRule, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.foundLocked(rule, format, args...)
}

func (l *chaosLedger) foundLocked(rule chaosRule, format string, args ...any) {
	l.findings[rule]++
	if l.findings[rule] <= 5 {
		l.examples = append(l.examples, fmt.Sprintf("%s at %.3fs: ", rule, l.now().Seconds())+
			fmt.Sprintf(format, args...))
	}
}

func (l *chaosLedger) count(what string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] += n
}

// verdict is empty when every promise was kept.
func (l *chaosLedger) verdict() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, rule := range slices.Sorted(func(yield func(chaosRule) bool) {
		for r := range l.findings {
			if !yield(r) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, "%s: %d\n", rule, l.findings[rule])
	}
	return b.String() + strings.Join(l.examples, "\n")
}

// written notes a try of a device's next heartbeat, or another try of its last one.
func (l *chaosLedger) written(d *chaosDevice, seq int64, b chaosBeat, at time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(seq) > len(d.beats) {
		b.first, b.taken, b.tries = at, at, 0
		d.beats = append(d.beats, b)
	}
	d.beats[seq-1].tries++
	if !d.witness() {
		d.user.tries = append(d.user.tries, at)
	}
}

// witness reports whether the device is mute after a fault, see chaosMood.
func (d *chaosDevice) witness() bool {
	return len(d.user.devices) > 1 && d == d.user.devices[1]
}

// accepted notes the 204 to a try that was written then.
func (l *chaosLedger) accepted(d *chaosDevice, seq int64, written, at time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.beats[seq-1].taken = written
	l.counts["acknowledged"]++
	d.user.acks = append(d.user.acks, chaosAck{written, at})
	d.learn(rankOf(seq, false), at)
}

// conflict judges a 409 to a try that was written then, and reports whether it says that an earlier
// try was accepted.
func (l *chaosLedger) conflict(d *chaosDevice, seq, last int64, written, at time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &d.beats[seq-1]
	switch must := d.mustShow(written); {
	case last < int64(must/2):
		l.foundLocked(ruleLost, "device %s: last_seq %d, and %v was acknowledged or shown", d.id,
			last, must)
	case last > seq:
		l.foundLocked(rulePhantom, "device %s: last_seq %d, and %d is the last one sent", d.id,
			last, seq)
	case last < seq || b.tries < 2:
		l.foundLocked(ruleFalse409, "device %s: 409 for seq %d with last_seq %d at try %d", d.id,
			seq, last, b.tries)
	default:
		l.counts["acknowledged by 409"]++
		d.user.acks = append(d.user.acks, chaosAck{b.first, at})
		d.learn(rankOf(seq, false), at)
		return true
	}
	return false
}

// learn notes that a state is committed.
func (d *chaosDevice) learn(r rank, at time.Duration) {
	if n := len(d.known); n == 0 || d.known[n-1].rank < r {
		d.known = append(d.known, chaosKnown{r, at})
	}
}

// mustShow is the highest state that was known at an instant. States are learnt in their order but
// for those of a lower rank than one that was learnt before, which say nothing more.
func (d *chaosDevice) mustShow(at time.Duration) rank {
	for i := len(d.known) - 1; i >= 0; i-- {
		if d.known[i].at <= at {
			return d.known[i].rank
		}
	}
	return 0
}

// judge is what a state says by itself; ok is false when it cannot be one of the device.
func (l *chaosLedger) judge(s chaosState, at time.Duration, where string) (d *chaosDevice, r rank,
	ok bool) {
	d = l.devices[s.User+s.Device]
	if d == nil || s.Seq < 1 || s.Seq > int64(len(d.beats)) {
		l.foundLocked(rulePhantom, "%s: never sent: %+v", where, s)
		return nil, 0, false
	}
	b := &d.beats[s.Seq-1]
	expired := s.Status == "offline" && b.status == "online"
	asSent := s.Status == b.status && s.SentMS == b.sentMS
	if s.TTLMS != b.ttl.Milliseconds() || !expired && !asSent {
		l.foundLocked(rulePhantom, "%s: not as it was sent (%+v): %+v", where, *b, s)
		return nil, 0, false
	}
	if expired {
		l.counts["expiries shown"]++
		due := b.taken + b.ttl
		dueMS := l.began.Add(due).UnixMilli()
		if at < due || s.SentMS < dueMS {
			l.foundLocked(ruleEarly, "%s: device %s offline at seq %d, %v before its ttl of %v was "+
				"over; it says %d ms before", where, d.id, s.Seq, due-at, b.ttl, dueMS-s.SentMS)
		}
	}
	return d, rankOf(s.Seq, expired), true
}

// chaosView is what one connection of a stream showed. One goroutine uses it.
type chaosView struct {
	ledger *chaosLedger
	where  string
	begun  time.Duration // when it was asked for
	shown  map[*chaosDevice]chaosState
	ranks  map[*chaosDevice]rank
}

func (l *chaosLedger) view(where string, begun time.Duration) *chaosView {
	return &chaosView{l, where, begun, map[*chaosDevice]chaosState{}, map[*chaosDevice]rank{}}
}

// frame takes one frame.
func (v *chaosView) frame(s chaosState, at time.Duration) {
	l := v.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts["frames"]++
	d, r, ok := l.judge(s, at, v.where)
	if !ok {
		return
	}
	before, seen := v.ranks[d]
	switch {
	case !seen:
		if must := d.mustShow(v.begun - readBound); r < must {
			l.foundLocked(ruleOldRead, "%s: the snapshot shows device %s at %v, and %v was known "+
				"%v before", v.where, d.id, r, must, v.begun-d.since(must))
		}
	case r < before:
		l.foundLocked(ruleStepBack, "%s: device %s: %v after %v", v.where, d.id, r, before)
		return
	case r == before:
		l.foundLocked(ruleDoubled, "%s: device %s: %v twice", v.where, d.id, r)
	case r%2 == 0:
		l.lags = append(l.lags, at-d.beats[s.Seq-1].taken)
	}
	v.shown[d], v.ranks[d] = s, r
	d.learn(r, at)
}

func (d *chaosDevice) since(r rank) time.Duration {
	for _, k := range d.known {
		if k.rank >= r {
			return k.at
		}
	}
	return 0
}

// synced judges what the snapshot of a stream left out.
func (v *chaosView) synced(users []string) {
	v.ledger.mu.Lock()
	defer v.ledger.mu.Unlock()
	v.ledger.missing(users, v.ranks, v.begun, v.where)
}

// missing judges which devices of the users a read does not show.
func (l *chaosLedger) missing(users []string, shown map[*chaosDevice]rank, begun time.Duration,
	where string) {
	for _, user := range users {
		for _, d := range l.users[user].devices {
			if _, ok := shown[d]; !ok {
				if must := d.mustShow(begun - readBound); must > 0 {
					l.foundLocked(ruleOldRead, "%s: device %s is not there, and %v was known %v "+
						"before", where, d.id, must, begun-d.since(must))
				}
			}
		}
	}
}

// read judges the answer to a query that was begun then, over whole users. A last read, when all is
// quiet, must show everything that was acknowledged.
func (l *chaosLedger) read(users []string, states []chaosState, begun, at time.Duration,
	last bool, where string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts["reads"]++
	shown := map[*chaosDevice]rank{}
	for _, s := range states {
		d, r, ok := l.judge(s, at, where)
		if !ok {
			continue
		}
		shown[d] = r
		if must := d.mustShow(begun - readBound); r < must {
			l.foundLocked(ruleOldRead, "%s shows device %s at %v, and %v was known %v before", where,
				d.id, r, must, begun-d.since(must))
		}
	}
	l.missing(users, shown, begun, where)
	if !last {
		for d, r := range shown {
			d.learn(r, at)
		}
		return
	}
	for _, user := range users {
		for _, d := range l.users[user].devices {
			if must := d.mustShow(begun); shown[d] < must {
				l.foundLocked(ruleLost, "%s ends at %v of device %s, and %v was acknowledged or shown",
					where, shown[d], d.id, must)
			}
		}
	}
}

// behind says what a stream that stayed does not show of the truth; empty: nothing.
func (v *chaosView) behind(truth []chaosState) string {
	v.ledger.mu.Lock()
	defer v.ledger.mu.Unlock()
	for _, s := range truth {
		d := v.ledger.devices[s.User+s.Device]
		if d == nil {
			continue // judged where it was read
		}
		if got := v.shown[d]; got != s {
			return fmt.Sprintf("%s shows %+v, a query %+v", v.where, got, s)
		}
	}
	return ""
}

// gaps tells for each of the users how long after an instant a heartbeat was acknowledged that was
// written after it; silent is how many had none. A user whose devices were silent of their own for
// longer than the usual pause says nothing about the server and is left out.
func (l *chaosLedger) gaps(users []string, since time.Duration) (gaps []time.Duration, silent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, user := range users {
		first := time.Duration(-1)
		for _, a := range l.users[user].acks {
			if a.written >= since && (first < 0 || a.at < first) {
				first = a.at
			}
		}
		tries := l.users[user].tries
		i := slices.IndexFunc(tries, func(at time.Duration) bool { return at >= since })
		if first < 0 {
			silent++
		} else if i >= 0 && tries[i]-since < 2*chaosPause {
			gaps = append(gaps, first-since)
		}
	}
	return gaps, silent
}
