package cluster

import (
	"maps"
	"slices"
	"sync"

	"rollcall/engine"
)

// directory is what a node knows of the others from their pulses: who is there, and who owns which
// partition by which claim. Of two claims the one with the higher epoch counts, whatever comes
// first. Any goroutine may use it.
type directory struct {
	clock engine.Clock

	mu     sync.RWMutex
	owners []ownership      // by partition. guarded by mu
	nodes  map[string]*peer // those that were heard, by name. guarded by mu
	reach  map[string]bool  // nodes in reach, this one too. guarded by mu
}

// ownership is who owns a partition.
type ownership struct {
	node  string // "": none is known
	epoch uint64 // of its claim, or of the last one that is known
	sure  bool   // the owner's log answers
}

// peer is what is known of a node.
type peer struct {
	pulse
	heardNanos int64
	skewMS     int64 // its wall clock minus this node's, when it was heard
}

func newDirectory(clock engine.Clock, partitions int) *directory {
	return &directory{
		clock: clock, owners: make([]ownership, partitions), nodes: make(map[string]*peer),
		reach: make(map[string]bool),
	}
}

// owner returns the node to which what concerns a partition can be sent; "": none is known, or it
// is not in reach.
func (d *directory) owner(p int) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if o := d.owners[p].node; d.reach[o] {
		return o
	}
	return ""
}

// ownership returns what is known of a partition.
func (d *directory) ownership(p int) ownership {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.owners[p]
}

// calm reports whether each partition has an owner in reach, and no node is about to stop.
func (d *directory) calm() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for name, p := range d.nodes {
		if p.Draining && d.reach[name] {
			return false
		}
	}
	for i := range d.owners {
		if !d.reach[d.owners[i].node] {
			return false
		}
	}
	return true
}

// change is a partition with another owner.
type change struct {
	partition int
	ownership
}

// hear takes a pulse, and returns which partitions have another owner by it. A node that names a
// partition no more has given it up.
func (d *directory) hear(p *pulse) (changed []change) {
	now := d.clock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes[p.Node] == nil && len(d.nodes) >= maxMet {
		return nil // no cluster has so many: most of them are names that a node made up
	}
	d.nodes[p.Node] = &peer{
		pulse: *p, heardNanos: now.Nanos, skewMS: int64(p.WallMS) - int64(now.WallMS),
	}
	named := make(map[int]bool, len(p.Partitions))
	for _, n := range p.Partitions {
		if n.Partition < 0 || n.Partition >= len(d.owners) {
			continue
		}
		named[n.Partition] = true
		o := &d.owners[n.Partition]
		switch {
		case n.Epoch < o.epoch:
		case n.Epoch == o.epoch && o.node == p.Node:
			o.sure = n.Sure
		default:
			*o = ownership{p.Node, n.Epoch, n.Sure}
			changed = append(changed, change{n.Partition, *o})
		}
	}
	for i := range d.owners {
		if o := &d.owners[i]; o.node == p.Node && !named[i] {
			o.node, o.sure = "", false
			changed = append(changed, change{i, *o})
		}
	}
	return changed
}

// reached says which nodes are in reach, beside this one, and returns those that were and are not.
func (d *directory) reached(self string, names []string) (lost []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := map[string]bool{self: true}
	for _, name := range names {
		now[name] = true
	}
	for name := range d.reach {
		if !now[name] {
			lost = append(lost, name)
		}
	}
	d.reach = now
	return lost
}

// inReach is how many nodes are in reach, this one among them.
func (d *directory) inReach() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.reach)
}

// reaches reports whether a node is in reach.
func (d *directory) reaches(node string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.reach[node]
}

// echo is what a pulse to a node says of that node's own pulses.
func (d *directory) echo(node string, nowNanos int64) *pulseEcho {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p := d.nodes[node]
	if p == nil {
		return nil
	}
	return &pulseEcho{Boot: p.Boot, AtNanos: p.AtNanos, HeldNanos: nowNanos - p.heardNanos}
}

// converses reports whether a node has answered, by a pulse, one of this process that was sent
// after an instant.
func (d *directory) converses(node string, boot uint64, since int64) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p := d.nodes[node]
	return p != nil && d.reach[node] && p.asOf(boot) > since
}

// silence is for how long a node was not heard, in nanoseconds; false: it never was.
func (d *directory) silence(node string) (nanos int64, heard bool) {
	now := d.clock.Nanos()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if p := d.nodes[node]; p != nil {
		return now - p.heardNanos, true
	}
	return 0, false
}

// drains reports whether a node said last that it drains.
func (d *directory) drains(node string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p := d.nodes[node]
	return p != nil && p.Draining
}

// heard are the nodes that were heard, by name.
func (d *directory) heard() []peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	peers := make([]peer, 0, len(d.nodes))
	for _, name := range slices.Sorted(maps.Keys(d.nodes)) {
		peers = append(peers, *d.nodes[name])
	}
	return peers
}

// missing is how many messages a node's copy of a log lacks that were damaged on its disk.
func (d *directory) missing(node, log string) uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if p := d.nodes[node]; p != nil {
		return p.Missing[log]
	}
	return 0
}

// unusable reports whether a node said last that it cannot use its copy of a log.
func (d *directory) unusable(node, log string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p := d.nodes[node]
	return p != nil && slices.Contains(p.Unusable, log)
}

// damaged are the nodes whose copy of a log lacks messages.
func (d *directory) damaged(log string) (nodes []string) {
	for _, p := range d.heard() {
		if p.Missing[log] > 0 {
			nodes = append(nodes, p.Node)
		}
	}
	return nodes
}

// forget forgets nodes that are no members, not in reach, and have not been heard for a time: a
// cluster whose nodes come and go keeps none that is gone for ever.
func (d *directory) forget(nanos int64, members []string) {
	now := d.clock.Nanos()
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.nodes, func(name string, p *peer) bool {
		return !d.reach[name] && now-p.heardNanos > nanos && !slices.Contains(members, name)
	})
}
