package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"rollcall/loadgen"
	"rollcall/token"
	"rollcall/wire"
)

type loadCmd struct {
	Run  loadRunCmd  `cmd:"" default:"withargs" help:"Drive a server with heartbeats and streams, judge it and report (the default)."`
	Bare loadBareCmd `cmd:"" help:"Serve 204 to everything: the reference that a server's figures are divided by."`
}

type loadRunCmd struct {
	Target         []string      `group:"What" default:"http://127.0.0.1:8787" placeholder:"URL" help:"The server, or several: the nodes of a cluster. Connections and streams are spread over them (${default})."`
	Scenario       string        `group:"What" default:"steady" placeholder:"NAME" help:"What happens: one of the names above (${default})."`
	Closed         bool          `group:"What" help:"Closed loop: send when the last one is answered. Finds the peak; its latencies mean nothing."`
	RampTo         float64       `group:"What" placeholder:"N" help:"ramp: heartbeats per second of the last step (30 × the rate)."`
	KneeP99        time.Duration `group:"What" name:"knee-p99" placeholder:"TIME" help:"ramp: the slowest p99 that counts as keeping up (100ms)."`
	SpikeBy        float64       `group:"What" placeholder:"N" help:"spike: how many times the rate (5)."`
	RestartCommand string        `group:"What" placeholder:"CMD" help:"restart, node-loss: run this in a shell in the middle. Without it, restart the server, or end the node, yourself."`

	Users          int           `group:"Crowd" placeholder:"N" help:"Users (1000)."`
	DevicesPerUser int           `group:"Crowd" placeholder:"N" help:"Devices of each (10)."`
	Rate           float64       `group:"Crowd" placeholder:"N" help:"Heartbeats per second of all devices together. Default: from --interval."`
	Interval       time.Duration `group:"Crowd" placeholder:"TIME" help:"Heartbeat interval of each device (10s)."`
	Arrivals       string        `group:"Crowd" default:"constant" enum:"constant,poisson" help:"How heartbeats are spread: constant, or poisson, as of independent senders (${default})."`
	TTL            time.Duration `group:"Crowd" placeholder:"TIME" help:"The heartbeats' TTL (three intervals)."`
	Skew           float64       `group:"Crowd" placeholder:"S" help:"Hot users: the i-th busiest gets a share of heartbeats and streams like 1/i^S. 0: all alike."`
	SilentShare    float64       `group:"Crowd" placeholder:"0…1" help:"Share of the devices that fall silent for good."`
	RepeatShare    float64       `group:"Crowd" placeholder:"0…1" help:"Share of the heartbeats that are sent again after they were accepted, and must be answered 409."`
	StreamsPerUser float64       `group:"Crowd" placeholder:"N" help:"Streams that follow each user; may be a fraction (0)."`
	Churn          float64       `group:"Crowd" placeholder:"N" help:"Streams per second that hang up and come back."`
	SlowShare      float64       `group:"Crowd" placeholder:"0…1" help:"Share of the streams that read slowly."`
	SlowBytes      int           `group:"Crowd" placeholder:"N" help:"Bytes per second that slow streams read (512)."`

	FlipShare float64 `group:"Crowd" placeholder:"X" help:"Share of the devices that pause each minute, until they must be offline and up to a TTL longer."`

	Lists          int           `group:"Lists" placeholder:"N" help:"Streams that follow many users each (0)."`
	ListSize       int           `group:"Lists" placeholder:"N" help:"Users that each follows (100)."`
	ListPopulation int           `group:"Lists" placeholder:"N" help:"Draw the lists from the first N users: the fewer, the more lists have a user. Default: all users."`
	ListSkew       float64       `group:"Lists" placeholder:"S" help:"Popular users: the i-th is drawn with a chance like 1/i^S. 0: all alike."`
	ListView       string        `group:"Lists" placeholder:"VIEW" help:"devices, users, or both: every other list (devices)."`
	ListLinger     time.Duration `group:"Lists" placeholder:"TIME" help:"linger_ms of lists with view=users (0)."`
	ListAuth       string        `group:"Lists" placeholder:"KIND" help:"What a list's token allows: any user, the list's digest, or both: every other list (any)."`
	ListTokenTTL   time.Duration `group:"Lists" name:"list-token-ttl" placeholder:"TIME" help:"Tokens of lists live so long and are renewed at half of it, on the open stream. 0: they outlive the run."`
	FreshShare     float64       `group:"Lists" placeholder:"0…1" help:"Share of the lists' reconnects (--churn, reconnect-storm) that ask for everything. The others resume with their cursor."`

	Connections int           `group:"Generator" placeholder:"N" help:"Connections for heartbeats (64)."`
	Pipeline    int           `group:"Generator" placeholder:"N" help:"Requests outstanding on one connection (1)."`
	Batch       int           `group:"Generator" placeholder:"N" help:"Send up to N heartbeats in one request, as a gateway does that gathers for up to 10 ms (1: each in a request of its own)."`
	Workers     int           `group:"Generator" placeholder:"N" help:"Event loops (half of the processors)."`
	Sources     int           `group:"Generator" placeholder:"N" help:"Connect from N loopback addresses, 127.0.1.1 and on, so that ports do not run out. 0: the system chooses."`
	Duration    time.Duration `group:"Generator" placeholder:"TIME" help:"Measured time (30s)."`
	Warmup      time.Duration `group:"Generator" placeholder:"TIME" help:"Time before it, in which streams connect; reported apart (5s)."`
	Seed        uint64        `group:"Generator" placeholder:"N" help:"Repeat a run's ids and order. Default: the clock's."`
	Timeout     time.Duration `group:"Generator" placeholder:"TIME" help:"Send a heartbeat again when it was unanswered for so long (10s)."`

	MaxWait      time.Duration `group:"Judgement" placeholder:"TIME" help:"How long the server may take to show what it acknowledged, or to show a silent device offline (5s)."`
	Grace        time.Duration `group:"Judgement" placeholder:"TIME" help:"The server's --recovery-grace (15s)."`
	MaxLag       time.Duration `group:"Judgement" placeholder:"TIME" help:"The run is invalid when the generator itself is later than this at p99 (10ms)."`
	NoConflation bool          `group:"Judgement" help:"A frame that a fast stream skips fails the run. Otherwise it is counted."`
	VerifyUsers  int           `group:"Judgement" placeholder:"N" help:"Users whose snapshot is compared at the end (20000)."`
	NoVerify     bool          `group:"Judgement" help:"Skip the comparison of snapshots."`
	NoOracle     bool          `group:"Judgement" help:"Skip all checks: for a server that keeps no state, such as \"rollcall load bare\"."`

	JSON           string  `group:"Reports" name:"json" type:"path" placeholder:"FILE" help:"Write everything as JSON."`
	HTML           string  `group:"Reports" name:"html" type:"path" placeholder:"FILE" help:"Write one self-contained page with plots."`
	Compare        string  `group:"Reports" type:"existingfile" placeholder:"OLD.json" help:"Fail when this run is worse than that one by more than the thresholds."`
	WorseLatency   float64 `group:"Reports" default:"0.25" placeholder:"X" help:"--compare: allowed growth of p50, p99 and p99.9 (${default} is 25 %)."`
	WorseRate      float64 `group:"Reports" default:"0.05" placeholder:"X" help:"--compare: allowed loss of the achieved rate (${default})."`
	CompareFloorMS float64 `group:"Reports" name:"compare-floor-ms" default:"0.5" placeholder:"MS" help:"--compare: smaller differences do not count (${default})."`
	Quiet          bool    `group:"Reports" help:"No progress."`

	IngestTokenFile string `group:"Secrets" type:"path" placeholder:"FILE" help:"Read the ingest token from FILE instead of PRESENCE_DO_INGEST_TOKEN. The first of several is used."`
	SigningKeyFile  string `group:"Secrets" type:"path" placeholder:"FILE" help:"Read the signing key of stream tokens from FILE instead of PRESENCE_DO_TOKEN_SIGNING_KEY."`
}

