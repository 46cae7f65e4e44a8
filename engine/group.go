package engine

import (
	"rollcall/engine/table"
)

// Group applies heartbeats for a goroutine that serves many connections and must not wait for one
// of them. What it cannot take at once it leaves alone: Heartbeat takes that, or says why not.
//
//	Apply, Apply, ...    Commit    Told
//
// Apply has one owner, who keeps the results until Commit says whether they may be told. The other
// methods may be called from any goroutine.
type Group interface {
	// Apply applies heartbeats, GroupSize at most, each judged alone and in their order, until one
	// would have to wait for room in the log, or would be refused for another reason than its seq.
	// It returns how many it applied, and the LSN that must be committed before their results may
	// be told (I2), which are Accepted or Stale. Of the others nothing was applied or counted. It
	// keeps nothing of hbs.
	Apply(hbs []Heartbeat, results []Result) (n int, lsn uint64)
	// Commit returns when lsn is committed, or why it is not. It does the log's work on the calling
	// goroutine, which is as long away as the disk is: see Stalled.
	Commit(lsn uint64) error
	// Committed is the highest LSN whose outcomes may be told.
	Committed() uint64
	// Stalled reports that the commit in flight takes so long that outcomes are told as Unavailable
	// now.
	Stalled() bool
	// Told counts outcomes that are told: as they are, or as Unavailable for want of a commit.
	Told(accepted, stale int, err error)
}

// Later takes heartbeats for a goroutine that serves many connections, and says later what came of
// each, in any order. An engine has none: it is for what shares users out among engines.
type Later interface {
	// Submit takes heartbeats, GroupSize at most, each under a token, and keeps nothing of them but
	// their Sender, which it may ask until their results are told. It does not wait: what there is
	// no room for is Unavailable. One goroutine at a time.
	Submit(hbs []Heartbeat, tokens []uint64)
	// Collect waits until there are results, and returns them. It may use spare for that. None:
	// Close was called. One goroutine calls it.
	Collect(spare []LaterResult) []LaterResult
	// Close ends Collect.
	Close()
}

// LaterResult is what came of the heartbeat of a token.
type LaterResult struct {
	Token uint64
	Result
}

// group is a Group of one engine. See batch for its steps.
type group struct {
	acceptor *acceptor
	finds    [GroupSize]table.Lookup
	own      Heartbeat // names the stripe
}

func newGroup(a *acceptor) *group { return &group{acceptor: a} }

func (g *group) Apply(hbs []Heartbeat, results []Result) (n int, lsn uint64) {
	a := g.acceptor
	received := a.clock()
	finds := g.finds[:len(hbs)]
	for i := range hbs {
		finds[i].User, finds[i].Device = hbs[i].User, hbs[i].Device
	}
	a.table.FindAll(finds)
	for i := range hbs {
		r, at := a.submit(&hbs[i], finds[i].Ref, finds[i].Entry, received, &atOnce)
		if r.Outcome == Unavailable {
			return i, lsn
		}
		results[i], lsn = r, max(lsn, at)
	}
	return len(hbs), lsn
}

func (g *group) Commit(lsn uint64) error { return g.acceptor.log.Commit(lsn) }

func (g *group) Committed() uint64 { return g.acceptor.log.Committed() }

func (g *group) Stalled() bool { return g.acceptor.log.Stalled() }

func (g *group) Told(accepted, stale int, err error) {
	a := g.acceptor
	stripe := a.counters.stripe(&g.own)
	if err != nil {
		stripe.unavailable.Add(uint64(accepted + stale))
		a.expiry.postponeExpiry(a.clock.Nanos()) // I8
		return
	}
	stripe.count(Accepted, uint64(accepted))
	if stale > 0 {
		stripe.count(Stale, uint64(stale))
	}
}
