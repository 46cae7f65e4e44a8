package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// page makes the pages.
type page struct {
	m      *measured
	groups []*group
	docs   string
	source string            // where the raw files are, for readers
	files  map[string]string // the pages and plots that are finished, by path below docs
	b      strings.Builder
}

func (p *page) f(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

// finish ends a page.
func (p *page) finish(name string) {
	p.files[name] = fold(p.b.String())
	p.b.Reset()
}

// write puts the pages where they belong.
func (p *page) write() error {
	for name, text := range p.files {
		path := filepath.Join(p.docs, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sections are the parts of the page, each of one file of raw results.
var sections = []struct{ file, title, text string }{
	{"table", "Table", "One heartbeat of a device picked at random: lookup, check of the seq, store; in groups, it is one of the 32 that a batch looks up together. The ceiling is one random read-modify-write in an array of entries of the same size, which depends on nothing. A table must do more, a chain of two misses, index and entry: `BenchmarkGroup` of `engine/table` measures that ceiling, in the same groups, beside this one."},
	{"wheel", "Wheel", "What a heartbeat costs the structure that watches deadlines: each device sends every 4 s and lives for 12 s. The ceiling is the store of the new deadline alone."},
	{"log", "Log", "Appenders that wait until their 96 bytes are on stable storage, in a closed loop. The ceiling is one thread that writes and syncs so many records at once and wakes no appender. A closed loop splits into two groups, one in flight while the other is woken, so half of it is the most that waiters can reach."},
	{"heartbeat", "Heartbeat in the process", "Find, check, append, commit, arm, wait; no HTTP. `sync=none` has no log behind it."},
	{"decode", "Decode", "The body of a heartbeat, 245 bytes or so, into fields. `goccy-present` and `encoding-json` use pointers, which tell a missing field from a zero, as the wire contract asks; `goccy-plain` cannot. The ceiling looks at every byte once."},
	{"frame", "Frame", "The text of one event. The ceiling copies it."},
	{"fanout", "Fan-out", "One event for each of 4,000 streams over loopback TCP, to clients on the same processors; a round ends when all have read. The plain loop writes each frame by itself; the broadcaster joins what is waiting for a stream into one write."},
	{"streams", "Streams", "Thousands of streams, their clients in another process. *ratio* sets rollcall against a plain loop of `write(2)` over the very same sockets, with as many threads as workers, in rounds that take turns; the crowd's *ratio* is to the loop on one thread, and *others-x* is how many times longer the others of its worker waited at p99 than without it."},
	{"stream-cost", "Cost of a stream", "Memory of the server between 2,000 and 18,000 idle streams over sockets, and how fast streams open; *ratio* is to bare fasthttp without keep-alive, from the same generator."},
	{"recovery", "Recovery", "A start from a checkpoint, the files in the system's cache or not. Beside it: reading the same bytes and inserting as many devices into a table, and the reading alone."},
	{"replay", "Replay of the log", "The records of a log, four for each device, into the table. Beside it: the log's reader alone, which checks every sum, and reading the bytes."},
	{"checkpoint", "Heartbeats in a checkpoint", "Durable heartbeats while a checkpoint of every device is taken, and without one."},
	{"idleconn", "Idle daemons", "Resident memory of the server for each keep-alive connection that waits for its next request."},
	{"lists", "Streams of many users, and queries", "A stream of many users beside as many streams of one. *Resident* is the slope of the server's resident memory, seen from outside, between some idle streams and more. *views* is what two streams of the same 500 users were sent, while their devices beat every second, for 12 s, and a hundredth of the users went away or came back each time. *fan-out* has rounds that take turns with a server of streams of one user, each user followed by two, read by the same receiver; *delivery* is from when a heartbeat was due until the last stream had its frame, 20,000 a second. *query* asks for 1,000 users of two devices on 8 connections; the bare server reads the same request and sends as many bytes. *reconnect* is what streams cost that come back after a restart, one user in a hundred changed; *connect* is what a stream costs of one user who is not known."},
	{"cluster", "Cluster", "Three nodes, the client and the disk of all three on one machine; beside them one server with the same client, in rounds that take turns. *ratio* is to that server. *frame* is from when a heartbeat was due at one node until a stream on another one had its frame, 500 a second. *idle* is a node of the three that has nothing to do. *kill* and *stop* are `kill -9` and SIGTERM of the owner of the most partitions: the longest time between two acknowledged heartbeats of a user of each of its partitions, sent one after the other to the nodes that stay; *fast* is `--cluster-fast-failover`."},
	{"http-closed", "Over HTTP, closed loop", "The peak: 256 connections, each sending when it was answered. The generator runs on the same processors. rollcall's heartbeats are durable before they are answered, and checked by the generator's oracle; the others answer 204 to everything."},
	{"http-64", "Over HTTP, closed loop of 64", "The same with 64 connections: fewer heartbeats share each sync."},
	{"wrk", "Over HTTP, from wrk", "Closed loops of another client, one thread on the same processors; *pipelined* is how many requests it sends at once on each connection. It costs more for each request than our generator, which is why the bare server's rate is lower here. Latencies of pipelined requests are those of the last."},
	{"http-batch", "Batches", "A thousand heartbeats in each request, of a million devices at random. The bare server reads the same bodies and answers 204."},
	{"http-open", "Over HTTP, open loop", "A fixed schedule at half of the bare server's peak; latency counts from when a heartbeat was due."},
	{"log-peers", "Log, and others'", "The log's measurement with others' logs, a longer time for each."},
	{"table-group", "Table, in groups", "*apply* is a heartbeat in a group of 32 of devices at random; *pair* is a chain of two dependent misses, the index and then the entry, which no table of this kind can avoid, in groups too; *single* is one independent miss. *apply/pair* is the median of the rounds' ratios."},
	{"path", "Heartbeats one by one", "Durable heartbeats, one in a request, by our own generator, which checks nothing here. *base* is the program that `ROLLCALL_BASE` named. Each round runs every server once, so that the machine's moods meet all of them."},
	{"beats", "Daemons", "15,000 connections that beat every five seconds, in an open loop. The processor's time is without their connects."},
	{"middle", "Devices that beat and expire", "What devices that beat once and expire, all within four seconds, take of the server's processor. A *ratio* here is to the base, *last*: below 1.00 is less."},
	{"soak", "Ten minutes", "An open loop at half of the bare server's peak, and syncs of a file of its own on the same disk in the same minutes."},
}

func (p *page) benchmarks() {
	p.f("# Benchmarks\n\nMade by `bench/cmd/report` from the raw files in `%s`; do not edit. `make bench` measures again and writes this page, in a\nquarter of an hour; `make bench-long` adds, in half an hour, what takes long: an older program beside this one, ten minutes of load; `make bench-full` adds ten million devices and longer runs.\n\n", p.source)
	p.machine()
	p.f("A figure is the median of the runs, with the lowest and the highest behind it. *Ratio* is how many times better rollcall is: 2.00 is\ntwice as fast, or half the memory. A ceiling leaves out work that cannot be left out; the ratio to it is the share of it that is reached.\nBytes per device and the cost of a collection are measured once in a pass.\n\n")
	p.claims()
	p.bars()
	p.losses()
	for _, s := range sections {
		p.section(s.file, s.title, s.text)
	}
	p.generator()
	p.finish("benchmarks.md")
}

// machine says where it was measured. All files of a pass have the same head.
func (p *page) machine() {
	for _, file := range files {
		if h, ok := p.m.heads[file]; ok {
			p.f("| | |\n| --- | --- |\n| commit | %s |\n| date | %s |\n| machine | %d cores, %s, %s |\n| system | %s, %s |\n| Go | %s |\n\n",
				strings.Join(p.m.commits(), ", "), h.Date, h.Cores, h.CPU, h.Memory, h.Kernel,
				h.FileSystem, h.Go)
			p.f("The machine is shared. Load average in the minute before each part, which is the part before and whatever else ran:")
			for _, file := range files {
				if l := p.m.heads[file].Load; l != "" {
					p.f(" %s %s;", file, l)
				}
			}
			p.f(" more than %d is more than there are cores.\n\n", h.Cores)
			return
		}
	}
}

// claims are the figures that a user of the whole server looks for.
func (p *page) claims() {
	p.f("## In short\n\n| claim | measured | beside it | ratio |\n| --- | --- | --- | --- |\n")
	row := func(claim, name, unit, other string) {
		a, b := p.m.find(name), p.m.find(other)
		if a == nil || b == nil || len(a.metrics[unit]) == 0 || len(b.metrics[unit]) == 0 {
			return
		}
		m := compared[slices.IndexFunc(compared, func(m metric) bool { return m.unit == unit })]
		r, _ := m.ratio(a, b)
		p.f("| %s | %s %s | %s: %s | %s |\n", claim, number(median(a.metrics[unit])), m.title,
			title(b.by), number(median(b.metrics[unit])), ratio(r))
	}
	row("durable heartbeats over HTTP, peak", "Load/run=http-closed/by=rollcall", "ops/s", "Load/run=http-closed/by=bare-fasthttp")
	row("the same", "Load/run=http-closed/by=rollcall", "ops/s", "Load/run=http-closed/by=net-http")
	row("the same, 64 connections", "Load/run=http-64/by=rollcall", "ops/s", "Load/run=http-64/by=bare-fasthttp")
	for _, c := range []struct{ claim, name string }{
		{"wrk, 64 connections", "Wrk/connections=64/pipelined=1"},
		{"wrk, 256 connections", "Wrk/connections=256/pipelined=1"},
		{"wrk, 64 connections, 16 at once on each", "Wrk/connections=64/pipelined=16"},
	} {
		row(c.claim, c.name+"/by=rollcall", "ops/s", c.name+"/by=bare-fasthttp")
		row("the same, processor of the server", c.name+"/by=rollcall", "cpu-ns/op", c.name+"/by=bare-fasthttp")
	}
	row("the same, `--sync=interval`", "Wrk/connections=64/pipelined=16/by=rollcall-interval", "ops/s", "Wrk/connections=64/pipelined=16/by=bare-fasthttp")
	row("durable heartbeats in batches of 1,000", "Load/run=http-batch/by=rollcall", "ops/s", "Load/run=http-batch/by=bare-fasthttp")
	row("recovery of 1M devices", "Recovery/devices=1M/cache=warm/by=rollcall", "ops/s", "Recovery/devices=1M/cache=warm/by=read-and-insert")
	row("replay of the log", "Replay/devices=1M/by=rollcall", "ops/s", "Replay/devices=1M/by=reader")
	row("durable heartbeats in the process, 1M devices", "Heartbeat/devices=1M/sync=always/appenders=1000/by=rollcall", "ops/s", "Heartbeat/devices=1M/sync=always/appenders=1000/by=log-alone")
	for _, n := range []string{"64", "1000", "10000"} {
		row("log, "+n+" appenders", "Log/appenders="+n+"/by=rollcall/bytes=96", "ops/s", "Log/appenders="+n+"/by=ceiling/bytes=96")
	}
	row("table, 1M devices", "Table/devices=1M/by=rollcall/procs=1", "ns/op", "Table/devices=1M/by=ceiling/procs=1")
	row("table, 1M devices, in groups", "Table/devices=1M/by=rollcall-group/procs=1", "ns/op", "Table/devices=1M/by=ceiling/procs=1")
	row("table, 10M devices", "Table/devices=10M/by=rollcall/procs=1", "ns/op", "Table/devices=10M/by=ceiling/procs=1")
	row("table, 10M devices, in groups", "Table/devices=10M/by=rollcall-group/procs=1", "ns/op", "Table/devices=10M/by=ceiling/procs=1")
	row("wheel, 1M devices", "Wheel/devices=1M/by=rollcall/procs=1", "ns/op", "Wheel/devices=1M/by=ceiling/procs=1")
	row("wheel, 10M devices", "Wheel/devices=10M/by=rollcall/procs=1", "ns/op", "Wheel/devices=10M/by=ceiling/procs=1")
	row("decode", "Decode/by=rollcall", "ns/op", "Decode/by=goccy-present")
	row("fan-out, one event", "FanOut/streams=4000/users=4000/batches=1/by=rollcall", "frames/s", "FanOut/streams=4000/users=4000/batches=1/by=write")
	row("fan-out, eight events", "FanOut/streams=4000/users=4000/batches=8/by=rollcall", "frames/s", "FanOut/streams=4000/users=4000/batches=8/by=write")
	p.p99Claim()
	p.lateness()
	p.f("\n")
}

// p99Claim: at half of the bare server's peak, p99 is at most twice the bare server's and one
// sync's p99.
func (p *page) p99Claim() {
	if got, base, sync, ok := p.p99s(); ok {
		p.f("| p99 at half of the bare server's peak (%s/s offered) | %.2f ms | 2 × bare p99 %.2f ms + sync p99 %.2f ms = %.2f ms | %.2f |\n",
			number(p.m.runs["http-open"][0].Load.Offered), got, base, sync, 2*base+sync, (2*base+sync)/got)
	}
}

// p99s are rollcall's, the bare server's and one sync's, in milliseconds.
func (p *page) p99s() (got, base, sync float64, ok bool) {
	ours, bare, s := p.m.find("Load/run=http-open/by=rollcall"), p.m.find("Load/run=http-open/by=bare-fasthttp"), p.m.find("Sync/by=ceiling/bytes=4096")
	if ours == nil || bare == nil || s == nil {
		return 0, 0, 0, false
	}
	return median(ours.metrics["p99-ns"]) / 1e6, median(bare.metrics["p99-ns"]) / 1e6,
		median(s.metrics["p99-ns"]) / 1e6, true
}

func (p *page) lateness() {
	for _, r := range p.m.runs["lateness"] {
		l := r.Load.Latency["offline"]
		p.f("| lateness: %d devices whose TTLs end spread over a second | median %.2f ms, p99 %.2f ms, worst %.2f ms | a tick of the wheel: 10 ms | %.2f |\n",
			l.Count, l.P50, l.P99, l.Max, 10/l.Max)
	}
}

// losses lists every alternative that is better in something.
func (p *page) losses() {
	type loss struct {
		text  string
		ratio float64
	}
	var clear, unclear []loss
	for _, g := range p.groups {
		for _, m := range g.metrics() {
			for _, o := range g.other {
				r, ok := m.ratio(g.ours, o)
				if _, ceiling := ceilings[o.by]; ceiling || isOurs(o.by) || !ok || r >= 1 {
					continue
				}
				l := loss{fmt.Sprintf("- `%s`, %s: %s against %s of **%s**, ratio %s\n", g.rest, m.title, number(median(g.ours.metrics[m.unit])),
					number(median(o.metrics[m.unit])), o.by, ratio(r)), r}
				if m.clear(g.ours, o) {
					clear = append(clear, l)
				} else {
					unclear = append(unclear, l)
				}
			}
		}
	}
	p.f("## Where we lose\n\n")
	if got, base, sync, ok := p.p99s(); ok && got > 2*base+sync {
		p.f("**The bound on p99 is not kept**: at half of the bare server's peak it is %.2f ms, and twice the bare server's with a sync would be\n%.2f ms. Server and generator share %d cores there.\n\n", got, 2*base+sync, p.cores())
	}
	p.f("Every comparison with an alternative in which rollcall is behind, worst first.\n\n")
	list := func(all []loss, none string) {
		slices.SortFunc(all, func(a, b loss) int { return cmp.Compare(a.ratio, b.ratio) })
		for _, l := range all {
			p.f("%s", l.text)
		}
		if len(all) == 0 {
			p.f("%s\n", none)
		}
		p.f("\n")
	}
	list(clear, "None clearly.")
	p.f("Behind, but the ranges of the runs overlap, so that it may be chance:\n\n")
	list(unclear, "None.")
	p.f("In a table of a thousand devices what every table has outweighs the devices: its bytes per device say\nnothing about larger ones.\n\n")
}

func (p *page) section(file, title, text string) {
	if _, ok := p.m.heads[file]; !ok {
		return
	}
	p.f("## %s\n\n%s\n\n```console\n%s\n```\n\n", title, text, p.m.command(file))
	if file == "decode" {
		p.f("```console\n%s\n```\n\n", p.m.heads["decode-server"].Command)
	}
	for _, r := range p.m.runs[file] {
		if r.Server.By == "rollcall" && strings.HasPrefix(file, "http-") {
			p.f("against `%s`; the others without the oracle (`--no-oracle --no-verify`), against `rollcall load bare` and\n`measure -serve-net-http`.\n\n", r.Server.Command)
			break
		}
	}
	for _, g := range p.groups {
		if g.file == file {
			p.group(g)
		}
	}
	p.alone(file)
	if len(p.m.runs[file]) > 0 {
		p.verdicts(file)
	}
	if file == "http-open" {
		p.curves(file)
	}
}

// alone is a table of what stands beside nothing, or carries its own comparison.
func (p *page) alone(file string) {
	began := false
	for _, s := range p.m.series {
		if s.file != file || s.by != "" {
			continue
		}
		if !began {
			began = true
			p.f("| | |\n| --- | --- |\n")
		}
		_, name, _ := strings.Cut(s.rest, "/")
		var all []string
		for _, unit := range slices.Sorted(maps.Keys(s.metrics)) {
			if unit != "ns/op" && unit != "B/op" && unit != "allocs/op" {
				all = append(all, number(median(s.metrics[unit]))+" "+unit)
			}
		}
		p.f("| %s | %s |\n", strings.ReplaceAll(name, "/", ", "), strings.Join(all, ", "))
	}
	if began {
		p.f("\n")
	}
}

// group is a table and a picture of what did the same work.
func (p *page) group(g *group) {
	_, keys, _ := strings.Cut(g.rest, "/")
	if keys != "" {
		p.f("**%s**\n\n", strings.ReplaceAll(keys, "/", ", "))
	}
	metrics := g.metrics()
	rows := append([]*series{g.ours}, g.other...)
	p.f("| |")
	for _, m := range metrics {
		p.f(" %s | ratio |", m.title)
	}
	p.f("\n| --- |%s\n", strings.Repeat(" ---: | ---: |", len(metrics)))
	for _, s := range rows {
		p.f("| %s |", title(s.by))
		for _, m := range metrics {
			v := s.metrics[m.unit]
			if len(v) == 0 {
				p.f(" | |")
				continue
			}
			p.f(" %s", number(median(v)))
			if lo, hi := slices.Min(v), slices.Max(v); lo != hi {
				p.f(" (%s–%s)", number(lo), number(hi))
			}
			if r, ok := m.ratio(g.ours, s); s != g.ours && ok {
				p.f(" | %s |", ratio(r))
			} else {
				p.f(" | |")
			}
		}
		p.f("\n")
	}
	p.f("\n")
	name := picture(g.rest)
	if len(rows) < 2 {
		return
	}
	p.files["bench/"+name] = bars(g.rest, metrics[0], rows)
	p.f("![%s](bench/%s)\n\n", g.rest, name)
}

func picture(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == '=' || r == '.' {
			return '-'
		}
		return r
	}, strings.ToLower(name)) + ".svg"
}

// verdicts says what the generator thought of the runs.
func (p *page) verdicts(file string) {
	p.f("| run | offered/s | achieved/s | p50 ms | p99 ms | p99.9 ms | max ms | server µs of CPU each | generator cores | verdict |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
	for _, r := range p.m.runs[file] {
		l := r.Load.Latency["answer"]
		p.f("| %s | %s | %s | %.2f | %.2f | %.2f | %.2f | %.1f | %.2f | %s |\n", r.Server.By, number(r.Load.Offered), number(r.Load.Achieved),
			l.P50, l.P99, l.P999, l.Max, 1e6*r.Server.CPUSeconds/r.Load.Answered(),
			r.Load.Generator.CPU, verdict(r.Load.Verdict.Violations, r.Load.Verdict.Invalid))
	}
	p.f("\n")
}

func verdict(violations map[string]int64, invalid []string) string {
	var all []string
	for rule, n := range violations {
		all = append(all, fmt.Sprintf("violation: %s %d", rule, n))
	}
	slices.Sort(all)
	for _, why := range invalid {
		all = append(all, "invalid: "+why)
	}
	if len(all) == 0 {
		return "valid"
	}
	return strings.Join(all, "; ")
}

// curves draws latency over percentile, the median run of each server.
func (p *page) curves(file string) {
	var lines []line
	for _, by := range []string{"bare-fasthttp", "rollcall"} {
		var best []line
		for _, r := range p.m.runs[file] {
			if l := r.Load.Latency["answer"]; r.Server.By == by && len(l.Curve) > 0 {
				best = append(best, line{title(by), l.Curve, l.P99})
			}
		}
		if len(best) > 0 {
			slices.SortFunc(best, func(a, b line) int { return cmp.Compare(a.p99, b.p99) })
			lines = append(lines, best[len(best)/2])
		}
	}
	if len(lines) == 0 {
		return
	}
	p.files["bench/latency.svg"] = curvesSVG(lines)
	p.f("![latency over percentile](bench/latency.svg)\n\n")
}

// generator says what the instrument itself can drive.
func (p *page) generator() {
	var perCore []float64
	for _, r := range p.m.runs["http-closed"] {
		if r.Server.By == "bare-fasthttp" {
			perCore = append(perCore, r.Load.Achieved/r.Load.Generator.CPU)
		}
	}
	if len(perCore) > 0 {
		p.f("## The generator itself\n\nAgainst the bare server `rollcall load` drives %s heartbeats per second and core of its own (median of the closed loop above).\n", number(median(perCore)))
	}
}
