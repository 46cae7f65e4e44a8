package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"

	"rollcall/internal/docblock"
)

// measuredPart is a figure in a page that people write. It stands between <!-- measured: name -->
// and <!-- end of measured: name -->.
var measuredPart = regexp.MustCompile(`<!-- (measured: [^>]*) -->`)

// figures rewrites the figures in README.md and in the pages of docs that it does not make whole.
func (p *page) figures() error {
	idle := p.idleName()
	values := map[string]string{
		"measured: table":             p.table(),
		"measured: device":            p.device(),
		"measured: idle stream":       p.amount("Streams/idle", "B/stream", "%.0f bytes", 1),
		"measured: idle connection":   p.idleBytes(),
		"measured: a million daemons": p.amount(idle, "RSS-B/conn", "%.1f GB", 1000),
	}
	names, err := filepath.Glob(filepath.Join(p.docs, "*.md"))
	if err != nil {
		return err
	}
	for _, path := range append(names, filepath.Join(p.docs, "..", "README.md")) {
		name, err := filepath.Rel(p.docs, path)
		if err != nil {
			return err
		}
		if _, whole := p.files[name]; whole {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		page := string(text)
		for _, part := range measuredPart.FindAllStringSubmatch(page, -1) {
			value := values[part[1]]
			if value == "" {
				return fmt.Errorf("%s: nothing measures %q", name, part[1])
			}
			if page, err = docblock.Replace(page, part[1], value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		p.files[name] = page
	}
	return nil
}

// amount is the median of a metric as a figure in a text, "" when it was not measured.
func (p *page) amount(name, unit, format string, over float64) string {
	s := p.m.find(name)
	if s == nil || len(s.metrics[unit]) == 0 {
		return ""
	}
	return fmt.Sprintf(format, median(s.metrics[unit])/over)
}

// idleBytes is what a connection of an idle daemon takes.
func (p *page) idleBytes() string {
	if s := p.idleConn(); s != nil && median(s.metrics["RSS-B/conn"]) < 1000 {
		return p.amount(s.name, "RSS-B/conn", "%.0f bytes", 1)
	}
	return p.amount(p.idleName(), "RSS-B/conn", "%.1f KB", 1000)
}

// device is the memory of a device, in the table and in the wheel, to ten bytes.
func (p *page) device() string {
	table, wheel := p.m.find("Table/devices=1M/by=rollcall/procs=1"), p.m.find("Wheel/devices=1M/by=rollcall/procs=1")
	if table == nil || wheel == nil {
		return ""
	}
	bytes := median(table.metrics["B/device"]) + median(wheel.metrics["B/device"]) - deadlineBytes
	return fmt.Sprintf("%.0f bytes", 10*math.Round(bytes/10))
}

// table is the README's: what a user asks first.
func (p *page) table() string {
	text := "\n| | rollcall | beside it, same run |\n| --- | --- | --- |\n"
	rate := func(what, ours, other, beside string) {
		if a, b := p.m.find(ours), p.m.find(other); a != nil && b != nil {
			unit := "ops/s"
			if len(a.metrics[unit]) == 0 {
				unit = "frames/s"
			}
			text += fmt.Sprintf("| %s | %s/s | %s: %s/s |\n", what, number(median(a.metrics[unit])),
				beside, number(median(b.metrics[unit])))
		}
	}
	rate("durable heartbeats in batches of 1,000, of a million devices",
		"Load/run=http-batch/by=rollcall", "Load/run=http-batch/by=bare-fasthttp", "bare fasthttp that reads the same bodies")
	rate("durable heartbeats over HTTP, 256 connections, closed loop",
		"Load/run=http-closed/by=rollcall", "Load/run=http-closed/by=bare-fasthttp", "bare fasthttp that answers 204")
	rate("the same, 64 connections: fewer heartbeats share a sync",
		"Load/run=http-64/by=rollcall", "Load/run=http-64/by=bare-fasthttp", "bare fasthttp that answers 204")
	if got, base, _, ok := p.p99s(); ok {
		text += fmt.Sprintf("| p99 of a heartbeat at half of the bare server's peak, open loop | %.1f ms | bare fasthttp: %.1f ms |\n", got, base)
	}
	seconds := func(name string) float64 { return 1e6 / median(p.m.find(name).metrics["ops/s"]) }
	const recovery = "Recovery/devices=1M/cache=warm/by="
	if p.m.find(recovery+"rollcall") != nil && p.m.find(recovery+"read-and-insert") != nil {
		text += fmt.Sprintf("| restart, a million devices in the checkpoint | %.2f s | reading and inserting them: %.2f s |\n",
			seconds(recovery+"rollcall"), seconds(recovery+"read-and-insert"))
	}
	for _, r := range p.m.runs["lateness"] {
		l := r.Load.Latency["offline"]
		text += fmt.Sprintf("| offline event after the TTL's end, %s devices | median %.2f ms, worst %.1f ms | a tick of the wheel: 10 ms |\n",
			number(float64(l.Count)), l.P50, l.Max)
	}
	rate("frames to streams, one event each", "FanOut/streams=4000/users=4000/batches=1/by=rollcall",
		"FanOut/streams=4000/users=4000/batches=1/by=write", "a plain loop of `write(2)`")
	text += fmt.Sprintf("| memory of an idle stream, of an idle daemon's connection | %s, %s | |\n",
		p.amount("Streams/idle", "B/stream", "%.0f bytes", 1), p.idleBytes())
	if of500 := p.amount(residentList, "B/user", "%.0f bytes", 1); of500 != "" {
		text += fmt.Sprintf("| resident memory of an idle stream of one user, of each user of one that follows 500 | %s, %s | |\n",
			p.amount(residentSingle, "B/stream", "%.0f bytes", 1), of500)
	}
	return text
}
