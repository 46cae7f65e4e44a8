package cluster

import (
	"context"
	"sync"
	"time"
)

const (
	// handOverWait bounds how long a node that drains waits until others own its partitions.
	handOverWait = 5 * time.Second
	// handOverEvery is how often it looks whether they do.
	handOverEvery = 5 * time.Millisecond
	// handOversAtOnce is how many partitions are on their way at a time.
	handOversAtOnce = 8
)

// Drain gives this node's partitions to others, and meanwhile refuses new streams and ends the open
// ones, spread over a time, until all have ended or ctx is done. Heartbeats are still answered. An
// error is ctx's: streams were left.
func (n *Node) Drain(ctx context.Context, over time.Duration) error {
	var group sync.WaitGroup
	defer group.Wait()
	if n.phase.Swap(draining) != draining {
		n.pulses.now()
		group.Go(func() {
			began := time.Now()
			left := n.handOver(ctx)
			n.o.Logger.Info("handed partitions over", "took",
				time.Since(began).Round(time.Millisecond), "left", left)
		})
	}
	return n.follower.Drain(ctx, over)
}

// handOver has the logs of this node's partitions led by others, and waits until these own them, or
// until it has waited long enough. It returns how many are left.
func (n *Node) handOver(ctx context.Context) (left int) {
	ctx, cancel := context.WithTimeout(ctx, handOverWait)
	defer cancel()
	held := n.holdings.all()
	if len(held) == 0 {
		return 0
	}
	heirs := n.newHeirs(ctx)
	turns := make(chan struct{}, handOversAtOnce)
	var group sync.WaitGroup
	for _, o := range held {
		to := heirs.next(streamOf(o.partition))
		if to == "" {
			continue
		}
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			if err := n.server.StepDown(ctx, streamOf(o.partition), to); err != nil {
				n.o.Logger.Warn("a partition cannot be handed over", "partition", o.partition,
					"to", to, "error", err)
				return
			}
			n.awaitHeir(ctx, o.partition)
		})
	}
	group.Wait()
	if n.server.LeadsMeta() {
		if err := n.server.StepDownMeta(ctx); err != nil {
			n.o.Logger.Warn("the lead of the cluster cannot be handed over", "error", err)
		}
	}
	for _, o := range held {
		if owner := n.directory.owner(o.partition); owner == "" || owner == n.o.Node {
			left++
		}
	}
	return left
}

// awaitHeir waits until another node owns a partition.
func (n *Node) awaitHeir(ctx context.Context, p int) {
	for {
		if owner := n.directory.owner(p); owner != "" && owner != n.o.Node {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(handOverEvery):
		}
	}
}

// heirs are the nodes that partitions can be handed to. Single owner.
type heirs struct {
	owns   map[string]int             // partitions of the nodes that are there
	copies map[string][]ReplicaStatus // by log
}

func (n *Node) newHeirs(ctx context.Context) *heirs {
	h := &heirs{owns: map[string]int{}}
	for _, peer := range n.directory.heard() {
		silence, _ := n.directory.silence(peer.Node)
		if peer.Node != n.o.Node && !peer.Draining && n.directory.reaches(peer.Node) &&
			silence < conversesNanos {
			h.owns[peer.Node] = len(peer.Partitions)
		}
	}
	copies, err := n.observer.copies.get(ctx)
	if err != nil {
		n.o.Logger.Warn("which copies are current is not known, so the logs choose who leads them",
			"error", err)
	}
	h.copies = copies
	return h
}

// next is the node that a log is handed to: of those with a current copy the one that owns the
// fewest partitions; "": there is none.
func (h *heirs) next(stream string) (to string) {
	for _, c := range h.copies[stream] {
		owns, there := h.owns[c.Node]
		if there && c.Current && !c.Offline && (to == "" || owns < h.owns[to]) {
			to = c.Node
		}
	}
	if to != "" {
		h.owns[to]++
	}
	return to
}
