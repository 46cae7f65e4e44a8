package loadgen

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"rollcall/internal/option"
)

// Thresholds say how much worse a run may be than an older one. Shares: 0.25 is a quarter.
type Thresholds struct {
	WorseLatency   float64 // growth of p50, p99 and p99.9 of each histogram
	WorseRate      float64 // loss of the achieved rate
	CompareFloorMS float64 // latencies that differ by less are equal
}

// Check returns every problem of the thresholds. A negative one would call equal figures worse.
func (t Thresholds) Check() error {
	p := option.Problems{Package: "loadgen"}
	option.NotNegative(&p, "WorseLatency", t.WorseLatency)
	option.NotNegative(&p, "WorseRate", t.WorseRate)
	option.NotNegative(&p, "CompareFloorMS", t.CompareFloorMS)
	return p.Err()
}

// Change is one figure of two runs.
type Change struct {
	Name     string
	Old, New float64
	Worse    bool // beyond the threshold
}

// ReadReport reads what WriteJSON wrote.
func ReadReport(path string) (*Report, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("loadgen: read a report: %w", err)
	}
	rep := &Report{}
	if err := json.Unmarshal(b, rep); err != nil {
		return nil, fmt.Errorf("loadgen: read the report %s: %w", path, err)
	}
	return rep, nil
}

// Compare sets the figures of two runs side by side. Histograms that one of them does not have are
// left out. Two runs with different options can be compared; whether that means
// something, the caller knows.
func Compare(before, after *Report, t Thresholds) []Change {
	changes := []Change{{"achieved/s", before.Achieved, after.Achieved,
		after.Achieved < before.Achieved*(1-t.WorseRate)}}
	for _, k := range Kinds {
		a, b := before.Latency[k.Key], after.Latency[k.Key]
		if a == nil || b == nil || a.Count == 0 || b.Count == 0 {
			continue
		}
		for _, p := range []struct {
			name     string
			old, new float64
		}{{"p50", a.P50, b.P50}, {"p99", a.P99, b.P99}, {"p99.9", a.P999, b.P999}} {
			changes = append(changes, Change{k.Title + " " + p.name, p.old, p.new,
				p.new > p.old*(1+t.WorseLatency) && p.new-p.old > t.CompareFloorMS})
		}
	}
	return changes
}

// WriteChanges writes a table and returns how many figures are worse.
func WriteChanges(w io.Writer, changes []Change) (worse int) {
	fmt.Fprintf(w, "\n%-42s %12s %12s %9s\n", "compared", "old", "new", "")
	for _, c := range changes {
		mark := ""
		if c.Worse {
			worse++
			mark = "  WORSE"
		}
		fmt.Fprintf(w, "%-42s %12.3f %12.3f %+8.1f%%%s\n", c.Name, c.Old, c.New,
			100*(c.New-c.Old)/max(c.Old, 1e-9), mark)
	}
	return worse
}
