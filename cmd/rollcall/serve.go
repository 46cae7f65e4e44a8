package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"rollcall/checkpoint"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/rootfs"
	"rollcall/server"
	"rollcall/wal"
)

type serveCmd struct {
	Listen         string   `group:"Addresses" default:"127.0.0.1:8787" placeholder:"HOST:PORT|unix:PATH" help:"Where daemons and clients connect: an address, or a Unix socket for a proxy on this machine (${default})."`
	SocketMode     string   `group:"Addresses" default:"660" placeholder:"OCTAL" help:"Permissions of the Unix socket of --listen; a process that may write to it may connect (${default})."`
	AdminListen    string   `group:"Addresses" default:"127.0.0.1:8788" placeholder:"HOST:PORT" help:"Where operators connect: the page, health, metrics, profiles, debug. Keep it off the internet (${default})."`
	TrustedProxies []string `group:"Addresses" placeholder:"CIDR" help:"Addresses and networks of the proxies in front, unix for those over a Unix socket. From them the client's address is the rightmost of X-Forwarded-For, or Forwarded, that is not of the list; limits and log lines go by it. Default: none, and the address is the peer's."`
	ProxyProtocol  bool     `group:"Addresses" help:"Each connection of the proxies begins with a PROXY protocol header, version 1 or 2, as behind a TCP load balancer: of --trusted-proxies, or of every peer where none is given (off)."`
	CORSOrigin     []string `group:"Addresses" name:"cors-origin" default:"*" placeholder:"ORIGIN" help:"Web origins whose pages may read the answers of --listen, such as https://example.com. *: any (${default})."`

	AdminHosts  []string `group:"Addresses" placeholder:"NAME" help:"Names under which operators may ask, such as rollcall.internal, beside addresses and localhost. A request for another one is refused, except to the probes: a web site can point its own name here."`
	AdminOpen   bool     `group:"Addresses" help:"Let --admin-listen be an address that is not loopback though there is no --admin-token-file: all that reach it can read every user's presence, metrics and profiles (off)."`
	MetricsOpen bool     `group:"Addresses" help:"Answer /metrics without an admin token, for a scraper that has none (off)."`

	Loops          int `group:"Addresses" default:"0" help:"Event loops that serve plain heartbeats on open connections, each on a thread of its own. 0: one for each two processors, at least one. -1: none; each request has a goroutine."`
	MaxHeaderBytes int `group:"Addresses" default:"16384" help:"Most bytes of a request's line and headers together, cookies included; more are answered 431. Each busy connection has a read buffer of this size (${default})."`

	DataDir      string        `group:"Durability" default:"./data" type:"path" placeholder:"DIR" help:"Directory of the log and the checkpoint, for one process at a time (./data)."`
	Sync         string        `group:"Durability" default:"always" enum:"always,quorum,interval,never" help:"What a 204 promises. always: the heartbeat is on stable storage, in a cluster on that of most replicas. quorum, in a cluster only: most replicas have written it, and sync it soon; a kill of processes loses nothing, a power cut of most replicas at once what was acknowledged last. interval: it is written, and synced within --sync-interval; a kill of the process loses nothing, a power cut what was acknowledged within that time. never: it is written, and synced when the system does so (${default})."`
	SyncInterval time.Duration `group:"Durability" default:"100ms" help:"How often --sync=interval syncs (${default})."`
	SegmentBytes int64         `group:"Durability" default:"67108864" help:"Size of the largest log segment, in bytes. Segments begin small and double. A cluster has others (${default})."`

	CheckpointBytes    int64         `group:"Durability" default:"1073741824" help:"Take a checkpoint when the log has grown by this many bytes, in a cluster those of all partitions together; the log before it is removed. Less: faster restarts, more writing (${default})."`
	CheckpointInterval time.Duration `group:"Durability" default:"5m" help:"Take a checkpoint at least this often when anything changed (${default})."`
	ForgetAfter        time.Duration `group:"Durability" default:"720h" help:"A device that was offline for this long is forgotten, in memory and on disk (${default})."`

	SeqPolicy      string        `group:"Presence" default:"strict" enum:"strict,restart" help:"strict: seq must grow. restart: a lower one is accepted too when sent_at_ms is newer, for daemons that count from 1 after a restart (${default})."`
	RecoveryGrace  time.Duration `group:"Presence" default:"15s" help:"After a restart or a stall each device has this long, or its TTL if shorter, to send a heartbeat before it goes offline (${default})."`
	MaxDevices     int           `group:"Presence" default:"0" help:"Most devices to keep; a new one over it is refused with 503. 0: as many as fit into the memory limit of the process."`
	MaxUserDevices int           `group:"Presence" name:"max-devices-per-user" default:"10000" help:"Most devices of one user; a new one over it is refused with 429. What is on disk is served also where it is more. 0: no limit (${default})."`
	MaxTTL         time.Duration `group:"Presence" name:"max-ttl" default:"0" help:"Longest ttl_ms of a heartbeat; more is answered 400 Invalid ttl_ms. After a start, devices that had a longer one go offline by this one, too. 0: no limit, and the log warns of more than 24h."`
	MaxBatch       int           `group:"Presence" default:"10000" help:"Most heartbeats in one request of the batch route; the rest is answered 413 (${default})."`
	RatePerIP      float64       `group:"Presence" name:"rate-per-ip" default:"0" help:"Heartbeats per second that one address may send; more are answered 429. 0: no limit. Behind a proxy it needs --trusted-proxies."`

	UnpackRatePerIP int     `group:"Presence" name:"unpack-rate-per-ip" default:"268435456" help:"Bytes per second that the gzip and zstd bodies of one address may unpack to; past them they are answered 429. 0: no limit (${default})."`
	NewDevicesPerIP float64 `group:"Presence" name:"new-devices-per-ip" default:"0" help:"Devices that are not known yet, per second, that one address (an IPv6 /64 is one) may bring; more are answered 429, and known ones go on. 0: no limit. Behind a proxy it needs --trusted-proxies."`

	StreamKeepalive    time.Duration `group:"Streams" default:"15s" help:"Send a comment after this much silence, so that proxies keep the connection and dead peers are noticed. 0: never (${default})."`
	StreamWriteTimeout time.Duration `group:"Streams" default:"30s" help:"Close a stream that takes nothing for this long (${default})."`
	StreamTokenExpiry  string        `group:"Streams" default:"enforce" enum:"enforce,ignore" help:"enforce: a stream ends when its token expires. ignore: it goes on, as with the original service (${default})."`
	StreamBacklog      int           `group:"Streams" default:"65536" help:"Bytes kept for a slow stream; past them it gets only the newest state of each device (${default})."`
	StreamQueryToken   bool          `group:"Streams" help:"Also take a stream's token from the query, access_token=, for EventSource in browsers, which cannot set a header. Proxies log URLs: keep the tokens short-lived (off)."`
	StreamRefusal      string        `group:"Streams" default:"event" enum:"event,status" help:"What an EventSource is answered (Accept: text/event-stream) whose stream is refused for now: while draining, over a limit. event: 200 with the time to come back and the end, since it gives up for good on any other status. status: 503, as all others (${default})."`
	MaxStreams         int           `group:"Streams" default:"0" help:"Most streams at a time; one more is answered 503. Never more than nine tenths of the descriptor limit, which is what 0 stands for."`
	MaxStreamsPerUser  int           `group:"Streams" default:"1000" help:"Most streams that follow one user, and most streams of many users that one token's subject has; one more is answered 503. Far more than a person opens; it keeps one user's token from taking the streams of all others. 0: no limit (${default})."`
	MaxUsersPerStream  int           `group:"Streams" default:"1000" help:"Most users that one stream of many follows; a longer list is answered 413. 10000 at most (${default})."`
	MaxFollows         int           `group:"Streams" default:"16777216" help:"Most users that all streams of many follow together, each as often as it is followed: some 64 bytes of memory for each. A stream that would be over it is answered 503 (${default})."`
	MaxFollowsPerToken int           `group:"Streams" default:"100000" help:"The same for the streams of one token's subject, so that one token cannot take the follows of all others; a token for every user may take them. 0: no limit (${default})."`
	MaxConnsPerIP      int           `group:"Streams" name:"max-connections-per-ip" default:"0" help:"Most connections, streams included, from one address (an IPv6 /64 is one); one more is answered 503. 0: no limit. Behind a proxy it needs --trusted-proxies."`
	DrainTimeout       time.Duration `group:"Streams" default:"5s" help:"On SIGTERM, spread the end of the streams over this long. A second signal stops at once (${default})."`

	IngestTokenFile string `group:"Secrets" type:"path" placeholder:"FILE" help:"Read the heartbeat tokens from FILE instead of PRESENCE_DO_INGEST_TOKEN. Several, separated by commas or lines: any is accepted."`
	SigningKeyFile  string `group:"Secrets" type:"path" placeholder:"FILE" help:"Read the keys of stream tokens from FILE instead of PRESENCE_DO_TOKEN_SIGNING_KEY. Several: any verifies, the first signs."`
	AdminTokenFile  string `group:"Secrets" type:"path" placeholder:"FILE" help:"Read the tokens of operators from FILE. Every request to --admin-listen needs one, in Authorization: Bearer, but for /livez, /readyz and /healthz; the page asks for it. Several: any is accepted."`
	Environment     string `group:"Secrets" env:"ENVIRONMENT" placeholder:"NAME" help:"production, staging, development or test; another one is refused. production switches /debug/presence, /debug/users and /debug/token off (ENVIRONMENT)."`

	TLSCert string `group:"TLS" name:"tls-cert" type:"path" placeholder:"FILE" help:"Serve --listen over TLS (1.2 or later) with the certificate chain in FILE, PEM. SIGHUP reads it again."`
	TLSKey  string `group:"TLS" name:"tls-key" type:"path" placeholder:"FILE" help:"The certificate's private key, PEM."`

	Cluster clusterFlags `embed:"" prefix:"cluster-" group:"Cluster"`

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
With only one of them set, the other route answers 503. A secret of fewer than 16 bytes is refused
but with --dev, one of fewer than 32 warned about.

It is ready when http://ADMIN/readyz answers 200. Until then, and when it cannot take heartbeats,
that page says why.
SIGTERM and SIGINT drain: readyz turns 503, streams end with the time at which to reconnect,
heartbeats in flight are answered, exit 0.
An --admin-listen that is not loopback needs --admin-token-file, or --admin-open.
SIGHUP reads the secret files and the certificate again: all of them, or none when one cannot be
used. Open connections stay: a removed ingest token is refused from then on, an open stream lasts as
long as its token, whichever key signed it.
Exit is 1 when the server cannot start or when the log fails; the last line on standard error says
what to do.`
}

// Validate checks what only the flags know; the packages check their options. Kong calls it.
func (c serveCmd) Validate() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	// In an Options struct 0 is the default. On a command line it would be a surprise.
	notZero := func(flag string, zero bool) { refuse(zero, "--%s must be above 0", flag) }
	notZero("sync-interval", c.SyncInterval == 0)
	notZero("segment-bytes", c.SegmentBytes == 0)
	notZero("recovery-grace", c.RecoveryGrace == 0)
	notZero("stream-write-timeout", c.StreamWriteTimeout == 0)
	notZero("stream-backlog", c.StreamBacklog == 0)
	notZero("checkpoint-bytes", c.CheckpointBytes == 0)
	notZero("checkpoint-interval", c.CheckpointInterval == 0)
	notZero("forget-after", c.ForgetAfter == 0)
	notZero("max-batch", c.MaxBatch == 0)
	notZero("max-users-per-stream", c.MaxUsersPerStream == 0)
	notZero("max-follows", c.MaxFollows == 0)
	notZero("max-header-bytes", c.MaxHeaderBytes == 0)
	refuse(c.Loops < -1, "--loops cannot be below -1, which is none, not %d", c.Loops)
	refuse(c.MaxStreams < 0, "--max-streams cannot be negative, not %d", c.MaxStreams)
	refuse(c.DrainTimeout < 0, "--drain-timeout cannot be negative, not %v", c.DrainTimeout)
	refuse((c.TLSCert == "") != (c.TLSKey == ""),
		"--tls-cert and --tls-key belong together: give both or none")
	_, modeErr := socketMode(c.SocketMode)
	_, environmentErr := environment(c.Environment)
	return errors.Join(append(errs, modeErr, environmentErr, c.validateCluster())...)
}

// environments are the values of ENVIRONMENT, in any case. Another one is a slip, and a slip of
// "production" must not leave open what production closes.
var environments = []string{production, "staging", "development", "test"}

const production = "production"

// environment returns the value of ENVIRONMENT in the form of the list; "": not set.
func environment(text string) (string, error) {
	name := strings.ToLower(strings.TrimSpace(text))
	if name == "" || slices.Contains(environments, name) {
		return name, nil
	}
	return "", fmt.Errorf("ENVIRONMENT (--environment) must be %s or unset, not %q",
		strings.Join(environments, ", "), text)
}

// Run serves until a signal or a failure.
func (c serveCmd) Run(line *kong.Context) error {
	if err := needsServingSystem("serve"); err != nil {
		return err
	}
	if c.Check {
		return c.check(os.Stdout, settingsOf(line))
	}
	createForOwner()
	logger := c.logger(os.Stderr)
	secrets, err := c.secrets()
	logSettings(logger, settingsOf(line), secrets) // of those that were refused, too
	if err != nil {
		return err
	}
	secrets.warnShort(logger)
	hangups := hangups()
	var stops <-chan os.Signal
	// Before the recovery is done a signal ends the process, which has promised nothing. Then it
	// drains.
	n, err := c.start(logger, secrets, func() { stops = stopSignals() })
	if err != nil {
		return err
	}
	if c.Dev {
		public, admin := listenName(n.public), n.admin.Addr().String()
		err := printCurlLines(os.Stdout, c.scheme(), public, admin, secrets.ingest[0],
			secrets.signing[0])
		if err != nil {
			return err
		}
	}
	return c.untilDone(n, stops, hangups)
}

// untilDone serves until the first of: a signal (drain, nil), a failure, a listener's end. SIGHUP
// reloads meanwhile.
func (c serveCmd) untilDone(n *node, stops, hangups <-chan os.Signal) error {
	for {
		select {
		case <-hangups:
			n.reloader.reload()
		case s := <-stops:
			n.logger.Info("draining; a second signal stops at once", "signal", s.String(),
				"streams", n.presence.Stats().Streams.Streams)
			return c.drain(n)
		case <-n.presence.Failed():
			return hangUp(n, n.presence.Failure())
		case err := <-n.served:
			return hangUp(n, fmt.Errorf("a listener ended: %w", err))
		}
	}
}

// hangUp writes the answers that are due, within a second, takes everything down and returns why.
func hangUp(n *node, why error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = n.Close(ctx) // why came first
	return why
}

const (
	// streamWait is how long after the drain the clients of ended streams have to hang up.
	streamWait = 2 * time.Second
	// answerWait is how long requests in flight have after that.
	answerWait = 5 * time.Second
)

// drain ends the streams, answers what is in flight and closes the node.
func (c serveCmd) drain(n *node) error {
	streams, cancel := context.WithTimeout(context.Background(), c.DrainTimeout+streamWait)
	defer cancel()
	closed := make(chan error, 1)
	go func() {
		_ = n.presence.Drain(streams, c.DrainTimeout) // what is left ends with the node
		answers, cancel := context.WithTimeout(context.Background(), answerWait)
		defer cancel()
		closed <- n.Close(answers)
	}()
	select {
	case <-n.presence.Failed():
		failure := n.presence.Failure()
		cancel()
		<-closed
		return failure
	case err := <-closed:
		if failure := n.presence.Failure(); failure != nil { // while it was closed
			return failure
		}
		return err
	}
}

func (c serveCmd) production() bool {
	name, _ := environment(c.Environment) // Validate had the error
	return name == production
}

func (c serveCmd) scheme() string {
	if c.TLSCert != "" {
		return "https"
	}
	return "http"
}

// secrets are those of daemons, clients and operators, and of the nodes of a cluster.
type secrets struct{ ingest, signing, admin, nodes []string }

// check reports every secret that is too short.
func (s secrets) check() error {
	return errors.Join(refuseShort("ingest token", s.ingest), refuseShort("signing key", s.signing),
		refuseShort("admin token", s.admin), refuseShort("key of the nodes", s.nodes))
}

// warnShort says which lists have secrets that are shorter than is recommended.
func (s secrets) warnShort(logger *slog.Logger) {
	for what, list := range map[string][]string{
		"ingest_tokens": s.ingest, "signing_keys": s.signing, "admin_tokens": s.admin,
		"cluster_keys": s.nodes,
	} {
		if n := countShort(list); n > 0 {
			logger.Warn("secrets are shorter than is recommended", what, len(list), "short", n,
				"recommended_bytes", strongSecretBytes, "remedy", "openssl rand -hex 32")
		}
	}
}

func (c serveCmd) secrets() (s secrets, err error) {
	if s.ingest, err = readSecrets(ingestTokenEnv, c.IngestTokenFile); err != nil {
		return s, err
	}
	if s.signing, err = readSecrets(signingKeyEnv, c.SigningKeyFile); err != nil {
		return s, err
	}
	if c.AdminTokenFile != "" {
		if s.admin, err = readSecrets("", c.AdminTokenFile); err != nil {
			return s, err
		}
	}
	if c.Cluster.KeyFile != "" {
		if s.nodes, err = c.Cluster.keys(); err != nil {
			return s, err
		}
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
		return s, fmt.Errorf("no secrets: set %s for heartbeats and %s for streams "+
			"(or their --…-file flags), or try --dev",
			ingestTokenEnv, signingKeyEnv)
	}
	if c.Dev {
		return s, nil
	}
	return s, s.check()
}

func (c serveCmd) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic("bug: the enum of --log-level allows " + c.LogLevel)
	}
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: adviseLogged}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func (c serveCmd) logOptions(n *node, files *rootfs.FS) wal.Options {
	mode, err := wal.ParseSyncMode(c.Sync)
	if err != nil {
		panic("bug: the enum of --sync allows " + c.Sync)
	}
	return wal.Options{
		FS: files, Sync: mode, SyncInterval: c.SyncInterval, SegmentBytes: c.SegmentBytes,
		Logger: n.logger, ObserveCommit: n.histograms.observeCommit,
	}
}

func (c serveCmd) checkpointOptions(n *node, files *rootfs.FS) checkpoint.Options {
	return checkpoint.Options{
		FS: files, SpareBytes: 2*c.SegmentBytes + 64<<20, Logger: n.logger,
	}
}

func (c serveCmd) engineOptions(n *node) engine.Options {
	policy, err := engine.ParseSeqPolicy(c.SeqPolicy)
	if err != nil {
		panic("bug: the enum of --seq-policy allows " + c.SeqPolicy)
	}
	return engine.Options{
		SeqPolicy:     policy,
		RecoveryGrace: c.RecoveryGrace,
		MaxDevices:    n.memory.maxDevices(c.MaxDevices),
		MaxTTL:        c.MaxTTL,

		MaxDevicesPerUser: c.MaxUserDevices,

		CheckpointBytes: c.CheckpointBytes,
		CheckpointEvery: c.CheckpointInterval,
		ForgetAfter:     c.ForgetAfter,

		Clock:           n.clock,
		Logger:          n.logger,
		ObserveLateness: n.histograms.lateness.Observe,
		ObserveDelivery: n.histograms.delivery.Observe,
		Broadcast: broadcast.Options{
			Keepalive:    c.StreamKeepalive,
			WriteTimeout: c.StreamWriteTimeout,
			BacklogBytes: c.StreamBacklog,
			MaxStreams:   n.limits.streams,

			MaxStreamsPerUser:  c.MaxStreamsPerUser,
			MaxFollows:         c.MaxFollows,
			MaxFollowsPerOwner: c.MaxFollowsPerToken,
		},
	}
}

func (c serveCmd) serverOptions(n *node, sec secrets) server.Options {
	return server.Options{
		IngestTokens:      sec.ingest,
		SigningKeys:       sec.signing,
		AdminTokens:       sec.admin,
		AdminHosts:        c.AdminHosts,
		MetricsOpen:       c.MetricsOpen,
		MintOpen:          c.Dev,
		Production:        c.production(),
		RatePerIP:         c.RatePerIP,
		UnpackRatePerIP:   c.UnpackRatePerIP,
		NewDevicesPerIP:   c.NewDevicesPerIP,
		MaxTTL:            c.MaxTTL,
		MaxBatch:          c.MaxBatch,
		MaxUsersPerStream: c.MaxUsersPerStream,
		TokenExpiryIgnore: c.StreamTokenExpiry == "ignore",
		StreamQueryToken:  c.StreamQueryToken,
		CORSOrigins:       c.CORSOrigin,
		MaxHeaderBytes:    c.MaxHeaderBytes,
		TrustedProxies:    c.TrustedProxies,
		TLS:               n.tls,
		ProxyProtocol:     c.ProxyProtocol,
		MaxConns:          n.limits.conns,
		Loops:             c.Loops,
		MaxConnsPerIP:     c.MaxConnsPerIP,
		Clock:             n.clock,
		Registry:          n.metrics,
		Logger:            n.logger,

		StreamRefusalStatus: c.StreamRefusal == "status",
	}
}
