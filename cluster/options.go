package cluster

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"rollcall/engine"
	"rollcall/internal/option"
)

const (
	// maxPartitions bounds Options.Partitions: each is a replicated log of its own.
	maxPartitions = 1024
	// maxNodes bounds Options.Bootstrap.
	maxNodes = 64
	// maxSkew bounds Options.MaxSkew: it is added to deadlines, so devices are late by it.
	maxSkew = time.Minute
)

// Options of a Node. Node, Dir, Listen and Peers are required.
type Options struct {
	// Node is the node's name, which no other node of the cluster has or has had: letters, digits,
	// - and _, 63 at most.
	Node string
	// Name is the cluster's name, of the same form. Nodes of another one are refused. Default:
	// rollcall.
	Name string
	// Dir is the node's data directory, for one process at a time. The logs are in Dir/js.
	Dir string
	// Listen is where the other nodes connect, HOST:PORT.
	Listen string
	// Peers are the nodes that this one connects to, HOST or HOST:PORT; the port is that of Listen
	// where none is given, and this node may be among them. A name that is the only one stands for
	// all of its addresses.
	Peers []string
	// Bootstrap makes a new cluster when so many nodes have met, all of them with an empty Dir.
	// Later it is ignored. Default: 0, the cluster is there.
	Bootstrap int
	// Partitions is how many logs a new cluster gets, 1,024 at most. It can never be changed.
	// Default: 12.
	Partitions int
	// Replicas is how many nodes have each log of a new cluster: 1, 3 or 5. Default: 3.
	Replicas int
	// Keys authenticate the nodes to each other: this one shows the first and accepts all, so that
	// one can be replaced node by node. Default: none, which Check refuses without TLS unless all
	// addresses are loopback.
	Keys []string
	// TLS is what nodes speak to each other, for both sides: certificates, and the authorities of
	// the others'. Default: nothing is encrypted.
	TLS *tls.Config
	// SyncQuorum acknowledges what a majority of the replicas have in memory. Default: what a
	// majority have on stable storage.
	SyncQuorum bool
	// FastFailover has a node campaign for the partitions of one that is gone. Default: the logs
	// notice by themselves, in some seconds.
	FastFailover bool
	// MaxSkew is how far the wall clocks of two nodes may be apart. A device may be taken offline
	// later by it after its partition has moved. Default: 1s.
	MaxSkew time.Duration
	// Version is the program's, which the others are told.
	Version string

	// Engine has what the engines of partitions and the streams of this node have in common. Its
	// MaxDevices bounds all engines together. Store, Events, Source and DeviceBudget are set by the
	// node.
	Engine engine.Options
	// ObserveAppend gets how many records each append to a log had, and how long it took. Any
	// goroutine calls it. Default: none.
	ObserveAppend func(records uint64, took time.Duration)
	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// Check reports every problem of the options at once, as New does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	option.Default(&o.Name, "rollcall")
	option.Default(&o.Partitions, 12)
	option.Default(&o.Replicas, 3)
	option.Default(&o.MaxSkew, time.Second)
	option.Default(&o.Logger, slog.Default())

	p := option.Problems{Package: "cluster"}
	const form = "letters, digits, - and _ are meant, 63 at most, a letter or digit first"
	p.When(!name.MatchString(o.Node), "Node is %q: %s", o.Node, form)
	p.When(!name.MatchString(o.Name), "Name is %q: %s", o.Name, form)
	p.When(o.Dir == "", "Dir is missing")
	_, port, err := net.SplitHostPort(o.Listen)
	p.When(err != nil || port == "", "Listen is %q: HOST:PORT is meant", o.Listen)
	for _, peer := range o.PeerAddrs() {
		host, port, err := net.SplitHostPort(peer)
		p.When(err != nil || host == "" || port == "" || port == "0" ||
			strings.ContainsAny(host, "/@ "), "Peers has %q: HOST or HOST:PORT is meant", peer)
	}
	p.When(o.Partitions < 1 || o.Partitions > maxPartitions, "Partitions is %d: 1 to %d are possible",
		o.Partitions, maxPartitions)
	p.When(o.Replicas != 1 && o.Replicas != 3 && o.Replicas != 5,
		"Replicas is %d: a majority of 1, 3 or 5 has to agree", o.Replicas)
	p.When(o.Bootstrap == 1, "Bootstrap is 1: a cluster has two nodes at least, and three to survive "+
		"the loss of one; a server that is alone is no node")
	p.When(o.Bootstrap < 0 || o.Bootstrap > maxNodes, "Bootstrap is %d: 2 to %d nodes are possible",
		o.Bootstrap, maxNodes)
	p.When(0 < o.Bootstrap && o.Bootstrap < o.Replicas,
		"Bootstrap is %d: there are to be %d replicas of each log, each on a node of its own",
		o.Bootstrap, o.Replicas)
	p.When(len(o.Peers) == 0, "Peers is missing: a node finds the others by it")
	p.When(o.MaxSkew < 0 || o.MaxSkew > maxSkew, "MaxSkew is %v: up to %v is possible", o.MaxSkew,
		maxSkew)
	p.When(len(o.Keys) == 0 && o.TLS == nil && !o.onLoopback(),
		"Keys is missing: any that reaches %s could write, and a peer could be any other process",
		o.Listen)
	p.Add(o.Engine.Check())
	return o, p.Err()
}

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// PeerAddrs are the peers with their ports.
func (o Options) PeerAddrs() []string {
	_, port, _ := net.SplitHostPort(o.Listen)
	addrs := make([]string, 0, len(o.Peers))
	for _, peer := range o.Peers {
		if _, _, err := net.SplitHostPort(peer); err != nil {
			peer = net.JoinHostPort(strings.Trim(peer, "[]"), port)
		}
		addrs = append(addrs, peer)
	}
	return addrs
}

// key is what this node shows; "": nothing.
func (o Options) key() string {
	if len(o.Keys) == 0 {
		return ""
	}
	return o.Keys[0]
}

// onLoopback reports whether no other machine has to do with the cluster. A name other than
// localhost may be that of one.
func (o Options) onLoopback() bool {
	for _, addr := range append(o.PeerAddrs(), o.Listen) {
		host, _, _ := net.SplitHostPort(addr)
		ip, err := netip.ParseAddr(host)
		if host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}
