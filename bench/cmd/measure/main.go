// Measure runs the benchmarks and the load runs and writes raw files: what they printed, behind
// commit, machine, Go version and the command that was run.
//
//	measure [-full | -smoke] [-long] [-only WORD] -rollcall ../bin/rollcall -results results/short
//
// With -long it is other measurements, which take half an hour. ROLLCALL_BASE, an older program, is
// measured beside the new one there.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rollcall/bench/raw"
)

func main() {
	m := measurement{}
	var serve, serveOn string
	var size int
	flag.BoolVar(&m.full, "full", false, "10 million devices, longer runs")
	flag.BoolVar(&m.smoke, "smoke", false, "once and as short as possible, to see that everything runs; the figures mean nothing")
	flag.BoolVar(&m.longer, "long", false, "only what takes long: heartbeats one by one, daemons, ten minutes")
	flag.StringVar(&m.only, "only", "", "run only the steps whose name contains this")
	flag.StringVar(&m.rollcall, "rollcall", "../bin/rollcall", "the program")
	flag.StringVar(&m.results, "results", "results/short", "directory for the raw files")
	flag.StringVar(&serve, "serve-net-http", "", "do nothing but answer 204 to everything on this address, with net/http")
	flag.StringVar(&serveOn, "serve-on", "", "the address of -serve-bytes")
	flag.IntVar(&size, "serve-bytes", 0, "do nothing but answer so many bytes to everything, with fasthttp")
	flag.Parse()
	if serve != "" {
		fail(serveNetHTTP(serve))
	}
	if size > 0 {
		fail(serveBytes(serveOn, size))
	}
	fail(m.run())
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

type measurement struct {
	full, smoke       bool
	longer            bool
	base              string   // an older program, or ""
	serve             []string // more flags of the servers
	only              string
	rollcall, results string
	head              raw.Head
	samples           []sampled // of the last run
}

func (m *measurement) run() error {
	if err := os.MkdirAll(m.results, 0o755); err != nil {
		return err
	}
	m.head = machine()
	m.base = os.Getenv("ROLLCALL_BASE")
	began := time.Now()
	if m.longer {
		defer func() { fmt.Fprintf(os.Stderr, "measured in %v\n", time.Since(began).Round(time.Second)) }()
		return m.long()
	}
	if err := m.micro(); err != nil {
		return err
	}
	if err := m.load(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "measured in %v\n", time.Since(began).Round(time.Second))
	return nil
}

// wanted says that a step is to be run, and that it begins.
func (m *measurement) wanted(step string) bool {
	if !strings.Contains(step, m.only) {
		return false
	}
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), step)
	return true
}

// micro is the microbenchmarks, one file for each.
func (m *measurement) micro() error {
	sizes := "1k,1M"
	if m.full {
		sizes = "1k,1M,10M"
	}
	for _, s := range []struct {
		file, pattern, pkg string
		count              int
		time               string
		sized              bool
	}{
		{"table", "^BenchmarkTable$", ".", 10, "50ms", true},
		{"wheel", "^BenchmarkWheel$", ".", 10, "50ms", true},
		{"log", "^BenchmarkLog$/^appenders=/^by=(rollcall|ceiling)$", ".", 10, "150ms", false},
		{"sync", "^BenchmarkSync$", ".", 10, "100ms", false},
		{"decode", "^BenchmarkDecode$", ".", 10, "100ms", false},
		{"decode-server", "^BenchmarkHeartbeat$/^decode$", "rollcall/wire", 10, "100ms", false},
		{"frame", "^BenchmarkFrame$", ".", 10, "100ms", false},
		{"fanout", "^BenchmarkFanOut$", ".", 10, "200ms", false},
		{"stream", "^BenchmarkIdleStream$", ".", 3, "1x", false},
		{"streams", "^BenchmarkStreams$/^(fan-out|last|others)$", ".", 3, "10x", false},
		{"stream-cost", "^BenchmarkStreams$/^(idle|connects)$", ".", 3, "1x", false},
		{"heartbeat", "^BenchmarkHeartbeat$", ".", 10, "150ms", true},
		{"recovery", "^BenchmarkRecovery$", ".", 3, "1x", true},
		{"replay", "^BenchmarkReplay$", ".", 3, "1x", true},
		{"checkpoint", "^BenchmarkHeartbeatInCheckpoint$", ".", 3, "20000x", true},
		{"idleconn", "^BenchmarkIdleConn$", ".", 1, "1x", false},
	} {
		if !m.wanted(s.file) {
			continue
		}
		if m.full && !strings.HasSuffix(s.time, "x") {
			s.time = "500ms"
		}
		if m.smoke {
			sizes, s.count, s.time = "1k", 1, "5x"
		}
		args := []string{"test", "-run", "^$", "-bench", s.pattern, "-count", fmt.Sprint(s.count), "-benchtime", s.time, "-timeout", "1h", s.pkg}
		if s.sized {
			args = append(args, "-devices", sizes)
		}
		if err := m.goTest(s.file, args, 1); err != nil {
			return err
		}
	}
	return nil
}

// goTest runs the benchmarks of one file. Those of more passes take turns.
func (m *measurement) goTest(file string, args []string, passes int) error {
	before := loadAverage()
	var all []byte
	for range passes {
		cmd := exec.Command("go", args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", file, err, out)
		}
		all = append(all, out...)
	}
	head := m.head
	head.Load = before
	head.Command = "cd bench && " + commandLine("go", args)
	if m.base != "" { // where it is says nothing to a reader
		head.Command = strings.ReplaceAll(head.Command, m.base, "$ROLLCALL_BASE")
	}
	return m.write(file+".txt", func(f *os.File) error {
		if _, err := head.WriteTo(f); err != nil {
			return err
		}
		_, err := f.Write(all)
		return err
	})
}

func (m *measurement) write(name string, write func(*os.File) error) error {
	f, err := os.Create(filepath.Join(m.results, name))
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// commandLine is a command as one types it.
func commandLine(name string, args []string) string {
	words := []string{name}
	for _, a := range args {
		if strings.ContainsAny(a, "^$ *'") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}
