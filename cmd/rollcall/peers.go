package main

import (
	"errors"
	"fmt"
	"net"

	"rollcall/cluster"
)

// describePeer is what was found at a peer's address, as --check shows it.
func describePeer(p cluster.Probed, o cluster.Options) string {
	switch {
	case p.Node == "" && p.Refuses():
		return "no node: " + p.Err.Error()
	case p.Node == "":
		return "not in reach: " + p.Err.Error()
	case p.Cluster != o.Name:
		return fmt.Sprintf("node %s of cluster %s", p.Node, p.Cluster)
	case p.Err != nil:
		return "node " + p.Node + ", which refuses the key"
	}
	return "node " + p.Node
}

// peerErrors are why this node could not be one with its peers. One that is not in reach is no
// error: it may be about to be started.
func peerErrors(peers []cluster.Probed, o cluster.Options) error {
	var errs []error
	add := func(p cluster.Probed, err error) {
		errs = append(errs, fmt.Errorf("--cluster-peers: %s: %w", p.Addr, err))
	}
	for _, p := range peers {
		switch {
		case p.Node != "" && p.Cluster != o.Name:
			add(p, fmt.Errorf("node %s is of cluster %s, and this one would be of %s "+
				"(--cluster-name)", p.Node, p.Cluster, o.Name))
		case p.Node == o.Node && !isOwn(p.Addr, o.Listen):
			add(p, fmt.Errorf("the node there is called %s, too: give each node a name of its own "+
				"(--cluster-node)", p.Node))
		case p.Refuses():
			add(p, p.Err)
		}
	}
	return errors.Join(errs...)
}

// isOwn reports whether an address of a peer is where this node listens: it may be among its peers,
// and --check may run beside it.
func isOwn(addr, listen string) bool {
	host, port, _ := net.SplitHostPort(addr)
	if _, own, _ := net.SplitHostPort(listen); port != own {
		return false
	}
	ip := net.ParseIP(host)
	locals, err := net.InterfaceAddrs()
	if ip.IsLoopback() || err != nil {
		return true
	}
	for _, local := range locals {
		if n, ok := local.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}
