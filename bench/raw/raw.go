// Package raw is the form of the raw results: what a command printed, behind a head that says where
// it was measured. Text is Go's benchmark format, which benchstat reads; the head is its
// configuration lines.
package raw

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// Head says what was measured where.
type Head struct {
	Commit     string `json:"commit"`
	Date       string `json:"date"`
	Go         string `json:"go"`
	CPU        string `json:"processor"`
	Cores      int    `json:"cores"`
	Memory     string `json:"memory"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file-system"`
	Load       string `json:"load-average"` // of the minute before: others may have been at work
	Command    string `json:"command"`
}

func (h *Head) fields() []struct {
	key   string
	value *string
} {
	return []struct {
		key   string
		value *string
	}{
		{"commit", &h.Commit}, {"date", &h.Date}, {"go-version", &h.Go}, {"processor", &h.CPU}, {"memory", &h.Memory},
		{"kernel", &h.Kernel}, {"file-system", &h.FileSystem}, {"load-average", &h.Load}, {"command", &h.Command},
	}
}

// WriteTo writes the head as configuration lines and a blank one.
func (h *Head) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	for _, f := range h.fields() {
		fmt.Fprintf(&b, "%s: %s\n", f.key, *f.value)
	}
	fmt.Fprintf(&b, "cores: %d\n\n", h.Cores)
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// Line is one result.
type Line struct {
	Name    string // without "Benchmark" and the number of processors
	Metrics map[string]float64
}

// Read reads a text.
func Read(r io.Reader) (h Head, lines []Line, err error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		text := s.Text()
		if rest, ok := strings.CutPrefix(text, "Benchmark"); ok {
			if l, ok := parseLine(rest); ok {
				lines = append(lines, l)
			}
			continue
		}
		key, value, ok := strings.Cut(text, ": ")
		if !ok {
			continue
		}
		for _, f := range h.fields() {
			if f.key == key {
				*f.value = value
			}
		}
		if key == "cores" {
			h.Cores, _ = strconv.Atoi(value) // 0 shows
		}
	}
	return h, lines, s.Err()
}

// parseLine reads name, iterations, and pairs of value and unit.
func parseLine(text string) (l Line, ok bool) {
	words := strings.Fields(text)
	if len(words) < 4 || len(words)%2 != 0 {
		return l, false
	}
	l.Name, l.Metrics = words[0], map[string]float64{}
	if i := strings.LastIndexByte(l.Name, '-'); i > 0 {
		if _, err := strconv.Atoi(l.Name[i+1:]); err == nil {
			l.Name = l.Name[:i]
		}
	}
	for i := 2; i < len(words); i += 2 {
		v, err := strconv.ParseFloat(words[i], 64)
		if err != nil {
			return l, false
		}
		l.Metrics[words[i+1]] = v
	}
	return l, true
}

// Run is one run of rollcall load.
type Run struct {
	Head   Head   `json:"head"`
	Server Server `json:"server"`
	Load   Load   `json:"load"`
}

// Server is what the run cost the process that served it.
type Server struct {
	By         string  `json:"by"` // which server
	Command    string  `json:"command"`
	StartMiB   float64 `json:"start_mib"`   // resident before the run
	EndMiB     float64 `json:"end_mib"`     // and right after it
	CPUSeconds float64 `json:"cpu_seconds"` // from the run's begin to its end
}

// Load is what is used of a report of rollcall load.
type Load struct {
	Options struct {
		Users          int     `json:"users"`
		DevicesPerUser int     `json:"devices_per_user"`
		StreamsPerUser float64 `json:"streams_per_user"`
	} `json:"options"`
	Offered   float64            `json:"offered_per_second"`
	Achieved  float64            `json:"achieved_per_second"`
	Latency   map[string]Latency `json:"latency"`
	Phases    []Phase            `json:"phases"`
	Counts    map[string]int64   `json:"counts"`
	Generator struct {
		CPU float64 `json:"cpu_cores"`
	} `json:"generator"`
	Verdict struct {
		Violations map[string]int64 `json:"violations"`
		Invalid    []string         `json:"invalid"`
	} `json:"verdict"`
}

// Latency is a histogram, in milliseconds.
type Latency struct {
	Count int64        `json:"count"`
	P50   float64      `json:"p50_ms"`
	P99   float64      `json:"p99_ms"`
	P999  float64      `json:"p999_ms"`
	Max   float64      `json:"max_ms"`
	Curve [][2]float64 `json:"curve,omitempty"`
}

// Phase is a stretch of a run.
type Phase struct {
	Name     string  `json:"name"`
	Seconds  float64 `json:"seconds"`
	Achieved float64 `json:"achieved_per_second"`
}

// Answered is how many heartbeats were answered in all phases, warm-up included.
func (l *Load) Answered() (n float64) {
	for _, p := range l.Phases {
		n += p.Seconds * p.Achieved
	}
	return n
}

// ReadRuns reads a file of runs.
func ReadRuns(r io.Reader) (runs []Run, err error) {
	return runs, json.NewDecoder(r).Decode(&runs)
}

// WriteRuns writes one: a field a line, and a curve on one line, so that a difference can be read.
func WriteRuns(w io.Writer, runs []Run) error {
	text, err := json.MarshalIndent(runs, "", " ")
	if err != nil {
		return err
	}
	text = curve.ReplaceAllFunc(text, func(c []byte) []byte { return space.ReplaceAll(c, nil) })
	_, err = w.Write(append(text, '\n'))
	return err
}

var (
	curve = regexp.MustCompile(`\[\s*\[[\s\d.,eE+\[\]-]*\]`)
	space = regexp.MustCompile(`\s+`)
)
