package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"rollcall/cluster"
	"rollcall/internal/dirlock"
	"rollcall/internal/rootfs"
	"rollcall/wal"
)

// clustered is the presence of a node of a cluster.
type clustered struct {
	*cluster.Node
	files *rootfs.FS // of the data directory
	lock  *dirlock.Lock
}

// openClustered locks the data directory and starts a node. It begins to own partitions, and serves
// the other nodes, before any client can reach it.
func (c serveCmd) openClustered(n *node, sec secrets) (_ presence, err error) {
	o, err := c.clusterOptions(n, sec)
	if err != nil {
		return nil, err
	}
	n.reloader.logClusterTLS()
	p := &clustered{files: rootfs.New(c.DataDir)}
	if p.lock, err = dirlock.Take(p.files, c.DataDir, wal.LockName); err != nil {
		var held *dirlock.HeldError
		if errors.As(err, &held) {
			err = fmt.Errorf("%w: %w", wal.ErrLocked, err)
		}
		return nil, errors.Join(adviseOnDirectory(err), p.files.Close())
	}
	if p.Node, err = cluster.New(o); err != nil {
		return nil, errors.Join(err, p.lock.Abandon(), p.files.Close())
	}
	if err := p.start(c, n); err != nil {
		return nil, errors.Join(adviseOnDirectory(advise(err)), p.Close(context.Background()))
	}
	n.reloader.setKeys = p.Node.SetKeys
	return p, nil
}

// start starts the node. It returns when the logs are open, and probes are answered meanwhile.
func (p *clustered) start(c serveCmd, n *node) error {
	if err := n.listenAdmin(c); err != nil {
		return err
	}
	defer answerProbes(n.admin.(*net.TCPListener), p.Node.Ready)()
	return p.Node.Start(context.Background())
}

// Recover implements presence: openClustered has done it.
func (*clustered) Recover() error { return nil }

// Prepare implements presence.
func (*clustered) Prepare() error { return nil }

// Start implements presence.
func (*clustered) Start() error { return nil }

// Failure implements presence.
func (p *clustered) Failure() error { return advise(p.Node.Err()) }

func (p *clustered) collectors() []prometheus.Collector { return p.Node.Collectors() }

// clusterz implements presence.
func (p *clustered) clusterz() http.Handler { return p.Node }

// Close implements presence.
func (p *clustered) Close(ctx context.Context) error {
	return errors.Join(p.Node.Close(ctx), p.lock.Close(), p.files.Close())
}
