package cluster

import (
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// repairAgain is how long an owner waits after a checkpoint that was to repair a copy until it
// takes another one for that.
const repairAgain = time.Minute

// damage knows which copies of logs lack messages that were damaged on a disk. The servers take
// such a copy for a current one. A checkpoint of the owner repairs it: what was there before the
// checkpoint is purged from all copies. One goroutine calls look; any may call own.
type damage struct {
	missing  func() map[string]uint64 // from the copies on this node
	first    func() map[string]uint64 // sequences of their first messages
	holdings *holdings
	copies   func(log string) (nodes []string) // that are damaged, of all nodes
	logger   *slog.Logger

	found    atomic.Pointer[map[string]uint64]
	repaired map[int]time.Time // by partition, when its owner was here
}

// own is how many messages the copies on this node lack, by log.
func (d *damage) own() map[string]uint64 {
	if found := d.found.Load(); found != nil {
		return *found
	}
	return nil
}

// look looks at the copies on this node, and has partitions of this node repaired.
func (d *damage) look(now time.Time) {
	was, is := d.own(), d.missing()
	if is == nil { // the logs are switched off
		return
	}
	if len(d.holdings.unusable()) > 0 {
		d.holdings.usable(d.first())
	}
	d.found.Store(&is)
	for _, log := range slices.Sorted(maps.Keys(is)) {
		if was[log] == 0 {
			d.logger.Error("a copy of a log on this node's disk was damaged, so that messages are "+
				"missing: see docs/cluster.md, bytes have changed on a disk", "log", log,
				"missing", is[log])
		}
	}
	for log := range was {
		if is[log] == 0 {
			d.logger.Info("a damaged copy of a log on this node's disk is whole again", "log", log)
		}
	}
	for _, o := range d.holdings.all() {
		nodes := d.copies(streamOf(o.partition))
		if len(nodes) == 0 || now.Sub(d.repaired[o.partition]) < repairAgain {
			continue
		}
		d.repaired[o.partition] = now
		d.logger.Warn("takes a checkpoint, after which a damaged copy is whole again",
			"partition", o.partition, "on", nodes)
		o.engine.CheckpointSoon()
	}
}
