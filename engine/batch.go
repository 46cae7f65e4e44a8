package engine

import (
	"sync"

	"rollcall/engine/table"
)

const (
	// GroupSize is how many heartbeats Batch.Add takes at a time, at most: enough for the cache
	// misses of their look-ups to overlap, and few enough that what it looked up is still in the
	// nearest cache when it is applied.
	GroupSize = 32
	// MaxRejections is how many rejected heartbeats a Batch remembers.
	MaxRejections = 100

	// kickAfter is how many heartbeats of a batch are committed while more of them are added, so
	// that a long one does not leave all of the log's work to its end, nor fills its buffer.
	// Shorter batches ask for one commit each.
	kickAfter = 2048
)

// Batch is heartbeats that are applied one after the other and waited for together. Each is judged
// alone, by the rules of a single heartbeat and in the order in which they are added, so a batch
// may name a device twice. Parts of a batch may be applied elsewhere.
//
//	Add, Add, ...    Settle    Counts, Rejections    Release
//
// A batch has one owner. Nothing it holds blocks other batches or single heartbeats.
type Batch interface {
	// AroundWaits makes Add call before and after when it has to wait, for room in the log.
	// Default: neither.
	AroundWaits(before, after func())
	// Add applies up to GroupSize heartbeats, each under its Index, which grows from one to the
	// next. It keeps nothing of them but their Sender, which it may ask until Settle has returned.
	Add(hbs []Heartbeat)
	// Full returns the Index of the first heartbeat that the log had no room for. All after it are
	// refused, too, so that their sender can repeat them in the same order: nothing more need be
	// added. A batch over several partitions says after Settle which is the first that was not
	// taken for now: some after it may have been accepted.
	Full() (index int, full bool)
	// Settle waits until the outcomes may be reported (I2). After an error none may be: some
	// heartbeats are in the log, perhaps, and the log has failed or is stalled.
	Settle() error
	// Counts returns how many heartbeats had each outcome. Valid after Settle.
	Counts() Counts
	// Rejections returns the first MaxRejections heartbeats that were not accepted, by their Index.
	// Valid after Settle and until Release.
	Rejections() []Rejection
	// Release gives the batch back; its owner forgets it.
	Release()
}

// ResultBatch is a Batch whose owner learns what came of each heartbeat, also where more of them
// were rejected than Rejections lists.
type ResultBatch interface {
	Batch
	// Apply is Add, and sets results, which is as long as hbs, to what came of each. They may be
	// told after Settle.
	Apply(hbs []Heartbeat, results []Result)
}

// Counts are the outcomes of a batch's heartbeats.
type Counts struct {
	Accepted, Stale, Unavailable int

	// Err is why the first of the Unavailable was refused.
	Err error
}

// Rejection is a heartbeat of a batch that was not accepted.
type Rejection struct {
	Index int // Heartbeat.Index
	Result
}

// batch is a Batch of one engine. Nothing is held from one heartbeat to the next, neither a claim
// (I1) nor a credit of the log.
//
//	Add, Add, ...: for each heartbeat steps 1 to 6 of doc.go      Settle: step 7, once for all
type batch struct {
	acceptor   *acceptor
	unkicked   int    // heartbeats since the log was last kicked
	newest     uint64 // highest LSN that an outcome depends on
	counts     Counts
	refusal    error // why the log took no more; all that comes after it is refused, too
	full       int   // the Index of the first refused for that
	rejections []Rejection
	stripe     *stripe // of the heartbeats; nil: none was added
	finds      [GroupSize]table.Lookup
	waits      waits
}

// waits is what to do where a heartbeat has to wait.
type waits struct {
	before, after func() // nil: nothing
	none          bool   // it is not to wait, nor to be refused: it is left alone
}

// atOnce leaves alone what cannot be taken at once.
var atOnce = waits{none: true}

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch(a *acceptor) *batch {
	b := batches.Get().(*batch)
	b.acceptor = a
	return b
}

func (b *batch) Release() {
	clear(b.rejections) // their errors
	b.acceptor, b.stripe, b.refusal, b.newest, b.counts = nil, nil, nil, 0, Counts{}
	b.rejections = b.rejections[:0]
	b.unkicked = 0
	b.waits = waits{}
	batches.Put(b)
}

func (b *batch) AroundWaits(before, after func()) { b.waits = waits{before: before, after: after} }

func (b *batch) Full() (index int, full bool) { return b.full, b.refusal != nil }

func (b *batch) Counts() Counts { return b.counts }

func (b *batch) Rejections() []Rejection { return b.rejections }

func (b *batch) Add(hbs []Heartbeat) { b.Apply(hbs, nil) }

func (b *batch) Apply(hbs []Heartbeat, results []Result) {
	if len(hbs) == 0 {
		return
	}
	a := b.acceptor
	received := a.clock()
	b.stripe = a.counters.stripe(&hbs[0])
	finds := b.finds[:len(hbs)]
	for i := range hbs {
		finds[i].User, finds[i].Device = hbs[i].User, hbs[i].Device
	}
	a.table.FindAll(finds)
	for i := range hbs {
		if b.refusal != nil {
			r := a.refuseFull(&hbs[i], b.refusal, received.Nanos)
			b.note(hbs[i].Index, r)
			if results != nil {
				results[i] = r
			}
			continue
		}
		r, lsn := a.submit(&hbs[i], finds[i].Ref, finds[i].Entry, received, &b.waits)
		b.newest = max(b.newest, lsn)
		if results != nil {
			results[i] = r
		}
		if r.Outcome == Accepted {
			b.counts.Accepted++
			continue
		}
		b.note(hbs[i].Index, r)
	}
	if b.unkicked += len(hbs); b.unkicked >= kickAfter {
		b.unkicked = 0
		a.log.Kick()
	}
}

// note counts a heartbeat that was not accepted, and remembers it as one of the first.
func (b *batch) note(index int, r Result) {
	if r.Outcome == Stale {
		b.counts.Stale++
	} else if b.counts.Unavailable++; b.counts.Err == nil {
		b.counts.Err = r.Err
	}
	if r.LogFull && b.refusal == nil {
		b.refusal, b.full = r.Err, index
	}
	if len(b.rejections) < MaxRejections {
		b.rejections = append(b.rejections, Rejection{Index: index, Result: r})
	}
}

func (b *batch) Settle() error {
	if b.stripe == nil { // nothing was added
		return nil
	}
	accepted, stale := uint64(b.counts.Accepted), uint64(b.counts.Stale)
	if err := b.acceptor.settled(b.newest, stale > 0); err != nil {
		b.stripe.unavailable.Add(accepted + stale)
		b.acceptor.expiry.postponeExpiry(b.acceptor.clock.Nanos()) // I8
		return err
	}
	b.stripe.count(Accepted, accepted)
	b.stripe.count(Stale, stale)
	return nil
}
