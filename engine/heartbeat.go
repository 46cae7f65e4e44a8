package engine

import (
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"rollcall/engine/table"
	"rollcall/record"
)

// acceptor judges heartbeats and applies those it accepts. Any goroutine may call its methods.
type acceptor struct {
	*devices
	expiry  *expirer
	policy  SeqPolicy
	maxWait time.Duration // for room in the log
	logger  *slog.Logger

	tableFull, userFull deviceRefusals // why new devices were refused
}

func newAcceptor(d *devices, x *expirer, o *Options) *acceptor {
	return &acceptor{
		devices: d, expiry: x, policy: o.SeqPolicy, maxWait: o.MaxWait, logger: o.Logger,
	}
}

// heartbeat applies one heartbeat and returns once its outcome is as durable as the log promises.
// The steps and their order are drawn in doc.go.
func (a *acceptor) heartbeat(hb *Heartbeat) Result {
	ref, entry := a.table.Find(hb.User, hb.Device)
	r, lsn := a.submit(hb, ref, entry, a.clock(), nil)
	if r.Outcome == Unavailable {
		return r
	}
	if err := a.settled(lsn, r.Outcome == Stale); err != nil { // I2
		a.expiry.postponeExpiry(a.clock.Nanos()) // the disk's silence, not the device's (I8)
		return a.refuse(hb, err)
	}
	a.counters.stripe(hb).count(r.Outcome, 1)
	return r
}

// settled waits until the outcomes of heartbeats may be told, which depend on records up to lsn. A
// refusal says what the table held, so it has to be the newest there is.
func (a *acceptor) settled(lsn uint64, refusals bool) error {
	if refusals {
		return a.log.Vouch(lsn)
	}
	return a.log.Wait(lsn)
}

// submission is a heartbeat on its way through submit, with what was found out about it.
type submission struct {
	hb       *Heartbeat
	received Instant

	// ref and entry are the device's, perhaps those that it had a moment ago; none: it is unknown.
	ref   table.Ref
	entry *table.Entry

	atOnce bool // it is left alone where it would wait or be refused
	// turns: the record is of the size that says what is known of the user, since the heartbeat
	// turns the device or says offline. A guess until the claim is held.
	turns       bool
	otherSource bool   // the source is not the entry's
	source      uint32 // the source's id, with a reference; 0: the entry's own
	lsn         uint64 // that an outcome depends on
}

// submit does all of a heartbeat but the look-up before it, whose result it is given, and the wait
// after it: an outcome other than Unavailable may be reported when the LSN is durable. around, if
// not nil, is what to do around a wait for room in the log.
func (a *acceptor) submit(
	hb *Heartbeat, ref table.Ref, entry *table.Entry, received Instant, around *waits,
) (Result, uint64) {
	s := submission{
		hb: hb, received: received, ref: ref, entry: entry, atOnce: around != nil && around.none,
	}
	if a.looksStale(hb, entry) {
		if r, is := s.stale(); is {
			return r, s.lsn
		}
	}
	if entry == nil {
		if r, refused := a.refuseNew(&s); refused {
			return r, 0
		}
	}
	s.turns = entry == nil || hb.Status == Offline
	if err := a.reserve(s.bytes(), around); err != nil {
		return a.noRoom(&s, err)
	}
	for {
		v, err := a.attempt(&s)
		if err != nil {
			a.log.Release(s.bytes())
			if s.atOnce {
				return leftAlone, 0
			}
			return a.refuse(hb, err), 0
		}
		switch v {
		case applied:
			return Result{Outcome: Accepted}, s.lsn
		case resized:
			a.log.Release(s.bytes())
			s.turns = !s.turns
			if err := a.reserve(s.bytes(), around); err != nil {
				return a.noRoom(&s, err)
			}
			continue
		}
		if r, is := a.again(&s, v); is {
			a.log.Release(s.bytes())
			return r, s.lsn
		}
	}
}

// bytes is the size of the heartbeat's record.
func (s *submission) bytes() int {
	if s.turns {
		return record.UserBytes(len(s.hb.Source))
	}
	return record.Bytes(len(s.hb.Source))
}

// noRoom is what becomes of a heartbeat that got no credit.
func (a *acceptor) noRoom(s *submission, err error) (Result, uint64) {
	if s.atOnce {
		return leftAlone, 0
	}
	return a.refuseFull(s.hb, err, a.clock.Nanos()), 0
}

// leftAlone is the result of a heartbeat that was not taken at once. It counts nowhere.
var leftAlone = Result{Outcome: Unavailable}

// reserve takes the credit for a record of size bytes.
func (a *acceptor) reserve(size int, around *waits) error {
	switch {
	case around != nil && around.none:
		return a.log.Reserve(size, 0)
	case around == nil || around.before == nil:
		return a.log.Reserve(size, a.maxWait)
	}
	if a.log.Reserve(size, 0) == nil {
		return nil
	}
	around.before()
	defer around.after()
	return a.log.Reserve(size, a.maxWait)
}

