package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"rollcall/cluster"
)

// peer is what one address of --cluster-peers turned out to be.
type peer struct {
	addr string
	host string // of the address, as it was given
	what string // the node, or why there is none
	err  error  // why a node here could not be one with it
}

// findPeers asks at each address who is there, all at once. A peer that is not in reach is no
// error: it may be about to be started.
func findPeers(o cluster.Options) (peers []peer) {
	ctx, cancel := context.WithTimeout(context.Background(), cluster.ProbeWait)
	defer cancel()
	for _, addr := range o.PeerAddrs() {
		addrs, err := resolve(ctx, addr)
		if err != nil {
			peers = append(peers, peer{addr: addr, what: err.Error()})
		}
		for _, a := range addrs {
			host, _, _ := net.SplitHostPort(addr)
			peers = append(peers, peer{addr: a, host: host})
		}
	}
	var all sync.WaitGroup
	for i := range peers {
		if p := &peers[i]; p.what == "" {
			all.Go(func() { p.probe(ctx, o.Name, o.TLS) })
		}
	}
	all.Wait()
	return peers
}

// resolve returns the addresses that a name stands for, with the port.
func resolve(ctx context.Context, addr string) (addrs []string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("not in reach: %w", err)
	}
	for _, host := range hosts {
		addrs = append(addrs, net.JoinHostPort(host, port))
	}
	return addrs, nil
}

// probe finds out which node listens there.
func (p *peer) probe(ctx context.Context, clusterName string, config *tls.Config) {
	found, err := cluster.Probe(ctx, p.addr, p.host, config)
	switch {
	case err != nil:
		p.what = "not in reach: " + err.Error()
	case found.Cluster != clusterName:
		p.what = fmt.Sprintf("node %s of cluster %s", found.Node, found.Cluster)
		p.err = fmt.Errorf("--cluster-peers: %s is %s, and this one would be of %s (--cluster-name)",
			p.addr, p.what, clusterName)
	default:
		p.what = "node " + found.Node
	}
}

// peerErrors are why nodes could not be one cluster.
func peerErrors(peers []peer) error {
	var errs []error
	for _, p := range peers {
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}
