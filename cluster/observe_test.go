package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/cluster/members"
	"rollcall/engine"
)

// TestObserver: what was heard, who is in reach and what the copies lack is in the status and in
// the figures.
func TestObserver(t *testing.T) {
	began := engine.NewClock()()
	later := int64(0)
	clock := func() engine.Instant {
		return engine.Instant{Nanos: began.Nanos + later, WallMS: began.WallMS + uint64(later/1e6)}
	}
	d := newDirectory(clock, 4)
	for node, parts := range map[string][]pulsePartition{
		"a": {{Partition: 0, Epoch: 3, Sure: true}, {Partition: 3, Epoch: 1, Sure: true}},
		"b": {{Partition: 1, Epoch: 5}},
		"c": {{Partition: 2, Epoch: 9, Sure: true}},
		"z": nil, // it has left
	} {
		d.hear(&pulse{Node: node, Version: "v1", WallMS: clock().WallMS + 2000, Partitions: parts})
	}
	d.reached("a", []string{"b"})
	v := &observer{
		cluster: "presence", node: "a", replicas: 3, maxSkew: time.Second, clock: clock,
		directory: d, holdings: &holdings{parts: make([]part, 4)},
		copies: &copies{at: time.Now().Add(time.Hour), logs: map[string][]ReplicaStatus{
			streamOf(1): {{Node: "b", Current: true}, {Node: "c", Lag: 7}},
		}},
		leader:  func() string { return "b" },
		ready:   func() error { return errors.New("starting") },
		members: func() []string { return []string{"a", "b", "c", "d"} },
		balance: func() string { return balanceOff },
		deed: func(context.Context) *members.Deed {
			return &members.Deed{Kind: "leave", AtMS: int64(began.WallMS)}
		},
	}
	v.holdings.parts[2].busy.Store(true)

	s := v.status(t.Context())
	if s.Cluster != "presence" || s.Node != "a" || s.Leader != "b" || s.NotReady != "starting" ||
		s.Replicas != 3 || s.MaxSkewMS != 1000 || len(s.Nodes) != 4 || len(s.Partitions) != 4 ||
		s.Balance != balanceOff || s.Deed == nil || s.Deed.Kind != "leave" {
		t.Fatalf("%+v", s)
	}
	for i, want := range []string{"a", "b", "", "a"} { // c is not in reach
		if s.Partitions[i].Owner != want {
			t.Errorf("partition %d is of %q, want %q", i, s.Partitions[i].Owner, want)
		}
	}
	if p := s.Partitions[1]; p.Epoch != 5 || p.Sure || len(p.Replicas) != 2 ||
		p.Replicas[1].Lag != 7 {
		t.Errorf("%+v", p)
	}
	if n := s.Nodes[2]; n.Name != "c" || n.InReach || n.SkewMS < 1000 || n.HeardMS < 0 {
		t.Errorf("%+v", n)
	}
	if n := s.Nodes[3]; n.Name != "d" || n.InReach || n.HeardMS != -1 {
		t.Errorf("a member that was not heard: %+v", n)
	}
	// A member that is gone is missed for ever: its alerts would resolve by themselves.
	later = 2 * forgetNanos
	d.forget(forgetNanos, v.members())
	got := map[string]float64{}
	registry := prometheus.NewRegistry()
	registry.MustRegister(v)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), "rollcall_")
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.Gauge.GetValue()
		}
	}
	for name, want := range map[string]float64{
		"partitions owned": 0, "partitions claiming": 1, "partitions leaderless": 1,
		"peers in_reach": 1, "peers gone": 2, "clock_skew_limit_seconds": 1, "log_copies behind": 0,
	} {
		if is, ok := got[name]; !ok || is != want {
			t.Errorf("%s is %v, want %v; %v", name, is, want, got)
		}
	}
	if skew := got["peer_clock_skew_seconds c"]; skew < 1 || skew > 2 {
		t.Errorf("a skew of %v s", skew)
	}
}
