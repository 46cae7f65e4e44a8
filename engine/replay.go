package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/engine/wheel"
	"rollcall/record"
)

// roundBytes is how much of the log is applied at a time: enough that waiting for the slowest
// applier costs little, and little enough that the records are still in the processor's caches.
const roundBytes = 1 << 20

// replayer applies the log's records in rounds, each divided among as many appliers as there are
// processors. While a round is applied the log's reader fills the next one. Single owner: recovery.
//
//	reader ──► fill ──┬─► applier 0: users of ranges 0…   ──┐
//	                  └─► applier 1: users of the next ones ┴─► all done: the rest ─► next round
//
// A user's records go to one applier, in order. Between users the order is lost, so that in the
// middle of a round the table may hold devices that it never held together: more than there may be,
// by the records of a round. Table.Restore has room for them, since what there may be is half of
// the slots' numbers.
type replayer struct {
	recovery *recoverer
	appliers []*applier
	// for each applier, of the round that is filled: LSN, length, bytes of each record
	filling  [][]byte
	applying [][]byte // of the round in progress
	bytes    int      // in filling
	round    sync.WaitGroup
}

func newReplayer(recovery *recoverer, now Instant) *replayer {
	n := min(runtime.GOMAXPROCS(0), maxRanges)
	r := &replayer{recovery: recovery, filling: make([][]byte, n), applying: make([][]byte, n)}
	for range n {
		r.appliers = append(r.appliers, newApplier(recovery, now))
	}
	return r
}

// add takes a record into the round, or what a value of a store in the log has behind its LSN.
// Errors are those of an earlier round.
func (r *replayer) add(lsn uint64, rec []byte) error {
	v, turn, err := record.Cut(rec)
	if err == nil && len(turn) != 0 && len(turn) != turnBytes {
		err = fmt.Errorf("%w: %d bytes behind it", record.Err, len(turn))
	}
	if err != nil {
		return fmt.Errorf("LSN %d: %w", lsn, err)
	}
	if len(turn) == 0 {
		r.recovery.checkpoints.noteLogged(int64(len(rec)))
	}
	i := rangeOf(r.recovery.table.UserHash(v.User())) * len(r.appliers) / maxRanges
	r.filling[i] = appendReplay(r.filling[i], lsn, rec)
	if r.bytes += len(rec); r.bytes < roundBytes {
		return nil
	}
	return r.next()
}

// appendReplay and cutReplay are how records wait for their applier, and what values have behind
// their LSN.
func appendReplay(dst []byte, lsn uint64, rec []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, lsn)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(rec)))
	return append(dst, rec...)
}

func cutReplay(b []byte) (c change, rest []byte) {
	end := 10 + int(binary.LittleEndian.Uint16(b[8:]))
	rec, turn, err := record.Cut(b[10:end])
	if err != nil {
		panic("bug: " + err.Error()) // add has looked at it
	}
	c = change{lsn: binary.LittleEndian.Uint64(b), rec: rec}
	if len(turn) > 0 {
		c.stored, c.turn = true, parseTurn(turn)
	}
	return c, b[end:]
}

// change is what one record says, or one value of a store.
type change struct {
	lsn    uint64
	rec    record.View
	stored bool     // it is a value
	turn   lastTurn // of a value
}

// said is what the store said with the record; nil: it is one of the log.
func (c *change) said() *lastTurn {
	if c.stored {
		return &c.turn
	}
	return nil
}

// next waits for the round in progress and begins the one that was filled.
func (r *replayer) next() error {
	if err := r.finish(); err != nil {
		return err
	}
	r.filling, r.applying = r.applying, r.filling
	r.bytes = 0
	for i, a := range r.appliers {
		r.filling[i] = r.filling[i][:0]
		r.round.Go(func() { a.applyAll(r.applying[i]) })
	}
	return nil
}

// finish waits for the round in progress.
func (r *replayer) finish() error {
	r.round.Wait()
	var errs []error
	for _, a := range r.appliers {
		errs = append(errs, a.err)
	}
	r.recovery.over.note(r.recovery)
	return errors.Join(errs...)
}

// close applies what is left.
func (r *replayer) close() error {
	err := r.next()
	if err == nil {
		err = r.finish()
	}
	for _, a := range r.appliers {
		a.close()
	}
	return err
}

// applier takes up the records of some users during recovery; other appliers have the others. One
// goroutine at a time.
type applier struct {
	*devices
	expiry      *expirer
	checkpoints *checkpointer
	now         Instant
	silence     silence
	items       []wheel.Item // armed, not yet handed to the expire loop

	came [2]int64 // by status: how many more devices there are than before, not yet counted

	// name is the source of the last record that needed a reference, and spare is how many more of
	// them the applier has: while there are any, id is its id. Most devices have the same few.
	name  []byte
	id    uint32
	spare uint32

	found [GroupSize]table.Lookup // scratch of applyAll

	err error
}

func newApplier(r *recoverer, now Instant) *applier {
	return &applier{
		devices: r.devices, expiry: r.expiry, checkpoints: r.checkpoints, now: now,
		silence: r.silence,
	}
}

// applyAll applies records as appendReplay made them.
func (a *applier) applyAll(records []byte) {
	defer a.forgetSource()
	for len(records) > 0 && a.err == nil {
		n := 0
		for rest := records; len(rest) > 0 && n < GroupSize; n++ {
			var c change
			c, rest = cutReplay(rest)
			a.found[n].User, a.found[n].Device = c.rec.User(), c.rec.Device()
		}
		a.table.FindAll(a.found[:n])
		records = a.applyFound(records, n)
	}
}

