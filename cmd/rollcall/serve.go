package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/checkpoint"
	"rollcall/datadir"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/server"
	"rollcall/wal"
)

type serveCmd struct {
	Listen      string   `group:"Addresses" default:"127.0.0.1:8787" placeholder:"HOST:PORT|unix:PATH" help:"Where daemons and clients connect: an address, or a Unix socket for a proxy on this machine (${default})."`
	SocketMode  string   `group:"Addresses" default:"660" placeholder:"OCTAL" help:"Permissions of the Unix socket of --listen; who may write may connect (${default})."`
	AdminListen string   `group:"Addresses" default:"127.0.0.1:8788" placeholder:"HOST:PORT" help:"Where operators connect: the page, health, metrics, profiles, debug. Keep it off the internet (${default})."`
	CORSOrigin  []string `group:"Addresses" name:"cors-origin" default:"*" placeholder:"ORIGIN" help:"Web origins whose pages may read the answers of --listen, such as https://example.com. *: any (${default})."`

	DataDir      string        `group:"Durability" default:"./data" type:"path" placeholder:"DIR" help:"Where the log lives. One process at a time (./data)."`
	Sync         string        `group:"Durability" default:"always" enum:"always,interval,never" help:"What a 204 promises. always: the heartbeat is on stable storage. interval: it will be within --sync-interval; a crash may lose that much. never: whenever the system writes it (${default})."`
	SyncInterval time.Duration `group:"Durability" default:"100ms" help:"How often --sync=interval syncs (${default})."`
	SegmentBytes int64         `group:"Durability" default:"67108864" help:"Size of the largest log segment, in bytes. Segments begin small and double (${default})."`

	CheckpointBytes    int64         `group:"Durability" default:"536870912" help:"Take a checkpoint when the log has grown by this many bytes; the log before it is removed. Less: faster restarts, more writing (${default})."`
	CheckpointInterval time.Duration `group:"Durability" default:"5m" help:"Take a checkpoint at least this often when anything changed (${default})."`
	ForgetAfter        time.Duration `group:"Durability" default:"720h" help:"A device that was offline for this long is forgotten, in memory and on disk (${default})."`

	SeqPolicy     string        `group:"Presence" default:"strict" enum:"strict,restart" help:"strict: seq must grow. restart: a lower one is accepted too when sent_at_ms is newer, for daemons that count from 1 after a restart (${default})."`
	RecoveryGrace time.Duration `group:"Presence" default:"15s" help:"After a restart or a stall no device goes offline before it had this long, or its TTL if shorter, to be heard again (${default})."`
	MaxDevices    int           `group:"Presence" default:"0" help:"Most devices to keep; a new one over it is refused with 503. 0: as many as memory holds."`
	MaxBatch      int           `group:"Presence" default:"10000" help:"Most heartbeats in one request of the batch route; the rest is answered 413 (${default})."`
	RatePerIP     float64       `group:"Presence" name:"rate-per-ip" default:"0" help:"Heartbeats per second that one address may send; more are answered 429. 0: no limit. Leave it off behind a proxy, where all come from one address."`

	StreamKeepalive    time.Duration `group:"Streams" default:"15s" help:"Send a comment after this much silence, so that proxies keep the connection and dead peers are noticed. 0: never (${default})."`
	StreamWriteTimeout time.Duration `group:"Streams" default:"30s" help:"Close a stream that takes nothing for this long (${default})."`
	StreamTokenExpiry  string        `group:"Streams" default:"enforce" enum:"enforce,ignore" help:"enforce: a stream ends when its token expires. ignore: it goes on, as with the original service (${default})."`
	StreamBacklog      int           `group:"Streams" default:"65536" help:"Bytes kept for a slow stream; past them it gets only the newest state of each device (${default})."`
	StreamQueryToken   bool          `group:"Streams" help:"Also take a stream's token from the query, access_token=, for EventSource in browsers, which cannot set a header. Proxies log URLs: keep the tokens short-lived (off)."`
	MaxStreams         int           `group:"Streams" default:"0" help:"Most streams at a time; one more is answered 503. Never more than nine tenths of the descriptor limit, which is what 0 stands for."`
	MaxStreamsPerUser  int           `group:"Streams" default:"1000" help:"Most streams that follow one user; one more is answered 503. Far above what a person opens, so that one user's token cannot take everybody's place. 0: no limit (${default})."`
	MaxConnsPerIP      int           `group:"Streams" name:"max-connections-per-ip" default:"0" help:"Most connections, streams included, from one address (an IPv6 /64 is one); one more is answered 503. 0: no limit. Leave it off behind a proxy, where all come from one address."`
	DrainTimeout       time.Duration `group:"Streams" default:"5s" help:"On SIGTERM, spread the end of the streams over this long. A second signal stops at once (${default})."`

	IngestTokenFile string `group:"Secrets" type:"path" placeholder:"FILE" help:"Read the heartbeat tokens from FILE instead of PRESENCE_DO_INGEST_TOKEN. Several, separated by commas or lines: any is accepted."`
	SigningKeyFile  string `group:"Secrets" type:"path" placeholder:"FILE" help:"Read the keys of stream tokens from FILE instead of PRESENCE_DO_TOKEN_SIGNING_KEY. Several: any verifies, the first signs."`
	Environment     string `group:"Secrets" env:"ENVIRONMENT" placeholder:"NAME" help:"production switches /debug/presence and /debug/token off (ENVIRONMENT)."`

	TLSCert string `group:"TLS" name:"tls-cert" type:"path" placeholder:"FILE" help:"Serve --listen over TLS (1.2 or later) with the certificate chain in FILE, PEM. SIGHUP reads it again."`
	TLSKey  string `group:"TLS" name:"tls-key" type:"path" placeholder:"FILE" help:"The certificate's private key, PEM."`

	LogFormat string `group:"Logs" default:"text" enum:"text,json" help:"text or json, to standard error (${default})."`
	LogLevel  string `group:"Logs" default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error (${default})."`

	Dev   bool `help:"Make throw-away secrets where none are set, and print what to open and to paste."`
	Check bool `env:"-" help:"Check the configuration, print it without secrets, and exit: 0 when the server could start with it, else 1. Nothing is opened or changed."`
}

