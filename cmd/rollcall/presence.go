package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/engine"
	"rollcall/server"
)

// presence is the part of a node that knows of users: one engine on a log of its own, or a member
// of a cluster. The node calls Recover, Prepare and Start in this order, once, and Close at the
// end, whatever was called before; the rest may be called from any goroutine once it was opened.
type presence interface {
	server.Presence
	// OpenStreams is how many streams there are.
	OpenStreams() int
	// SetRestart says how long a restart takes, for what streams are told at a drain.
	SetRestart(d time.Duration)
	// Stats are the figures of all users here, and of all streams.
	Stats() engine.Stats
	// collectors have the figures of what is beneath: the log, the store, the other nodes.
	collectors() []prometheus.Collector
	// clusterz tells operators of the cluster; nil: there is none.
	clusterz() http.Handler

	// Recover looks at what the data directory holds, and writes nothing.
	Recover() error
	// Prepare is the last step for which a start may be refused.
	Prepare() error
	// Start begins to serve.
	Start() error
	// Failed is closed when nothing can be promised any more, and Failure says why; else it is nil.
	Failed() <-chan struct{}
	Failure() error
	// Drain ends the streams, over a time and within ctx.
	Drain(ctx context.Context, over time.Duration) error
	// Close ends every loop within ctx and closes what was opened. The error is the disk's.
	Close(ctx context.Context) error
}

// open makes the presence that the flags ask for.
func (c serveCmd) open(n *node, sec secrets) (presence, error) {
	if c.Cluster.Node != "" {
		return c.openClustered(n, sec)
	}
	s, err := c.openSingle(n)
	if err != nil {
		return nil, err // not a nil *single
	}
	return s, nil
}

// checkPresence returns every problem that open would have with its options, or with a directory of
// the other kind.
func (c serveCmd) checkPresence(n *node, sec secrets) error {
	if c.Cluster.Node == "" {
		return errors.Join(refuseCluster(c.DataDir), c.logOptions(n, nil).Check(),
			c.checkpointOptions(n, nil).Check(), c.engineOptions(n).Check())
	}
	kindErr := refuseSingle(c.DataDir)
	o, err := c.clusterOptions(n, sec)
	if err == nil {
		err = o.Check()
	}
	return errors.Join(kindErr, err)
}
