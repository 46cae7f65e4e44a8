package cluster

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/cluster/bus/bustest"
	"rollcall/cluster/watch"
	"rollcall/engine"
)

// echoNode is a node of TestPulsesSayHowOldTheyAre: its clock, and what it heard.
type echoNode struct {
	name  string
	boot  uint64
	nanos int64
	d     *directory
}

func newEchoNode(name string, boot uint64, nanos int64) *echoNode {
	n := &echoNode{name: name, boot: boot, nanos: nanos}
	n.d = newDirectory(func() engine.Instant { return engine.Instant{Nanos: n.nanos} }, 1)
	return n
}

func (n *echoNode) pulse(to *echoNode) *pulse {
	return &pulse{Node: n.name, Boot: n.boot, AtNanos: n.nanos, Echo: n.d.echo(to.name, n.nanos)}
}

// TestPulsesSayHowOldTheyAre: whatever the clocks show, and however long the pulse was under way. A
// read of what was heard is at most a second old by it.
func TestPulsesSayHowOldTheyAre(t *testing.T) {
	reader, owner := newEchoNode("a", 1, 1e9), newEchoNode("b", 2, 7777e9)
	pass := func(d time.Duration) {
		reader.nanos += int64(d)
		owner.nanos += int64(d)
	}
	if asOf := owner.pulse(reader).asOf(reader.boot); asOf != 0 {
		t.Errorf("without an echo: %d", asOf)
	}
	ping := reader.pulse(owner)
	pass(5 * time.Millisecond) // on its way
	owner.d.hear(ping)
	pass(400 * time.Millisecond)
	made, pong := reader.nanos, owner.pulse(reader)
	for _, under := range []time.Duration{3 * time.Millisecond, 10 * time.Second} {
		pass(under)
		asOf := pong.asOf(reader.boot)
		if asOf > made || asOf < made-int64(6*time.Millisecond) {
			t.Errorf("made at %d, and said to be of %d", made, asOf)
		}
	}
	reader.d.hear(pong)
	if own := reader.pulse(reader); own.asOf(reader.boot) != reader.nanos {
		t.Error("its own is as old as it is")
	}
	// What it says of a partition is of when it was the owner for certain.
	own := pulsePartition{Sure: true, AgeNanos: 700}
	if at := own.provenAt(1000); at != 300 {
		t.Errorf("an append that began 700 before 1000 is of %d", at)
	}
	own.Sure = false
	if at := own.provenAt(1000); at != 0 {
		t.Errorf("an owner that is not sure is one at %d", at)
	}
	// A process that started anew has another clock.
	reader = newEchoNode("a", 3, 1)
	if asOf := pong.asOf(reader.boot); asOf != 0 {
		t.Errorf("an echo of the process before: %d", asOf)
	}
	owner.d.nodes["a"].heardNanos = owner.nanos + 1
	if asOf := owner.pulse(reader).asOf(1); asOf != 0 {
		t.Errorf("an echo from ahead: %d", asOf)
	}
}

// TestPulsesRouse: what tells that a lead moves, or is about to, has a node look at once which logs
// it leads. What says the same again has not.
func TestPulsesRouse(t *testing.T) {
	d := newDirectory(engine.NewClock(), 2)
	d.reached("a", []string{"b"})
	edge, err := watch.NewEdge(watch.EdgeOptions{
		Bus: bustest.New().Node("a"), Follower: watch.Of(new(engine.Follower)),
		Clock: d.clock, Partitions: 2, Of: func(uuid.UUID) int { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	both := func(epoch uint64) []pulsePartition {
		return []pulsePartition{{Partition: 0, Epoch: epoch}, {Partition: 1, Epoch: epoch}}
	}
	s := &pulses{clock: d.clock, directory: d, edge: edge, owned: newHoldings(holdingsConfig{})}
	for _, c := range []struct {
		name          string
		pulse         pulse
		roused, calms bool
	}{
		{"it owns one of two", pulse{Partitions: both(1)[:1]}, true, false},
		{"it owns both", pulse{Partitions: both(2)}, true, true},
		{"the same again", pulse{Partitions: both(2)}, false, true},
		{"it drains", pulse{Draining: true, Partitions: both(2)}, true, false},
		{"it has begun again", pulse{Partitions: both(2)}, false, true},
		{"it owns both by other claims", pulse{Partitions: both(3)}, true, true},
		{"it owns none", pulse{}, true, false},
	} {
		c.pulse.Node = "b"
		text, err := json.Marshal(&c.pulse)
		if err != nil {
			t.Fatal(err)
		}
		s.receive(bus.Message{From: "b", Data: text})
		roused := len(s.owned.rouser) == 1
		if roused {
			<-s.owned.rouser
		}
		if roused != c.roused || d.calm() != c.calms {
			t.Errorf("%s: roused %v, calm %v", c.name, roused, d.calm())
		}
	}
}
