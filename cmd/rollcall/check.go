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
	var peers []peer
	if c.Cluster.Node != "" {
		o, err := c.clusterOptions(unopened, sec)
		if err == nil { // else checkOptions has the error
			peers = findPeers(o)
		}
	}
	if err := c.print(w, settings, sec, pair, peers); err != nil {
		return err
	}
	return advise(errors.Join(
		secretsErr,
		tlsErr,
		checkAddresses(c.Listen, c.AdminListen),
		checkDataDir(c.DataDir),
		c.checkOptions(unopened, sec),
		peerErrors(peers),
	))
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
	w io.Writer, settings []setting, sec secrets, certificate string, peers []peer,
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
	if len(peers) > 0 {
		fmt.Fprintln(table, "Peers")
	}
	for _, p := range peers {
		row(p.what, p.addr)
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
func checkAddresses(public, admin string) error {
	path, onSocket := strings.CutPrefix(public, unixPrefix)
	var a *net.TCPAddr
	var err error
	if onSocket {
		err = checkSocketPath(path)
	} else {
		a, err = net.ResolveTCPAddr("tcp", public)
	}
	if err != nil {
		err = fmt.Errorf("--listen: %w", err)
	}
	b, adminErr := net.ResolveTCPAddr("tcp", admin)
	if adminErr != nil {
		adminErr = fmt.Errorf("--admin-listen: %w", adminErr)
	}
	if err := errors.Join(err, adminErr); err != nil {
		return err
	}
	if !onSocket && a.Port != 0 && a.Port == b.Port && a.IP.Equal(b.IP) {
		return fmt.Errorf("--listen and --admin-listen are both %s: "+
			"the operators' routes need an address of their own", a)
	}
	return nil
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
