package main

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"rollcall/server"
)

// reloader replaces what can change while the server runs: the secrets that came from files and the
// certificate. The environment of a process cannot change, so secrets from there stay, and
// throw-away ones too.
type reloader struct {
	cmd         *serveCmd
	logger      *slog.Logger
	server      *server.Server
	secrets     secrets // in use; single owner: the goroutine that calls reload
	certificate *certificate
	shown       string              // the key that this node shows to the others
	nodes       *certificate        // of this node, for the others; nil: nodes do not speak TLS
	setKeys     func(keys []string) // of the nodes; nil: there are none
}

func newReloader(c serveCmd, logger *slog.Logger, sec secrets) *reloader {
	r := &reloader{cmd: &c, logger: logger, secrets: sec, certificate: c.certificate(),
		nodes: c.Cluster.certificate()}
	if len(sec.nodes) > 0 {
		r.shown = sec.nodes[0]
	}
	return r
}

// hangups returns SIGHUPs. Run calls it before the start, since a SIGHUP without a receiver ends
// the process.
func hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1) // one reload is enough for several signals
	signal.Notify(c, syscall.SIGHUP)
	return c
}

// reload takes up the files as they are now: all of them, or none when any cannot be used. Open
// connections and streams stay. One goroutine at a time.
func (r *reloader) reload() {
	next, pair, nodes, err := r.read()
	if err == nil {
		err = r.server.SetSecrets(next.ingest, next.signing, next.admin)
	}
	if err != nil {
		r.logger.Error("reload: nothing was changed, the server keeps its secrets and its "+
			"certificate", "error", err)
		return
	}
	if pair != nil {
		r.certificate.use(pair)
	}
	if nodes != nil {
		r.nodes.use(nodes)
		r.warnRefused(nodes)
	}
	if r.setKeys != nil {
		r.setKeys(next.nodes)
	}
	attrs := []any{
		"ingest_tokens", change(r.secrets.ingest, next.ingest),
		"signing_keys", change(r.secrets.signing, next.signing),
	}
	if r.cmd.AdminTokenFile != "" {
		attrs = append(attrs, "admin_tokens", change(r.secrets.admin, next.admin))
	}
	if r.cmd.Cluster.KeyFile != "" {
		attrs = append(attrs, "cluster_keys", change(r.secrets.nodes, next.nodes))
		if next.nodes[0] != r.shown {
			r.logger.Warn("the first key of --cluster-key-file is shown to the other nodes from the " +
				"next start on")
		}
	}
	if pair != nil {
		attrs = append(attrs, "certificate", describe(pair))
	}
	if nodes != nil {
		attrs = append(attrs, "cluster_certificate", describe(nodes))
	}
	r.secrets = next
	r.logger.Info("reloaded", attrs...)
	next.warnShort(r.logger)
}

// read reads every file anew.
func (r *reloader) read() (next secrets, pair, nodes *tls.Certificate, err error) {
	next = r.secrets
	if file := r.cmd.IngestTokenFile; file != "" {
		if next.ingest, err = readSecrets(ingestTokenEnv, file); err != nil {
			return next, nil, nil, err
		}
	}
	if file := r.cmd.SigningKeyFile; file != "" {
		if next.signing, err = readSecrets(signingKeyEnv, file); err != nil {
			return next, nil, nil, err
		}
	}
	if file := r.cmd.AdminTokenFile; file != "" {
		if next.admin, err = readSecrets("", file); err != nil {
			return next, nil, nil, err
		}
	}
	if r.cmd.Cluster.KeyFile != "" {
		if next.nodes, err = r.cmd.Cluster.keys(); err != nil {
			return next, nil, nil, err
		}
		if !slices.Contains(next.nodes, r.shown) {
			return next, nil, nil, errShownKey
		}
	}
	if r.certificate != nil {
		if pair, err = r.certificate.read(); err != nil {
			return next, nil, nil, err
		}
	}
	if r.nodes != nil {
		if nodes, err = r.nodes.read(); err != nil {
			return next, nil, nil, err
		}
	}
	if !r.cmd.Dev {
		err = next.check()
	}
	return next, pair, nodes, err
}

// errShownKey says that a file lacks the key that a node shows, which the others would refuse then.
var errShownKey = errors.New("--cluster-key-file: the key that this node shows to the others until " +
	"it is restarted is not in the file: keep it there, behind the new one, restart node by node, " +
	"then take it away")

// change counts what a reload did to a list of secrets. It shows none of them.
func change(old, next []string) slog.Value {
	count := func(in, notIn []string) (n int) {
		for _, s := range in {
			if !slices.Contains(notIn, s) {
				n++
			}
		}
		return n
	}
	return slog.GroupValue(slog.Int("now", len(next)),
		slog.Int("added", count(next, old)), slog.Int("removed", count(old, next)))
}