// Help is what `rollcall serve --help` says beyond the flags.
func (serveCmd) Help() string {
	return `Secrets come from the environment or from files:
  ` + ingestTokenEnv + `       bearer token of the daemons' heartbeats
  ` + signingKeyEnv + `  HMAC key of the clients' stream tokens (see "rollcall token")
With only one of them set, the other route answers 503.

It is ready when http://ADMIN/readyz answers 200; until then, and when it cannot take heartbeats, that page says why.
SIGTERM and SIGINT drain: readyz turns 503, streams are told when to come back, heartbeats in flight are answered, exit 0.
SIGHUP reads the secret files and the certificate again: all of them, or when one cannot be used none. Nobody is cut off: a
removed ingest token is refused from then on, an open stream lasts as long as its token, whoever signed it.
Exit is 1 when the server cannot start or when the log fails; the last line on standard error says what to do.`
}

// Validate refuses values that would silently mean something else. Kong calls it.
func (c serveCmd) Validate() error {
	var errs []error
	positive := func(flag string, d time.Duration) {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("--%s must be above 0, not %v", flag, d))
		}
	}
	positive("sync-interval", c.SyncInterval)
	positive("recovery-grace", c.RecoveryGrace)
	positive("stream-write-timeout", c.StreamWriteTimeout)
	positive("checkpoint-interval", c.CheckpointInterval)
	positive("forget-after", c.ForgetAfter)
	notNegative := func(flag string, n float64) {
		if n < 0 {
			errs = append(errs, fmt.Errorf("--%s cannot be negative, not %v", flag, n))
		}
	}
	notNegative("stream-keepalive", float64(c.StreamKeepalive))
	notNegative("drain-timeout", float64(c.DrainTimeout))
	notNegative("max-devices", float64(c.MaxDevices))
	notNegative("max-streams", float64(c.MaxStreams))
	notNegative("max-streams-per-user", float64(c.MaxStreamsPerUser))
	notNegative("max-connections-per-ip", float64(c.MaxConnsPerIP))
	notNegative("rate-per-ip", c.RatePerIP)
	if _, err := socketMode(c.SocketMode); err != nil {
		errs = append(errs, err)
	}
	if c.MaxBatch <= 0 {
		errs = append(errs, fmt.Errorf("--max-batch must be above 0, not %d", c.MaxBatch))
	}
	if c.CheckpointBytes <= 0 {
		errs = append(errs, fmt.Errorf("--checkpoint-bytes must be above 0, not %d", c.CheckpointBytes))
	}
	if c.StreamBacklog <= 0 {
		errs = append(errs, fmt.Errorf("--stream-backlog must be above 0, not %d", c.StreamBacklog))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("--tls-cert and --tls-key belong together: give both or none"))
	}
	return errors.Join(errs...)
}

