package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rollcall/internal/testwait"
)

// TestTCPProxyTellsTheClient: behind a balancer that passes connections as they are, a limit for an
// address counts clients, whichever version of the PROXY protocol names them; and who comes without
// it gets no answer.
func TestTCPProxyTellsTheClient(t *testing.T) {
	haproxy := proxies[slices.IndexFunc(proxies, func(p proxy) bool { return p.name == "haproxy" })]
	haproxy.needed(t)
	heartbeat := func() string {
		return request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken))
	}
	for _, version := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			server := startServer(t, "--proxy-protocol", "--max-connections-per-ip=2")
			addr := haproxy.run(t, nil, func(addr string) (path string) {
				path = filepath.Join(t.TempDir(), "haproxy.cfg")
				conf := fmt.Sprintf("defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n"+
					" timeout server 60s\nlisten public\n bind %s\n server a %s %s\n",
					addr, server.addr, version)
				if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			})
			for _, client := range []string{"127.0.0.2", "127.0.0.3"} {
				for i, status := range []int{204, 204, 503} {
					c := dialFrom(t, client, addr)
					io.WriteString(c, heartbeat())
					if a := readAnswer(t, bufio.NewReader(c), false); a.status != status {
						t.Errorf("connection %d of %s: %d %s, want %d", i+1, client, a.status, a.body, status)
					}
				}
			}
			c := dialFrom(t, "127.0.0.4", server.addr)
			io.WriteString(c, heartbeat())
			if text, _ := io.ReadAll(c); len(text) > 0 { // the end, or a reset
				t.Errorf("without a header the answer is %q", text)
			}
			server.until("the missing header is counted", func() bool {
				return server.gauge(t, "rollcall_http_proxy_headers_missing_total") == 1
			})
		})
	}
}

// dialFrom connects from an address of this machine, until the test ends.
func dialFrom(t *testing.T, from, addr string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: testwait.Limit}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testwait.Limit))
	return c
}
