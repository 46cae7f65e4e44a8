package raw

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestTextReadsBack(t *testing.T) {
	h := Head{Commit: "abc", Date: "2026-01-02", Go: "go1", CPU: "X: 1", Cores: 2, Memory: "8 GiB", Kernel: "6", FileSystem: "ext4", Command: "go test"}
	var b bytes.Buffer
	if _, err := h.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("goos: linux\nBenchmarkA/by=x-y-2 \t 10\t 1.5 ns/op\t 7 p99-ns\nBenchmarkB\nok  \tpkg\t1s\n")
	got, lines, err := Read(&b)
	if err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
	want := []Line{{"A/by=x-y", map[string]float64{"ns/op": 1.5, "p99-ns": 7}}}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("%+v, want %+v", lines, want)
	}
}

// TestRunsReadBack, and a curve takes one line.
func TestRunsReadBack(t *testing.T) {
	runs := []Run{{Head: Head{Commit: "abc"}, Load: Load{
		Latency: map[string]Latency{"answer": {Count: 2, Curve: [][2]float64{{0, 0.017}, {99.99, 1e-7}}}},
		Phases:  []Phase{{Name: "warm-up", Seconds: 1}},
	}}}
	var b bytes.Buffer
	if err := WriteRuns(&b, runs); err != nil {
		t.Fatal(err)
	}
	if want := "    \"curve\": [[0,0.017],[99.99,1e-7]]\n"; !strings.Contains(b.String(), want) {
		t.Errorf("no line %q in\n%s", want, &b)
	}
	got, err := ReadRuns(&b)
	if err != nil || !reflect.DeepEqual(got, runs) {
		t.Errorf("%+v, %v", got, err)
	}
}