// looksStale recognizes a stale heartbeat by one atomic load, before anything is reserved.
func (a *acceptor) looksStale(hb *Heartbeat, entry *table.Entry) bool {
	if entry == nil || a.policy != Strict {
		return false
	}
	seq, ok := entry.LastSeq()
	return ok && hb.Seq <= seq
}

// stale answers with the last accepted seq, and sets the LSN that must be durable before that is
// reported (I2). False: the slot is another device's by now.
func (s *submission) stale() (Result, bool) {
	user, device, held, ok := s.entry.Read()
	if !ok || user != s.hb.User || device != s.hb.Device {
		return Result{}, false
	}
	s.lsn = held.LSN
	return Result{Outcome: Stale, LastSeq: held.Seq}, true
}

// verdict is what apply found once it held the claim.
type verdict uint8

const (
	applied verdict = iota
	tooOld          // the seq is not above the last accepted one
	renamed         // the source is another than the entry's: take a reference first
	moved           // the entry is another device's now: look again
	resized         // the record is of the other size: reserve again
)

// attempt prepares and applies a heartbeat whose credit is reserved. An error says that the table
// is full.
func (a *acceptor) attempt(s *submission) (verdict, error) {
	if s.entry == nil || s.otherSource {
		if err := a.prepare(s); err != nil {
			return 0, err
		}
	}
	v := a.apply(s)
	a.releaseSource(s)
	return v, nil
}

// again draws the conclusion of an attempt that did not apply the heartbeat: it is stale, or there
// is to be another attempt.
func (a *acceptor) again(s *submission, v verdict) (r Result, stale bool) {
	switch v {
	case tooOld:
		if r, stale = s.stale(); stale {
			return r, true
		}
	case renamed:
		s.otherSource = true
		return r, false
	}
	s.ref, s.entry = a.table.Find(s.hb.User, s.hb.Device)
	return r, false
}

// prepare does what may block or fail, before the claim (I1): it inserts a device that the entry
// does not have, and takes a reference to its source.
func (a *acceptor) prepare(s *submission) (err error) {
	if s.entry == nil {
		s.ref, s.entry, err = a.table.FindOrInsert(s.hb.User, s.hb.Device)
		if err != nil && s.atOnce {
			return err
		}
		if err != nil {
			return a.refuseDevice(s.hb, err, s.received.Nanos)
		}
	}
	s.source = a.sources.take(s.hb.Source, 1)
	return nil
}

// releaseSource gives back the reference that the heartbeat has: its own, or, since it was applied,
// the one that its device had before.
func (a *acceptor) releaseSource(s *submission) {
	a.sources.release(s.source, 1)
	s.source = 0
}

// apply is the critical section of a heartbeat: claim, check, append, commit. It holds a credit of
// the log, and a reference to the source or the entry's own, so nothing in it blocks or fails (I1).
func (a *acceptor) apply(s *submission) verdict {
	hb, entry, source := s.hb, s.entry, s.source
	if !entry.Claim(hb.User, hb.Device) {
		return moved
	}
	held := entry.Held()
	if !a.accepts(hb, &held) {
		entry.Unclaim()
		return tooOld
	}
	if source == 0 {
		if !a.sources.holds(held.Source, hb.Source) { // under the claim: the entry holds the text
			entry.Unclaim()
			return renamed
		}
		source = held.Source
	}
	next := table.State{Source: source}
	hb.change(&held, &next, s.received)
	if settled := held.Online && next.Online; settled == s.turns {
		entry.Unclaim()
		return resized
	}
	if s.turns {
		next.LSN = a.logTurn(hb.User, hb.Device, &held, &next, hb.Source, hb.scratch[:0],
			s.received)
	} else {
		rec := record.Append(hb.scratch[:0], hb.User, hb.Device, &next.State, hb.Source)
		next.LSN = a.log.Append(rec, s.received.Nanos)
	}
	entry.Commit(&next)
	if s.source != 0 {
		s.source = held.Source // in exchange
	}
	s.lsn = next.LSN
	a.counters.stripe(hb).moved(&held, &next)
	if next.Online {
		a.expiry.arm(s.ref, entry, next.DeadlineNanos, s.received.Nanos)
	}
	return applied
}

// change fills in what a heartbeat makes of the state that its device had. It may have been
// received before the one that was applied before it (I9):
//
//	goroutine 1                        goroutine 2
//	receives seq 8: its clock says 10
//	                                   receives seq 7: its clock says 12
//	                                   claim, updated at 12
//	claim, updated at 10: no, 12
func (hb *Heartbeat) change(held, next *table.State, received Instant) {
	next.Seq = hb.Seq
	next.SentAtMS = hb.SentAtMS
	next.HeartbeatAtMS = hb.SentAtMS
	next.UpdatedAtMS = max(received.WallMS, table.NotAhead(held.UpdatedAtMS, received.WallMS))
	next.TTLMS = hb.TTLMS
	if next.Online = hb.Status == Online; next.Online {
		next.SeenAtMS = next.UpdatedAtMS
		next.DeadlineNanos = after(received.Nanos, hb.TTLMS)
		return
	}
	next.SeenAtMS = table.NotAhead(held.SeenAtMS, received.WallMS)
	if held.LSN != 0 {
		next.HeartbeatAtMS = held.HeartbeatAtMS
	}
}

