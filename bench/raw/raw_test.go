package raw

import (
	"bytes"
	"reflect"
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
