package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed wrk.lua
var wrkScript []byte

// wrkRuns is closed loops from another client than our own, wrk, which is a common one: so many
// connections, and so many requests at once on each. A server lives through all of its rounds,
// which take turns.
func (m *measurement) wrkRuns() error {
	if !m.wanted("wrk") {
		return nil
	}
	if _, err := exec.LookPath("wrk"); err != nil {
		fmt.Fprintln(os.Stderr, "          wrk is not installed (apt-get install wrk): left out")
		return nil
	}
	rounds, seconds := 5, 2
	if m.smoke {
		rounds, seconds = 1, 1
	}
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script := filepath.Join(dir, "wrk.lua")
	if err := os.WriteFile(script, wrkScript, 0o644); err != nil {
		return err
	}
	head := m.head
	head.Load = loadAverage()
	head.Command = "cd bench && go run ./cmd/measure -rollcall ../bin/rollcall -only wrk"
	var lines strings.Builder
	for _, c := range []struct {
		connections, pipeline int
		servers               []string
	}{
		{1, 1, []string{"bare-fasthttp", "rollcall"}},
		{64, 1, []string{"bare-fasthttp", "rollcall"}},
		{256, 1, []string{"bare-fasthttp", "rollcall"}},
		{64, 16, []string{"bare-fasthttp", "rollcall", "rollcall-interval"}},
	} {
		for range rounds {
			for _, by := range c.servers {
				line, err := m.wrkRun(by, script, c.connections, c.pipeline, seconds)
				if err != nil {
					return err
				}
				lines.WriteString(line)
			}
		}
	}
	return m.write("wrk.txt", func(f *os.File) error {
		if _, err := head.WriteTo(f); err != nil {
			return err
		}
		_, err := f.WriteString(lines.String())
		return err
	})
}

// wrkRun drives a server of its own and returns a benchmark line.
func (m *measurement) wrkRun(by, script string, connections, pipeline, seconds int) (
	line string, err error) {
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	s, err := m.start(by, dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	drive := func(seconds int) (out []byte, used time.Duration, err error) {
		cmd := exec.Command("wrk", "-t", "1", "-c", fmt.Sprint(connections), "-d",
			fmt.Sprintf("%ds", seconds), "-s", script, "http://"+address, "--",
			fmt.Sprint(pipeline))
		if out, err = cmd.CombinedOutput(); err == nil {
			used = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		}
		return out, used, err
	}
	if out, _, err := drive(1); err != nil { // the devices become known, and the connections' pages
		return "", fmt.Errorf("wrk: %w\n%s", err, out)
	}
	before := s.cpu()
	out, used, err := drive(seconds)
	cpu := s.cpu() - before
	if err != nil {
		return "", fmt.Errorf("wrk: %w\n%s", err, out)
	}
	_, figures, _ := strings.Cut(string(out), "measured ")
	var requests, micros, failed, p50, p99, longest float64
	if _, err := fmt.Sscan(figures, &requests, &micros, &failed, &p50, &p99, &longest); err != nil {
		return "", fmt.Errorf("wrk: %w\n%s", err, out)
	}
	if failed > 0 {
		return "", fmt.Errorf("wrk: %.0f of %.0f requests failed at %s\n%s", failed, requests, by, out)
	}
	fmt.Fprintf(os.Stderr, "          %3d connections × %2d  %-18s %8.0f/s, %.1f µs of the server each\n",
		connections, pipeline, by, requests/micros*1e6, cpu/requests*1e6)
	return fmt.Sprintf("BenchmarkWrk/connections=%d/pipelined=%d/by=%s 1 %.0f ops/s %.0f p50-ns %.0f p99-ns %.0f max-ns %.0f cpu-ns/op %.0f generator-ns/op\n",
		connections, pipeline, by, requests/micros*1e6, p50*1e3, p99*1e3, longest*1e3,
		cpu/requests*1e9, float64(used.Nanoseconds())/requests), nil
}
