package loadgen

import (
	"fmt"
	"math"
	"strings"
	"time"

	"rollcall/internal/option"
)

// scenario is a plot: phases of offered rate, and at most one thing that happens.
type scenario struct {
	name string
	help string
	// defaults sets what the plot needs where the caller set nothing.
	defaults func(*Options)
	// phases are the measured part; nil is one phase at the base rate.
	phases func(*Options) []phase
	// event happens at a share of the measured part.
	event   event
	eventAt float64
}

type event int

const (
	noEvent      event = iota
	cutStreams         // every stream hangs up and connects again at once
	silence            // the silent devices all stop at one instant
	restartEvent       // the server is restarted, or a node of several is lost
)

// phase is a stretch of the run with one offered rate, measured apart.
type phase struct {
	name       string
	length     time.Duration
	factor     float64 // of Options.Rate
	start, end int64   // on the run's clock, set when the run begins
}

// moveTo moves a phase whose times begin at 0.
func (p *phase) moveTo(at int64) {
	p.start += at
	if p.end != never {
		p.end += at
	}
}

const rampStep = 1.3

var scenarios = []scenario{
	{name: "steady", help: "one rate for the whole run"},
	{
		name: "ramp",
		help: "the rate climbs in steps of 30 % up to --ramp-to; finds the knee, and ends when " +
			"the server is past it",
		phases: func(o *Options) []phase {
			steps := max(1, int(math.Ceil(math.Log(o.RampTo/o.Rate)/math.Log(rampStep)))+1)
			out := make([]phase, steps)
			for i := range out {
				factor := min(math.Pow(rampStep, float64(i)), o.RampTo/o.Rate)
				out[i] = phase{name: fmt.Sprintf("%.0f/s", factor*o.Rate), factor: factor,
					length: o.Duration / time.Duration(steps)}
			}
			return out
		},
	}, {
		name: "spike",
		help: "--spike-by times the rate for a fifth of the run, in its middle; shows how fast " +
			"the server recovers",
		phases: func(o *Options) []phase {
			d := o.Duration
			return []phase{
				{name: "before", length: d * 2 / 5, factor: 1},
				{name: "spike", length: d / 5, factor: o.SpikeBy},
				{name: "after", length: d - d*2/5 - d/5, factor: 1},
			}
		},
	}, {
		name:     "reconnect-storm",
		help:     "in the middle all streams hang up and come back in the same instant",
		defaults: func(o *Options) { option.Default(&o.StreamsPerUser, 1) },
		phases:   halves("before", "storm"),
		event:    cutStreams,
		eventAt:  0.5,
	}, {
		name: "silent",
		help: "after a quarter of the run a fifth of the devices die at once; all must go " +
			"offline in time",
		defaults: func(o *Options) {
			option.Default(&o.SilentShare, 0.2)
			option.Default(&o.StreamsPerUser, 1)
			if o.Rate == 0 {
				option.Default(&o.Interval, 2*time.Second)
			}
		},
		event:   silence,
		eventAt: 0.25,
	}, {
		name: "slow-readers",
		help: "a fifth of the streams read 512 bytes a second; the others must not notice",
		defaults: func(o *Options) {
			option.Default(&o.SlowShare, 0.2)
			option.Default(&o.StreamsPerUser, 1)
		},
	}, {
		name: "restart",
		help: "in the middle the server is restarted, by --restart-command or by you; nothing " +
			"acknowledged may be lost",
		defaults: func(o *Options) { option.Default(&o.StreamsPerUser, 1) },
		phases:   halves("before", "restart"),
		event:    restartEvent,
		eventAt:  0.5,
	}, {
		name: "node-loss",
		help: "in the middle a node of several is lost, by --restart-command or by you; the " +
			"others must go on with all that was acknowledged",
		defaults: func(o *Options) {
			option.Default(&o.StreamsPerUser, 1)
			option.Default(&o.Timeout, 3*time.Second)
		},
		phases:  halves("before", "node lost"),
		event:   restartEvent,
		eventAt: 0.5,
	},
}

func halves(first, second string) func(*Options) []phase {
	return func(o *Options) []phase {
		half := o.Duration / 2
		return []phase{
			{name: first, length: half, factor: 1},
			{name: second, length: o.Duration - half, factor: 1},
		}
	}
}

// Scenarios are the names and what they do, for help texts.
func Scenarios() (names []string, help string) {
	var b strings.Builder
	for _, s := range scenarios {
		names = append(names, s.name)
		fmt.Fprintf(&b, "  %-16s %s\n", s.name, s.help)
	}
	return names, b.String()
}

// findScenario returns nil for a name that is none.
func findScenario(name string) *scenario {
	for i := range scenarios {
		if scenarios[i].name == name {
			return &scenarios[i]
		}
	}
	return nil
}

// plan is the whole run in phases: warm-up, the scenario's, and what comes after the load. Times
// begin at 0.
func (sc *scenario) plan(o *Options) []phase {
	phases := []phase{{name: "warm-up", length: o.Warmup, factor: 1}}
	if sc.phases != nil {
		phases = append(phases, sc.phases(o)...)
	} else {
		phases = append(phases, phase{name: sc.name, length: o.Duration, factor: 1})
	}
	phases = append(phases, phase{name: "after"})
	at := int64(0)
	for i := range phases {
		phases[i].start = at
		at += int64(phases[i].length)
		phases[i].end = at
	}
	phases[len(phases)-1].end = never
	return phases
}
