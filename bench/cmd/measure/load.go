package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"rollcall/bench/raw"
)

const address = "127.0.0.1:8797"

// secrets of servers that live as long as a run.
var secrets = []string{
	"PRESENCE_DO_INGEST_TOKEN=ingest-token-of-the-benchmarks---",
	"PRESENCE_DO_TOKEN_SIGNING_KEY=signing-key-of-the-benchmarks---",
}

// load is the runs over loopback: server and generator share the processors, as the ceiling's do.
func (m *measurement) load() error {
	rounds, seconds := 5, 2
	if m.full {
		rounds, seconds = 10, 10
	}
	if m.smoke {
		rounds, seconds = 1, 1
	}
	closed := []string{"--closed", "--connections", "256", "--users", "10000", "--devices-per-user", "10",
		"--warmup", "1s", "--duration", fmt.Sprintf("%ds", seconds)}
	few := slices.Clone(closed)
	few[slices.Index(few, "256")] = "64"
	batch := []string{"--closed", "--batch", "1000", "--connections", "32", "--users", "100000", "--devices-per-user", "10", "--ttl", "10m",
		"--no-verify", "--warmup", "6s", "--duration", fmt.Sprintf("%ds", 2*seconds)}
	var peak float64
	for _, c := range []struct {
		name    string
		args    []string
		servers []string
	}{
		{"http-closed", closed, []string{"bare-fasthttp", "net-http", "rollcall"}},
		{"http-64", few, []string{"bare-fasthttp", "rollcall"}},
		{"http-batch", batch, []string{"bare-fasthttp", "rollcall"}},
	} {
		if !m.wanted(c.name) {
			continue
		}
		runs, err := m.loadRuns(rounds, c.servers, c.args)
		if err != nil {
			return err
		}
		if err := m.writeRuns(c.name, runs); err != nil {
			return err
		}
		if c.name == "http-closed" {
			peak = medianRate(runs, "bare-fasthttp")
		}
	}
	if err := m.wrkRuns(); err != nil {
		return err
	}
	if peak > 0 && m.wanted("http-open") {
		open := []string{"--rate", fmt.Sprintf("%.0f", peak/2), "--connections", "256", "--users", "10000", "--devices-per-user", "10",
			"--warmup", "1s", "--duration", fmt.Sprintf("%ds", 2*seconds)}
		runs, err := m.loadRuns(rounds, []string{"bare-fasthttp", "rollcall"}, open)
		if err != nil {
			return err
		}
		if err := m.writeRuns("http-open", runs); err != nil {
			return err
		}
	}
	if err := m.lists(); err != nil {
		return err
	}
	if err := m.clusters(); err != nil {
		return err
	}
	for _, s := range []struct{ name, args string }{
		{"lateness", "--scenario silent --users 100 --devices-per-user 10 --interval 1s --ttl 2s --silent-share 1 --warmup 2s --duration 8s"},
		{"capacity", "--users 20000 --devices-per-user 10 --rate 10000 --streams-per-user 0.2 --warmup 5s --duration 20s"},
	} {
		if !m.wanted(s.name) {
			continue
		}
		r, err := m.loadRun("rollcall", strings.Fields(s.args))
		if err != nil {
			return err
		}
		if err := m.writeRuns(s.name, []raw.Run{r}); err != nil {
			return err
		}
	}
	return nil
}

// loadRuns drives the servers in turn, some rounds.
func (m *measurement) loadRuns(rounds int, servers, args []string) (runs []raw.Run, err error) {
	for range rounds {
		for _, by := range servers {
			r, err := m.loadRun(by, args)
			if err != nil {
				return nil, err
			}
			runs = append(runs, r)
		}
	}
	return runs, nil
}