// Run serves until a signal or a failure.
func (c serveCmd) Run(line *kong.Context) error {
	if err := needsServingSystem("serve"); err != nil {
		return err
	}
	if c.Check {
		return c.check(os.Stdout, settingsOf(line))
	}
	logger := c.logger(os.Stderr)
	secrets, err := c.secrets()
	if err != nil {
		return err
	}
	logSettings(logger, settingsOf(line), secrets)
	hangups := hangups()
	s, err := c.start(logger, secrets)
	if err != nil {
		return err
	}
	if c.Dev {
		public, admin := listenName(s.public), s.admin.Addr().String()
		if err := printCurlLines(os.Stdout, c.scheme(), public, admin, secrets.ingest[0], secrets.signing[0]); err != nil {
			return err
		}
	}
	return s.untilDone(c.DrainTimeout, hangups)
}

func (c serveCmd) scheme() string {
	if c.TLSCert != "" {
		return "https"
	}
	return "http"
}

type secrets struct{ ingest, signing []string }

func (c serveCmd) secrets() (s secrets, err error) {
	if s.ingest, err = readSecrets(ingestTokenEnv, c.IngestTokenFile); err != nil {
		return s, err
	}
	if s.signing, err = readSecrets(signingKeyEnv, c.SigningKeyFile); err != nil {
		return s, err
	}
	if c.Dev {
		if len(s.ingest) == 0 {
			s.ingest = []string{throwAwaySecret()}
		}
		if len(s.signing) == 0 {
			s.signing = []string{throwAwaySecret()}
		}
	}
	if len(s.ingest) == 0 && len(s.signing) == 0 {
		return s, fmt.Errorf("no secrets: set %s for heartbeats and %s for streams (or their --…-file flags), or try --dev",
			ingestTokenEnv, signingKeyEnv)
	}
	return s, nil
}

func (c serveCmd) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic("bug: the enum of --log-level allows " + c.LogLevel)
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// running is a server that was started.
type running struct {
	logger        *slog.Logger
	clock         engine.Clock
	limits        limits
	metrics       *prometheus.Registry
	histograms    *histograms
	reloader      *reloader
	log           *wal.Log
	checkpoint    *checkpoint.Store
	engine        *engine.Engine
	server        *server.Server
	public, admin net.Listener
	served        chan error     // one for each listener, when it ends
	signals       chan os.Signal // SIGTERM and SIGINT
}

// start opens the admin listener first, so that /readyz can tell of the recovery, and the public one last, so that nobody
// waits on a connection that cannot be answered yet.
func (c serveCmd) start(logger *slog.Logger, sec secrets) (*running, error) {
	r := &running{logger: logger, clock: engine.NewClock(), served: make(chan error, 2), signals: make(chan os.Signal, 2)}
	r.reloader = &reloader{cmd: &c, logger: logger, secrets: sec, certificate: c.certificate()}
	if err := c.open(r, sec); err != nil {
		_ = r.close(doneContext()) // an operator's request may be in flight
		return nil, advise(err)
	}
	return r, nil
}

