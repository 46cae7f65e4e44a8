package cluster

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/internal/testwait"
)

// A node trusts its peers, and not their correctness: whatever one sends, this node goes on, and
// keeps no more than it would of a cluster that is as large as can be.

// FuzzPulse: no pulse breaks a node, and what is kept of one is bounded.
func FuzzPulse(f *testing.F) {
	text, err := json.Marshal(&pulse{
		Node: "n1", ID: "x", Version: "v1", Formats: []int{1}, WallMS: 5,
		Partitions: []pulsePartition{{Partition: 3, Epoch: 2, Sure: true, Sent: 1}},
		Echo:       &pulseEcho{Boot: 1, AtNanos: 2, HeldNanos: 3},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"node":"n1","partitions":[{"p":-1,"e":9},{"p":70000}],"echo":{"held":-1}}`))
	d := newDirectory(func() engine.Instant { return engine.Instant{Nanos: 1} }, 4)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, ok := readPulse(bus.Message{From: "n1", Data: text})
		if !ok {
			return
		}
		if p.Node != "n1" || len(p.ID)+len(p.Version) > maxPulseID+maxPulseVersion ||
			len(p.Partitions) > maxPartitions {
			t.Errorf("taken: %+v", p)
		}
		d.hear(&p)
		d.owner(3)
		_ = p.asOf(1)
	})
}

// TestPulsesOfNoNode: what a node would not send is not taken.
func TestPulsesOfNoNode(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	for name, c := range map[string]struct {
		from string
		p    pulse
		want bool
	}{
		"a pulse":           {"n1", pulse{Node: "n1", ID: "x"}, true},
		"of another one":    {"n1", pulse{Node: "n2"}, false},
		"a long name":       {long, pulse{Node: long}, false},
		"a long id":         {"n1", pulse{Node: "n1", ID: long}, false},
		"a long version":    {"n1", pulse{Node: "n1", Version: long}, false},
		"many formats":      {"n1", pulse{Node: "n1", Formats: make([]int, 999)}, false},
		"more than are":     {"n1", pulse{Node: "n1", Partitions: make([]pulsePartition, 1025)}, false},
		"too long in whole": {"n1", pulse{Node: "n1", Version: strings.Repeat(long, 17)}, false},
	} {
		text, err := json.Marshal(&c.p)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := readPulse(bus.Message{From: c.from, Data: text}); ok != c.want {
			t.Errorf("%s: taken %v", name, ok)
		}
	}
}

// TestNamesThatAreMadeUp fill no directory.
func TestNamesThatAreMadeUp(t *testing.T) {
	d := newDirectory(func() engine.Instant { return engine.Instant{Nanos: 1} }, 1)
	for i := range 3 * maxMet {
		d.hear(&pulse{Node: fmt.Sprint("n", i)})
	}
	if n := len(d.heard()); n != maxMet {
		t.Errorf("%d nodes were heard", n)
	}
	d.hear(&pulse{Node: "n1", Version: "new"})
	if d.nodes["n1"].Version != "new" {
		t.Error("a node that is known is not heard any more")
	}
}

// TestPartitionsThatAreNot: a question about one is answered as one about another node's.
func TestPartitionsThatAreNot(t *testing.T) {
	h := newHoldings(holdingsConfig{count: 4, logger: slog.New(slog.DiscardHandler)})
	for _, p := range []int{-1, 4, 1<<32 - 1} {
		if _, _, ok := h.Mine(p); ok {
			t.Errorf("partition %d is there", p)
		}
	}
}

// TestHellosAreBounded: more than some at a time are not answered, and one that no node would send
// is not at all.
func TestHellosAreBounded(t *testing.T) {
	n := &Node{o: Options{Node: "n1"}}
	var err error
	if n.identity, err = openIdentity(t.TempDir(), "n1", slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	answered, may := make(chan struct{}, 200), make(chan struct{})
	ask := func(text string) {
		n.answerHello(bus.Message{Data: []byte(text), Reply: func([]byte) {
			answered <- struct{}{}
			<-may
		}})
	}
	ask(`{"node":"*"}`)
	ask(`{"node":"n2","more":"` + strings.Repeat("x", maxHelloAsked) + `"}`)
	if n.hellos.Load() != 0 {
		t.Error("a hello that is none is answered")
	}
	for range 10 * maxHellos {
		ask(`{"node":"n2"}`)
	}
	for range maxHellos {
		testwait.For(t, "an answer", answered)
	}
	if running := n.hellos.Load(); running != maxHellos || len(answered) > 0 {
		t.Errorf("%d are answered at a time", running)
	}
	close(may)
	testwait.Until(t, "all are answered", func() bool { return n.hellos.Load() == 0 })
	ask(`{"node":"n2"}`)
	testwait.For(t, "an answer", answered)
}
