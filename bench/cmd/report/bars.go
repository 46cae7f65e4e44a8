package main

import (
	"fmt"
	"slices"
	"strings"
)

// bar is a bound on a quotient of two series of one unit, measured in rounds that take turns.
type bar struct {
	figure       string
	ours, beside string
	unit         string
	least        bool // the bound is from below
	bound        float64
}

const (
	wrk64  = "Wrk/connections=64/pipelined=1/by="
	wrk256 = "Wrk/connections=256/pipelined=1/by="
	wrk16  = "Wrk/connections=64/pipelined=16/by="
	own64  = "Load/run=http-64/by="
	own256 = "Load/run=http-closed/by="
	path1  = "Path/conns=1/pipeline=1/sync=always/by="
	path64 = "Path/conns=64/pipeline=1/sync=always/by="
	path   = "Path/conns=256/pipeline=1/sync=always/by="
	deep   = "Path/conns=64/pipeline=16/sync=always/by="
	lazily = "Path/conns=64/pipeline=16/sync=interval/by="
	beats  = "Beats/conns=15000/interval=5s/by="
	during = "HeartbeatInCheckpoint/devices=1M/appenders=64/checkpoint="
	bare   = "bare-fasthttp"
)

var quotients = []bar{
	{"64 connections ÷ bare, wrk", wrk64 + "rollcall", wrk64 + bare, "ops/s", true, 1.10},
	{"64 connections ÷ bare, our generator", path64 + "rollcall", path64 + bare, "ops/s", true, 0.95},
	{"64 connections ÷ bare, our generator that checks ours", own64 + "rollcall", own64 + bare, "ops/s", true, 0.95},
	{"256 connections ÷ bare, wrk", wrk256 + "rollcall", wrk256 + bare, "ops/s", true, 1.10},
	{"256 connections ÷ bare, our generator", path + "rollcall", path + bare, "ops/s", true, 1.10},
	{"256 connections ÷ bare, our generator that checks ours", own256 + "rollcall", own256 + bare, "ops/s", true, 1.10},
	{"1 connection, p50 ÷ base", path1 + "rollcall", path1 + "base", "p50-ns", false, 0.75},
	{"16 at once on each of 64 ÷ bare, wrk", wrk16 + "rollcall", wrk16 + bare, "ops/s", true, 1},
	{"the same, `--sync=interval`, wrk", wrk16 + byInterval, wrk16 + bare, "ops/s", true, 1},
	{"16 at once on each of 64 ÷ bare, our generator", deep + "rollcall", deep + bare, "ops/s", true, 1},
	{"the same, `--sync=interval`, our generator", lazily + "rollcall", lazily + bare, "ops/s", true, 1},
	{"processor ÷ bare, 64 connections, wrk", wrk64 + "rollcall", wrk64 + bare, "cpu-ns/op", false, 1},
	{"processor ÷ bare, 64 connections, our generator", path64 + "rollcall", path64 + bare, "cpu-ns/op", false, 1},
	{"processor ÷ bare, 64 connections, our generator that checks ours", own64 + "rollcall", own64 + bare, "cpu-ns/op", false, 1},
	{"processor ÷ base, 15,000 daemons", beats + "rollcall", beats + "base", "cpu-ns/op", false, 0.5},
	{"64 connections ÷ base, our generator", path64 + "rollcall", path64 + "base", "ops/s", true, 0.97},
	{"256 connections ÷ base, our generator", path + "rollcall", path + "base", "ops/s", true, 0.97},
	{"16 at once on each of 64 ÷ base, our generator", deep + "rollcall", deep + "base", "ops/s", true, 0.97},
	{"p99 while a checkpoint of a million devices runs ÷ without", during + "running", during + "none", "p99-ns", false, 1.5},
}

// single is a bound on a figure that is a quotient already, or stands beside nothing.
type single struct {
	figure string
	name   string // how the series's name begins
	unit   string
	least  bool // the bound is from below
	bound  float64
}

const (
	residentSingle = "Resident/streams=12000/users=1"
	residentList   = "Resident/streams=204/users=500"
)

var singles = []single{
	{"an idle stream of one user, bytes of resident memory", residentSingle, "B/stream", false, 512},
	{"a user of an idle stream of 500, bytes beyond the stream", residentList, "B/user", false, 64},
	{"the same ÷ as many streams of one user", residentList, "of-single", false, 0.2},
	{"`view=users` ÷ `view=devices`, bytes", "Lists/figure=views", "ratio", false, 0.03},
	{"fan-out of 100 users a stream ÷ of one", "Lists/figure=fan-out", "ratio", true, 0.7},
	{"a query of 1,000 users ÷ bare that sends as many bytes", "Lists/figure=query", "ratio", true, 0.4},
	{"reconnect with a cursor ÷ without, bytes", "Lists/figure=reconnect", "bytes-ratio", false, 0.05},
	{"the same, processor", "Lists/figure=reconnect", "cpu-ratio", false, 0.2},
	{"the same, processor beyond that of a connect", "Lists/figure=reconnect", "beyond-connect-ratio", false, 0.2},
	{"a cluster's POST, 64 connections ÷ one server", "Cluster/figure=post/conns=64/", "ratio", true, 0.15},
	{"a cluster's POST, 1,000 connections ÷ one server", "Cluster/figure=post/conns=1000/", "ratio", true, 0.35},
	{"a cluster's batches of 1,000, heartbeats per second", "Cluster/figure=batch", "ops/s", true, 300_000},
	{"heartbeat to its frame on another node, p50, ms", "Cluster/figure=frame", "p50-ms", false, 4},
	{"the same, p99", "Cluster/figure=frame", "p99-ms", false, 25},
	{"kill -9 of an owner, gap of its users with fast failover, p50, s", "Cluster/figure=kill/fast=true", "p50-s", false, 1},
	{"the same, p95", "Cluster/figure=kill/fast=true", "p95-s", false, 2},
	{"the same without it, p95", "Cluster/figure=kill/fast=false", "p95-s", false, 10},
	{"a node that is stopped, gap of its users, p95, s", "Cluster/figure=stop", "p95-s", false, 0.3},
	{"64 partitions at rest, cores of a node", "Cluster/figure=idle", "cores/node", false, 0.03},
	{"the same, MiB of resident memory", "Cluster/figure=idle", "MiB/node", false, 57.2}, // 60 MB
}

