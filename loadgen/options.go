package loadgen

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"time"

	"rollcall/internal/option"
)

// Options is one run. Run fills in what is zero, so that the report carries every value that was
// used. A scenario may have other defaults (see scenario.go).
type Options struct {
	// Target is the server's base URL, http://HOST:PORT, or those of the nodes of a cluster,
	// separated by commas. HTTPS is not supported: measure behind the proxy that ends it.
	Target string `json:"target"`
	// IngestToken goes into every heartbeat.
	IngestToken string `json:"-"`
	// StreamToken mints a token that is valid for at least the given time. Default: none. Then
	// there are no streams and no final check of what the server remembers.
	StreamToken func(user string, valid time.Duration) (token string, err error) `json:"-"`

	// Scenario is one of Scenarios. Default: steady.
	Scenario string `json:"scenario"`
	// Closed sends the next heartbeat of a connection when the last one is answered, to find the
	// peak. Its latencies leave out the wait that an overloaded server causes, so they are no
	// statement about latency.
	Closed bool `json:"closed"`

	// Users. Default: 1,000.
	Users int `json:"users"`
	// DevicesPerUser. Default: 10.
	DevicesPerUser int `json:"devices_per_user"`
	// Rate is heartbeats per second over all devices. Default: that of Interval.
	Rate float64 `json:"rate"`
	// Interval is the time between two heartbeats of a device. Rate wins. Default: 10s.
	Interval time.Duration `json:"interval_ns"`
	// Arrivals is how heartbeats are spread: constant, or poisson (bursts and gaps as of
	// independent senders). Default: constant.
	Arrivals string `json:"arrivals"`
	// TTL of the heartbeats. Default: three intervals, but at least a second.
	TTL time.Duration `json:"ttl_ns"`
	// Skew makes users unequal: the share of the i-th busiest in heartbeats and streams is
	// proportional to 1/i^Skew. Default: 0.
	Skew float64 `json:"skew"`
	// SilentShare of the devices fall silent for good during the run. Their streams must show them
	// offline in time. Default: 0.
	SilentShare float64 `json:"silent_share"`
	// RepeatShare of the heartbeats are sent a second time after they were accepted, and must be
	// answered 409. Default: 0.
	RepeatShare float64 `json:"repeat_share"`

	// StreamsPerUser may be a fraction. Default: 0.
	StreamsPerUser float64 `json:"streams_per_user"`
	// Churn is how many streams per second hang up and connect again. Default: 0.
	Churn float64 `json:"churn"`
	// SlowShare of the streams read SlowBytes per second until the load is over. Default: 0.
	SlowShare float64 `json:"slow_share"`
	// SlowBytes. Default: 512.
	SlowBytes int `json:"slow_bytes"`

	// Lists are streams that follow many users each. Default: 0.
	Lists int `json:"lists"`
	// ListSize is how many users a list follows. Default: 100.
	ListSize int `json:"list_size"`
	// ListPopulation is how many users the lists are drawn from: the fewer, the more the lists
	// overlap. A list draws from the users of its worker. Default: all.
	ListPopulation int `json:"list_population"`
	// ListSkew makes some users popular: the i-th is drawn with a chance proportional to
	// 1/i^ListSkew. Default: 0.
	ListSkew float64 `json:"list_skew"`
	// ListView is devices, users, or both: every other list. Default: devices.
	ListView string `json:"list_view"`
	// ListLinger is the linger_ms of lists with view=users. Default: 0.
	ListLinger time.Duration `json:"list_linger_ns"`
	// ListAuth is what the lists' tokens allow: any user, the list's digest, or both: every other
	// list. Default: any.
	ListAuth string `json:"list_auth"`
	// ListTokenTTL is how long the lists' tokens live. They are renewed at half of it, on the open
	// stream. Default: 0, longer than the run.
	ListTokenTTL time.Duration `json:"list_token_ttl_ns"`
	// FreshShare of the lists' reconnects during the load ask for a whole snapshot; the others
	// resume with their cursor. Default: 0.
	FreshShare float64 `json:"fresh_share"`
	// ListToken mints a token for the subject that may read the users; nil: every user. Lists need
	// it. Default: none.
	ListToken func(subject string, users [][16]byte, valid time.Duration) (token string,
		err error) `json:"-"`
	// FlipShare of the devices pause each minute: they send nothing until they must be offline, and
	// then for up to a TTL more. Default: 0.
	FlipShare float64 `json:"flip_share"`

	// Connections for heartbeats. Default: 64.
	Connections int `json:"connections"`
	// Pipeline is how many requests may be outstanding on one connection. Default: 1.
	Pipeline int `json:"pipeline"`
	// Batch is the most heartbeats in one request. Default: 1, on the route for one heartbeat.
	Batch int `json:"batch"`
	// Workers are event loops. Default: half of GOMAXPROCS, fewer where the users of each would be
	// fewer than ListSize.
	Workers int `json:"workers"`
	// Sources is from how many loopback addresses, 127.0.1.1 and on, it connects, so that ports
	// last. Default: 0, the system chooses.
	Sources int `json:"sources"`
	// Duration of the measured part. Default: 30s.
	Duration time.Duration `json:"duration_ns"`
	// Warmup comes before it and is counted apart. Default: 5s.
	Warmup time.Duration `json:"warmup_ns"`
	// Seed of ids, order and chance. Default: the clock's.
	Seed uint64 `json:"seed"`

	// RampTo is the last rate of a ramp. Default: 30 times Rate.
	RampTo float64 `json:"ramp_to"`
	// SpikeBy is how many times Rate a spike has. Default: 5.
	SpikeBy float64 `json:"spike_by"`
	// KneeP99 is how slow the server may be at the knee of a ramp. Default: 100ms.
	KneeP99 time.Duration `json:"knee_p99_ns"`
	// Restart runs in the middle of the scenarios restart and node-loss. Default: none; restart the
	// server, or end the node, yourself.
	Restart func() error `json:"-"`

	// Timeout is after how long an unanswered heartbeat is sent again on a new connection. Default:
	// 10s.
	Timeout time.Duration `json:"timeout_ns"`
	// MaxWait is how long the server may take to show what it acknowledged, and how late an expiry
	// may be. Default: 5s.
	MaxWait time.Duration `json:"max_wait_ns"`
	// Grace is the server's time after a restart or a stall in which no device goes offline.
	// Default: 15s.
	Grace time.Duration `json:"grace_ns"`
	// MaxLag makes the run invalid when the generator's own p99 delay is above it. Default: 10ms.
	MaxLag time.Duration `json:"max_lag_ns"`
	// VerifyUsers is of how many users the snapshot is compared at the end, spread evenly. Default:
	// 20,000.
	VerifyUsers int `json:"verify_users"`
	// NoVerify leaves out the check of every user's snapshot at the end.
	NoVerify bool `json:"no_verify"`
	// NoOracle leaves out every check: for servers that forget, like ServeBare.
	NoOracle bool `json:"no_oracle"`
	// NoConflation makes a skipped frame a violation.
	NoConflation bool `json:"no_conflation"`

	// Progress is called about every second. Default: none.
	Progress func(Progress) `json:"-"`

	portable bool // use the portable sockets even where there is epoll
}

