package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
	made := t.TempDir()
	marker := `{"format":1,"node":"a","id":"x","cluster":{"rollcall_partitions":"12",` +
		`"rollcall_replicas":"3","rollcall_secret":"00"}}`
	if err := os.WriteFile(filepath.Join(made, "cluster.json"), []byte(marker), 0o600); err != nil {
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
		"quorum, alone": {[]string{"--sync=quorum"}, []string{"--sync=quorum", "--cluster-node"}},
		"on loopback":   {node, nil},
		"quorum":        {append(node, "--sync=quorum"), nil},
		"interval":      {append(node, "--sync=interval"), []string{"--sync=interval"}},
		"half of TLS":   {append(node, "--cluster-tls-cert=x"), []string{"--cluster-tls-ca"}},
		"no partitions": {append(node, "--cluster-partitions=0"), []string{"--cluster-partitions"}},
		"even replicas": {append(node, "--cluster-replicas=2"), []string{"--cluster-replicas"}},
		"few nodes":     {append(node, "--cluster-bootstrap=2"), []string{"--cluster-bootstrap"}},
		"a bad name":    {append(node, "--cluster-name=a b"), []string{"--cluster-name"}},
		"one node":      {append(node, "--cluster-bootstrap=1"), []string{"--cluster-bootstrap"}},
		"the same port": {append(node, "--cluster-listen=127.0.0.1:8788"),
			[]string{"--admin-listen and --cluster-listen"}},
		"other partitions": {append(node, "--cluster-partitions=6", "--data-dir="+made),
			[]string{"--cluster-partitions", "made with 12"}},
		"another node's directory": {[]string{"--cluster-node=b", node[1], "--data-dir=" + made},
			[]string{"--cluster-node", `that of "a"`}},
		"no peers":          {slices.Clip(node[:1]), []string{"--cluster-peers"}},
		"no key":            {append(node, "--cluster-listen=:6222"), []string{"--cluster-key-file"}},
		"a key":             {append(node, "--cluster-listen=:6222", "--cluster-key-file="+key), nil},
		"a key that is not": {append(node, "--cluster-key-file="+key+"s"), []string{"--cluster-key-file"}},
	} {
		t.Run(name, func(t *testing.T) {
			serve, err := parse(t, append([]string{"--data-dir=" + t.TempDir()}, c.flags...)...)
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
	twin := hello(t, `INFO {"server_name":"n2","cluster":"presence"}`)
	keyed := hello(t, `INFO {"server_name":"n3","cluster":"presence","auth_required":true}`+
		"\r\n-ERR 'Authorization Violation'")
	for name, c := range map[string]struct {
		peers, wrong string
		want         []string
	}{
		"in reach": {n1 + "," + gone, "",
			[]string{"node n1 " + n1, "not in reach: dial tcp " + gone}},
		"the same name": {n1 + "," + twin, "--cluster-node", []string{"node n2 " + twin}},
		"another key":   {keyed, "--cluster-key-file", []string{"which refuses the key " + keyed}},
		"no node":       {hello(t, "HTTP/1.1 400 Bad Request"), "--cluster-listen", []string{"no node: "}},
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
			in := bufio.NewReader(conn) // what is left unread at the end resets the connection
			_, _ = in.ReadString('\n')
			_, _ = in.ReadString('\n')
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

// TestCheckJudgesTheNodesCertificate as the other nodes would.
func TestCheckJudgesTheNodesCertificate(t *testing.T) {
	t.Setenv(ingestTokenEnv, "a-token-that-is-long-enough")
	dir := t.TempDir()
	ours, other := filepath.Join(dir, "ours"), filepath.Join(dir, "other")
	selfSigned(t, ours, time.Hour)
	selfSigned(t, other, time.Hour)
	ended := filepath.Join(dir, "ended")
	selfSigned(t, ended, -time.Hour)
	for name, c := range map[string]struct {
		files, ca, want string
	}{
		"ours":              {ours, ours, ""},
		"another authority": {ours, other, "unknown authority"},
		"ended":             {ended, ended, "has expired"},
	} {
		t.Run(name, func(t *testing.T) {
			serve, err := parse(t, "--data-dir="+t.TempDir(), "--cluster-node=n1",
				"--cluster-peers=127.0.0.1:1", "--cluster-tls-cert="+c.files+".cert",
				"--cluster-tls-key="+c.files+".key", "--cluster-tls-ca="+c.ca+".cert")
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err = serve.check(&out, nil)
			if (err == nil) != (c.want == "") {
				t.Errorf("%v", err)
			}
			for _, says := range []string{c.want, "--cluster-tls-cert"} {
				if err != nil && !strings.Contains(err.Error(), says) {
					t.Errorf("%v, without %q", err, says)
				}
			}
			if !strings.Contains(out.String(), "certificate of the node for 127.0.0.1") {
				t.Errorf("no certificate in\n%s", &out)
			}
		})
	}
}

// selfSigned writes PATH.cert and PATH.key of a certificate for 127.0.0.1 that ends after so long.
func selfSigned(t *testing.T, path string, life time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: path},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		".cert": {Type: "CERTIFICATE", Bytes: cert}, ".key": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path+name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
