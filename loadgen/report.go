package loadgen

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"time"
)

// Report is everything that a run found. Its JSON is what --json writes and --compare reads.
type Report struct {
	Began     time.Time           `json:"began"`
	Version   string              `json:"version,omitempty"` // of the program
	Machine   Machine             `json:"machine"`
	Options   Options             `json:"options"`
	Verdict   Verdict             `json:"verdict"`
	Seconds   float64             `json:"measured_seconds"`
	Offered   float64             `json:"offered_per_second"`
	Achieved  float64             `json:"achieved_per_second"`
	Counts    map[string]int64    `json:"counts"`
	Latency   map[string]*Latency `json:"latency"` // by Kinds
	Phases    []Phase             `json:"phases"`
	Series    []Second            `json:"series"`
	Generator Generator           `json:"generator"`
	Knee      *Knee               `json:"knee,omitempty"`
	Outage    *Outage             `json:"outage,omitempty"`
	Lists     *Lists              `json:"lists,omitempty"`
}

// Machine is where the generator ran. The server may run elsewhere.
type Machine struct {
	OS, Arch, Go, Host string
	CPUs               int
}

// Generator is what the run says about its own instrument.
type Generator struct {
	CPU float64 `json:"cpu_cores"`   // used on average
	Lag Latency `json:"own_lag"`     // due → the generator got to it
	Max float64 `json:"max_lag_ms"`  // the bound for its p99
	At  int     `json:"connections"` // of heartbeats
}

// Latency is one histogram, in milliseconds.
type Latency struct {
	Count int64        `json:"count"`
	Mean  float64      `json:"mean_ms"`
	P50   float64      `json:"p50_ms"`
	P90   float64      `json:"p90_ms"`
	P99   float64      `json:"p99_ms"`
	P999  float64      `json:"p999_ms"`
	P9999 float64      `json:"p9999_ms"`
	Max   float64      `json:"max_ms"`
	Curve [][2]float64 `json:"curve,omitempty"` // percentile, milliseconds
}

// Kinds are the keys of Report.Latency with their titles, in the order of reports.
var Kinds = []struct{ Key, Title string }{
	{"answer", "heartbeat → 204"},
	{"frame", "heartbeat → frame"},
	{"slow_frame", "heartbeat → frame, slow readers"},
	{"offline", "TTL due → offline frame"},
	{"snapshot", "connect → snapshot"},
	{"snapshot_check", "connect → snapshot, final check"},
	{"list_event", "heartbeat → event on a list"},
	{"list_synced", "connect → list synced"},
}

var kindKeys = [...]string{toAnswer: "answer", toFrame: "frame", toSlow: "slow_frame",
	toOffline: "offline", toSnapshot: "snapshot", toListEvent: "list_event", toSynced: "list_synced"}

// Phase is a stretch of the run that was measured apart; for a phase without a fixed rate (closed
// loop) Offered is what was sent.
type Phase struct {
	Name     string              `json:"name"`
	Seconds  float64             `json:"seconds"`
	Offered  float64             `json:"offered_per_second"`
	Achieved float64             `json:"achieved_per_second"`
	Errors   int64               `json:"errors"`
	Latency  map[string]*Latency `json:"latency"`
}

// Knee is where a ramp found the limit: the highest step at which the server kept up.
type Knee struct {
	Offered float64 `json:"offered_per_second"`
	P99     float64 `json:"p99_ms"`
	Reached bool    `json:"reached"` // a higher step failed; else the server can take more
}

// Outage is the longest stretch in which heartbeats were cut or refused; with several nodes, the
// longest that one waited which was cut or refused at first.
type Outage struct {
	Seconds float64 `json:"seconds"`
	Restart string  `json:"restart_error,omitempty"`
}

