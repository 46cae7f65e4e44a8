package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rollcall/bench/raw"
)

// figures is one run: rates in requests per second, latencies in milliseconds, processor time in
// nanoseconds for each request.
type figures struct{ rate, p50, p99, server, client float64 }

// long is what make bench has no time for. The servers take turns in every round.
func (m *measurement) long() error {
	rounds, seconds := 5, 3
	if m.smoke {
		rounds, seconds = 1, 1
	}
	for _, step := range []struct {
		name string
		run  func(rounds, seconds int) error
	}{
		{"log-peers", m.logPeers}, {"table-group", m.tableGroup},
		{"path", m.path}, {"beats", m.beats}, {"middle", m.middle}, {"soak", m.soak},
	} {
		if !m.wanted(step.name) {
			continue
		}
		if err := step.run(rounds, seconds); err != nil {
			return err
		}
	}
	return nil
}

// contenders are the servers that a single heartbeat is compared over.
func (m *measurement) contenders(bare bool) (all []string) {
	if bare {
		all = append(all, "bare-fasthttp")
	}
	if all = append(all, "rollcall"); m.base != "" {
		all = append(all, "base")
	}
	return all
}

// path is durable heartbeats one by one, from our own generator.
func (m *measurement) path(rounds, seconds int) error {
	defer func() { m.serve = nil }()
	var lines []string
	for _, c := range []struct {
		conns, pipeline int
		sync            string
	}{
		{1, 1, "always"}, {64, 1, "always"}, {256, 1, "always"},
		{64, 16, "always"}, {64, 16, "interval"},
	} {
		m.serve = []string{"--sync", c.sync}
		for range rounds {
			for _, by := range m.contenders(true) {
				f, err := m.byOwn(by, c.conns, c.pipeline, seconds)
				if err != nil {
					return err
				}
				lines = append(lines, fmt.Sprintf("BenchmarkPath/conns=%d/pipeline=%d/sync=%s/by=%s "+
					"1 %.0f ops/s %.0f p50-ns %.0f p99-ns %.0f cpu-ns/op %.0f generator-ns/op",
					c.conns, c.pipeline, c.sync, by, f.rate, f.p50*1e6, f.p99*1e6,
					f.server, f.client))
			}
		}
	}
	return m.writeLines("path", lines, "make bench-long")
}

// byOwn drives a server with rollcall load, which checks nothing here: it has the same work
// against each.
func (m *measurement) byOwn(by string, conns, pipeline, seconds int) (f figures, err error) {
	r, err := m.loadRun(by, []string{"--closed", "--no-verify", "--no-oracle",
		"--connections", strconv.Itoa(conns), "--pipeline", strconv.Itoa(pipeline),
		"--users", "2000", "--devices-per-user", "10", "--ttl", "10m",
		"--warmup", "1s", "--duration", fmt.Sprintf("%ds", seconds)})
	if err != nil {
		return f, err
	}
	l, all := r.Load.Latency["answer"], r.Load.Answered()
	return figures{r.Load.Achieved, l.P50, l.P99, r.Server.CPUSeconds / all * 1e9,
		r.Load.Generator.CPU / r.Load.Achieved * 1e9}, nil
}

// beats is what daemons do: many connections, each of which beats seldom.
func (m *measurement) beats(rounds, seconds int) error {
	var lines []string
	var runs []raw.Run
	for range rounds {
		for _, by := range m.contenders(false) {
			r, err := m.loadRun(by, []string{"--connections", "15000", "--users", "15000",
				"--devices-per-user", "1", "--interval", "5s", "--sources", "4", "--no-verify",
				"--no-oracle", "--warmup", "5s", "--duration", fmt.Sprintf("%ds", 5*seconds)})
			if err != nil {
				return err
			}
			runs = append(runs, r)
			l := r.Load.Latency["answer"]
			lines = append(lines, fmt.Sprintf("BenchmarkBeats/conns=15000/interval=5s/by=%s 1 "+
				"%.0f p50-ns %.0f p99-ns %.0f cpu-ns/op %.0f generator-ns/op", by, l.P50*1e6, l.P99*1e6,
				m.steady(float64(5*seconds))/r.Load.Achieved*1e9,
				r.Load.Generator.CPU/r.Load.Achieved*1e9))
		}
	}
	return errors.Join(m.writeLines("beats", lines, "make bench-long"), m.writeVerdicts("beats", runs))
}

