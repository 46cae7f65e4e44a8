package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/engine"
	"rollcall/server"
)

// node is a running server: the parts that serveCmd configures, in the order in which they are
// opened. Close takes them down in reverse, whatever was opened.
type node struct {
	logger     *slog.Logger
	clock      engine.Clock // one for the process
	limits     limits
	memory     memory
	metrics    *prometheus.Registry
	histograms *histograms

	presence presence
	server   *server.Server
	reloader *reloader
	tls      *tls.Config // of the public listener; nil: without TLS
	admin    net.Listener
	public   net.Listener
	served   chan error // one for each listener, when it ends
	giveBack func()     // ends it; nil: it has not begun
}

// start opens a node, recovers what the data directory holds and serves. The admin listener comes
// first, so that /readyz can report the recovery, and the public one behind the recovery, so that
// no connection waits long for an answer that cannot be given yet. Only then, when nothing is left
// for which a start is refused, is the first byte written. recovered is called before that.
func (c serveCmd) start(logger *slog.Logger, sec secrets, recovered func()) (*node, error) {
	n := &node{logger: logger, clock: engine.NewClock(), served: make(chan error, 2)}
	if err := n.start(c, sec, recovered); err != nil {
		// an operator's request may be in flight
		return nil, advise(errors.Join(err, n.Close(doneContext())))
	}
	return n, nil
}

func (n *node) start(c serveCmd, sec secrets, recovered func()) error {
	n.limits = c.limits()
	n.limits.log(n.logger, c.MaxStreams, acceptQueue())
	n.memory = processMemory(c.Cluster.Node != "")
	n.memory.apply()
	n.memory.log(n.logger, c.MaxDevices)
	n.metrics = registry()
	n.histograms = newHistograms(n.metrics, c.Cluster.Node != "")
	n.reloader = newReloader(c, n.logger, sec)
	if err := c.checkOptions(n, sec); err != nil {
		return err
	}
	if c.adminIsOpen() {
		n.logger.Warn("the admin listener is open to all that reach it: --admin-open is set, and no "+
			"--admin-token-file", "admin", c.AdminListen)
	}
	config, err := n.reloader.tlsConfig()
	if err != nil {
		return err
	}
	n.tls = config
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		n.logger.Warn("--proxy-protocol without --trusted-proxies believes every peer: " +
			"any that can connect may name any client")
	}
	if err := n.open(c, sec); err != nil {
		return err
	}
	warnReadable(n.logger, c.DataDir)
	began := time.Now()
	if err := n.presence.Recover(); err != nil {
		return err
	}
	if err := n.listen(c); err != nil {
		return err
	}
	if err := n.presence.Prepare(); err != nil {
		return err
	}
	recovered()
	if err := n.presence.Start(); err != nil {
		return err
	}
	// A loop holds a thread, and one of GOMAXPROCS, while it waits for the kernel. Only now: what
	// was made before is as large as the processors ask for.
	runtime.GOMAXPROCS(c.threads(runtime.GOMAXPROCS(0)) + n.server.Loops())
	go func() { n.served <- n.server.Serve(n.public) }()
	n.giveBack = startGiveBack()
	n.presence.SetRestart(restartTime(time.Since(processBegan)))
	n.logger.Info("serving", "version", buildVersion(), "listen", listenName(n.public),
		"admin", n.admin.Addr().String(), "data", c.DataDir, "sync", c.Sync,
		"max_connections", n.limits.conns, "max_streams", n.limits.streams,
		"devices", n.presence.Stats().Devices, "recovery", time.Since(began).Round(time.Millisecond))
	return nil
}

// open opens everything but the public listener.
func (n *node) open(c serveCmd, sec secrets) (err error) {
	if n.presence, err = c.open(n, sec); err != nil {
		return err
	}
	o := c.serverOptions(n, sec)
	o.OpenStreams, o.Cluster = n.presence.OpenStreams, n.presence.clusterz()
	if n.server, err = server.New(n.presence, o); err != nil {
		return err
	}
	n.reloader.server = n.server
	n.metrics.MustRegister(append(n.presence.collectors(), figures{n.presence, n.server})...)
	if err := n.listenAdmin(c); err != nil {
		return err
	}
	go func() { n.served <- n.server.ServeAdmin(n.admin) }()
	return nil
}

// listenAdmin opens the operators' listener, if it is not open.
func (n *node) listenAdmin(c serveCmd) (err error) {
	if n.admin != nil {
		return nil
	}
	if n.admin, err = net.Listen("tcp", c.AdminListen); err != nil {
		return fmt.Errorf("--admin-listen: %w", err)
	}
	return nil
}

// listen opens the public listener. Connections wait in it.
func (n *node) listen(c serveCmd) (err error) {
	if n.public, err = listenPublic(c.Listen, c.SocketMode); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	return nil
}

// Close ends every stream, answers the requests that are in flight until ctx ends, and takes down
// whatever was opened, in reverse. From its beginning on no device goes offline: the node would not
// hear its heartbeats. Where there is time, the streams are drained before. The error is the
// disk's.
func (n *node) Close(ctx context.Context) error {
	if n.giveBack != nil {
		n.giveBack()
	}
	if n.presence != nil {
		_ = n.presence.Drain(doneContext(), 0) // waits for no stream
	}
	busy := context.Background()
	if n.server != nil {
		if err := n.server.Close(ctx); err != nil {
			n.logger.Warn("some connections were still busy and were cut", "error", err)
			busy = doneContext()
		}
	}
	for _, ln := range []net.Listener{n.public, n.admin} {
		if ln != nil {
			ln.Close()
		}
	}
	if n.presence == nil {
		return nil
	}
	return n.presence.Close(busy)
}

// doneContext is for what is not to wait.
func doneContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