// Lists is what streams of many users cost. Rates are of the measured time; the sizes of snapshots
// are means over the whole run, from the head of the response to synced.
type Lists struct {
	Lists         int     `json:"lists"`
	Follows       int64   `json:"follows"` // users followed, each once for each list
	Events        float64 `json:"events_per_second"`
	Bytes         float64 `json:"bytes_per_second"` // as they are on the connection
	Snapshots     int64   `json:"snapshots"`
	SnapshotBytes float64 `json:"snapshot_bytes"`
	Resumes       int64   `json:"resumes"`
	ResumeBytes   float64 `json:"resume_bytes"`
}

// Verdict is what the run amounts to.
type Verdict struct {
	Violations map[string]int64 `json:"violations"` // by rule of the oracle
	Examples   []string         `json:"examples,omitempty"`
	Invalid    []string         `json:"invalid,omitempty"` // why the figures are not to be used
	Early      string           `json:"early,omitempty"`   // why the load ended before its time
	Checked    Checked          `json:"checked"`
}

// Checked is how much the oracle looked at.
type Checked struct {
	Acknowledged int64 `json:"acknowledged"`    // heartbeats
	Frames       int64 `json:"frames"`          //
	Streams      int64 `json:"streams"`         // that had to end at the truth
	Events       int64 `json:"list_events"`     //
	Swept        int64 `json:"list_places"`     // users on lists that were compared during the load
	Lists        int64 `json:"lists"`           // that had to end at the truth
	Resumed      int64 `json:"lists_resumed"`   // compared at the end with a fresh one
	Renewals     int64 `json:"renewals"`        // of tokens, on open lists
	Snapshots    int64 `json:"users_snapshots"` // users whose final snapshot was compared
	Devices      int64 `json:"devices"`         // in them
}

// Passed says that the server broke no rule.
func (v *Verdict) Passed() bool { return len(v.Violations) == 0 }

// Valid says that the figures may be used.
func (v *Verdict) Valid() bool { return len(v.Invalid) == 0 }

// add joins what one worker's oracle found.
func (v *Verdict) add(o *oracle) {
	for r, n := range o.counts {
		if n == 0 {
			continue
		}
		if v.Violations == nil {
			v.Violations = map[string]int64{}
		}
		v.Violations[ruleNames[r]] += n
	}
	v.Examples = append(v.Examples, o.examples...)
	c := &v.Checked
	c.Acknowledged += o.checked.Acknowledged
	c.Frames += o.checked.Frames
	c.Streams += o.checked.Streams
	c.Events += o.checked.Events
	c.Swept += o.checked.Swept
	c.Lists += o.checked.Lists
	c.Resumed += o.checked.Resumed
	c.Renewals += o.checked.Renewals
	c.Snapshots += o.checked.Snapshots
	c.Devices += o.checked.Devices
}

func (h *histogram) latency(curve bool) *Latency {
	l := &Latency{Count: h.count()}
	if l.Count == 0 {
		return l
	}
	l.Mean = h.h.Mean() / 1000
	l.P50, l.P90, l.P99 = h.at(50), h.at(90), h.at(99)
	l.P999, l.P9999, l.Max = h.at(99.9), h.at(99.99), h.at(100)
	if curve {
		l.Curve = h.curve()
	}
	return l
}

// curve is the distribution at percentiles that grow finer towards the top, as far as there are
// values to tell apart.
func (h *histogram) curve() (points [][2]float64) {
	n := float64(h.count())
	for nines := 0.0; ; nines += 0.05 {
		rest := math.Pow(10, -nines) // 1 … 1/n
		if rest*n < 1 {
			break
		}
		p := 100 * (1 - rest)
		points = append(points, [2]float64{p, h.at(p)})
	}
	return append(points, [2]float64{100, h.at(100)})
}