// accepts is the check of the seq, under the claim.
func (a *acceptor) accepts(hb *Heartbeat, held *table.State) bool {
	if held.LSN == 0 || hb.Seq > held.Seq {
		return true
	}
	return a.policy == Restart && hb.SentAtMS > lastSentAtMS(held)
}

// lastSentAtMS is the sent_at_ms of the last accepted heartbeat: an expiry puts the server's time
// in its place.
func lastSentAtMS(s *table.State) uint64 {
	if s.Expired {
		return s.HeartbeatAtMS
	}
	return s.SentAtMS
}

// stale reports whether the heartbeat would be refused as stale now.
func (a *acceptor) stale(hb *Heartbeat) bool {
	_, entry := a.table.Find(hb.User, hb.Device)
	if entry == nil {
		return false
	}
	user, device, s, ok := entry.Read()
	return ok && user == hb.User && device == hb.Device && !a.accepts(hb, &s)
}

// refuse answers a heartbeat that could not be taken.
func (a *acceptor) refuse(hb *Heartbeat, err error) Result {
	a.counters.stripe(hb).unavailable.Add(1)
	return Result{Outcome: Unavailable, Err: err}
}

// refuseFull answers a heartbeat that the log had no room for. The silence of its device is not its
// own, and the log is closed to all devices (I8).
func (a *acceptor) refuseFull(hb *Heartbeat, err error, now int64) Result {
	a.expiry.postponeExpiry(now)
	r := a.refuse(hb, err)
	r.LogFull = true
	return r
}

// refuseNew refuses a device that the table does not know, when there is no place for it or its
// sender has brought too many, before anything is reserved: a flood of new devices takes no room in
// the log, nor waits for any. Where the last place goes meanwhile, prepare refuses.
func (a *acceptor) refuseNew(s *submission) (r Result, refused bool) {
	hb := s.hb
	full := a.table.Full()
	if !full && hb.Sender == nil {
		return r, false
	}
	// A group's devices were looked up together: one before it may have been the same.
	if s.ref, s.entry = a.table.Find(hb.User, hb.Device); s.entry != nil {
		return r, false
	}
	if s.atOnce {
		return leftAlone, true
	}
	if full {
		return a.refuse(hb, a.refuseDevice(hb, table.ErrFull, s.received.Nanos)), true
	}
	if !hb.Sender.AdmitsNew() {
		return Result{Outcome: Unavailable, Err: ErrTooManyNew}, true
	}
	return r, false
}

// refuseDevice counts a new device for which the table has no place, logs it once a minute at most,
// and returns why it is refused.
func (a *acceptor) refuseDevice(hb *Heartbeat, why error, now int64) error {
	switch {
	case errors.Is(why, table.ErrFull):
		if refused, log := a.tableFull.note(now); log {
			a.logger.Warn("new devices are refused: as many are known as may be; known ones go on",
				"error", ErrTooManyDevices, "devices", a.table.Len(), "refused", refused)
		}
		return ErrTooManyDevices
	case errors.Is(why, table.ErrUserFull):
		if refused, log := a.userFull.note(now); log {
			a.logger.Warn("new devices of a user are refused: it has as many as one may have",
				"user", hb.User, "refused", refused)
		}
		return ErrTooManyDevicesOfUser
	}
	return why
}

// deviceRefusals count heartbeats of new devices that were refused for one reason. Any goroutine
// may use it.
type deviceRefusals struct {
	count  atomic.Uint64
	logged atomic.Int64 // when one was last logged: nanoseconds; 0: never
}

// note counts one and reports whether it is the one to log, once a minute at most.
func (r *deviceRefusals) note(now int64) (count uint64, log bool) {
	count = r.count.Add(1)
	last := r.logged.Load()
	log = (last == 0 || now-last >= int64(time.Minute)) && r.logged.CompareAndSwap(last, now)
	return count, log
}

// after returns the instant ttlMS milliseconds after nanos. It saturates: a ttl of 2^53-1 ms is
// 285,000 years.
func after(nanos int64, ttlMS uint64) int64 {
	ttl := ttlNanos(ttlMS)
	if nanos > 0 && ttl > math.MaxInt64-nanos {
		return math.MaxInt64
	}
	return nanos + ttl
}

func ttlNanos(ttlMS uint64) int64 {
	if ttlMS > math.MaxInt64/uint64(time.Millisecond) {
		return math.MaxInt64
	}
	return int64(ttlMS) * int64(time.Millisecond)
}
