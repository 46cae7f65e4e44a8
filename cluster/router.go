package cluster

import (
	"github.com/google/uuid"

	"rollcall/cluster/forward"
	"rollcall/engine"
)

// partitions is what the rest of a node needs to know of its partitions. Any goroutine may use it.
type partitions interface {
	// Of returns the partition of a user.
	Of(user uuid.UUID) int
	// Owner returns the node that owns a partition; "": none is known.
	Owner(p int) (node string)
	// Mine returns the engine of a partition that is this node's, and that it is sure of (C5). It
	// serves until release is called.
	Mine(p int) (e *engine.Engine, release func(), ok bool)
}

// router takes heartbeats to the engines of their partitions, here or at their owners. It is a
// node's part of server.Presence that writes. Any goroutine may call its methods.
type router struct {
	partitions partitions
	self       string
	forward    *forward.Forwarder
}

// notOwned is the result of a heartbeat for whose partition no node is known.
var notOwned = engine.Result{Outcome: engine.Unavailable, Err: engine.ErrNotMine}

// Heartbeat implements server.Presence.
func (r *router) Heartbeat(hb *engine.Heartbeat) engine.Result {
	p := r.partitions.Of(hb.User)
	if e, release, ok := r.partitions.Mine(p); ok {
		defer release()
		return e.Heartbeat(hb)
	}
	owner := r.partitions.Owner(p)
	if owner == "" || owner == r.self {
		return notOwned
	}
	return r.forward.Heartbeat(owner, p, hb)
}

// Kick implements server.Presence. What batches applied is committed as it is applied.
func (r *router) Kick() {}

// Stale implements server.Presence: a heartbeat for another node's partition is not known to be
// stale here, and counts as any other.
func (r *router) Stale(hb *engine.Heartbeat) bool {
	e, release, ok := r.partitions.Mine(r.partitions.Of(hb.User))
	if !ok {
		return false
	}
	defer release()
	return e.Stale(hb)
}

// NewBatch implements server.Presence.
func (r *router) NewBatch() engine.Batch { return newBatch(r) }