func (r *runner) report() *Report {
	o := r.o
	rep := &Report{Began: r.began, Machine: thisMachine(), Options: *o, Series: r.series.seconds,
		Counts: map[string]int64{}, Latency: map[string]*Latency{},
		Verdict: Verdict{Early: r.early}}
	stop := r.orders.stopAt.Load()
	var total tally
	for i := range r.plan {
		var t tally
		for _, w := range r.workers {
			t.add(&w.meter.tallies[i])
		}
		p := &r.plan[i]
		length := float64(min(p.end, stop)-p.start) / 1e9
		if i == 0 && length > 0 {
			rep.Phases = append(rep.Phases, phaseReport(p.name, length, &t))
		}
		if i == 0 || i == len(r.plan)-1 || length <= 0 {
			continue
		}
		rep.Phases = append(rep.Phases, phaseReport(p.name, length, &t))
		rep.Seconds += length
		total.add(&t)
	}
	if rep.Seconds > 0 {
		rep.Offered = float64(total.n[offered]) / rep.Seconds
		rep.Achieved = float64(total.n[accepted]) / rep.Seconds
	}
	for i, name := range countNames {
		rep.Counts[name] = total.n[i]
	}
	for kind, key := range kindKeys {
		rep.Latency[key] = total.hist[kind].latency(true)
	}
	rep.Generator = Generator{
		CPU: r.cpu.used.Seconds() / r.cpu.elapsed.Seconds(),
		Lag: *total.hist[ownLag].latency(true),
		Max: float64(o.MaxLag) / 1e6,
		At:  o.Connections,
	}
	check := newHistogram()
	for _, w := range r.workers {
		check.add(w.streams.checked)
	}
	rep.Latency["snapshot_check"] = check.latency(true)
	rep.Lists = r.listsReport(rep.Seconds, &total)
	r.judge(rep)
	r.outcome(rep)
	return rep
}

func phaseReport(name string, seconds float64, t *tally) Phase {
	p := Phase{Name: name, Seconds: seconds, Offered: float64(t.n[offered]) / seconds,
		Achieved: float64(t.n[accepted]) / seconds,
		Errors:   t.errors(), Latency: map[string]*Latency{}}
	for kind, key := range kindKeys {
		p.Latency[key] = t.hist[kind].latency(false)
	}
	return p
}

// listsReport is nil without lists.
func (r *runner) listsReport(seconds float64, measured *tally) *Lists {
	if r.o.Lists == 0 {
		return nil
	}
	var whole tally
	rep := &Lists{Lists: r.o.Lists, Follows: int64(r.o.Lists) * int64(r.o.ListSize)}
	for _, w := range r.workers {
		for i := range w.meter.tallies {
			whole.add(&w.meter.tallies[i])
		}
	}
	if seconds > 0 {
		rep.Events = float64(measured.n[listEvents]) / seconds
		rep.Bytes = float64(measured.n[listBytes]) / seconds
	}
	rep.Snapshots, rep.Resumes = whole.n[listSnapshots], whole.n[listResumes]
	rep.SnapshotBytes = float64(whole.n[listSnapshotBytes]) / float64(max(1, rep.Snapshots))
	rep.ResumeBytes = float64(whole.n[listResumeBytes]) / float64(max(1, rep.Resumes))
	return rep
}

// judge says whether the instrument itself was good enough.
func (r *runner) judge(rep *Report) {
	v := &rep.Verdict
	if lag := rep.Generator.Lag.P99; lag > rep.Generator.Max {
		v.Invalid = append(v.Invalid,
			fmt.Sprintf("the generator was late itself: %.1f ms at p99, bound %.1f ms; "+
				"offer less, or give it cores of its own", lag, rep.Generator.Max))
	}
	down, unchecked, unresumed := 0, 0, 0
	for _, w := range r.workers {
		v.add(&w.oracle)
		down += w.streams.down
		unchecked += w.checks.unchecked
		unresumed += w.resumes.unchecked
	}
	if unresumed > 0 {
		v.Invalid = append(v.Invalid,
			fmt.Sprintf("%d lists did not resume at the end", unresumed))
	}
	if down > 0 {
		v.Invalid = append(v.Invalid, fmt.Sprintf("%d streams were not connected at the end", down))
	}
	if unchecked > 0 {
		v.Invalid = append(v.Invalid, fmt.Sprintf("%d users' final snapshots could not be fetched",
			unchecked))
	}
	if rep.Latency["answer"].Count == 0 {
		v.Invalid = append(v.Invalid, "no heartbeat was accepted in the measured time")
	}
}