func (c serveCmd) open(r *running, sec secrets) (err error) {
	config, err := r.reloader.tlsConfig()
	if err != nil {
		return err
	}
	r.limits = c.limits()
	r.limits.log(r.logger, c.MaxStreams, acceptQueue())
	r.metrics = registry()
	r.histograms = newHistograms(r.metrics)
	if r.log, err = wal.Open(c.DataDir, c.logOptions(r)); err != nil {
		return err
	}
	// After the log, whose lock it is that names the other process.
	if r.checkpoint, err = checkpoint.Open(filepath.Join(c.DataDir, datadir.CheckpointDir), checkpoint.Options{
		SpareBytes: 2*c.SegmentBytes + 64<<20, Logger: r.logger,
	}); err != nil {
		return err
	}
	if r.engine, err = engine.New(r.log, c.engineOptions(r)); err != nil {
		return err
	}
	if r.server, err = server.New(r.engine, c.serverOptions(r, sec)); err != nil {
		return err
	}
	r.reloader.server = r.server
	r.metrics.MustRegister(figures{r.log, r.checkpoint, r.engine, r.server})
	if r.admin, err = net.Listen("tcp", c.AdminListen); err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	go func() { r.served <- r.server.ServeAdmin(r.admin) }()

	began := time.Now()
	if err = r.engine.Start(); err != nil {
		return err
	}
	// From here on a signal means drain. Until here it ends the process, which has promised nothing to anybody.
	signal.Notify(r.signals, syscall.SIGTERM, syscall.SIGINT)
	if r.public, err = listenPublic(c.Listen, c.SocketMode); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if config != nil {
		r.public = tls.NewListener(r.public, config)
	}
	go func() { r.served <- r.server.Serve(r.public) }()
	r.logger.Info("serving", "version", buildVersion(), "listen", listenName(r.public), "admin", r.admin.Addr().String(),
		"data", c.DataDir, "sync", c.Sync, "max_connections", r.limits.conns, "max_streams", r.limits.streams, "devices", r.engine.Stats().Devices, "recovery", time.Since(began).Round(time.Millisecond))
	return nil
}

func (c serveCmd) logOptions(r *running) wal.Options {
	mode, err := wal.ParseSyncMode(c.Sync)
	if err != nil {
		panic("bug: the enum of --sync allows " + c.Sync)
	}
	return wal.Options{
		Sync: mode, SyncInterval: c.SyncInterval, SegmentBytes: c.SegmentBytes, Logger: r.logger,
		ObserveCommit: r.histograms.observeCommit,
	}
}

func (c serveCmd) engineOptions(r *running) engine.Options {
	policy, err := engine.ParseSeqPolicy(c.SeqPolicy)
	if err != nil {
		panic("bug: the enum of --seq-policy allows " + c.SeqPolicy)
	}
	return engine.Options{
		SeqPolicy:     policy,
		RecoveryGrace: c.RecoveryGrace,
		MaxDevices:    c.MaxDevices,

		Store:           r.checkpoint,
		CheckpointBytes: c.CheckpointBytes,
		CheckpointEvery: c.CheckpointInterval,
		ForgetAfter:     c.ForgetAfter,

		Clock:           r.clock,
		Logger:          r.logger,
		ObserveLateness: r.histograms.lateness.Observe,
		ObserveDelivery: r.histograms.delivery.Observe,
		Broadcast: broadcast.Options{
			Keepalive:    c.StreamKeepalive,
			WriteTimeout: c.StreamWriteTimeout,
			BacklogBytes: c.StreamBacklog,
			MaxStreams:   r.limits.streams,

			MaxStreamsPerUser: c.MaxStreamsPerUser,
		},
	}
}