func medianRate(runs []raw.Run, by string) float64 {
	var rates []float64
	for _, r := range runs {
		if r.Server.By == by {
			rates = append(rates, r.Load.Achieved)
		}
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}

// loadRun starts a server of its own, drives it and stops it.
func (m *measurement) loadRun(by string, args []string) (r raw.Run, err error) {
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	s, err := m.start(by, dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()

	r.Server = raw.Server{By: by, Command: s.shown, StartMiB: s.resident()}
	if by != "rollcall" && !slices.Contains(args, "--no-oracle") {
		args = append(slices.Clone(args), "--no-oracle")
		if !slices.Contains(args, "--no-verify") {
			args = append(args, "--no-verify")
		}
	}
	report := filepath.Join(dir, "report.json")
	cmd := exec.Command(m.rollcall, slices.Concat([]string{"load", "--target", "http://" + address, "--quiet", "--json", report}, args)...)
	cmd.Env = append(os.Environ(), secrets...)
	before, idle := s.cpu(), loadAverage()
	ended := m.sample(s)
	out, err := cmd.CombinedOutput()
	ended()
	r.Server.CPUSeconds, r.Server.EndMiB = s.cpu()-before, s.resident()
	r.Head = m.head
	r.Head.Load = idle
	r.Head.Command = commandLine("rollcall", append([]string{"load", "--target", "http://" + address}, args...))
	text, readErr := os.ReadFile(report)
	if readErr != nil {
		return r, fmt.Errorf("%s: %w\n%s", r.Head.Command, errors.Join(err, readErr), out)
	}
	// Violations and an invalid run stand in the report; cmd/report shows them.
	if err := json.Unmarshal(text, &r.Load); err != nil {
		return r, err
	}
	fmt.Fprintf(os.Stderr, "          %-14s %8.0f/s, p99 %.3f ms %v %v\n", by, r.Load.Achieved, r.Load.Latency["answer"].P99,
		r.Load.Verdict.Violations, r.Load.Verdict.Invalid)
	return r, nil
}

// sampled is the processor time that a server had used at a moment.
type sampled struct {
	at  time.Time
	cpu float64
}

// sample notes what the server uses, twenty times a second, until the function that it returns is
// called.
func (m *measurement) sample(s *server) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	m.samples = nil
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			m.samples = append(m.samples, sampled{time.Now(), s.cpu()})
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// steady is how much of a processor the server of the last run used in the middle of the last so
// many seconds: after the connects, and before the end.
func (m *measurement) steady(seconds float64) float64 {
	last := m.samples[len(m.samples)-1].at
	first, end := m.samples[0], m.samples[0]
	for _, s := range m.samples {
		if last.Sub(s.at).Seconds() >= 0.9*seconds {
			first = s
		}
		if last.Sub(s.at).Seconds() >= 0.1*seconds {
			end = s
		}
	}
	return (end.cpu - first.cpu) / end.at.Sub(first.at).Seconds()
}

// writeRuns writes the runs, and as benchmark lines what benchstat compares.
func (m *measurement) writeRuns(name string, runs []raw.Run) error {
	if err := m.write(name+".json", func(f *os.File) error { return raw.WriteRuns(f, runs) }); err != nil {
		return err
	}
	return m.write(name+".txt", func(f *os.File) error {
		if _, err := runs[0].Head.WriteTo(f); err != nil {
			return err
		}
		for _, r := range runs {
			l := r.Load.Latency["answer"]
			if name == "lateness" {
				l = r.Load.Latency["offline"]
			}
			if _, err := fmt.Fprintf(f, "BenchmarkLoad/run=%s/by=%s 1 %.0f ops/s %.0f p50-ns "+
				"%.0f p99-ns %.0f max-ns %.0f cpu-ns/op\n",
				name, r.Server.By, r.Load.Achieved, l.P50*1e6, l.P99*1e6, l.Max*1e6,
				1e9*r.Server.CPUSeconds/max(r.Load.Answered(), 1)); err != nil {
				return err
			}
		}
		return nil
	})
}

// server is a child process that answers heartbeats.
type server struct {
	cmd     *exec.Cmd
	shown   string
	address string
	log     *os.File
}

func (m *measurement) start(by, dir string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var cmd *exec.Cmd
	var shown string
	switch by {
	case "rollcall", "rollcall-interval":
		_, sync, ok := strings.Cut(by, "-")
		if !ok {
			sync = "always"
		}
		cmd = exec.Command(m.rollcall, "serve", "--listen", address, "--admin-listen", "127.0.0.1:8798", "--data-dir", filepath.Join(dir, "data"), "--sync", sync)
		shown = "rollcall serve --listen " + address
	case "base":
		cmd = exec.Command(m.base, "serve", "--listen", address, "--admin-listen",
			"127.0.0.1:8798", "--data-dir", filepath.Join(dir, "data"))
		shown = "base serve --listen " + address
	case "bare-fasthttp":
		cmd = exec.Command(m.rollcall, "load", "bare", "--listen", address)
		shown = "rollcall load bare --listen " + address
	case "net-http":
		cmd = exec.Command(self, "-serve-net-http", address)
		shown = "go run ./cmd/measure -serve-net-http " + address
	}
	if by == "rollcall" || by == "base" {
		cmd.Args = append(cmd.Args, m.serve...)
	}
	return startServer(cmd, shown, address, dir)
}

// startServer starts a server that listens on an address, and waits until it takes connections.
func startServer(cmd *exec.Cmd, shown, address, dir string) (*server, error) {
	free, err := net.Listen("tcp", address)
	if err != nil { // another server would answer, and be measured
		return nil, err
	}
	free.Close()
	s := &server{cmd: cmd, shown: shown, address: address}
	s.cmd.Env = append(os.Environ(), secrets...)
	if s.log, err = os.Create(filepath.Join(dir, "server.log")); err != nil {
		return nil, err
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	return s, s.ready()
}

// ready waits until the server takes connections.
func (s *server) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			text, _ := os.ReadFile(s.log.Name())
			return errors.Join(fmt.Errorf("%s: %w\n%s", s.shown, err, text), s.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *server) stop() error {
	defer s.log.Close()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == -1 {
		return nil // the bare servers die of the signal
	}
	return err
}

// cpu is the processor time that the server has used, in seconds.
func (s *server) cpu() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(words[11], 64)
	system, _ := strconv.ParseFloat(words[12], 64)
	return (user + system) / 100 // the unit of /proc on every Linux
}

// resident is the server's memory in MiB.
func (s *server) resident() float64 {
	var kb float64
	_, _ = fmt.Sscanf(fieldOf(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid), "VmRSS"), "%f", &kb)
	return kb / 1024
}

// serveNetHTTP is what rollcall load bare is, on the standard library.
func serveNetHTTP(addr string) error {
	return http.ListenAndServe(addr, http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
}