// bars are what the server is held to; a figure that was not measured is left out.
func (p *page) bars() {
	p.f("## Bars\n\nA quotient is the median of the rounds' quotients, lowest and highest behind it.\n\n")
	p.f("| figure | bar | measured | |\n| --- | --- | ---: | --- |\n")
	row := func(figure, bound, measured string, kept bool) {
		word := "kept"
		if !kept {
			word = "**MISSED**"
		}
		p.f("| %s | %s | %s | %s |\n", figure, bound, measured, word)
	}
	for _, b := range quotients {
		q := p.rounds(b.ours, b.beside, b.unit)
		if len(q) == 0 {
			continue
		}
		sign, kept := "≤", median(q) <= b.bound
		if b.least {
			sign, kept = "≥", median(q) >= b.bound
		}
		row(b.figure, fmt.Sprintf("%s %.2f", sign, b.bound), fmt.Sprintf("%.2f (%.2f–%.2f)",
			median(q), slices.Min(q), slices.Max(q)), kept)
	}
	for _, b := range singles {
		for _, s := range p.m.series {
			v := s.metrics[b.unit]
			if !strings.HasPrefix(s.name, b.name) || len(v) == 0 {
				continue
			}
			sign, kept := "≤", median(v) <= b.bound
			if b.least {
				sign, kept = "≥", median(v) >= b.bound
			}
			digits := 2
			if b.bound > 10 {
				digits = 0
			} else if b.bound < 0.1 {
				digits = 3
			}
			row(b.figure, fmt.Sprintf("%s %.*f", sign, digits, b.bound),
				fmt.Sprintf("%.*f", digits, median(v)), kept)
		}
	}
	if got, base, sync, ok := p.p99s(); ok {
		row("p99 at half of bare's peak, open loop", fmt.Sprintf(
			"≤ 2 × bare's %.2f ms + a sync's p99 %.2f ms", base, sync),
			fmt.Sprintf("%.2f ms", got), got <= 2*base+sync)
	}
	if s := p.m.find("Load/run=http-batch/by=rollcall"); s != nil {
		row("batches of 1,000", "≥ 1.3 M/s", number(median(s.metrics["ops/s"]))+"/s",
			median(s.metrics["ops/s"]) >= 1.3e6)
	}
	if s := p.idleConn(); s != nil {
		v := median(s.metrics["RSS-B/conn"])
		row("an idle daemon's connection", "≤ 512 bytes", number(v)+" bytes", v <= 512)
	}
	if s := p.m.find(beats + "rollcall"); s != nil {
		v := median(s.metrics["p99-ns"]) / 1e6
		row("p99, 15,000 daemons", "≤ 10 ms", fmt.Sprintf("%.2f ms", v), v <= 10)
	}
	for _, s := range p.m.series {
		if v := s.metrics["cpu-ms-ratio"]; s.file == "middle" && len(v) > 0 &&
			strings.HasSuffix(s.name, "route=single/devices=20k") {
			row("processor for 20,000 heartbeats and as many expiries ÷ base", "≤ 0.45",
				fmt.Sprintf("%.2f", median(v)), median(v) <= 0.45)
		}
		if v := s.metrics["apply/pair"]; s.name == "Group/devices=10000000" && len(v) > 0 {
			row("apply in groups at 10 million ÷ a dependent pair of misses", "≤ 1.50",
				fmt.Sprintf("%.2f", median(v)), median(v) <= 1.5)
		}
	}
	s, disk := p.m.find("Soak/by=rollcall"), p.m.find("Soak/by=disk")
	if s != nil && disk != nil {
		v, d := median(s.metrics["worst-ns"])/1e6, median(disk.metrics["worst-ns"])/1e6
		row("the longest wait in ten minutes",
			fmt.Sprintf("≤ 100 ms where the disk's is below 50 ms; it was %.1f", d),
			fmt.Sprintf("%.1f ms", v), v <= 100 || d >= 50)
	}
	p.f("\n")
}

// rounds are the quotients of rounds that took turns; none when one of the two was not measured or
// they are not pairs.
func (p *page) rounds(ours, beside, unit string) (all []float64) {
	a, b := p.m.find(ours), p.m.find(beside)
	if a == nil || b == nil || len(a.metrics[unit]) != len(b.metrics[unit]) {
		return nil
	}
	for i, v := range a.metrics[unit] {
		if b.metrics[unit][i] > 0 {
			all = append(all, v/b.metrics[unit][i])
		}
	}
	return all
}

// idleConn is the series of connections of idle daemons, of how many ever.
func (p *page) idleConn() *series {
	for _, s := range p.m.series {
		if s.file == "idleconn" {
			return s
		}
	}
	return nil
}

// idleName is that series's name, "" without one.
func (p *page) idleName() string {
	if s := p.idleConn(); s != nil {
		return s.name
	}
	return ""
}
