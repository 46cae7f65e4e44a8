package cluster

import (
	"context"
	"log/slog"
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

// handOver has the logs that this node leads, and the cluster, led by others.
func (n *Node) handOver(ctx context.Context) (left int) {
	server := n.hosted.Load()
	if server == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, handOverWait)
	defer cancel()
	h := handOver{
		self: n.o.Node, server: server, directory: n.directory, pass: n.holdings.pass,
		partitions: n.o.Partitions, logger: n.o.Logger,
	}
	left = h.run(ctx)
	if server.LeadsMeta() {
		if err := server.StepDownMeta(ctx); err != nil {
			n.o.Logger.Warn("the lead of the cluster cannot be handed over", "error", err)
		}
	}
	return left
}

// handOver gives away what a node leads that is about to stop. Whether it owns a partition, claims
// it or has not begun to does not matter: the heir claims it, and the others go there. Nothing of
// it asks another node, so it works while no node leads the cluster, too.
type handOver struct {
	self       string
	partitions int
	server     ledLogs
	directory  *directory
	pass       func(ctx context.Context, p int, step func() error) error // of holdings
	logger     *slog.Logger

	owns map[string]int // partitions of each other node, with those that it was given
}

// ledLogs is what hand-overs need of an embed.Server.
type ledLogs interface {
	LearnGroups()
	Leads(stream string) bool
	Copies(stream string, of []string) (current map[string]bool)
	StepDown(stream, to string) error
}

// run has the logs led by others, and waits until these own the partitions, or ctx is done. It
// returns how many are left. A log without an heir stays: the node serves its users until it ends.
func (h *handOver) run(ctx context.Context) (left int) {
	h.server.LearnGroups()
	h.owns = map[string]int{}
	for _, peer := range h.directory.heard() {
		if peer.Node != h.self {
			h.owns[peer.Node] = len(peer.Partitions)
		}
	}
	var led []int
	for p := range h.partitions {
		if h.server.Leads(streamOf(p)) {
			led = append(led, p)
		}
	}
	turns := make(chan struct{}, handOversAtOnce)
	var group sync.WaitGroup
	for waiting := led; len(waiting) > 0; {
		var later []int
		for _, p := range waiting {
			if to, soon := h.heir(streamOf(p)); to != "" {
				turns <- struct{}{}
				group.Go(func() {
					defer func() { <-turns }()
					h.give(ctx, p, to)
				})
			} else if soon {
				later = append(later, p)
			}
		}
		if waiting = later; !wait(ctx.Done(), handOverEvery) {
			break
		}
	}
	group.Wait()
	for _, p := range led {
		if !h.gone(p) {
			left++
		}
	}
	return left
}

// give has a partition's log led by another node, and waits until that, or a third one, owns it.
func (h *handOver) give(ctx context.Context, p int, to string) {
	stream := streamOf(p)
	err := h.pass(ctx, p, func() error { return h.server.StepDown(stream, to) })
	if err != nil {
		h.logger.Warn("a partition cannot be handed over", "partition", p, "to", to, "error", err)
		return
	}
	for !h.gone(p) && wait(ctx.Done(), handOverEvery) {
	}
}

// gone reports whether another node owns a partition.
func (h *handOver) gone(p int) bool {
	owner := h.directory.owner(p)
	return owner != "" && owner != h.self
}

// heir is the node that a log is handed to: of those that can serve and have a current copy the one
// that owns the fewest partitions; "": there is none. soon says that a copy may be current later.
func (h *handOver) heir(stream string) (to string, soon bool) {
	var others []string
	for name := range h.owns {
		if h.serves(name, stream) {
			others = append(others, name)
		}
	}
	for name, current := range h.server.Copies(stream, others) {
		soon = true
		if current && (to == "" || h.owns[name] < h.owns[to]) {
			to = name
		}
	}
	if to != "" {
		h.owns[to]++
	}
	return to, soon
}

// serves reports whether a node is there and stays, and can use its copy of a log if it has one.
func (h *handOver) serves(name, stream string) bool {
	d := h.directory
	silence, heard := d.silence(name)
	return heard && silence < conversesNanos && d.reaches(name) && !d.drains(name) &&
		d.missing(name, stream) == 0 && !d.unusable(name, stream)
}
