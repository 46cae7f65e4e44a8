package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"rollcall/cluster"
	"rollcall/engine"
)

// setting is one flag as it took effect. Secrets are never flags, so all settings may be shown.
type setting struct{ group, flag, value, source string }

const fromDefault = "default"

// settingsOf returns the flags of the command that was given, in the order of --help.
func settingsOf(line *kong.Context) []setting {
	given := map[*kong.Flag]bool{}
	for _, p := range line.Path {
		if p.Flag != nil && !p.Resolved {
			given[p.Flag] = true
		}
	}
	var settings []setting
	for _, f := range line.Selected().Flags {
		if f.Name == "check" {
			continue
		}
		s := setting{flag: f.Name, value: fmt.Sprint(line.FlagValue(f)), source: fromDefault}
		if f.Group != nil {
			s.group = f.Group.Title
		}
		if given[f] {
			s.source = "command line"
		} else if env := setIn(f.Envs); env != "" {
			s.source = env
		}
		settings = append(settings, s)
	}
	return settings
}

// setIn returns the first of these variables that the environment has.
func setIn(names []string) string {
	for _, name := range names {
		if _, ok := os.LookupEnv(name); ok {
			return name
		}
	}
	return ""
}

// logSettings says at the start what differs from the defaults, and at debug level all, in one
// line.
func logSettings(logger *slog.Logger, settings []setting, sec secrets) {
	all := logger.Enabled(context.Background(), slog.LevelDebug)
	attrs := []any{"ingest_tokens", len(sec.ingest), "signing_keys", len(sec.signing)}
	if len(sec.admin) > 0 {
		attrs = append(attrs, "admin_tokens", len(sec.admin))
	}
	for _, s := range settings {
		if all || s.source != fromDefault {
			attrs = append(attrs, s.flag, s.value)
		}
	}
	logger.Info("configuration", attrs...)
}

// check prints the configuration and returns every reason why the server could not start with it.
// It is meant to run beside the server that will be replaced: so it does not look whether a port is
// taken or the data directory is locked.
func (c serveCmd) check(w io.Writer, settings []setting) error {
	sec, secretsErr := c.secrets()
	pair, tlsErr := "", error(nil)
	if cert := c.certificate(); cert != nil {
		read, err := cert.read()
		if tlsErr = err; err == nil {
			pair = describe(read)
		}
	}
	unopened := &node{logger: slog.New(slog.DiscardHandler), clock: engine.NewClock(),
		histograms: newHistograms(registry(), c.Cluster.Node != "")}
	unopened.reloader = newReloader(c, unopened.logger, sec)
	found, clusterErr := c.checkCluster(unopened, sec)
	if err := c.print(w, settings, sec, pair, found); err != nil {
		return err
	}
	return advise(errors.Join(
		secretsErr,
		tlsErr,
		c.checkAddresses(),
		checkDataDir(c.DataDir),
		c.checkOptions(unopened, sec),
		clusterErr,
	))
}

// foundCluster is what --check found of the cluster that a node would be of.
type foundCluster struct {
	options     cluster.Options
	certificate string // of the node; "": none
	peers       []cluster.Probed
}

// checkCluster finds out what a node would meet. What is wrong with its options checkOptions says.
func (c serveCmd) checkCluster(n *node, sec secrets) (found foundCluster, err error) {
	if c.Cluster.Node == "" {
		return found, nil
	}
	if found.options, err = c.clusterOptions(n, sec); err != nil {
		return found, nil
	}
	var certErr error
	if n.reloader.nodes != nil {
		pair := n.reloader.nodes.current.Load()
		found.certificate = describe(pair)
		certErr = c.Cluster.verify(pair)
	}
	found.peers = cluster.ProbePeers(context.Background(), found.options)
	return found, errors.Join(certErr, found.options.CheckStored(),
		peerErrors(found.peers, found.options))
}