// outcome adds what the scenario was for.
func (r *runner) outcome(rep *Report) {
	if r.scenario.name == "ramp" && !r.o.Closed {
		rep.Knee = findKnee(rep.Phases[min(1, len(rep.Phases)):], float64(r.o.KneeP99)/1e6)
	}
	out := Outage{}
	for _, w := range r.workers {
		longest := w.outage.longest
		if len(w.reactor.targets) > 1 {
			longest = w.outage.waited
		}
		out.Seconds = max(out.Seconds, float64(longest)/1e9)
	}
	if r.restart.done != nil {
		select {
		case err := <-r.restart.done:
			if err != nil {
				out.Restart = err.Error()
				rep.Verdict.Invalid = append(rep.Verdict.Invalid,
					"the restart command failed: "+out.Restart)
			}
		default:
			out.Restart = "still running at the end; let the server start in the background"
		}
	}
	if r.scenario.event == restartEvent && out.Seconds == 0 && rep.Counts[countNames[ended]] == 0 {
		rep.Verdict.Invalid = append(rep.Verdict.Invalid,
			"no outage was seen, so nothing is known about one")
	}
	if out.Seconds > 0 {
		rep.Outage = &out
	}
}

// findKnee takes the steps of a ramp up to the first that the server did not keep up with.
func findKnee(steps []Phase, p99 float64) *Knee {
	knee := &Knee{}
	for _, p := range steps {
		l := p.Latency["answer"]
		// At the end of a step some are on their way: as many as fall due within the latency that
		// is allowed.
		onTheirWay := p.Offered * p99 / 1000 / p.Seconds
		if p.Achieved+max(0.02*p.Offered, onTheirWay) < p.Offered || l.P99 > p99 {
			knee.Reached = true
			break
		}
		knee.Offered, knee.P99 = p.Offered, l.P99
	}
	return knee
}

func thisMachine() Machine {
	host, _ := os.Hostname() // a report without it is as good
	return Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(), Host: host,
		CPUs: runtime.NumCPU()}
}

// WriteJSON writes the report as indented JSON.
func (rep *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(rep)
}

