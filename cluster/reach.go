package cluster

import (
	"time"
)

const (
	// reachEvery is how often a node looks which others are in reach.
	reachEvery = 50 * time.Millisecond
	// membersEvery is how often it looks which nodes the cluster has.
	membersEvery = time.Second
	// conversesNanos is how old the last pulse of this node may be that another one has answered by
	// its own: else what is sent there does not arrive, or what is sent from there.
	conversesNanos = int64(3 * time.Second)
	// isolatedNanos is for how long no majority may converse before the node counts as isolated.
	// With conversesNanos that is five seconds after a cut.
	isolatedNanos = int64(2 * time.Second)
	// shedOver is over how long an isolated node ends its streams.
	shedOver = 2 * time.Second
)

// watchReach looks which nodes are in reach, fails what waits for those that are not, and notices
// when this node is isolated and when it is not any more.
func (n *Node) watchReach() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var membersAt, sinceNanos int64
	for {
		for _, lost := range n.directory.reached(n.o.Node, n.bus.Peers()) {
			n.presence.down(lost)
			n.campaign.rouse()
		}
		now := n.o.Engine.Clock.Nanos()
		if n.members() == nil || now-membersAt > int64(membersEvery) {
			n.learnMembers()
			membersAt = now
		}
		switch {
		case n.phase.Load() == starting || n.converses(n.members(), now):
			sinceNanos = 0
			n.isolate(false)
		case sinceNanos == 0:
			sinceNanos = now
		case now-sinceNanos > isolatedNanos:
			n.isolate(true)
		}
		timer.Reset(n.o.Engine.Clock.Until(reachEvery))
		select {
		case <-timer.C:
		case <-n.stop:
			return
		}
	}
}

// converses reports whether this node and others that it hears, and that hear it, are a majority.
func (n *Node) converses(members []string, now int64) bool {
	with := 1
	for _, name := range members {
		if name != n.o.Node && n.directory.converses(name, n.pulses.boot, now-conversesNanos) {
			with++
		}
	}
	return with > len(members)/2
}

// isolate says whether this node is isolated. If it is, it may not be the owner of anything any
// more, though it has not heard so (C5): it ends its streams and answers nothing from its tables.
func (n *Node) isolate(isolated bool) {
	if n.isolated.Swap(isolated) == isolated {
		return
	}
	n.edge.Isolate(isolated, shedOver)
	if !isolated {
		n.o.Logger.Info("a majority of the nodes is in reach again")
		return
	}
	n.o.Logger.Error("this node is isolated: it and the nodes that it can talk to are no majority; "+
		"it answers nothing until they are", "in_reach", n.directory.inReach())
}