// Check returns every problem that Run would have with the options.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults fills in what is zero and checks the rest.
func (o Options) withDefaults() (Options, error) {
	option.Default(&o.Scenario, "steady")
	if sc := findScenario(o.Scenario); sc != nil && sc.defaults != nil {
		sc.defaults(&o)
	}
	option.Default(&o.Users, 1000)
	option.Default(&o.DevicesPerUser, 10)
	option.Default(&o.Arrivals, "constant")
	option.Default(&o.ListSize, 100)
	option.Default(&o.ListPopulation, o.Users)
	option.Default(&o.ListView, "devices")
	option.Default(&o.ListAuth, "any")
	option.Default(&o.Connections, 64)
	option.Default(&o.Pipeline, 1)
	option.Default(&o.Batch, 1)
	option.Default(&o.Workers, o.defaultWorkers())
	option.Default(&o.Duration, 30*time.Second)
	option.Default(&o.Warmup, 5*time.Second)
	option.Default(&o.Seed, uint64(time.Now().UnixNano()))
	option.Default(&o.SlowBytes, 512)
	option.Default(&o.SpikeBy, 5)
	option.Default(&o.VerifyUsers, 20000)
	option.Default(&o.KneeP99, 100*time.Millisecond)
	option.Default(&o.Timeout, 10*time.Second)
	option.Default(&o.MaxWait, 5*time.Second)
	option.Default(&o.Grace, 15*time.Second)
	option.Default(&o.MaxLag, 10*time.Millisecond)
	devices := float64(o.Users) * float64(o.DevicesPerUser)
	if o.Rate == 0 {
		option.Default(&o.Interval, 10*time.Second)
		o.Rate = devices / o.Interval.Seconds()
	} else {
		o.Interval = time.Duration(devices / o.Rate * 1e9)
	}
	option.Default(&o.TTL, max(time.Second, 3*o.Interval).Round(time.Millisecond))
	option.Default(&o.RampTo, 30*o.Rate)
	err := o.problems()
	o.Workers = min(o.Workers, o.Users, o.Connections)
	return o, err
}

