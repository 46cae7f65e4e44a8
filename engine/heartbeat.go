package engine

import (
	"errors"
	"math"
	"time"

	"rollcall/engine/table"
	"rollcall/record"
)

// Heartbeat applies one report and returns once its outcome is as durable as the log promises. Any number of goroutines
// may call it. The steps and their order are drawn in doc.go.
func (e *Engine) Heartbeat(hb *Heartbeat) Result {
	ref, entry := e.table.Find(hb.User, hb.Device)
	r, lsn := e.submit(hb, ref, entry, e.clock())
	if r.Outcome == Unavailable {
		return r
	}
	if err := e.log.Wait(lsn); err != nil { // I2
		return e.refuse(hb, err)
	}
	e.counters.lane(hb).count(r.Outcome, 1)
	return r
}

// submit does all of a heartbeat but the look-up before it, whose result it is given, and the wait after it: an outcome
// other than Unavailable may be told when the LSN is durable.
func (e *Engine) submit(hb *Heartbeat, ref table.Ref, entry *table.Entry, t Instant) (Result, uint64) {
	if entry != nil && e.opts.SeqPolicy == Strict {
		if seq, ok := entry.LastSeq(); ok && hb.Seq <= seq {
			if r, lsn, ok := stale(hb, entry); ok {
				return r, lsn
			}
		}
	}
	size := record.Bytes(len(hb.Source))
	if err := e.log.Reserve(size, e.opts.MaxWait); err != nil {
		e.deaf(e.clock().Nanos)
		r := e.refuse(hb, err)
		r.LogFull = true
		return r, 0
	}
	for otherSource := false; ; {
		var source uint16 // 0: the entry's own
		var err error
		if entry == nil || otherSource {
			// Before a new device takes a slot, so that a full table of sources leaves no empty entries behind.
			source, err = e.sources.intern(hb.Source, e.table, t.Nanos)
		}
		if err == nil && entry == nil {
			if ref, entry, err = e.table.FindOrInsert(hb.User, hb.Device); errors.Is(err, table.ErrFull) {
				err = e.refuseDevice(t.Nanos)
			}
		}
		v, lsn := refused, uint64(0)
		if err == nil {
			v, lsn = e.apply(hb, ref, entry, source, t)
		}
		if source != 0 {
			e.sources.unpin(source)
		}
		switch v {
		case applied:
			return Result{Outcome: Accepted}, lsn
		case tooOld:
			if r, lsn, ok := stale(hb, entry); ok {
				e.log.Release(size)
				return r, lsn
			}
			ref, entry = e.table.Find(hb.User, hb.Device)
		case refused:
			e.log.Release(size)
			if entry != nil {
				e.spare(hb, ref, entry, t.Nanos)
			}
			return e.refuse(hb, err), 0
		case renamed:
			otherSource = true
		case moved:
			ref, entry = e.table.Find(hb.User, hb.Device)
		}
	}
}

// verdict is what apply found once it held the claim.
type verdict uint8

const (
	applied verdict = iota
	refused         // the table or the sources are full
	tooOld          // the seq is not above the last accepted one
	renamed         // the source is another than the entry's: intern it first
	moved           // the entry is another device's now: look again
)

