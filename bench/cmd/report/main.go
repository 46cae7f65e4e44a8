// Report makes docs/benchmarks.md, docs/capacity.md, their plots and the figures in other pages
// from the raw files, and prints each claim with its ceiling and the ratio. It measures nothing:
// the same files make the same pages. It refuses to write pages from results that are older than
// the code.
//
//	report -results results/short -docs ../docs
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rollcall/bench/raw"
)

func main() {
	results := flag.String("results", "results/short", "directory of raw files")
	docs := flag.String("docs", "../docs", "directory of the pages")
	flag.Parse()
	if err := run(*results, *docs); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(results, docs string) error {
	p, err := pages(results, docs)
	if err != nil {
		return err
	}
	for _, g := range p.groups {
		g.print(os.Stdout)
	}
	if err := p.m.fresh(filepath.Dir(docs)); err != nil {
		return fmt.Errorf("the pages are not written: %w", err)
	}
	return p.write()
}

// pages makes all pages, in memory.
func pages(results, docs string) (*page, error) {
	m, err := read(results)
	if err != nil {
		return nil, err
	}
	p := &page{m: m, groups: m.groups(), docs: docs, source: "bench/" + filepath.ToSlash(results),
		files: map[string]string{}}
	p.benchmarks()
	p.capacity()
	return p, p.figures()
}

// measured is everything in a directory of raw files.
type measured struct {
	heads  map[string]raw.Head // by file name without .txt
	series []*series           // in the order of the files
	runs   map[string][]raw.Run
}

// series is all that was measured of one benchmark.
type series struct {
	file    string
	name    string
	by      string
	rest    string // the name without by: series with the same did the same work
	metrics map[string][]float64
}

var files = []string{"table", "wheel", "log", "sync", "heartbeat", "decode", "decode-server", "frame", "fanout", "stream", "streams", "stream-cost", "lists", "cluster",
	"recovery", "replay", "checkpoint", "idleconn", "http-closed", "http-64", "wrk", "http-open", "http-batch", "lateness", "capacity",
	"log-peers", "table-group", "path", "beats", "middle", "soak"}

func read(dir string) (*measured, error) {
	m := &measured{heads: map[string]raw.Head{}, runs: map[string][]raw.Run{}}
	for _, file := range files {
		f, err := os.Open(filepath.Join(dir, file+".txt"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		head, lines, err := raw.Read(f)
		f.Close()
		if err != nil {
			return nil, err
		}
		m.heads[file] = head
		for _, l := range lines {
			m.add(file, l)
		}
		j, err := os.Open(filepath.Join(dir, file+".json"))
		if err != nil {
			continue // only load runs have one
		}
		m.runs[file], err = raw.ReadRuns(j)
		j.Close()
		if err != nil {
			return nil, err
		}
	}
	m.standIns()
	if len(m.series) == 0 {
		return nil, fmt.Errorf("%s holds no results: run make bench", dir)
	}
	return m, nil
}

func (m *measured) add(file string, l raw.Line) {
	// The server's own benchmark does what BenchmarkDecode does, in another package.
	if file == "decode-server" {
		file, l.Name = "decode", "Decode/by=rollcall"
	}
	if file == "log-peers" { // longer than the log's own, and so another series
		l.Name = "LogPeers" + strings.TrimPrefix(l.Name, "Log")
	}
	s := m.find(l.Name)
	if s == nil {
		s = &series{file: file, name: l.Name, metrics: map[string][]float64{}}
		s.rest, s.by = split(l.Name)
		m.series = append(m.series, s)
	}
	for unit, v := range l.Metrics {
		s.metrics[unit] = append(s.metrics[unit], v)
	}
}

func (m *measured) find(name string) *series {
	for _, s := range m.series {
		if s.name == name {
			return s
		}
	}
	return nil
}

// command is what was run: of several servers' runs rollcall's.
func (m *measured) command(file string) string {
	for _, r := range m.runs[file] {
		if r.Server.By == "rollcall" {
			return r.Head.Command
		}
	}
	return m.heads[file].Command
}

// commits are those that were measured, in the order of the files. Results that are published have
// one.
func (m *measured) commits() (all []string) {
	for _, file := range files {
		if h, ok := m.heads[file]; ok && !slices.Contains(all, h.Commit) {
			all = append(all, h.Commit)
		}
	}
	return all
}

// split takes the key by out of a name.
func split(name string) (rest, by string) {
	var keep []string
	for word := range strings.SplitSeq(name, "/") {
		if v, ok := strings.CutPrefix(word, "by="); ok {
			by = v
			continue
		}
		keep = append(keep, word)
	}
	return strings.Join(keep, "/"), by
}

// standIns puts a ceiling that was measured under another name beside what it is the ceiling of:
// the log alone beside the whole heartbeat that ends in it.
func (m *measured) standIns() {
	log := m.find("Log/appenders=1000/by=rollcall/bytes=96")
	if log == nil {
		return
	}
	for _, s := range slices.Clone(m.series) {
		if s.file == "heartbeat" && strings.Contains(s.rest, "sync=always/appenders=1000") {
			m.series = append(m.series,
				&series{file: s.file, name: s.rest + "/by=log-alone", by: "log-alone", rest: s.rest, metrics: log.metrics})
		}
	}
}

// group is what did the same work.
type group struct {
	file  string
	rest  string
	ours  *series
	other []*series
}

func (m *measured) groups() (all []*group) {
	for _, s := range m.series {
		if s.by != "rollcall" {
			continue
		}
		g := &group{file: s.file, rest: s.rest, ours: s}
		for _, o := range m.series {
			if o != s && o.rest == s.rest {
				g.other = append(g.other, o)
			}
		}
		all = append(all, g)
	}
	return all
}

// ceilings leave out work that a server cannot leave out; they are no alternatives.
var ceilings = map[string]string{
	"ceiling":       "ceiling",
	"write":         "plain write(2) loop (ceiling)",
	"log-alone":     "the log alone (ceiling)",
	"bare-fasthttp": "bare fasthttp (ceiling)",
	"disk":          "a sync of the same disk (ceiling)",

	"read":            "reading the bytes (ceiling)",
	"reader":          "reading the records (ceiling)",
	"read-and-insert": "reading and inserting (ceiling)",
}

// grouped is rollcall's table as batches use it.
const grouped = "rollcall-group"

// byInterval is rollcall with --sync=interval.
const byInterval = "rollcall-interval"

// isOurs: neither an alternative nor a ceiling.
func isOurs(by string) bool { return by == "rollcall" || by == grouped || by == byInterval }

func title(by string) string {
	switch by {
	case grouped:
		return "rollcall, in groups"
	case byInterval:
		return "rollcall, --sync=interval"
	}
	if t, ok := ceilings[by]; ok {
		return t
	}
	return by
}

// metric is a unit and which way is better.
type metric struct {
	unit   string
	title  string
	higher bool
	beside bool // of the measuring, and so no comparison
}

var compared = []metric{
	{unit: "ops/s", title: "per second", higher: true},
	{unit: "frames/s", title: "frames per second", higher: true},
	{unit: "ns/op", title: "ns each"},
	{unit: "p50-ns", title: "p50, ns"},
	{unit: "p99-ns", title: "p99, ns"},
	{unit: "p99.9-ns", title: "p99.9, ns"},
	{unit: "worst-ns", title: "worst, ns"},
	{unit: "cpu-ns/op", title: "ns of the server's processor each"},
	{unit: "generator-ns/op", title: "ns of the generator's each", beside: true},
	{unit: "B/device", title: "bytes per device"},
	{unit: "gc-ms", title: "one GC cycle, ms of CPU"},
	{unit: "allocs/op", title: "allocations each"},
}

// metrics are those that are worth a comparison in a group: where there is a rate the time per
// operation says the same.
func (g *group) metrics() (all []metric) {
	for _, m := range compared {
		if len(g.ours.metrics[m.unit]) == 0 || m.unit == "ns/op" &&
			len(g.ours.metrics["ops/s"])+len(g.ours.metrics["frames/s"]) > 0 {
			continue
		}
		all = append(all, m)
	}
	return all
}

// ratio is how many times better ours is; false where one of the two is unknown or both are zero.
func (m metric) ratio(ours, other *series) (float64, bool) {
	a, b := ours.metrics[m.unit], other.metrics[m.unit]
	if len(a) == 0 || len(b) == 0 || m.beside {
		return 0, false
	}
	x, y := median(a), median(b)
	if m.higher {
		x, y = y, x
	}
	if x == 0 {
		return 0, false // nothing can be lost
	}
	return y / x, true
}

// clear says that the two ranges do not touch. What was measured once and repeated has no range: a
// tenth must do.
func (m metric) clear(ours, other *series) bool {
	a, b := ours.metrics[m.unit], other.metrics[m.unit]
	if slices.Min(a) == slices.Max(a) && slices.Min(b) == slices.Max(b) {
		return math.Abs(a[0]-b[0]) > 0.1*max(a[0], b[0])
	}
	return len(a) > 1 && len(b) > 1 &&
		(slices.Max(a) < slices.Min(b) || slices.Max(b) < slices.Min(a))
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// print writes claim, ceiling and ratio for a terminal.
func (g *group) print(w *os.File) {
	fmt.Fprintln(w, g.rest)
	for _, m := range g.metrics() {
		fmt.Fprintf(w, "  %-26s %14s rollcall\n", m.title, number(median(g.ours.metrics[m.unit])))
		for _, o := range g.other {
			if r, ok := m.ratio(g.ours, o); ok {
				fmt.Fprintf(w, "  %-26s %14s %-30s × %s\n", "", number(median(o.metrics[m.unit])), title(o.by), ratio(r))
			}
		}
	}
}

// number is three significant digits with thousands apart.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func ratio(r float64) string {
	if r < 10 {
		return fmt.Sprintf("%.2f", r)
	}
	return number(r)
}