// checkOptions returns every problem that opening a node would have with its options.
func (c serveCmd) checkOptions(n *node, sec secrets) error {
	return errors.Join(
		c.checkAdmin(),
		c.checkPresence(n, sec),
		c.serverOptions(n, sec).Check(),
	)
}

// print writes the settings by group, the number of the secrets, the names of the certificate and
// which nodes are in reach.
func (c serveCmd) print(
	w io.Writer, settings []setting, sec secrets, certificate string, found foundCluster,
) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(what, source string) { fmt.Fprintf(table, "  %s\t%s\n", what, source) }
	group := ""
	for _, s := range settings {
		if title := cmp.Or(s.group, "Other"); title != group {
			group = title
			fmt.Fprintln(table, group)
		}
		row("--"+s.flag+"="+s.value, s.source)
	}
	fmt.Fprintln(table, "Read")
	row(countedSecrets(sec.ingest, "ingest token"),
		secretSource(ingestTokenEnv, c.IngestTokenFile, c.Dev))
	row(countedSecrets(sec.signing, "signing key"),
		secretSource(signingKeyEnv, c.SigningKeyFile, c.Dev))
	if len(sec.admin) > 0 {
		row(countedSecrets(sec.admin, "admin token"), c.AdminTokenFile)
	}
	if len(sec.nodes) > 0 {
		row(countedSecrets(sec.nodes, "cluster key"), c.Cluster.KeyFile)
	}
	if certificate != "" {
		row("certificate "+certificate, c.TLSCert)
	}
	if found.certificate != "" {
		row("certificate of the node "+found.certificate, c.Cluster.TLSCert)
	}
	if len(found.peers) > 0 {
		fmt.Fprintln(table, "Peers")
	}
	for _, p := range found.peers {
		row(describePeer(p, found.options), p.Addr)
	}
	if what, origin := processMemory(c.Cluster.Node != "").describe(); what != "" {
		fmt.Fprintln(table, "Memory")
		row(what, origin)
	}
	return table.Flush()
}

// countedSecrets says how many secrets a list has, and how many are shorter than is recommended.
func countedSecrets(secrets []string, what string) string {
	text := counted(len(secrets), what)
	if n := countShort(secrets); n > 0 {
		text += fmt.Sprintf(", %d shorter than %d bytes", n, strongSecretBytes)
	}
	return text
}

func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// secretSource says where a list of secrets comes from.
func secretSource(env, file string, dev bool) string {
	switch {
	case file != "":
		return file
	case setIn([]string{env}) != "":
		return env
	case dev:
		return "made by --dev"
	}
	return "not set"
}

// checkAddresses reads the addresses as listening does, names and all.
func (c serveCmd) checkAddresses() error {
	var errs []error
	taken := map[string]string{} // the flag by what it resolves to
	resolve := func(flag, addr string) {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
			return
		}
		if other := taken[a.String()]; other != "" && a.Port != 0 {
			errs = append(errs, fmt.Errorf("--%s and --%s are both %s: each needs an address of its "+
				"own", other, flag, a))
		}
		taken[a.String()] = flag
	}
	if path, onSocket := strings.CutPrefix(c.Listen, unixPrefix); !onSocket {
		resolve("listen", c.Listen)
	} else if err := checkSocketPath(path); err != nil {
		errs = append(errs, fmt.Errorf("--listen: %w", err))
	}
	resolve("admin-listen", c.AdminListen)
	if c.Cluster.Node != "" {
		resolve("cluster-listen", c.Cluster.Listen)
	}
	return errors.Join(errs...)
}

// checkDataDir finds out whether files can be made in the directory; where it does not exist, in
// the nearest one above it.
func checkDataDir(dir string) error {
	at := dir
	info, err := os.Stat(at)
	for errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		info, err = os.Stat(at)
	}
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("--data-dir: %s is not a directory", at)
	}
	f, err := os.CreateTemp(at, ".rollcall-check-*")
	if err != nil {
		return fmt.Errorf("--data-dir: %w; the server's user needs to write there", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