// middle is BenchmarkMiddle of the program, and of the base if there is one.
func (m *measurement) middle(rounds, _ int) error {
	programs := m.rollcall
	if m.base != "" {
		programs += "," + m.base
	}
	return m.goTest("middle", []string{"test", "-run", "^$", "-bench", "^BenchmarkMiddle$",
		"-benchtime", fmt.Sprintf("%dx", rounds), "-timeout", "1h", ".", "-programs", programs}, 1)
}

// logPeers is BenchmarkLog with others' logs, long enough that a second run agrees. The logs take
// turns in every round.
func (m *measurement) logPeers(rounds, seconds int) error {
	return m.goTest("log-peers", []string{"test", "-run", "^$", "-bench", "^BenchmarkLog$",
		"-count", "1", "-benchtime", fmt.Sprintf("%ds", seconds-seconds/2),
		"-timeout", "1h", "."}, rounds)
}

// tableGroup is what heartbeats in groups cost the table beside what memory allows.
func (m *measurement) tableGroup(_, _ int) error {
	args := []string{"test", "-run", "^$", "-bench", "^BenchmarkGroup$", "-benchtime", "3x",
		"-timeout", "1h", "rollcall/engine/table"}
	if m.smoke {
		args = append(args, "-short")
	}
	return m.goTest("table-group", args, 1)
}

// soak is ten minutes at half of the bare server's peak, and the disk's own syncs in the same
// minutes.
func (m *measurement) soak(_, seconds int) error {
	bare, err := m.byOwn("bare-fasthttp", 256, 1, seconds)
	if err != nil {
		return err
	}
	duration := 10 * time.Minute
	if m.smoke {
		duration = 2 * time.Second
	}
	stop, syncs := make(chan struct{}), make(chan probed, 1)
	go func() { syncs <- probeDisk(stop) }()
	r, err := m.loadRun("rollcall", []string{"--rate", fmt.Sprintf("%.0f", bare.rate/2),
		"--connections", "256", "--users", "10000", "--devices-per-user", "10", "--ttl", "10m",
		"--warmup", "2s", "--duration", duration.String()})
	close(stop)
	disk := <-syncs
	if err = errors.Join(err, disk.err); err != nil {
		return err
	}
	l := r.Load.Latency["answer"]
	slices.Sort(disk.took)
	at := func(share float64) time.Duration {
		return disk.took[int(math.Ceil(share*float64(len(disk.took))))-1]
	}
	const line = "BenchmarkSoak/by=%s 1 %.0f p50-ns %.0f p99-ns %.0f p99.9-ns %.0f worst-ns"
	return errors.Join(m.writeVerdicts("soak", []raw.Run{r}), m.writeLines("soak", []string{
		fmt.Sprintf(line, "rollcall", l.P50*1e6, l.P99*1e6, l.P999*1e6, l.Max*1e6),
		fmt.Sprintf(line, "disk", float64(at(0.5)), float64(at(0.99)), float64(at(0.999)),
			float64(at(1))),
	}, "make bench-long"))
}

// probed is how long syncs took.
type probed struct {
	took []time.Duration
	err  error
}

// probeDisk writes a block and syncs it, twenty times a second, so that it is no load of its own.
func probeDisk(stop <-chan struct{}) (p probed) {
	f, err := os.CreateTemp("", "rollcall-bench-")
	if err != nil {
		return probed{err: err}
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 4096)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		began := time.Now()
		if _, p.err = f.WriteAt(block, 0); p.err == nil {
			p.err = syscall.Fdatasync(int(f.Fd()))
		}
		if p.took = append(p.took, time.Since(began)); p.err != nil {
			return p
		}
		select {
		case <-stop:
			return p
		case <-tick.C:
		}
	}
}

// writeVerdicts writes the runs, with what the generator thought of them.
func (m *measurement) writeVerdicts(name string, runs []raw.Run) error {
	return m.write(name+".json", func(f *os.File) error { return raw.WriteRuns(f, runs) })
}

// writeLines writes benchmark lines behind the head.
func (m *measurement) writeLines(name string, lines []string, command string) error {
	head := m.head
	head.Load, head.Command = loadAverage(), command
	return m.write(name+".txt", func(f *os.File) error {
		if _, err := head.WriteTo(f); err != nil {
			return err
		}
		_, err := f.WriteString(strings.Join(lines, "\n") + "\n")
		return err
	})
}
