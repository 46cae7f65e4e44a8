package cluster

import (
	"encoding/json"
	"math/rand/v2"
	"sync"
	"time"

	"rollcall/cluster/bus"
	"rollcall/cluster/watch"
	"rollcall/engine"
)

const (
	// pulseEvery is how often each node tells each that it is there.
	pulseEvery = 500 * time.Millisecond
	// forgetNanos is how long a node that is gone, and no member, is remembered.
	forgetNanos = int64(time.Hour)
)

// pulse is what a node tells each node, itself among them: at every change of what it owns, and at
// least each pulseEvery. It takes the way of what its hubs tell that node, so that the two come in
// the order in which they were sent: a count that is higher than what has come shows a loss.
type pulse struct {
	Node     string `json:"node"`
	ID       string `json:"id"` // of its data directory
	Version  string `json:"version"`
	Formats  []int  `json:"formats"` // of messages and logs that it reads
	WallMS   uint64 `json:"wall_ms"`
	Draining bool   `json:"draining,omitempty"`
	// Missing is how many messages its copies of logs lack, since they were damaged, by log.
	Missing map[string]uint64 `json:"missing,omitempty"`
	// Unusable are the logs that it could not use when it claimed them last: its copy is damaged,
	// or a newer version wrote what is in it.
	Unusable   []string         `json:"unusable,omitempty"`
	Partitions []pulsePartition `json:"partitions"` // that it owns

	// Boot names the process, and AtNanos is when it made the pulse, by its clock.
	Boot    uint64 `json:"boot"`
	AtNanos int64  `json:"at"`
	// Echo is the last pulse of the node that gets this one; nil: it was not heard.
	Echo *pulseEcho `json:"echo,omitempty"`
}

// pulseEcho says which pulse of a node another one got last, and how long before it says so. By it
// the node knows how old what it hears may be, whatever the clocks are: it was made after the
// echoed pulse had come, so after that was sent. A route that was held up, or a process that was,
// brings all that waited at once, and then the echoes are old.
type pulseEcho struct {
	Boot      uint64 `json:"b"`
	AtNanos   int64  `json:"at"`
	HeldNanos int64  `json:"held"`
}

// asOf is an instant of this node's clock at or before which a pulse was made, and as near as is
// known; 0: nothing is known.
func (p *pulse) asOf(boot uint64) int64 {
	switch e := p.Echo; {
	case p.Boot == boot: // its own
		return p.AtNanos
	case e == nil || e.Boot != boot || e.HeldNanos < 0:
		return 0
	default:
		return e.AtNanos + e.HeldNanos
	}
}

type pulsePartition struct {
	Partition int    `json:"p"`
	Epoch     uint64 `json:"e"`
	Sure      bool   `json:"s"`
	// AgeNanos is how long before the pulse the last append began that was acknowledged: then no
	// other node was the owner. One that is cut off is sure for longer than that.
	AgeNanos int64  `json:"g"`
	Sent     uint64 `json:"n"` // messages of its hub to the node that gets the pulse
}

// provenAt is an instant at which the node was the owner, by a pulse of asOf; 0: none is known.
func (n *pulsePartition) provenAt(asOf int64) int64 {
	if !n.Sure || asOf <= n.AgeNanos {
		return 0
	}
	return asOf - n.AgeNanos
}

// maxPulse bounds what is read as a pulse.
const maxPulse = 1 << 20

const (
	// maxPulseID and maxPulseVersion bound what of a pulse is kept, in bytes: more is of no node.
	maxPulseID      = 64
	maxPulseVersion = 256
	maxPulseFormats = 64
)

// readPulse reads a pulse; false: it is none, or of another node than the one that sent it.
func readPulse(m bus.Message) (p pulse, ok bool) {
	if len(m.Data) > maxPulse || json.Unmarshal(m.Data, &p) != nil {
		return p, false
	}
	return p, p.Node == m.From && name.MatchString(p.Node) && len(p.ID) <= maxPulseID &&
		len(p.Version) <= maxPulseVersion && len(p.Formats) <= maxPulseFormats &&
		len(p.Partitions) <= maxPartitions && len(p.Unusable) <= maxPartitions
}

// pulses sends this node's pulses and takes those of all. Any goroutine may use it.
type pulses struct {
	bus       bus.Bus
	clock     engine.Clock
	owned     *holdings
	directory *directory
	edge      *watch.Edge
	own       func() pulse // what does not depend on who gets it, without partitions
	met       func(node, id string)
	members   func() []string
	boot      uint64 // of this process

	wake rouser // of run
	stop chan struct{}
	loop sync.WaitGroup
}

// start takes over the subjects of package watch, and sends pulses until close.
func (s *pulses) start() {
	s.boot = rand.Uint64() >> 11 // a number that all readers of JSON take
	s.bus.Handle(watch.EdgeSubject, s.receive)
	s.bus.Handle(watch.HubSubject, s.owned.receive)
	s.loop.Go(s.run)
}

func (s *pulses) close() {
	close(s.stop)
	s.loop.Wait()
}

// now has pulses sent at once.
func (s *pulses) now() { s.wake.rouse() }

func (s *pulses) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		case <-timer.C:
			s.directory.forget(forgetNanos, s.members())
		}
		timer.Reset(s.clock.Until(pulseEvery))
		s.send()
	}
}

// send sends each node a pulse.
func (s *pulses) send() {
	owned := s.owned.all()
	p := s.own()
	for _, to := range append(s.bus.Peers(), s.bus.Self()) {
		p.Partitions = make([]pulsePartition, 0, len(owned))
		for _, o := range owned {
			p.Partitions = append(p.Partitions, pulsePartition{
				Partition: o.partition, Epoch: o.log.Epoch(), Sure: o.sure(), Sent: o.hub.Sent(to),
				AgeNanos: int64(o.log.SinceAck()),
			})
		}
		now := s.clock()
		p.WallMS, p.AtNanos, p.Boot = now.WallMS, now.Nanos, s.boot
		p.Echo = s.directory.echo(to, now.Nanos)
		text, err := json.Marshal(&p)
		if err != nil {
			panic("bug: a pulse is not JSON: " + err.Error())
		}
		s.bus.Send(to, watch.EdgeSubject, text)
	}
}

// receive takes what comes for the edge: pulses, and what hubs tell. It is the handler of the
// subject, so its work is one after the other.
func (s *pulses) receive(m bus.Message) {
	if _, ours := watch.Ours(m.Data); ours {
		s.edge.Receive(m)
		return
	}
	p, ok := readPulse(m)
	if !ok {
		return
	}
	if s.met != nil {
		s.met(p.Node, p.ID)
	}
	changed := s.directory.hear(&p)
	for _, c := range changed {
		s.edge.Owner(c.partition, c.node, c.epoch)
	}
	if len(changed) > 0 || p.Draining {
		s.owned.rouse()
	}
	asOf := min(p.asOf(s.boot), s.clock.Nanos())
	for _, n := range p.Partitions {
		s.edge.Pulsed(p.Node, n.Partition, n.Epoch, n.Sent, n.provenAt(asOf))
	}
}
