package cluster

import (
	"context"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/cluster/forward"
	"rollcall/cluster/read"
	"rollcall/engine"
	"rollcall/engine/broadcast"
)

// presence is the part of server.Presence that is of all partitions: it writes where they are
// owned, and reads there or at the edge. Streams are the edge's. Any goroutine may call its
// methods.
type presence struct {
	router
	reader *read.Reader
	edge   edge
}

// edge is what the streams of this node were sent.
type edge interface {
	read.Edge
	Turned(user uuid.UUID) (atMS uint64, online bool)
}

// newPresence makes the presence of a node of so many partitions. It takes over the subjects of
// forward and read.
func newPresence(
	b bus.Bus, count int, p partitions, e edge, clock engine.Clock, o forward.Options,
) *presence {
	owned := func(partition int) (forward.Engine, func(), bool) { return p.Mine(partition) }
	mine := func(partition int) (read.Engine, func(), bool) { return p.Mine(partition) }
	return &presence{
		router: router{partitions: p, self: b.Self(), forward: forward.New(b, count, owned, o)},
		reader: read.New(b, read.Partitions{Count: count, Of: p.Of, Owner: p.Owner, Mine: mine}, e,
			clock),
		edge: e,
	}
}

// Users implements server.Presence.
func (p *presence) Users(ids []uuid.UUID, limit int, fn func(u *engine.User)) error {
	return p.reader.Users(ids, limit, fn)
}

// Devices implements server.Presence.
func (p *presence) Devices(user, after uuid.UUID, limit int) (
	page []engine.Device, more bool, err error,
) {
	return p.reader.Devices(user, after, limit)
}

// Recent implements server.Presence.
func (p *presence) Recent(ctx context.Context, q engine.UserQuery) ([]engine.ListedUser, error) {
	return p.reader.Recent(ctx, q)
}

// Streams implements server.Presence, of all nodes.
func (p *presence) Streams(user uuid.UUID) int { return p.reader.Streams(user) }

// Renew implements server.Presence, for the streams of all nodes.
func (p *presence) Renew(name string, expiresNanos int64, fits broadcast.Fits) error {
	return p.reader.Renew(name, expiresNanos, fits)
}

// Turned implements server.Presence. It serves streams that resume, which are told what the edge
// holds.
func (p *presence) Turned(user uuid.UUID) (atMS uint64, online bool) { return p.edge.Turned(user) }

// NewGroup implements server.Presence: answers come from elsewhere, see NewLater.
func (p *presence) NewGroup() engine.Group { return nil }

// NewLater implements server.Presence.
func (p *presence) NewLater() engine.Later { return newLater(&p.router) }

// down says that a node went out of reach: what it has not answered never will be.
func (p *presence) down(node string) { p.forward.Down(node) }

// close fails what still waits for other nodes, and takes no more.
func (p *presence) close() { p.forward.Close() }
