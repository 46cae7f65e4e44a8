package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"rollcall/cluster/embed"
)

// ErrKey says that one of two nodes does not accept the key that the other one shows.
var ErrKey = embed.ErrKey

// ErrTLS says that two nodes did not agree on TLS: one speaks it and the other does not, or one
// does not accept the certificate of the other.
var ErrTLS = embed.ErrTLS

// ErrNoNode says that something else listens where a node should.
var ErrNoNode = errors.New("cluster: what listens there is no node")

// Probed is what was found at one address of a peer.
type Probed struct {
	Addr    string // HOST:PORT, the host an address where the name could be resolved
	Node    string // "": no node answers there
	Cluster string // that the node is of
	Err     error  // why this one cannot talk to it: ErrKey, ErrTLS, ErrNoNode, or no reach
}

// Refuses reports whether the peer is there, and would not have this node.
func (p Probed) Refuses() bool {
	return errors.Is(p.Err, ErrKey) || errors.Is(p.Err, ErrTLS) || errors.Is(p.Err, ErrNoNode)
}

// ProbePeers asks at each address of the peers which node listens there, and whether it would let
// this one in, without becoming one of its peers. It takes ProbeWait at most. Any process may call
// it: beside a running node, too.
func ProbePeers(ctx context.Context, o Options) (found []Probed) {
	ctx, cancel := context.WithTimeout(ctx, ProbeWait)
	defer cancel()
	var names []string // of the certificates
	for _, peer := range o.PeerAddrs() {
		addrs, err := resolve(ctx, peer)
		if err != nil {
			found, names = append(found, Probed{Addr: peer, Err: err}), append(names, "")
		}
		for _, addr := range addrs {
			host, _, _ := net.SplitHostPort(peer)
			found, names = append(found, Probed{Addr: addr}), append(names, host)
		}
	}
	var all sync.WaitGroup
	for i := range found {
		if p := &found[i]; p.Err == nil {
			all.Go(func() { p.Err = p.probe(ctx, names[i], &o) })
		}
	}
	all.Wait()
	return found
}

// resolve returns the addresses that a name stands for, with the port.
func resolve(ctx context.Context, addr string) (addrs []string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, host := range hosts {
		addrs = append(addrs, net.JoinHostPort(host, port))
	}
	return addrs, nil
}

const (
	// ProbeWait is how long a node may take to answer a probe.
	ProbeWait = 2 * time.Second
	// maxHello bounds a line that a node says, in bytes.
	maxHello = 64 << 10
)

// probe says what a node says first, and reads whether that is taken. Where it is, the other one
// waits for what a probe does not say.
func (p *Probed) probe(ctx context.Context, name string, o *Options) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if o.TLS != nil {
		config := o.TLS.Clone()
		config.ServerName = name
		conn = tls.Client(conn, config)
	}
	if err := p.sayHello(conn, o); err != nil {
		return fmt.Errorf("%w: %w", ErrTLS, err) // nothing was refused yet but by TLS
	}
	in := bufio.NewReaderSize(conn, maxHello)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("%w: it says nothing that a node would: %w", ErrTLS, err)
	}
	var told struct {
		Node    string `json:"server_name"`
		Cluster string `json:"cluster"`
		Key     bool   `json:"auth_required"`
	}
	text, ok := bytes.CutPrefix(line, []byte("INFO "))
	if !ok || json.Unmarshal(text, &told) != nil || told.Node == "" {
		return ErrNoNode
	}
	p.Node, p.Cluster = told.Node, told.Cluster
	return p.admitted(in, told.Key)
}

// sayHello shows the key, and asks for a sign that it was taken.
func (*Probed) sayHello(conn net.Conn, o *Options) error {
	hello, err := json.Marshal(map[string]any{
		"user": embed.User, "pass": o.key(), "name": "probe", "cluster": o.Name,
		"tls_required": o.TLS != nil,
	})
	if err != nil {
		panic("bug: a hello is not JSON: " + err.Error())
	}
	_, err = fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", hello)
	return err
}

// admitted reads whether the hello was taken. Of a node of another cluster that is of no interest.
// One that refuses may be gone before its reason is read.
func (*Probed) admitted(in *bufio.Reader, key bool) error {
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case bytes.HasPrefix(line, []byte("PONG")), bytes.Contains(line, []byte("cluster name")):
			return nil
		case bytes.Contains(line, []byte("Authorization Violation")), err != nil && key:
			return ErrKey
		case err != nil:
			return nil
		}
	}
}

const (
	// refusalsFirst is after how long a node that is not in its cluster asks why.
	refusalsFirst = 2 * time.Second
	// refusalsEvery is how often it asks then.
	refusalsEvery = 10 * time.Second
)

// watchRefusals says in the log which peers do not let this node in, as long as it is not ready.
// With TLS 1.3 a server that refuses a certificate says so when its client has done its part of the
// handshake, so that the connection is simply gone, and no line of the server here tells of it.
func (n *Node) watchRefusals() {
	for wait := refusalsFirst; ; wait = refusalsEvery {
		select {
		case <-n.stop:
			return
		case <-time.After(wait):
		}
		if n.phase.Load() == draining || n.Ready() == nil {
			continue
		}
		for _, p := range ProbePeers(context.Background(), n.o) {
			switch {
			case p.Refuses():
				n.o.Logger.Error("a peer does not let this node in", "peer", p.Addr, "error", p.Err)
			case p.Node != "" && p.Cluster != n.o.Name:
				n.o.Logger.Error("a peer is of another cluster", "peer", p.Addr, "node", p.Node,
					"cluster", p.Cluster)
			}
		}
	}
}
