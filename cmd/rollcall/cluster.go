package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"rollcall/cluster"
)

// clusterFlags make a server a node of a cluster. Their names begin with --cluster-.
type clusterFlags struct {
	Node         string        `placeholder:"NAME" help:"Serve as a node of a cluster, under this name: letters, digits, - and _. No other node may have it, or have had it, with another data directory. Default: the server is alone."`
	Name         string        `default:"rollcall" placeholder:"NAME" help:"The cluster's name; nodes of another one are refused (${default})."`
	Listen       string        `default:"127.0.0.1:6222" placeholder:"HOST:PORT" help:"Where the other nodes connect. Keep it off the internet (${default})."`
	Peers        []string      `placeholder:"HOST:PORT" help:"The nodes to connect to. A name that is the only one stands for all of its addresses; this node may be among them. Without a port: that of --cluster-listen."`
	Bootstrap    int           `default:"0" placeholder:"N" help:"Make the cluster when N nodes have met that all have an empty data directory. When there is a cluster it is ignored, so it may stay. 0: the cluster is there (${default})."`
	Partitions   int           `default:"12" help:"In how many logs a new cluster keeps its users; each has one owner at a time. It is as it was made for ever, and a start with another number is refused (${default})."`
	Replicas     int           `default:"3" help:"On how many nodes a new cluster keeps each log: 1, 3 or 5. What is acknowledged survives the loss of less than half of them. A start with another number is refused (${default})."`
	KeyFile      string        `type:"path" placeholder:"FILE" help:"The nodes' shared secret: each shows it to the others. Several, separated by commas or lines: any is accepted, the first is shown. Required, or --cluster-tls-cert, unless all addresses are loopback."`
	TLSCert      string        `name:"tls-cert" type:"path" placeholder:"FILE" help:"Speak TLS with the other nodes, with the certificate chain in FILE, PEM: for the names or addresses in --cluster-peers, as server and as client. SIGHUP reads it again."`
	TLSKey       string        `name:"tls-key" type:"path" placeholder:"FILE" help:"The certificate's private key, PEM."`
	TLSCA        string        `name:"tls-ca" type:"path" placeholder:"FILE" help:"The authorities that may have signed the other nodes' certificates, PEM. Nodes without one are refused."`
	FastFailover bool          `help:"Take over the partitions of a node that is gone within a second, instead of when the logs notice it, in 3 to 8 seconds (off)."`
	MaxSkew      time.Duration `default:"1s" help:"How far the clocks of two nodes may be apart; devices whose partition has moved go offline later by it (${default})."`
}

// syncQuorum is the value of --sync that only a cluster has.
const syncQuorum = "quorum"

// validateCluster checks what only the flags know.
func (c serveCmd) validateCluster() error {
	f := c.Cluster
	if f.Node == "" {
		var errs []error
		for _, flag := range f.given() {
			errs = append(errs, fmt.Errorf("--cluster-%s is for a node of a cluster: give it a name "+
				"with --cluster-node", flag))
		}
		if c.Sync == syncQuorum {
			errs = append(errs, errors.New("--sync=quorum is for a node of a cluster "+
				"(--cluster-node): there is no other one that has a copy"))
		}
		return errors.Join(errs...)
	}
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.Sync != syncQuorum && c.Sync != "always",
		"--sync=%s is for a server that is alone: in a cluster it is always, or quorum, with which "+
			"a majority has acknowledged heartbeats in memory", c.Sync)
	refuse((f.TLSCert == "") != (f.TLSKey == "") || (f.TLSCert == "") != (f.TLSCA == ""),
		"--cluster-tls-cert, --cluster-tls-key and --cluster-tls-ca belong together: "+
			"give all or none")
	refuse(f.MaxSkew == 0, "--cluster-max-skew must be above 0")
	refuse(f.Partitions == 0, "--cluster-partitions must be above 0")
	refuse(f.Replicas == 0, "--cluster-replicas must be above 0")
	return errors.Join(errs...)
}