// applyFound applies the next n records, whose devices were looked up, and returns the rest.
func (a *applier) applyFound(records []byte, n int) (rest []byte) {
	for i := range n {
		c, behind := cutReplay(records)
		err := a.apply(c.lsn, c.rec, a.found[i].Ref, a.found[i].Entry, c.said())
		if err != nil {
			a.err = err
			return nil
		}
		records = behind
	}
	return records
}

// apply takes up one record. It goes by LSN, never by seq: the log's order is the order of
// acceptance. The entry may be one that was the device's a moment ago, or nil. stored is what the
// store said with the record; nil: it is one of the log.
func (a *applier) apply(
	lsn uint64, r record.View, ref table.Ref, entry *table.Entry, stored *lastTurn,
) (err error) {
	user, device := r.User(), r.Device()
	if r.Forget() {
		a.forget(lsn, user, device)
		return nil
	}
	if entry == nil || !entry.Is(user, device) {
		if ref, entry, err = a.table.Restore(user, device); err != nil {
			return err
		}
	}
	if lsn <= entry.LSN() {
		if stored != nil {
			a.turned(user, *stored) // of another device, perhaps, and its record is gone
		}
		return nil
	}
	held, known := entry.Load()
	next := table.State{State: r.State(), LSN: lsn, Source: held.Source}
	other := !known || !a.sources.holds(held.Source, r.Source())
	if other {
		next.Source = a.source(r.Source())
	}
	if next.Online {
		next.DeadlineNanos = a.silence.deadline(&next, a.now)
	}
	mustClaim(entry, user, device)
	a.turnAgain(lsn, r, held.Online, stored)
	entry.Commit(&next)
	if other {
		a.sources.release(held.Source, 1)
	}
	if known {
		a.came[held.Status()]--
	}
	a.came[next.Status()]++
	if next.Online {
		a.arm(ref, entry, &next)
	}
	return nil
}

// forget takes a device out.
func (a *applier) forget(lsn uint64, user, device uuid.UUID) {
	a.checkpoints.noteForgotten(user, lsn)
	ref, entry := a.table.Find(user, device)
	if entry == nil || lsn <= entry.LSN() {
		return
	}
	mustClaim(entry, user, device)
	if held := entry.Held(); held.LSN != 0 {
		a.came[held.Status()]--
		if held.Online {
			u := a.table.Hold(user)
			u.Turn(false, held.SeenAtMS)
			u.Store()
		}
	}
	a.remove(ref, entry)
}

// turnAgain moves the aggregate of a user as a record of one of its devices did, which was online
// or not until then. Devices online are counted from the entries, since the table may lack devices
// that the record's own count has: those whose state in the store was newer than the store's LSN.
// Which turn was the last one the store says, or the record. One of an earlier version does not,
// and is a turn when it changes what the entry says.
func (a *applier) turnAgain(lsn uint64, r record.View, online bool, stored *lastTurn) {
	moves := r.Online() != online
	var turn lastTurn
	switch {
	case stored != nil:
		turn = *stored
	case r.Turn() || moves && !r.Tells():
		turn = lastTurn{lsn, r.UpdatedAt(), max(r.Seen(), r.UserSeen())}
	}
	if !moves {
		a.turned(r.User(), turn)
		return
	}
	u := a.table.Hold(r.User())
	u.Turn(r.Online(), 0)
	turn.noteIn(&u)
	u.Store()
}

// turned notes a turn of one of the user's devices, if there was one, and moves none.
func (a *applier) turned(user uuid.UUID, turn lastTurn) {
	if turn.lsn == 0 {
		return
	}
	u := a.table.Hold(user)
	turn.noteIn(&u)
	u.Store()
}

// noteIn makes it the last turn of an aggregate, unless that knows of a later one.
func (l *lastTurn) noteIn(u *table.HeldAggregate) {
	u.SeenAtMS = max(u.SeenAtMS, l.seenAtMS)
	if l.lsn > u.TurnLSN {
		u.TurnLSN, u.ChangedAtMS = l.lsn, l.changedAtMS
	}
}

// mustClaim claims an entry that no other goroutine may want.
func mustClaim(entry *table.Entry, user, device uuid.UUID) {
	if !entry.Claim(user, device) {
		panic("bug: an entry changed hands during recovery")
	}
}

// spareReferences is how many references an applier takes at a time.
const spareReferences = 1 << 10

// source returns the id of a source with a reference to it, for an entry.
func (a *applier) source(text []byte) uint32 {
	same := string(a.name) == string(text)
	if !same || a.spare == 0 {
		a.forgetSource()
		references := uint32(1)
		if same {
			references = spareReferences
		}
		a.id, a.spare = a.sources.take(text, references), references
		a.name = append(a.name[:0], text...)
	}
	a.spare--
	return a.id
}

// forgetSource gives back what is spare. Without it the id may become another text's.
func (a *applier) forgetSource() {
	if a.spare > 0 {
		a.sources.release(a.id, a.spare)
		a.spare = 0
	}
}

// arm is expirer.arm while no other goroutine arms: the entry is at hand now, and would have to be
// fetched again later.
func (a *applier) arm(ref table.Ref, entry *table.Entry, s *table.State) {
	due := min(a.expiry.dueAt(s.DeadlineNanos, s.TTLMS), a.now.Nanos+maxAhead)
	tick := uint32(tickOf(due))
	armed := entry.Armed()
	if armed != 0 && int32(tick-armed) >= 0 {
		return
	}
	if !entry.ArmedCAS(armed, tick) {
		panic("bug: an entry was armed by another during recovery")
	}
	a.items = append(a.items, wheel.Item{Ref: uint32(ref), Tick: tick})
}

// close hands what was armed to the expire loop, and what was counted to the counters.
func (a *applier) close() {
	a.forgetSource()
	for status, n := range a.came {
		a.counters.loops().devices[status].Add(n)
	}
	a.expiry.filed.putAll(a.items)
}