func (c serveCmd) serverOptions(r *running, sec secrets) server.Options {
	return server.Options{
		IngestTokens:      sec.ingest,
		SigningKeys:       sec.signing,
		Production:        strings.EqualFold(strings.TrimSpace(c.Environment), "production"),
		RatePerIP:         c.RatePerIP,
		MaxBatch:          c.MaxBatch,
		TokenExpiryIgnore: c.StreamTokenExpiry == "ignore",
		StreamQueryToken:  c.StreamQueryToken,
		CORSOrigins:       c.CORSOrigin,
		TLS:               c.TLSCert != "",
		MaxConns:          r.limits.conns,
		MaxConnsPerIP:     c.MaxConnsPerIP,
		OpenStreams:       r.engine.OpenStreams,
		NowNanos:          r.clock.Nanos,
		Now:               r.clock.Wall,
		Registry:          r.metrics,
		Logger:            r.logger,
	}
}

// untilDone serves until the first of: a signal (drain, nil), the log's failure, a listener's end. Hangups reload meanwhile.
func (r *running) untilDone(drain time.Duration, hangups <-chan os.Signal) error {
	for {
		select {
		case <-hangups:
			r.reloader.reload()
		case s := <-r.signals:
			r.logger.Info("draining; a second signal stops at once", "signal", s.String(), "streams", r.engine.Stats().Streams.Streams)
			return r.drain(drain, r.signals)
		case <-r.log.Failed():
			return r.logFailed()
		case <-r.checkpoint.Failed():
			r.hangUp()
			return advise(r.checkpoint.Err())
		case err := <-r.served:
			r.hangUp()
			return fmt.Errorf("a listener ended: %w", err)
		}
	}
}

// logFailed answers those who wait with 503 and ends: nothing can be promised any more.
func (r *running) logFailed() error {
	err := r.log.Err()
	r.hangUp()
	return fmt.Errorf("the log failed, so nothing can be promised any more: %w; check the disk, then start again: "+
		"recovery begins from what was acknowledged", err)
}

// hangUp writes the answers that are due, within a second, and takes everything down.
func (r *running) hangUp() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = r.engine.Drain(doneContext(), 0) // waits for no stream
	if err := r.server.Shutdown(ctx); err != nil {
		r.logger.Warn("some connections were cut", "error", err)
	}
	_ = r.close(ctx)
}

// doneContext is for what is not to wait.
func doneContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

const (
	// streamPatience is how long after the drain the clients of ended streams have to hang up.
	streamPatience = 6 * time.Second
	// answerPatience is how long requests in flight have after that.
	answerPatience = 5 * time.Second
)

// drain ends the streams over the given time, answers what is in flight and closes the log.
func (r *running) drain(over time.Duration, signals <-chan os.Signal) error {
	done := make(chan error, 1)
	go func() {
		hangUps, cancel := context.WithTimeout(context.Background(), over+streamPatience)
		defer cancel()
		_ = r.engine.Drain(hangUps, over) // what is left is closed with the engine
		answers, cancel := context.WithTimeout(context.Background(), answerPatience)
		defer cancel()
		done <- r.server.Shutdown(answers)
	}()
	select {
	case err := <-done:
		ctx := context.Background()
		if errors.Is(err, context.DeadlineExceeded) {
			r.logger.Warn("some connections were still busy and were cut")
			ctx, err = doneContext(), nil
		}
		return errors.Join(err, r.close(ctx))
	case <-r.log.Failed():
		return r.logFailed()
	case <-signals:
		// At once: not even the log is closed, which would wait for the disk. What was acknowledged is on it.
		return errors.New("stopped at once by a second signal")
	}
}

// close takes down what was started, in reverse. With a ctx that is done requests may be in flight.
func (r *running) close(ctx context.Context) error {
	for _, ln := range []net.Listener{r.public, r.admin} {
		if ln != nil {
			ln.Close()
		}
	}
	if r.engine != nil {
		_ = r.engine.Close(ctx)
	}
	var errs []error
	if r.checkpoint != nil {
		errs = append(errs, r.checkpoint.Close())
	}
	if r.log != nil { // last: it holds the directory's lock
		errs = append(errs, r.log.Close())
	}
	return errors.Join(errs...)
}
