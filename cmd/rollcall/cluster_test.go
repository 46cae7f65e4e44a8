package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"rollcall/internal/testport"
	"rollcall/internal/testtree"
)

// parse reads a command line of serve.
func parse(t *testing.T, flags ...string) (serveCmd, error) {
	t.Helper()
	var c cli
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(append([]string{"serve"}, flags...))
	return c.Serve, err
}

// TestClusterFlags: what cannot be is refused, with the flag's name.
func TestClusterFlags(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a key that is long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := []string{"--cluster-node=a", "--cluster-peers=127.0.0.1:6223,127.0.0.1:6224"}
	for name, c := range map[string]struct {
		flags []string
		want  []string // none: it is taken
	}{
		"alone": {nil, nil},
		"a flag of a cluster, alone": {
			[]string{"--cluster-peers=b", "--cluster-fast-failover", "--cluster-max-skew=2s"},
			[]string{"--cluster-peers is", "--cluster-fast-failover is", "--cluster-max-skew is",
				"--cluster-node"},
		},
		"quorum, alone":     {[]string{"--sync=quorum"}, []string{"--sync=quorum", "--cluster-node"}},
		"on loopback":       {node, nil},
		"quorum":            {append(node, "--sync=quorum"), nil},
		"interval":          {append(node, "--sync=interval"), []string{"--sync=interval"}},
		"half of TLS":       {append(node, "--cluster-tls-cert=x"), []string{"--cluster-tls-ca"}},
		"no partitions":     {append(node, "--cluster-partitions=0"), []string{"--cluster-partitions"}},
		"even replicas":     {append(node, "--cluster-replicas=2"), []string{"--cluster-replicas"}},
		"few nodes":         {append(node, "--cluster-bootstrap=2"), []string{"--cluster-bootstrap"}},
		"a bad name":        {append(node, "--cluster-name=a b"), []string{"--cluster-name"}},
		"no peers":          {slices.Clip(node[:1]), []string{"--cluster-peers"}},
		"no key":            {append(node, "--cluster-listen=:6222"), []string{"--cluster-key-file"}},
		"a key":             {append(node, "--cluster-listen=:6222", "--cluster-key-file="+key), nil},
		"a key that is not": {append(node, "--cluster-key-file="+key+"s"), []string{"--cluster-key-file"}},
	} {
		t.Run(name, func(t *testing.T) {
			serve, err := parse(t, append(c.flags, "--data-dir="+t.TempDir())...)
			if err == nil {
				t.Setenv(ingestTokenEnv, "a-token-that-is-long-enough")
				err = serve.check(new(strings.Builder), nil)
			}
			if (err == nil) != (c.want == nil) {
				t.Fatalf("%v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, without %s", err, want)
				}
			}
		})
	}
}

// TestCheckFindsPeers: --check says which nodes are in reach, and refuses those of another cluster.
func TestCheckFindsPeers(t *testing.T) {
	t.Setenv(ingestTokenEnv, "a-token-that-is-long-enough")
	gone := testport.Address(t)
	n1 := hello(t, `INFO {"server_name":"n1","cluster":"presence"}`)
	other := hello(t, `INFO {"server_name":"x","cluster":"staging"}`)
	for name, c := range map[string]struct {
		peers, wrong string
		want         []string
	}{
		"in reach": {n1 + "," + gone, "",
			[]string{"node n1 " + n1, "not in reach: dial tcp " + gone}},
		"another cluster": {n1 + "," + other, "--cluster-name",
			[]string{"node x of cluster staging " + other}},
	} {
		t.Run(name, func(t *testing.T) {
			serve, err := parse(t, "--data-dir="+t.TempDir(), "--cluster-node=n2",
				"--cluster-name=presence", "--cluster-peers="+c.peers)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err = serve.check(&out, nil)
			if (err == nil) != (c.wrong == "") ||
				err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%v", err)
			}
			printed := strings.Join(strings.Fields(out.String()), " ")
			for _, want := range c.want {
				if !strings.Contains(printed, want) {
					t.Errorf("no %q in\n%s", want, &out)
				}
			}
		})
	}
}

// hello listens, says a line to all that come, and returns the address.
func hello(t *testing.T, line string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(line + "\r\n"))
			conn.Close()
		}
	}()
	return ln.Addr().String()
}

// TestKindOfDirectory: a server that is alone does not start on a node's directory, nor a node on
// that of such a server. Neither changes it.
func TestKindOfDirectory(t *testing.T) {
	sec := secrets{ingest: []string{"ingest"}, signing: []string{"signing"}}
	alone, node := t.TempDir(), t.TempDir()
	startInside(t, sec, "--data-dir="+alone).stop(t)
	if err := os.MkdirAll(filepath.Join(node, clusterDir, "streams"), 0o700); err != nil {
		t.Fatal(err)
	}
	for dir, c := range map[string]struct {
		flags []string
		want  string
	}{
		alone: {[]string{"--cluster-node=n1", "--cluster-bootstrap=1", "--cluster-replicas=1"},
			"rollcall cluster import"},
		node: {nil, "--cluster-node"},
	} {
		before := testtree.Of(t, dir)
		n, err := tryInside(t, sec, append(c.flags, "--data-dir="+dir)...)
		if err == nil {
			n.stop(t)
			t.Fatal("it started")
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, without %q", err, c.want)
		}
		if diff := before.Changes(testtree.Of(t, dir)); diff != "" {
			t.Errorf("the directory was changed:\n%s", diff)
		}
	}
}