// defaultWorkers are as many as the machine is good for and lists allow: each of these draws from
// the users of one worker.
func (o *Options) defaultWorkers() int {
	workers := runtime.GOMAXPROCS(0) / 2
	if o.Lists > 0 && o.ListSize > 0 {
		workers = min(workers, o.ListPopulation/o.ListSize)
	}
	return max(1, workers)
}

// problems checks options that have their defaults.
func (o *Options) problems() error {
	p := option.Problems{Package: "loadgen"}
	_, err := o.targets()
	p.Add(err)
	names, _ := Scenarios()
	p.When(findScenario(o.Scenario) == nil, "Scenario is %q: want one of %s",
		o.Scenario, strings.Join(names, ", "))
	p.When(o.Scenario == "node-loss" && !strings.Contains(o.Target, ","),
		"Target is %q: node-loss needs several", o.Target)
	p.When(o.Arrivals != "constant" && o.Arrivals != "poisson",
		"Arrivals is %q: want constant or poisson", o.Arrivals)
	p.When(float64(o.Users)*float64(o.DevicesPerUser) >= 1<<31, "Users: more than 2^31 devices")
	p.When(o.TTL < time.Millisecond, "TTL is %v: want at least a millisecond", o.TTL)
	p.When(o.Batch < 1 || o.Batch > maxBatch, "Batch is %d: want 1 to %d", o.Batch, maxBatch)
	p.When(o.Sources < 0 || o.Sources > 60000, "Sources is %d: want 0 to 60,000", o.Sources)
	positive(&p, "Users", o.Users)
	positive(&p, "DevicesPerUser", o.DevicesPerUser)
	positive(&p, "Rate", o.Rate)
	positive(&p, "Connections", o.Connections)
	positive(&p, "Pipeline", o.Pipeline)
	positive(&p, "Duration", o.Duration)
	positive(&p, "RampTo", o.RampTo)
	positive(&p, "SpikeBy", o.SpikeBy)
	positive(&p, "KneeP99", o.KneeP99)
	positive(&p, "SlowBytes", o.SlowBytes)
	positive(&p, "Workers", o.Workers)
	positive(&p, "Timeout", o.Timeout)
	positive(&p, "MaxWait", o.MaxWait)
	positive(&p, "MaxLag", o.MaxLag)
	option.NotNegative(&p, "Grace", o.Grace)
	option.NotNegative(&p, "VerifyUsers", o.VerifyUsers)
	option.NotNegative(&p, "Warmup", o.Warmup)
	option.NotNegative(&p, "StreamsPerUser", o.StreamsPerUser)
	option.NotNegative(&p, "Churn", o.Churn)
	option.NotNegative(&p, "Skew", o.Skew)
	share(&p, "SilentShare", o.SilentShare)
	share(&p, "SlowShare", o.SlowShare)
	share(&p, "RepeatShare", o.RepeatShare)
	option.NotNegative(&p, "FlipShare", o.FlipShare)
	o.listProblems(&p)
	p.When(o.IngestToken == "", "IngestToken is missing")
	p.When(o.StreamToken == nil && o.StreamsPerUser != 0, "StreamToken is missing: streams need it")
	outstanding := o.Connections * o.Pipeline * o.Batch
	p.When(o.Closed && o.Users*o.DevicesPerUser < 2*outstanding,
		"Users: a closed loop needs at least twice as many devices as heartbeats outstanding (%d)",
		outstanding)
	return p.Err()
}

