package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rollcall/internal/testwait"
)

// TestClusterProxy: with the HAProxy file that deploy/compose ships, but for addresses, requests
// come to all nodes, and those of a node that stopped in order, or was killed, go to the others;
// what a client gets meanwhile is 503 at worst.
func TestClusterProxy(t *testing.T) {
	atLeisure(t)
	haproxy := proxies[1]
	haproxy.needed(t)
	n := newNodes(t, nil)
	n.start()
	through := &rig{t: t, addr: haproxy.run(t, nil, func(addr string) string {
		return n.proxyFile(addr)
	})}
	users := make([]string, 24)
	for i := range users {
		users[i] = newBeat()["user_id"].(string)
	}
	seq := 0
	// everyBeat is a heartbeat of each user. A node that has gone is no reason for any other answer
	// than rollcall's own 503; 409 says that one whose answer was lost was accepted.
	everyBeat := func() {
		t.Helper()
		seq++
		for _, user := range users {
			b := newBeat().with("user_id", user).with("device_id", user).with("seq", seq)
			testwait.Until(t, "a heartbeat is accepted", func() bool {
				a := through.beat(b)
				switch {
				case a.status == 204:
				case a.status == 409 && strings.Contains(a.body, fmt.Sprintf(`"last_seq":%d`, seq)):
				case a.status == 503:
					return false
				default:
					t.Fatalf("%d %s\n%s", a.status, a.body, n.logs())
				}
				return true
			})
		}
	}
	told := func() {
		t.Helper()
		s := through.follow(users[0])
		defer s.conn.Close()
		for fmt.Sprint(s.event()["seq"]) != strconv.Itoa(seq) {
		}
	}
	everyBeat()
	told()
	for i, r := range n.rigs {
		// the first answers of the proxy's checks come one by one
		testwait.Until(t, "requests come to "+n.names[i], func() bool {
			everyBeat()
			// A node may own no partition: then all that comes to it is forwarded.
			return r.gauge(t, `rollcall_heartbeats_total{outcome="accepted"}`)+
				r.gauge(t, `rollcall_forwards_total{outcome="accepted"}`) > 0
		})
	}

	n.rigs[2].terminate()
	everyBeat()
	told()
	n.rigs[2].start()
	testwait.Until(t, "the node is back", n.whole)
	testwait.Until(t, "all copies are current", func() bool {
		_, code := n.askStatus(0)
		return code == 0
	})
	n.rigs[1].kill()
	everyBeat()
	told()
}

// proxyFile is the file that is shipped, with the nodes' addresses.
func (n *nodeSet) proxyFile(addr string) (path string) {
	n.t.Helper()
	text, err := os.ReadFile("../deploy/compose/haproxy.cfg")
	if err != nil {
		n.t.Fatal(err)
	}
	put := func(old, new string) {
		n.t.Helper()
		if strings.Count(string(text), old) != 1 {
			n.t.Fatalf("haproxy.cfg does not hold %q once", old)
		}
		text = []byte(strings.Replace(string(text), old, new, 1))
	}
	put("bind :8787\n", "bind "+addr+"\n")
	for i, r := range n.rigs {
		_, port, _ := strings.Cut(r.admin, ":")
		server := fmt.Sprintf("server %s %s:8787", n.names[i], n.names[i])
		put(server+"\n", fmt.Sprintf("server %s %s port %s\n", n.names[i], r.addr, port))
		put(server+" track", fmt.Sprintf("server %s %s track", n.names[i], r.addr))
	}
	path = filepath.Join(n.t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		n.t.Fatal(err)
	}
	return path
}
