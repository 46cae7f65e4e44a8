package loadgen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"time"
)

// Options is one run. Run fills in what is zero, so that the report carries every value that was used. The zero value of a
// field without another default takes the scenario's (see scenario.go).
type Options struct {
	// Target is the server's base URL, http://HOST:PORT. HTTPS is not spoken: measure behind the proxy that ends it.
	Target string `json:"target"`
	// IngestToken goes into every heartbeat; StreamToken mints a token that is valid for at least the given time. Without
	// it there are no streams and no final check of what the server remembers.
	IngestToken string                                                         `json:"-"`
	StreamToken func(user string, valid time.Duration) (token string, e error) `json:"-"`

	// Scenario is one of Scenarios: steady.
	Scenario string `json:"scenario"`
	// Closed sends the next heartbeat of a connection when the last one is answered, to find the peak. Its latencies leave
	// out the wait that an overloaded server causes, so they are no statement about latency.
	Closed bool `json:"closed"`

	Users          int `json:"users"`            // 1,000
	DevicesPerUser int `json:"devices_per_user"` // 10
	// Rate is heartbeats per second over all devices; Interval is the same per device. Rate wins: 10s.
	Rate     float64       `json:"rate"`
	Interval time.Duration `json:"interval_ns"`
	// Arrivals is how heartbeats are spread: constant, or poisson (bursts and gaps as of independent senders): constant.
	Arrivals string        `json:"arrivals"`
	TTL      time.Duration `json:"ttl_ns"` // 3 × the interval, at least a second
	// Skew makes users unequal: the share of the i-th busiest one in heartbeats and streams is proportional to 1/i^Skew.
	Skew float64 `json:"skew"`
	// SilentShare of the devices fall silent for good during the run; their streams must say so in time.
	SilentShare float64 `json:"silent_share"`
	// RepeatShare of the heartbeats are sent a second time after they were accepted, and must be answered 409.
	RepeatShare float64 `json:"repeat_share"`

	StreamsPerUser float64 `json:"streams_per_user"` // may be a fraction; 0
	// Churn is how many streams per second hang up and connect again.
	Churn float64 `json:"churn"`
	// SlowShare of the streams read SlowBytes per second until the load is over.
	SlowShare float64 `json:"slow_share"`
	SlowBytes int     `json:"slow_bytes"` // 512

	Connections int           `json:"connections"` // of heartbeats: 64
	Pipeline    int           `json:"pipeline"`    // heartbeats outstanding on one connection: 1
	Batch       int           `json:"batch"`       // heartbeats in one request, at most: 1, on the route for one
	Workers     int           `json:"workers"`     // event loops: half of GOMAXPROCS
	Sources     int           `json:"sources"`     // connect from 127.0.1.1 … that many addresses, so that ports last; 0: the system chooses
	Duration    time.Duration `json:"duration_ns"` // measured: 30s
	Warmup      time.Duration `json:"warmup_ns"`   // before it, counted apart: 5s
	Seed        uint64        `json:"seed"`        // of ids, order and chance: the clock's

	RampTo  float64 `json:"ramp_to"`  // ramp: the last step's rate: 30 × Rate
	SpikeBy float64 `json:"spike_by"` // spike: how many times Rate: 5
	// KneeP99 is how slow the server may be at the knee of a ramp: 100ms.
	KneeP99 time.Duration `json:"knee_p99_ns"`
	// Restart runs in the middle of the scenario restart. Without one the generator waits for an outage by itself.
	Restart func() error `json:"-"`

	Timeout     time.Duration `json:"timeout_ns"`   // a heartbeat unanswered for so long is sent again on a new connection: 10s
	Patience    time.Duration `json:"patience_ns"`  // how long the server may take to show what it acknowledged, and how late an expiry may be: 5s
	Grace       time.Duration `json:"grace_ns"`     // the server's --recovery-grace: 15s
	MaxLag      time.Duration `json:"max_lag_ns"`   // the run is invalid when the generator's own p99 delay is above it: 10ms
	VerifyUsers int           `json:"verify_users"` // users whose snapshot is compared at the end, spread evenly: 20,000
	// NoVerify leaves out the check of every user's snapshot at the end.
	NoVerify bool `json:"no_verify"`
	// NoOracle leaves out every check: for servers that forget, like Bare.
	NoOracle bool `json:"no_oracle"`
	// NoConflation makes a skipped frame a violation.
	NoConflation bool `json:"no_conflation"`

	// Progress is told what happens, about every second. Nil: nobody.
	Progress func(Progress) `json:"-"`

	portable bool // use the portable sockets even where there is epoll
}

const (
	heartbeatPath = "/api/v1/daemon/presence/heartbeat"
	batchPath     = "/api/v1/daemon/presence/heartbeats"
	streamPath    = "/api/v1/mobile/presence/stream"
)

