package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/uuid"

	"rollcall/loadgen"
)

type loadCmd struct {
	Run  loadRunCmd  `cmd:"" default:"withargs" help:"Drive a server with heartbeats and streams, and judge it."`
	Bare loadBareCmd `cmd:"" help:"Serve 204 to everything, as the reference that figures are compared with."`
}

type loadRunCmd struct {
	Target string `group:"What" default:"http://127.0.0.1:8787" placeholder:"URL" help:"The server (${default})."`
	Closed bool   `group:"What" help:"Closed loop: send when answered, to find the peak. Not for latencies."`

	Users          int           `group:"Crowd" placeholder:"N" help:"Users (1000)."`
	DevicesPerUser int           `group:"Crowd" placeholder:"N" help:"Devices of each (10)."`
	Rate           float64       `group:"Crowd" placeholder:"N" help:"Heartbeats per second, all devices together. Default: from --interval."`
	Interval       time.Duration `group:"Crowd" placeholder:"TIME" help:"Heartbeat interval of each device (10s)."`
	Arrivals       string        `group:"Crowd" default:"constant" enum:"constant,poisson" help:"constant or poisson (${default})."`
	TTL            time.Duration `group:"Crowd" placeholder:"TIME" help:"ttl_ms of the heartbeats (three intervals)."`

	Connections int           `group:"Generator" placeholder:"N" help:"Connections for heartbeats (64)."`
	Pipeline    int           `group:"Generator" placeholder:"N" help:"Heartbeats outstanding on one connection (1)."`
	Workers     int           `group:"Generator" placeholder:"N" help:"Event loops (half of the processors)."`
	Duration    time.Duration `group:"Generator" placeholder:"TIME" help:"Measured time (30s)."`
	Warmup      time.Duration `group:"Generator" placeholder:"TIME" help:"Time before it, reported apart (5s)."`
	Seed        uint64        `group:"Generator" placeholder:"N" help:"Repeat a run's ids and order."`
}

// Run drives the target and prints what it found.
func (c loadRunCmd) Run() error {
	ingest, err := readSecrets(ingestTokenEnv, "")
	if err != nil {
		return err
	}
	if len(ingest) == 0 {
		return errors.New("no ingest token: set " + ingestTokenEnv)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	rep, err := loadgen.Run(ctx, loadgen.Options{
		Target: c.Target, IngestToken: ingest[0], Closed: c.Closed,
		Users: c.Users, DevicesPerUser: c.DevicesPerUser, Rate: c.Rate, Interval: c.Interval, Arrivals: c.Arrivals, TTL: c.TTL,
		Connections: c.Connections, Pipeline: c.Pipeline, Workers: c.Workers, Duration: c.Duration, Warmup: c.Warmup, Seed: c.Seed,
		Progress: func(p loadgen.Progress) {
			fmt.Fprintf(os.Stderr, "%-12s %8.0f/s of %8.0f/s  p99 %8.3f ms  errors %d  backlog %d  cpu %.2f  lag %.3f ms  left %v\n",
				p.Stage, p.Achieved, p.Offered, p.P99, p.Errors, p.Backlog, p.CPU, p.Lag, p.Left.Round(time.Second))
		},
	})
	if err != nil {
		return err
	}
	rep.WriteTable(os.Stdout)
	return nil
}

type loadBareCmd struct {
	Listen string `default:"127.0.0.1:8789" placeholder:"HOST:PORT" help:"Where to listen (${default})."`
}

// Run serves until it is killed.
func (c loadBareCmd) Run() error {
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "answering 204 to everything on", ln.Addr())
	return loadgen.ServeBare(ln)
}

var _ = uuid.Nil