func (o *Options) listProblems(p *option.Problems) {
	option.NotNegative(p, "Lists", o.Lists)
	option.NotNegative(p, "ListSkew", o.ListSkew)
	option.NotNegative(p, "ListLinger", o.ListLinger)
	option.NotNegative(p, "ListTokenTTL", o.ListTokenTTL)
	share(p, "FreshShare", o.FreshShare)
	positive(p, "ListSize", o.ListSize)
	p.When(o.ListPopulation < 1 || o.ListPopulation > o.Users,
		"ListPopulation is %d: want 1 to the number of users", o.ListPopulation)
	p.When(o.ListView != "devices" && o.ListView != "users" && o.ListView != "both",
		"ListView is %q: want devices, users or both", o.ListView)
	p.When(o.ListAuth != "any" && o.ListAuth != "digest" && o.ListAuth != "both",
		"ListAuth is %q: want any, digest or both", o.ListAuth)
	p.When(o.ListLinger > 0 && o.ListView == "devices", "ListLinger: ListView must be users or both")
	if o.Lists > 0 {
		workers := max(1, min(o.Workers, o.Users, o.Connections))
		p.When(o.ListSize > o.ListPopulation/workers,
			"ListSize is %d: a list draws from the users of one worker, and they are %d", o.ListSize,
			o.ListPopulation/workers)
		p.When(o.ListToken == nil, "ListToken is missing: lists need it")
	}
}

// streams is how many streams are to be open, of one user and of many.
func (o *Options) streams() int {
	return int(math.Round(float64(o.Users)*o.StreamsPerUser)) + o.Lists
}

func positive[T ~int | ~int64 | ~float64](p *option.Problems, name string, value T) {
	p.When(!(value > 0), "%s is %v: it must be above 0", name, value)
}

func share(p *option.Problems, name string, value float64) {
	p.When(!(value >= 0 && value <= 1), "%s is %v: it must be in 0 … 1", name, value)
}

// target is a server, or a node of a cluster: where to connect and what to say in Host.
type target struct {
	addr netip.AddrPort
	host string
}

// targets are those of Options.Target, at least one.
func (o *Options) targets() ([]target, error) {
	var all []target
	for text := range strings.SplitSeq(o.Target, ",") {
		t, err := parseTarget(text)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	return all, nil
}

func parseTarget(text string) (t target, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" || strings.Trim(u.Path, "/") != "" {
		return t, fmt.Errorf("loadgen: target %q: want http://HOST:PORT", text)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	resolved, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return t, fmt.Errorf("loadgen: target: %w", err)
	}
	addr := resolved.AddrPort()
	return target{netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), u.Host}, nil
}

// source is the address that the i-th connection leaves from.
func (o *Options) source(i int) (from netip.Addr) {
	if o.Sources == 0 {
		return from
	}
	i %= o.Sources
	return netip.AddrFrom4([4]byte{127, 0, byte(1 + i/250), byte(1 + i%250)})
}
