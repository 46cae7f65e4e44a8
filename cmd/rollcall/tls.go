package main

import (
	"crypto/tls"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// certificate is what the public listener shows to TLS clients, or a node to the others. Handshakes
// read it, a reload replaces it: connections that are open keep the one that they began with.
type certificate struct {
	flags             string // how the flags of its files begin
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate] // never nil after the first use
}

// certificate returns the certificate of the flags, not read yet; nil without TLS.
func (c *serveCmd) certificate() *certificate {
	if c.TLSCert == "" {
		return nil
	}
	return &certificate{flags: "--tls", certFile: c.TLSCert, keyFile: c.TLSKey}
}

// read returns what the files hold now. It changes nothing.
func (c *certificate) read() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("%[1]s-cert, %[1]s-key: %[2]w", c.flags, err)
	}
	if pair.Leaf == nil {
		return nil, fmt.Errorf("%s-cert: the first certificate cannot be read", c.flags)
	}
	return &pair, nil
}

// use makes a certificate that was read the one of the handshakes from now on.
func (c *certificate) use(pair *tls.Certificate) { c.current.Store(pair) }

// config speaks HTTP/1.1 only, which is what the public listener speaks, over TLS 1.2 or 1.3.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

// describe returns the names of a certificate and its end.
func describe(pair *tls.Certificate) string {
	leaf := pair.Leaf
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = []string{leaf.Subject.String()}
	}
	text := fmt.Sprintf("for %s until %s", strings.Join(names, ", "),
		leaf.NotAfter.UTC().Format(time.DateOnly))
	if time.Now().After(leaf.NotAfter) {
		text += ", EXPIRED"
	}
	return text
}

// tlsConfig reads the certificate for the first time; nil without TLS.
func (r *reloader) tlsConfig() (*tls.Config, error) {
	if r.certificate == nil {
		return nil, nil
	}
	pair, err := r.certificate.read()
	if err != nil {
		return nil, err
	}
	r.certificate.use(pair)
	r.logger.Info("serving over TLS", "certificate", describe(pair))
	return r.certificate.config(), nil
}

// clusterTLS is tlsConfig for what nodes speak to each other. They have a certificate.
func (r *reloader) clusterTLS() (*tls.Config, error) {
	pair, err := r.nodes.read()
	if err != nil {
		return nil, err
	}
	r.nodes.use(pair)
	return r.cmd.Cluster.config(r.nodes)
}

// logClusterTLS says which certificate the node shows to the others.
func (r *reloader) logClusterTLS() {
	if r.nodes != nil {
		pair := r.nodes.current.Load()
		r.logger.Info("nodes speak TLS", "certificate", describe(pair))
		r.warnRefused(pair)
	}
}

// warnRefused says when other nodes would not accept a certificate of this one. It may be renewed
// while the node runs.
func (r *reloader) warnRefused(pair *tls.Certificate) {
	if err := r.cmd.Cluster.verify(pair); err != nil {
		r.logger.Error("the node's certificate is of no use", "error", err)
	}
}
