package main

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rollcall/bench/raw"
)

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestFitFindsTheLine(t *testing.T) {
	if busy, beat := fit(point{10_000, 0.7}, point{20_000, 0.9}); !near(busy, 0.5) ||
		!near(beat, 20) {
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

// TestBarsPairRounds: a bar holds the median of the rounds' quotients, not the quotient of medians,
// and says so when it is missed.
func TestBarsPairRounds(t *testing.T) {
	p := &page{m: &measured{}}
	for _, round := range [][2]float64{{100, 100}, {240, 200}, {330, 300}} {
		for i, by := range []string{"rollcall", bare} {
			p.m.add("wrk", raw.Line{Name: wrk64 + by, Metrics: map[string]float64{"ops/s": round[i]}})
			p.m.add("wrk", raw.Line{Name: wrk256 + by, Metrics: map[string]float64{"ops/s": 1}})
		}
	}
	p.m.add("wrk", raw.Line{Name: wrk16 + "rollcall", Metrics: map[string]float64{"ops/s": 1}})
	p.bars()
	text := p.b.String()
	for _, want := range []string{
		"| 64 connections ÷ bare, wrk | ≥ 1.10 | 1.10 (1.00–1.20) | kept |",
		"| 256 connections ÷ bare, wrk | ≥ 1.10 | 1.00 (1.00–1.00) | **MISSED** |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "16 at once") {
		t.Errorf("a figure without a counterpart has a bar:\n%s", text)
	}
}

func TestClearNeedsRangesApart(t *testing.T) {
	of := func(v ...float64) *series { return &series{metrics: map[string][]float64{"ns/op": v}} }
	m := metric{unit: "ns/op"}
	if !m.clear(of(1, 2), of(3, 4)) || m.clear(of(1, 3), of(2, 4)) ||
		m.clear(of(10, 10), of(10.5, 10.5)) {
		t.Error("ranges that touch are clear, or ranges apart are not")
	}
}

func TestFold(t *testing.T) {
	long := strings.Repeat("word ", 25)
	for page, want := range map[string]string{
		"one\ntwo\n\nthree\n":    "one two\n\nthree\n",
		"| " + long + "|\n":      "| " + long + "|\n",
		"```\n" + long + "\n```": "```\n" + long + "\n```",
		"- " + long + "\n- b\n": "- " + strings.TrimSpace(long[:95]) + "\n  " + strings.TrimSpace(long[95:]) +
			"\n- b\n",
	} {
		if got := fold(page); got != want {
			t.Errorf("%q became %q, want %q", page, got, want)
		}
	}
}

// TestPagesHoldTheResults: the pages say what the results say that docs/benchmarks.md names, and
// the results are of one commit. ROLLCALL_UPDATE=1 writes the pages; `make bench` measures first.
func TestPagesHoldTheResults(t *testing.T) {
	const docs = "../../../docs"
	text, err := os.ReadFile(docs + "/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	source := regexp.MustCompile("raw files in `bench/(results/\\w+)`").FindSubmatch(text)
	if source == nil {
		t.Fatal("docs/benchmarks.md does not say where the raw files are")
	}
	t.Chdir("../..")
	p, err := pages(string(source[1]), "../docs")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("ROLLCALL_UPDATE") != "" {
		if err := p.write(); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range p.files {
		if got, err := os.ReadFile(filepath.Join("../docs", name)); err != nil || string(got) != want {
			t.Errorf("docs/%s does not say what the results say (%v): run this test with ROLLCALL_UPDATE=1 and look "+
				"at the difference, or run make bench", name, err)
		}
	}
}

// TestFresh: results are good for a tree that differs in comments, tests and documents, and for no
// other.
func TestFresh(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		out, err := output(dir, "git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.com"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module rollcall\n\ngo 1.26\n")
	write("cmd/rollcall/main.go", "package main\n\nimport _ \"rollcall/wal\"\n\nfunc main() {}\n")
	write("wal/wal.go", "package wal\n\nvar N = 1\n")
	write("README.md", "one\n")
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	commit := git("rev-parse", "--short=12", "HEAD")
	of := func(commits ...string) *measured {
		m := &measured{heads: map[string]raw.Head{}}
		for i, c := range commits {
			m.heads[files[i]] = raw.Head{Commit: c}
		}
		return m
	}
	check := func(what string, m *measured, why string) {
		t.Helper()
		err := m.fresh(dir)
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("%s: %v, want %q", what, err, why)
		}
	}
	check("the same tree", of(commit, commit), "")
	write("README.md", "two\n")
	write("wal/wal.go", "// Package wal is a log.\npackage wal\n\nvar N = 1 // one\n")
	write("wal/wal_test.go", "package wal\n")
	check("words", of(commit), "")
	write("wal/wal.go", "package wal\n\nvar N = 2\n")
	check("code", of(commit), "the program changed (wal/wal.go)")
	check("two commits", of(commit, "abc"), "2 commits")
	check("changes", of(commit+" with changes"), "commit them")
	check("a commit from elsewhere", of("0123456789ab"), "does not have")
}