// Help is what `rollcall load --help` says beyond the flags.
func (loadRunCmd) Help() string {
	_, scenarios := loadgen.Scenarios()
	return `Scenarios:
` + scenarios + `
The oracle watches every acknowledged heartbeat: a lost, doubled or reordered one fails the run.
docs/loadgen.md has the rules.

Exit: 0 passed; 1 could not run; 2 the oracle found a violation; 3 the run is invalid, its figures
are not to be used; 4 worse than --compare allows.`
}

// Run drives the target and prints what it found.
func (c loadRunCmd) Run() error {
	o, err := c.options()
	if err != nil {
		return err
	}
	if err := errors.Join(o.Check(), c.thresholds().Check()); err != nil {
		return advise(err)
	}
	var old *loadgen.Report
	if c.Compare != "" {
		if old, err = loadgen.ReadReport(c.Compare); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	line := loadgen.NewProgressLine(os.Stderr, terminalWidth(os.Stderr))
	if !c.Quiet {
		o.Progress = line.Show
	}
	rep, err := loadgen.Run(ctx, o)
	line.Close()
	if err != nil {
		return advise(err)
	}
	rep.Version = buildVersion()
	rep.WriteTable(os.Stdout)
	if err := c.writeFiles(rep); err != nil {
		return err
	}
	return c.verdict(rep, old)
}

func (c loadRunCmd) options() (o loadgen.Options, err error) {
	ingest, err := readSecrets(ingestTokenEnv, c.IngestTokenFile)
	if err != nil {
		return o, err
	}
	signing, err := readSecrets(signingKeyEnv, c.SigningKeyFile)
	if err != nil {
		return o, err
	}
	if len(ingest) == 0 {
		return o, fmt.Errorf("no ingest token: set %s or --ingest-token-file to one "+
			"that the server has", ingestTokenEnv)
	}
	o = c.settings(ingest[0])
	if len(signing) > 0 {
		o.StreamToken = func(user string, valid time.Duration) (string, error) {
			id, err := uuid.Parse(user)
			if err != nil {
				return "", err
			}
			return streamToken(signing[0], id, uuid.New(), valid)
		}
		o.ListToken = func(subject string, users [][16]byte, valid time.Duration) (string, error) {
			return listToken(signing[0], subject, users, valid)
		}
	} else if !c.NoOracle && !c.NoVerify {
		return o, fmt.Errorf("no signing key: set %s or --signing-key-file to the server's, "+
			"for streams and for the final comparison of snapshots; or give --no-verify",
			signingKeyEnv)
	}
	if c.RestartCommand != "" {
		o.Restart = func() error { return shell(c.RestartCommand) }
	}
	return o, nil
}

// listToken mints a token that may read the users; nil: every user.
func listToken(key, subject string, users [][16]byte, valid time.Duration) (string, error) {
	now := time.Now()
	claims := token.Claims{
		TokenID:    uuid.NewString(),
		UserID:     subject,
		DeviceID:   subject,
		Scope:      []string{wire.ScopeReadAny},
		ExpMS:      now.Add(valid).UnixMilli(),
		IssuedAtMS: now.UnixMilli(),
	}
	if users != nil {
		ids := make([]uuid.UUID, len(users))
		for i := range users {
			ids[i] = users[i]
		}
		claims.Scope, claims.UsersSHA256 = []string{wire.ScopeRead}, token.UsersSHA256(ids)
	}
	return token.Sign(key, claims)
}

// settings is the options that flags set.
func (c loadRunCmd) settings(ingestToken string) loadgen.Options {
	return loadgen.Options{
		Target:      strings.Join(c.Target, ","),
		IngestToken: ingestToken,
		Scenario:    c.Scenario,
		Closed:      c.Closed,
		RampTo:      c.RampTo,
		KneeP99:     c.KneeP99,
		SpikeBy:     c.SpikeBy,

		Users:          c.Users,
		DevicesPerUser: c.DevicesPerUser,
		Rate:           c.Rate,
		Interval:       c.Interval,
		Arrivals:       c.Arrivals,
		TTL:            c.TTL,
		Skew:           c.Skew,
		SilentShare:    c.SilentShare,
		RepeatShare:    c.RepeatShare,
		StreamsPerUser: c.StreamsPerUser,
		Churn:          c.Churn,
		SlowShare:      c.SlowShare,
		SlowBytes:      c.SlowBytes,
		FlipShare:      c.FlipShare,

		Lists:          c.Lists,
		ListSize:       c.ListSize,
		ListPopulation: c.ListPopulation,
		ListSkew:       c.ListSkew,
		ListView:       c.ListView,
		ListLinger:     c.ListLinger,
		ListAuth:       c.ListAuth,
		ListTokenTTL:   c.ListTokenTTL,
		FreshShare:     c.FreshShare,

		Connections: c.Connections,
		Pipeline:    c.Pipeline,
		Batch:       c.Batch,
		Workers:     c.Workers,
		Sources:     c.Sources,
		Duration:    c.Duration,
		Warmup:      c.Warmup,
		Seed:        c.Seed,
		Timeout:     c.Timeout,

		MaxWait:      c.MaxWait,
		Grace:        c.Grace,
		MaxLag:       c.MaxLag,
		NoConflation: c.NoConflation,
		VerifyUsers:  c.VerifyUsers,
		NoVerify:     c.NoVerify,
		NoOracle:     c.NoOracle,
	}
}

// thresholds are what flags say of --compare.
func (c loadRunCmd) thresholds() loadgen.Thresholds {
	return loadgen.Thresholds{
		WorseLatency: c.WorseLatency, WorseRate: c.WorseRate, CompareFloorMS: c.CompareFloorMS,
	}
}

// shell runs a command. Its output is part of the error when it fails. The command may leave the
// server running, so output goes to a file and not to a pipe, which would stay open.
func shell(command string) error {
	out, err := os.CreateTemp("", "rollcall-restart-*.log")
	if err != nil {
		return err
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd := shellCommand(command)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name()) // the error says enough without it
		return fmt.Errorf("%w: %.500s", err, strings.TrimSpace(string(text)))
	}
	return nil
}

