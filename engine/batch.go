package engine

import "rollcall/engine/table"

// GroupSize is how many heartbeats Batch.Apply takes at a time, at most: enough for the cache misses of their look-ups to
// overlap, and few enough that what it looked up is still in the nearest cache when it is applied.
const GroupSize = 32

// Batch is heartbeats that are applied one after the other and waited for together. Each is judged alone, by the rules of
// Engine.Heartbeat and in the order in which they are given, so a batch may name a device twice. Nothing is held from one
// heartbeat to the next, neither a claim (I1) nor a credit of the log: any number of batches may run beside each other and
// beside single heartbeats.
//
//	Apply, Apply, ...: for each heartbeat steps 1 to 6 of doc.go      Settle: step 7, once for all
//
// No outcome may be told before Settle returned nil (I2). The zero value is an empty batch. Single owner.
type Batch struct {
	newest          uint64 // highest LSN that an outcome depends on
	accepted, stale uint64 // outcomes that are not counted yet
	refusal         error  // why the log took no more; all that comes after it is refused, too
	lane            *lane  // of the heartbeats
	finds           [GroupSize]table.Lookup
}

// Apply applies up to GroupSize heartbeats and stores what came of each in results, which is as long. When the log has no
// room for one of them within Options.MaxWait, this one and all later ones of the batch are Unavailable: their sender
// repeats them in the same order. It keeps nothing of hbs.
func (e *Engine) Apply(b *Batch, hbs []Heartbeat, results []Result) {
	if len(hbs) == 0 {
		return
	}
	t := e.clock()
	b.lane = e.counters.lane(&hbs[0])
	finds := b.finds[:len(hbs)]
	for i := range hbs {
		finds[i].User, finds[i].Device = hbs[i].User, hbs[i].Device
	}
	e.table.FindAll(finds)
	for i := range hbs {
		if b.refusal != nil {
			e.deaf(t.Nanos) // the silence of those refused unheard is not theirs (I8)
			results[i] = e.refuse(&hbs[i], b.refusal)
			results[i].LogFull = true
			continue
		}
		r, lsn := e.submit(&hbs[i], finds[i].Ref, finds[i].Entry, t)
		results[i] = r
		b.newest = max(b.newest, lsn)
		switch {
		case r.Outcome == Accepted:
			b.accepted++
		case r.Outcome == Stale:
			b.stale++
		case r.LogFull:
			b.refusal = r.Err
		}
	}
}

// Settle waits until the outcomes of all heartbeats that were applied may be told, and empties the batch. After an error
// none may: some are in the log, perhaps, and the log has failed.
func (e *Engine) Settle(b *Batch) error {
	err := e.log.Wait(b.newest)
	switch {
	case b.lane == nil: // nothing was applied
	case err != nil:
		b.lane.unavailable.Add(b.accepted + b.stale)
	default:
		b.lane.count(Accepted, b.accepted)
		b.lane.count(Stale, b.stale)
	}
	b.newest, b.accepted, b.stale, b.refusal, b.lane = 0, 0, 0, nil, nil
	return err
}
