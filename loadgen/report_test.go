package loadgen

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// sampleReport is a run with something in every part of the report.
func sampleReport(t *testing.T) *Report {
	t.Helper()
	o := smallRun(t, startFake(t, fault{busy: 9}))
	o.Scenario, o.SilentShare, o.TTL, o.Churn, o.Duration = "spike", 0.4, 200*time.Millisecond, 20,
		2*time.Second
	o.Lists, o.ListSize, o.ListView, o.ListToken = 2, 3, "both", testListToken
	return mustRun(t, o)
}

// TestReportsSurviveTheirFile: what --json writes, --compare reads, and comparing a run with itself
// finds nothing.
func TestReportsSurviveTheirFile(t *testing.T) {
	t.Parallel()
	rep := sampleReport(t)
	path := filepath.Join(t.TempDir(), "run.json")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.WriteJSON(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"ingest"`) || strings.Contains(string(text), "token-") {
		t.Error("the report has a secret in it")
	}
	old, err := ReadReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if old.Options.Seed != rep.Options.Seed ||
		old.Latency["answer"].P99 != rep.Latency["answer"].P99 ||
		len(old.Series) != len(rep.Series) {
		t.Errorf("read back: %+v", old)
	}
	var out bytes.Buffer
	if worse := WriteChanges(&out, Compare(old, rep, Thresholds{})); worse != 0 {
		t.Errorf("%d figures are worse than themselves:\n%s", worse, out.String())
	}
}

func TestCompare(t *testing.T) {
	before := &Report{Achieved: 1000, Latency: map[string]*Latency{"answer": {Count: 1, P50: 1,
		P99: 10, P999: 20}, "frame": {}}}
	allowed := Thresholds{WorseLatency: 0.25, WorseRate: 0.05, CompareFloorMS: 0.5}
	for name, c := range map[string]struct {
		change func(*Report)
		worse  int
	}{
		"equal": {func(*Report) {}, 0},
		"better": {func(r *Report) {
			r.Achieved, r.Latency["answer"].P99 = 2000, 1
		}, 0},
		"within": {func(r *Report) {
			r.Achieved, r.Latency["answer"].P99 = 960, 12
		}, 0},
		"slower":          {func(r *Report) { r.Latency["answer"].P99 = 13 }, 1},
		"below the floor": {func(r *Report) { r.Latency["answer"].P50 = 1.4 }, 0},
		"fewer":           {func(r *Report) { r.Achieved = 900 }, 1},
		"a histogram that only one has": {func(r *Report) {
			r.Latency["frame"] = &Latency{Count: 1, P99: 1e6}
		}, 0},
		"everything": {func(r *Report) {
			r.Achieved = 1
			*r.Latency["answer"] = Latency{Count: 1, P50: 9, P99: 99, P999: 999}
		}, 4},
	} {
		answer := *before.Latency["answer"]
		after := &Report{Achieved: before.Achieved, Latency: map[string]*Latency{"answer": &answer}}
		c.change(after)
		if worse := WriteChanges(io.Discard, Compare(before, after, allowed)); worse != c.worse {
			t.Errorf("%s: %d figures are worse, want %d", name, worse, c.worse)
		}
	}
}

// TestPageIsSelfContained: it refers to nothing outside, its drawings are well-formed, and all
// parts are there.
func TestPageIsSelfContained(t *testing.T) {
	t.Parallel()
	rep := sampleReport(t)
	rep.Verdict.Examples = []string{`<script>alert("x")</script>`}
	rep.Verdict.Violations = map[string]int64{"lost": 3}
	var b bytes.Buffer
	if err := rep.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{"Latency by percentile", "Heartbeats per second",
		"Latency over time", "Streams", "Phases", "spike",
		"lost: 3", "Configuration", "devices per user"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, bad := range []string{"src=", "href=", "@import", "url(", `<script>alert`, "NaN",
		"ZgotmplZ"} {
		if strings.Contains(text, bad) {
			t.Errorf("%q is in it", bad)
		}
	}
	drawings := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1)
	if len(drawings) != 4 {
		t.Errorf("%d drawings", len(drawings))
	}
	for _, svg := range drawings {
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%v in %.300s", err, svg)
			}
		}
	}
}

// TestEmptyReportIsWritten: a run that measured nothing still makes a page.
func TestEmptyReportIsWritten(t *testing.T) {
	rep := &Report{Latency: map[string]*Latency{}}
	var b bytes.Buffer
	if err := rep.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	rep.WriteTable(&b)
}

func TestHistogramCurve(t *testing.T) {
	h := newHistogram()
	for i := range int64(10000) {
		h.record((i + 1) * int64(time.Millisecond))
	}
	curve := h.curve()
	if first, last := curve[0], curve[len(curve)-1]; first[0] != 0 || last[0] != 100 ||
		last[1] < 9990 || last[1] > 10010 {
		t.Errorf("from %v to %v", first, last)
	}
	for i := 1; i < len(curve); i++ {
		if curve[i][0] <= curve[i-1][0] || curve[i][1] < curve[i-1][1] {
			t.Fatalf("%v after %v", curve[i], curve[i-1])
		}
	}
	if l := h.latency(false); l.P50 < 4990 || l.P50 > 5010 || l.P99 < 9890 || l.P99 > 9910 {
		t.Errorf("%+v", l)
	}
}

func lengths(text string) (n []int) {
	for line := range strings.SplitSeq(text, "\r") {
		n = append(n, utf8.RuneCountInString(line))
	}
	return n
}

func TestProgressOnATerminalAndElsewhere(t *testing.T) {
	var terminal, plain bytes.Buffer
	a, b := NewProgressLine(&terminal, 100), NewProgressLine(&plain, 0)
	for _, p := range []Progress{{Stage: "warm-up", Achieved: 1000, P99: 0.5, Streams: 10,
		Backlog: 12345}, {Stage: "warm-up"}, {Stage: "steady"}} {
		a.Show(p)
		b.Show(p)
	}
	if longest := slices.Max(lengths(terminal.String())); longest > 99 {
		t.Errorf("a line of %d columns on a terminal of 100", longest)
	}
	a.Close()
	b.Close()
	if n := strings.Count(plain.String(), "\n"); n != 2 || strings.Contains(plain.String(), "\r") {
		t.Errorf("plain: %q", plain.String())
	}
	if strings.Contains(terminal.String(), "\n") ||
		!strings.Contains(terminal.String(), "waiting 12345") {
		t.Errorf("terminal: %q", terminal.String())
	}
}