// resolve fills in defaults and reports every problem at once.
func (o Options) resolve() (Options, error) {
	sc, err := findScenario(&o.Scenario)
	if err != nil {
		return o, err
	}
	if sc.defaults != nil {
		sc.defaults(&o)
	}
	setDefault(&o.Users, 1000)
	setDefault(&o.DevicesPerUser, 10)
	setDefault(&o.Arrivals, "constant")
	setDefault(&o.Connections, 64)
	setDefault(&o.Pipeline, 1)
	setDefault(&o.Batch, 1)
	setDefault(&o.Workers, max(1, runtime.GOMAXPROCS(0)/2))
	setDefault(&o.Duration, 30*time.Second)
	setDefault(&o.Warmup, 5*time.Second)
	setDefault(&o.Seed, uint64(time.Now().UnixNano()))
	setDefault(&o.SlowBytes, 512)
	setDefault(&o.SpikeBy, 5)
	setDefault(&o.VerifyUsers, 20000)
	setDefault(&o.KneeP99, 100*time.Millisecond)
	setDefault(&o.Timeout, 10*time.Second)
	setDefault(&o.Patience, 5*time.Second)
	setDefault(&o.Grace, 15*time.Second)
	setDefault(&o.MaxLag, 10*time.Millisecond)
	devices := float64(o.Users) * float64(o.DevicesPerUser)
	if o.Rate == 0 {
		setDefault(&o.Interval, 10*time.Second)
		o.Rate = devices / o.Interval.Seconds()
	} else {
		o.Interval = time.Duration(devices / o.Rate * 1e9)
	}
	setDefault(&o.TTL, max(time.Second, 3*o.Interval).Round(time.Millisecond))
	setDefault(&o.RampTo, 30*o.Rate)
	o.Workers = min(o.Workers, o.Users, o.Connections)
	return o, o.check()
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o *Options) check() error {
	var problems []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf("loadgen: "+format, args...))
		}
	}
	if _, _, err := o.target(); err != nil {
		problems = append(problems, err)
	}
	want(o.Users > 0 && o.DevicesPerUser > 0, "users and devices per user must be positive")
	want(float64(o.Users)*float64(o.DevicesPerUser) < 1<<31, "more than 2^31 devices")
	want(o.Rate > 0, "the rate must be positive")
	want(o.Arrivals == "constant" || o.Arrivals == "poisson", "arrivals are constant or poisson, not %q", o.Arrivals)
	want(o.TTL >= time.Millisecond, "the TTL must be at least a millisecond")
	want(o.Connections > 0 && o.Pipeline > 0, "connections and pipeline must be positive")
	want(o.Batch > 0 && o.Batch <= maxBatch, "a batch must be of 1 to %d heartbeats", maxBatch)
	want(o.Duration > 0 && o.Warmup >= 0, "the duration must be positive")
	want(o.StreamsPerUser >= 0 && o.Churn >= 0 && o.Skew >= 0, "streams, churn and skew must not be negative")
	want(o.Sources >= 0 && o.Sources <= 60000, "sources must be at most 60,000")
	want(o.RampTo > 0 && o.SpikeBy > 0, "the rates of ramp and spike must be positive")
	for name, share := range map[string]float64{"silent": o.SilentShare, "slow": o.SlowShare, "repeat": o.RepeatShare} {
		want(share >= 0 && share <= 1, "the %s share must be in 0 … 1", name)
	}
	want(o.IngestToken != "", "no ingest token")
	want(o.StreamToken != nil || o.StreamsPerUser == 0, "streams need a token")
	if o.Closed {
		outstanding := o.Connections * o.Pipeline * o.Batch
		want(o.Users*o.DevicesPerUser >= 2*outstanding,
			"a closed loop needs at least twice as many devices as heartbeats outstanding (%d)", 2*outstanding)
	}
	return errors.Join(problems...)
}

// target is where to connect and what to say in Host.
func (o *Options) target() (addr netip.AddrPort, host string, err error) {
	u, err := url.Parse(o.Target)
	if err != nil || u.Host == "" || u.Scheme != "http" || strings.Trim(u.Path, "/") != "" {
		return addr, "", fmt.Errorf("loadgen: target %q: want http://HOST:PORT", o.Target)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	resolved, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return addr, "", fmt.Errorf("loadgen: target: %w", err)
	}
	addr = resolved.AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), u.Host, nil
}

// source is the address that the i-th connection leaves from.
func (o *Options) source(i int) (from netip.Addr) {
	if o.Sources == 0 {
		return from
	}
	i %= o.Sources
	return netip.AddrFrom4([4]byte{127, 0, byte(1 + i/250), byte(1 + i%250)})
}