func (c loadRunCmd) writeFiles(rep *loadgen.Report) error {
	for _, f := range []struct {
		path  string
		write func(io.Writer) error
	}{{c.JSON, rep.WriteJSON}, {c.HTML, rep.WriteHTML}} {
		if f.path == "" {
			continue
		}
		out, err := os.Create(f.path)
		if err != nil {
			return err
		}
		if err := errors.Join(f.write(out), out.Close()); err != nil {
			return err
		}
	}
	return nil
}

// exitCode is an error with the process's exit code.
type exitCode struct {
	code int
	text string
}

func (e exitCode) Error() string { return e.text }
func (e exitCode) ExitCode() int { return e.code }

func (c loadRunCmd) verdict(rep, old *loadgen.Report) error {
	switch {
	case !rep.Verdict.Passed():
		return exitCode{2, "the oracle found violations"}
	case !rep.Verdict.Valid():
		return exitCode{3, "the run is invalid"}
	case old == nil:
		return nil
	}
	changes := loadgen.Compare(old, rep, c.thresholds())
	if worse := loadgen.WriteChanges(os.Stdout, changes); worse > 0 {
		return exitCode{4, fmt.Sprintf("worse than %s in %d figures", c.Compare, worse)}
	}
	return nil
}

// terminalWidth returns the columns of a terminal on which a line can be written over, else 0.
func terminalWidth(f *os.File) int {
	if os.Getenv("TERM") == "dumb" {
		return 0
	}
	return terminalColumns(f)
}

type loadBareCmd struct {
	Listen string `default:"127.0.0.1:8789" placeholder:"HOST:PORT" help:"Where to listen (${default})."`
}

// Help is what `rollcall load bare --help` says beyond the flags.
func (loadBareCmd) Help() string {
	return `Measure it like a server, with nothing to judge, and divide:

  rollcall load bare &
  rollcall load --target http://127.0.0.1:8789 --closed --no-oracle
  rollcall load --target http://127.0.0.1:8787 --closed`
}

// Run serves until it is killed.
func (c loadBareCmd) Run() error {
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	fmt.Fprintln(os.Stderr, "answering 204 to everything on", ln.Addr())
	return loadgen.ServeBare(ln)
}
