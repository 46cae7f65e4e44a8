package test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// authority signs the certificates of nodes.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
	file string // its own certificate
}

// newAuthority makes an authority whose certificate is in a file of its own.
func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, key.Public())
	writePEM(t, a.file, "CERTIFICATE", a.cert.Raw)
	return a
}

// sign fills in the rest of a template and signs it; the authority signs its own first.
func (a *authority) sign(template *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	a.t.Helper()
	template.NotBefore = time.Now().Add(-48 * time.Hour)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// certify writes a certificate of a node on loopback into a directory, which ends after so long.
// Without uses it is for servers and clients.
func (a *authority) certify(dir, name string, life time.Duration, uses ...x509.ExtKeyUsage) {
	a.t.Helper()
	if len(uses) == 0 {
		uses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	cert := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(life), ExtKeyUsage: uses,
	}, key.Public())
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", cert.Raw)
	writePEM(a.t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", private)
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	writeFile(t, path, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

// flags are those of a node with the certificate in a directory.
func (a *authority) flags(dir string) []string {
	return []string{"--cluster-tls-cert=" + filepath.Join(dir, "cert.pem"),
		"--cluster-tls-key=" + filepath.Join(dir, "key.pem"), "--cluster-tls-ca=" + a.file}
}

// outsider launches one more node, which has the others as peers.
func (n *nodeSet) outsider(name string, flags ...string) *rig {
	n.t.Helper()
	r := &rig{t: n.t, dir: n.t.TempDir(), listen: testport.Address(n.t),
		adminListen: testport.Address(n.t), env: secretsEnv}
	r.flags = append([]string{"--cluster-node=" + name,
		"--cluster-listen=" + testport.Address(n.t), "--cluster-peers=" + strings.Join(n.routes, ","),
		fmt.Sprintf("--cluster-partitions=%d", testPartitions)}, flags...)
	r.launch()
	return r
}

// says waits until a node's log has a line with all of these.
func (r *rig) says(parts ...string) {
	r.t.Helper()
	r.until(fmt.Sprintf("the log has a line with %q", parts), func() bool {
		for line := range strings.Lines(r.logs()) {
			missing := func(part string) bool { return !strings.Contains(line, part) }
			if !slices.ContainsFunc(parts, missing) {
				return true
			}
		}
		return false
	})
}

// refuses waits until a node and one that it does not let in both say why, and what to do.
func (n *nodeSet) refuses(outsider *rig, why, flag string) {
	n.t.Helper()
	outsider.says("a peer does not let this node in", flag)
	n.rigs[0].says("no connection with another node", why, flag)
	if status, _ := outsider.ask("/readyz"); status == 200 {
		n.t.Error("it is ready")
	}
}

// onlyMembers checks that the nodes know of none but themselves.
func (n *nodeSet) onlyMembers(names ...string) {
	n.t.Helper()
	_, body := n.rigs[0].ask("/clusterz")
	var told struct {
		Nodes []struct {
			Name string `json:"name"`
		} `json:"nodes"`
	}
	if err := json.Unmarshal(body, &told); err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for _, node := range told.Nodes {
		all = append(all, node.Name)
	}
	slices.Sort(all)
	if !slices.Equal(all, append(slices.Clone(n.names), names...)) {
		n.t.Errorf("the cluster has %q", all)
	}
}

// beats sends a heartbeat of one user through each node.
func (n *nodeSet) beats(b beat, seq *int) {
	n.t.Helper()
	for i := range n.rigs {
		*seq++
		n.mustBeat(i, b.with("seq", *seq))
	}
}

// tell sends bytes to a port and returns what comes until the other side closes.
func tell(t *testing.T, addr, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(testwait.Limit))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s keeps a stranger's connection", addr)
	}
	return string(all)
}

// intrusion is what a stranger who speaks NATS would try.
const intrusion = `CONNECT {"user":"rollcall","pass":"","cluster":"rollcall","name":"x"}` +
	"\r\nSUB > 1\r\nPUB log.0 1\r\nx\r\nPING\r\n"

// TestClusterTLS: nodes with certificates of one authority are a cluster; a node with another one's
// certificate, with one that has ended or is not for clients, or without TLS does not get in, and
// both sides say what to do; a port says nothing in clear text. SIGHUP takes up certificates that
// were renewed, also on a node that was refused.
func TestClusterTLS(t *testing.T) {
	ours, other := newAuthority(t), newAuthority(t)
	n := newNodes(t, nil)
	dirs := make([]string, testNodes)
	for i, r := range n.rigs {
		dirs[i] = t.TempDir()
		ours.certify(dirs[i], n.names[i], time.Hour)
		r.flags = append(r.flags, ours.flags(dirs[i])...)
	}
	n.start()
	b, seq := newBeat(), 0
	n.beats(b, &seq)

	wrong, ended, half := t.TempDir(), t.TempDir(), t.TempDir()
	other.certify(wrong, "wrong", time.Hour)
	ours.certify(ended, "ended", -time.Hour)
	ours.certify(half, "half", time.Hour, x509.ExtKeyUsageServerAuth)
	outsiders := map[string]*rig{
		"unknown authority":      n.outsider("x1", ours.flags(wrong)...),
		"not look like a TLS":    n.outsider("x2"),
		"has expired":            n.outsider("x3", ours.flags(ended)...),
		"incompatible key usage": n.outsider("x4", ours.flags(half)...),
	}
	for why, outsider := range outsiders {
		n.refuses(outsider, why, "--cluster-tls-cert")
	}
	outsiders["has expired"].says("the node's certificate is of no use", ended)
	outsiders["incompatible key usage"].says("the node's certificate is of no use", half)
	if told := tell(t, n.routes[0], intrusion); strings.Contains(told, "INFO") || len(told) > 16 {
		t.Errorf("a stranger is told %q", told)
	}
	n.onlyMembers()
	n.beats(b, &seq)

	for i, r := range n.rigs {
		ours.certify(dirs[i], n.names[i]+"-renewed", time.Hour)
		if line := r.hangUp("msg=reloaded"); !strings.Contains(line, "cluster_certificate=") {
			t.Errorf("the log says %q", line)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dirs[1], "cert.pem"), filepath.Join(dirs[1], "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", n.routes[0], &tls.Config{InsecureSkipVerify: true,
		Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	if shown := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; shown != "n1-renewed" {
		t.Errorf("n1 shows %q", shown)
	}
	conn.Close()

	late := outsiders["has expired"]
	ours.certify(ended, "late", time.Hour)
	late.hangUp("msg=reloaded")
	testwait.Until(t, "the node is in with its new certificate", func() bool {
		status, _ := late.ask("/readyz")
		return status == 200
	})
	n.onlyMembers("x3")
	n.beats(b, &seq)
}

// TestClusterKeys: a node with another key, or without, does not get in, and both sides say what to
// do. The key is rotated as docs/cluster.md says: heartbeats are taken and a stream goes on
// meanwhile; a reload that would have the others refuse this node changes nothing.
func TestClusterKeys(t *testing.T) {
	const old, fresh = "old-key-of-the-black-box-tests\n", "new-key-of-the-black-box-tests\n"
	n := newNodes(t, nil)
	dir := t.TempDir()
	files := make([]string, testNodes)
	for i, r := range n.rigs {
		files[i] = filepath.Join(dir, n.names[i])
		writeFile(t, files[i], old)
		r.flags = append(r.flags, "--cluster-key-file="+files[i])
	}
	n.start()
	b, seq := newBeat(), 0
	n.beats(b, &seq)

	other := filepath.Join(dir, "other")
	writeFile(t, other, fresh)
	wrong := n.outsider("x1", "--cluster-key-file="+other)
	n.refuses(wrong, "the key", "--cluster-key-file")
	n.refuses(n.outsider("x2"), "the key", "--cluster-key-file")
	told := tell(t, n.routes[0], intrusion)
	if !strings.Contains(told, "Authorization Violation") || strings.Contains(told, "PONG") {
		t.Errorf("a stranger is told %q", told)
	}
	n.onlyMembers()

	writeFile(t, files[0], fresh)
	if line := n.rigs[0].hangUp("reload: nothing was changed"); !strings.Contains(line, "--cluster-key-file") {
		t.Errorf("the log says %q", line)
	}
	for i, r := range n.rigs {
		writeFile(t, files[i], old+fresh)
		r.hangUp("msg=reloaded")
	}
	testwait.Until(t, "the node with the new key is in", func() bool {
		status, _ := wrong.ask("/readyz")
		return status == 200
	})
	for i, r := range n.rigs {
		s := n.rigs[(i+1)%testNodes].follow(b["user_id"].(string))
		writeFile(t, files[i], fresh+old)
		r.terminate()
		seq++
		n.mustBeat((i+1)%testNodes, b.with("seq", seq))
		r.start()
		testwait.Until(t, "the node is back", n.whole)
		n.beats(b, &seq)
		for fmt.Sprint(s.event()["seq"]) != strconv.Itoa(seq) {
		}
		s.conn.Close()
	}
	for i, r := range n.rigs {
		writeFile(t, files[i], fresh)
		r.hangUp("msg=reloaded")
	}
	n.beats(b, &seq)
	writeFile(t, other, old)
	n.refuses(n.outsider("x3", "--cluster-key-file="+other), "the key", "--cluster-key-file")
	n.onlyMembers("x1")
}
