package main

import (
	"math"
	"testing"

	"rollcall/bench/raw"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestFitFindsTheLine(t *testing.T) {
	if busy, beat := fit(point{10_000, 0.7}, point{20_000, 0.9}); !near(busy, 0.5) || !near(beat, 20) {
		t.Errorf("%v cores and %v us a heartbeat, want 0.5 and 20", busy, beat)
	}
	if busy, beat := fit(point{10_000, 0.7}, point{20_000, 0.6}); busy != 0 || !near(beat, 70) {
		t.Errorf("a line that falls: %v cores and %v us a heartbeat, want 0 and 70", busy, beat)
	}
}

func TestRatioIsAboveOneWhereWeAreBetter(t *testing.T) {
	m := &measured{}
	for _, l := range []raw.Line{
		{Name: "X/by=rollcall", Metrics: map[string]float64{"ns/op": 10, "ops/s": 200}},
		{Name: "X/by=other", Metrics: map[string]float64{"ns/op": 20, "ops/s": 100}},
		{Name: "Y/by=other", Metrics: map[string]float64{"ns/op": 1}},
	} {
		m.add("x", l)
	}
	g := m.groups()
	if len(g) != 1 || len(g[0].other) != 1 {
		t.Fatalf("%d groups", len(g))
	}
	for _, k := range []metric{{unit: "ns/op"}, {unit: "ops/s", higher: true}} {
		if r, ok := k.ratio(g[0].ours, g[0].other[0]); !ok || r != 2 {
			t.Errorf("%s: %v, %v; want 2", k.unit, r, ok)
		}
	}
}

func TestClearNeedsRangesApart(t *testing.T) {
	of := func(v ...float64) *series { return &series{metrics: map[string][]float64{"ns/op": v}} }
	m := metric{unit: "ns/op"}
	if !m.clear(of(1, 2), of(3, 4)) || m.clear(of(1, 3), of(2, 4)) || m.clear(of(10, 10), of(10.5, 10.5)) {
		t.Error("ranges that touch are clear, or ranges apart are not")
	}
}