// WriteTable writes the report for a terminal.
func (rep *Report) WriteTable(w io.Writer) {
	o := &rep.Options
	mode := o.Arrivals + " arrivals"
	if o.Closed {
		mode = "closed loop: its latencies leave out the wait before sending"
	}
	fmt.Fprintf(w, "\n%s, %s, %.1f s measured, seed %d\n", o.Scenario, mode, rep.Seconds, o.Seed)
	requests := ""
	if o.Batch > 1 {
		requests = fmt.Sprintf(" batches of %d", o.Batch)
	}
	fmt.Fprintf(w, "%d users × %d devices, TTL %v, %d connections × %d%s, streams %d\n\n", o.Users,
		o.DevicesPerUser, o.TTL,
		o.Connections, o.Pipeline, requests, int(math.Round(float64(o.Users)*o.StreamsPerUser)))
	fmt.Fprintf(w, "offered  %10.0f heartbeats/s\nachieved %10.0f heartbeats/s (%.1f %%)\n\n",
		rep.Offered, rep.Achieved,
		100*rep.Achieved/max(rep.Offered, 1e-9))
	fmt.Fprintf(w, "%-34s %10s %9s %9s %9s %9s %9s\n", "milliseconds", "count", "p50", "p90", "p99",
		"p99.9", "max")
	row := func(title string, l *Latency) {
		if l != nil && l.Count > 0 {
			fmt.Fprintf(w, "%-34s %10d %9.3f %9.3f %9.3f %9.3f %9.3f\n", title, l.Count, l.P50,
				l.P90, l.P99, l.P999, l.Max)
		}
	}
	for _, k := range Kinds {
		row(k.Title, rep.Latency[k.Key])
	}
	row("generator's own lag", &rep.Generator.Lag)
	if len(rep.Phases) > 2 {
		fmt.Fprintf(w, "\n%-16s %8s %10s %10s %9s %9s %9s %8s\n", "phase", "seconds", "offered/s",
			"achieved/s", "p50", "p99", "max", "errors")
		for _, p := range rep.Phases {
			l := p.Latency["answer"]
			fmt.Fprintf(w, "%-16s %8.1f %10.0f %10.0f %9.3f %9.3f %9.3f %8d\n", p.Name, p.Seconds,
				p.Offered, p.Achieved, l.P50, l.P99, l.Max, p.Errors)
		}
	}
	fmt.Fprintln(w)
	for _, name := range slices.Concat(countNames[retries:], countNames[conflicts:conflicts+1]) {
		if n := rep.Counts[name]; n != 0 {
			fmt.Fprintf(w, "%-18s %d\n", name, n)
		}
	}
	if l := rep.Lists; l != nil {
		fmt.Fprintf(w, "lists              %d of %d users, %.0f events/s, %.0f bytes/s\n", l.Lists,
			o.ListSize, l.Events, l.Bytes)
		fmt.Fprintf(w, "                   %d snapshots of %.0f bytes, %d resumes of %.0f bytes\n",
			l.Snapshots, l.SnapshotBytes, l.Resumes, l.ResumeBytes)
	}
	if k := rep.Knee; k != nil {
		what := "the highest step tried; the server can take more"
		if k.Reached {
			what = "the last step it kept up with"
		}
		fmt.Fprintf(w, "knee               %.0f heartbeats/s, p99 %.3f ms: %s\n",
			k.Offered, k.P99, what)
	}
	if rep.Outage != nil {
		fmt.Fprintf(w, "longest outage     %.2f s\n", rep.Outage.Seconds)
	}
	fmt.Fprintf(w, "generator          %.2f cores\n", rep.Generator.CPU)
	rep.Verdict.write(w, o)
}

func (v *Verdict) write(w io.Writer, o *Options) {
	switch {
	case o.NoOracle:
		fmt.Fprintln(w, "oracle             off")
	case v.Passed():
		fmt.Fprintf(w, "oracle             nothing wrong: %d acknowledged, %d frames, %d streams, "+
			"%d users' snapshots with %d devices\n",
			v.Checked.Acknowledged, v.Checked.Frames, v.Checked.Streams, v.Checked.Snapshots,
			v.Checked.Devices)
		if o.Lists > 0 {
			fmt.Fprintf(w, "                   %d list events, %d users on lists during the load, "+
				"%d lists to the end, %d resumed and compared, %d renewals\n", v.Checked.Events,
				v.Checked.Swept, v.Checked.Lists, v.Checked.Resumed, v.Checked.Renewals)
		}
	default:
		fmt.Fprintln(w, "oracle             VIOLATIONS")
		for _, rule := range slices.Sorted(func(yield func(string) bool) {
			for r := range v.Violations {
				if !yield(r) {
					return
				}
			}
		}) {
			fmt.Fprintf(w, "  %-16s %d\n", rule, v.Violations[rule])
		}
		for _, e := range v.Examples {
			fmt.Fprintf(w, "  e.g. %s\n", e)
		}
	}
	if v.Early != "" {
		fmt.Fprintf(w, "ended early        %s\n", v.Early)
	}
	for _, why := range v.Invalid {
		fmt.Fprintf(w, "INVALID            %s\n", why)
	}
}