// given are the flags, without cluster-, that are not at their defaults.
func (f clusterFlags) given() (names []string) {
	of, values := reflect.TypeOf(f), reflect.ValueOf(f)
	for i := range of.NumField() {
		field := of.Field(i)
		value := fmt.Sprint(values.Field(i).Interface())
		if value == field.Tag.Get("default") || values.Field(i).IsZero() {
			continue
		}
		name := field.Tag.Get("name")
		if name == "" {
			name = strings.ToLower(upper.ReplaceAllString(field.Name, "$1-$2"))
		}
		names = append(names, name)
	}
	return names
}

// clusterOptions are those of a node of a cluster. An error is about the files of its certificate.
func (c serveCmd) clusterOptions(n *node, sec secrets) (o cluster.Options, err error) {
	f := c.Cluster
	o = cluster.Options{
		Node: f.Node, Name: f.Name, Dir: c.DataDir, Listen: f.Listen, Peers: f.Peers,
		Bootstrap: f.Bootstrap, Partitions: f.Partitions, Replicas: f.Replicas, Keys: sec.nodes,
		SyncQuorum: c.Sync == syncQuorum, FastFailover: f.FastFailover, MaxSkew: f.MaxSkew,
		Version: buildVersion(), Engine: c.engineOptions(n),
		ObserveAppend: n.histograms.observeCommit, Logger: n.logger,
	}
	o.Engine.CheckpointBytes = max(leastCheckpointBytes, c.CheckpointBytes/int64(f.Partitions))
	if f.TLSCert != "" {
		o.TLS, err = n.reloader.clusterTLS()
	}
	return o, err
}

// leastCheckpointBytes is how much the log of a partition grows at least before a checkpoint.
const leastCheckpointBytes = 1 << 20

// keys reads the nodes' shared secrets.
func (f clusterFlags) keys() ([]string, error) {
	keys, err := readSecrets("", f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("--cluster-key-file: %w", err)
	}
	return keys, nil
}

// certificate returns the certificate of the node, not read yet; nil without TLS.
func (f clusterFlags) certificate() *certificate {
	if f.TLSCert == "" {
		return nil
	}
	return &certificate{flags: "--cluster-tls", certFile: f.TLSCert, keyFile: f.TLSKey}
}

// authorities are those that sign the nodes' certificates.
func (f clusterFlags) authorities() (*x509.CertPool, error) {
	pem, err := os.ReadFile(f.TLSCA)
	if err != nil {
		return nil, fmt.Errorf("--cluster-tls-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--cluster-tls-ca: %s holds no certificate", f.TLSCA)
	}
	return pool, nil
}

// verify finds out whether nodes with the same authorities would accept a certificate of this one,
// as a server and as a client.
func (f clusterFlags) verify(pair *tls.Certificate) error {
	pool, err := f.authorities()
	if err != nil {
		return err
	}
	chain := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			chain.AddCert(cert)
		}
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, usage := range both {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{
			Roots: pool, Intermediates: chain, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return fmt.Errorf("--cluster-tls-cert: other nodes would refuse %s: %w; it must be by an "+
				"authority in --cluster-tls-ca, in date, and for servers and clients", f.TLSCert, err)
		}
	}
	return nil
}

// config is what nodes speak to each other: each shows a certificate, and demands one.
func (f clusterFlags) config(own *certificate) (*tls.Config, error) {
	authorities, err := f.authorities()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return own.current.Load(), nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return own.current.Load(), nil
		},
		RootCAs:    authorities,
		ClientCAs:  authorities,
		ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
}

// leastThreads is how many threads of a node of a cluster may run Go at a time, at least. A sync
// holds one until the disk is done, the logs of partitions sync independently of each other, and on
// a machine with two processors two syncs would hold up all else.
const leastThreads = 4

// threads is how many threads may run Go at a time where there are so many processors. GOMAXPROCS
// in the environment is the operator's word.
func (c serveCmd) threads(processors int) int {
	if c.Cluster.Node == "" || os.Getenv("GOMAXPROCS") != "" {
		return processors
	}
	return max(processors, leastThreads)
}