// apply is the critical section of a heartbeat: claim, check, append, commit. It holds a credit of the log, and a pinned source
// id or 0 for the entry's own, so nothing in it blocks or fails (I1).
func (e *Engine) apply(hb *Heartbeat, ref table.Ref, entry *table.Entry, source uint16, t Instant) (verdict, uint64) {
	if !entry.Claim(hb.User, hb.Device) {
		return moved, 0
	}
	held := entry.Held()
	if !e.accepts(hb, &held) {
		entry.Unclaim()
		return tooOld, 0
	}
	if source == 0 {
		if !e.sources.holds(held.Source, hb.Source) { // under the claim: the id stays in use
			entry.Unclaim()
			return renamed, 0
		}
		source = held.Source
	}
	next := table.State{State: record.State{Seq: hb.Seq, SentAtMS: hb.SentAtMS, HeartbeatAtMS: hb.SentAtMS, UpdatedAtMS: t.WallMS, TTLMS: hb.TTLMS, Online: hb.Status == Online}, DeadlineNanos: after(t.Nanos, hb.TTLMS), Source: source}
	if !next.Online && held.LSN != 0 {
		next.HeartbeatAtMS = held.HeartbeatAtMS
	}
	next.LSN = e.log.Append(record.Append(hb.scratch[:0], hb.User, hb.Device, &next.State, hb.Source))
	entry.Commit(next)
	e.counters.lane(hb).moved(&held, &next)
	if next.Online {
		e.arm(ref, entry, next.DeadlineNanos, t.Nanos)
	}
	return applied, next.LSN
}

// spare gives a known device whose heartbeat had to be refused, though the log took others, the time to be heard again: its
// silence is not its own (I8). The state stays what the log has; deadlines are not logged.
func (e *Engine) spare(hb *Heartbeat, ref table.Ref, entry *table.Entry, now int64) {
	if !entry.Claim(hb.User, hb.Device) {
		return
	}
	held := entry.Held()
	later := now + min(ttlNanos(held.TTLMS), int64(e.opts.RecoveryGrace))
	if !held.Online || held.DeadlineNanos >= later {
		entry.Unclaim()
		return
	}
	held.DeadlineNanos = later
	entry.Commit(held)
	e.arm(ref, entry, later, now)
}

// accepts is the check of the seq, under the claim.
func (e *Engine) accepts(hb *Heartbeat, held *table.State) bool {
	if held.LSN == 0 || hb.Seq > held.Seq {
		return true
	}
	return e.opts.SeqPolicy == Restart && hb.SentAtMS > lastSentAtMS(held)
}

// lastSentAtMS is the sent_at_ms of the last accepted heartbeat: an expiry puts the server's time in its place.
func lastSentAtMS(s *table.State) uint64 {
	if s.Expired {
		return s.HeartbeatAtMS
	}
	return s.SentAtMS
}

// holds compares without a lock: nearly every heartbeat repeats its device's source.
func (s *sources) holds(id uint16, text []byte) bool {
	p := s.names[id].Load()
	return p != nil && *p == string(text)
}

// stale answers with the last accepted seq and the LSN that must be durable before that is told (I2). False: the slot is
// another device's by now.
func stale(hb *Heartbeat, entry *table.Entry) (Result, uint64, bool) {
	user, device, s, ok := entry.Read()
	if !ok || user != hb.User || device != hb.Device {
		return Result{}, 0, false
	}
	return Result{Outcome: Stale, LastSeq: s.Seq}, s.LSN, true
}

// refuseDevice counts a new device that has no place any more, and says so at most once a minute.
func (e *Engine) refuseDevice(now int64) error {
	e.counters.devicesRefused.Add(1)
	if last := e.refusedAt.Load(); last == 0 || now-last >= int64(time.Minute) {
		if e.refusedAt.CompareAndSwap(last, now) {
			e.opts.Logger.Warn("new devices are refused: as many are known as --max-devices allows; known ones go on. "+
				"Raise it and restart, or let --forget-after forget devices sooner",
				"devices", e.table.Len(), "refused", e.counters.devicesRefused.Load())
		}
	}
	return ErrTooManyDevices
}

// Stale tells whether the heartbeat would be refused as stale now. Nothing is applied, and the answer may be old when it
// arrives: it serves checks that come after the seq's and before the apply.
func (e *Engine) Stale(hb *Heartbeat) bool {
	_, entry := e.table.Find(hb.User, hb.Device)
	if entry == nil {
		return false
	}
	user, device, s, ok := entry.Read()
	return ok && user == hb.User && device == hb.Device && !e.accepts(hb, &s)
}

// after returns the instant ttlMS milliseconds after nanos; it saturates, since a ttl of 2^53-1 ms is 285,000 years.
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
