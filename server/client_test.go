package server

import (
	"bufio"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"rollcall/server/conns"
	"rollcall/wire"
)

// TestClientAddress: the rightmost address that is not a trusted proxy's, and never the word of
// another peer.
func TestClientAddress(t *testing.T) {
	proxies, err := conns.ParseProxies([]string{"10.0.0.0/8", "::ffff:172.16.0.0/108",
		"2001:db8:ff::/48", "unix"})
	if err != nil {
		t.Fatal(err)
	}
	who := clients{proxies}
	for name, c := range map[string]struct{ peer, headers, want string }{
		"no proxy":             {"192.0.2.1", "", "192.0.2.1"},
		"another peer's word":  {"192.0.2.1", "X-Forwarded-For: 198.51.100.7", "192.0.2.1"},
		"another peer's word ": {"192.0.2.1", "Forwarded: for=198.51.100.7", "192.0.2.1"},
		"silent proxy":         {"10.1.2.3", "", "10.1.2.3"},
		"one hop":              {"10.1.2.3", "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		"mapped proxy":         {"::ffff:10.1.2.3", "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		"mapped network":       {"172.17.2.3", "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		"IPv6 proxy":           {"2001:db8:ff::1", "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		"what the client sent": {"10.1.2.3", "X-Forwarded-For: 198.51.100.7, 192.0.2.1",
			"192.0.2.1"},
		"two proxies": {"10.1.2.3", "X-Forwarded-For: 198.51.100.7,192.0.2.1 , 10.9.9.9",
			"192.0.2.1"},
		"two headers": {"10.1.2.3",
			"X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 192.0.2.1\r\n" +
				"X-Forwarded-For: 10.9.9.9", "192.0.2.1"},
		"proxies only":      {"10.1.2.3", "X-Forwarded-For: 10.3.3.3, 10.2.2.2", "10.3.3.3"},
		"no address":        {"10.1.2.3", "X-Forwarded-For: 192.0.2.1, unknown", "10.1.2.3"},
		"no address inside": {"10.1.2.3", "X-Forwarded-For: x, 10.2.2.2", "10.2.2.2"},
		"empty":             {"10.1.2.3", "X-Forwarded-For: ", "10.1.2.3"},
		"empty hop":         {"10.1.2.3", "X-Forwarded-For: 192.0.2.1,", "10.1.2.3"},
		"port":              {"10.1.2.3", "X-Forwarded-For: 192.0.2.1:4711", "192.0.2.1"},
		"IPv6":              {"10.1.2.3", "X-Forwarded-For: 2001:DB8::1", "2001:db8::1"},
		"IPv6 in brackets":  {"10.1.2.3", "X-Forwarded-For: [2001:db8::1]", "2001:db8::1"},
		"IPv6 and port":     {"10.1.2.3", "X-Forwarded-For: [2001:db8::1]:80", "2001:db8::1"},
		"mapped client":     {"10.1.2.3", "X-Forwarded-For: ::ffff:192.0.2.1", "192.0.2.1"},
		"zone":              {"10.1.2.3", "X-Forwarded-For: fe80::1%eth0", "fe80::1"},
		"long": {"10.1.2.3", "X-Forwarded-For: " + strings.Repeat("1", 2000),
			"10.1.2.3"},
		"Forwarded": {"10.1.2.3",
			`Forwarded: For="[2001:db8::1]:4711";proto=http;by=203.0.113.43`, "2001:db8::1"},
		"Forwarded, hops": {"10.1.2.3", `Forwarded: for=198.51.100.7, for=192.0.2.1;by=_x,` +
			` proto=https ; for="10.2.2.2:80"`, "192.0.2.1"},
		"Forwarded, open quote": {"10.1.2.3",
			"Forwarded: for=\"x\r\nForwarded: for=192.0.2.1", "192.0.2.1"},
		"Forwarded, obfuscated": {"10.1.2.3", "Forwarded: for=192.0.2.1, for=_hidden",
			"10.1.2.3"},
		"Forwarded, twice":    {"10.1.2.3", "Forwarded: for=192.0.2.1;for=192.0.2.2", "10.1.2.3"},
		"Forwarded, no for":   {"10.1.2.3", "Forwarded: proto=https", "10.1.2.3"},
		"both, the same":      {"10.1.2.3", both("192.0.2.1", "192.0.2.1"), "192.0.2.1"},
		"both, not the same":  {"10.1.2.3", both("192.0.2.1", "198.51.100.7"), "10.1.2.3"},
		"both, one unread":    {"10.1.2.3", both("unknown", "198.51.100.7"), "10.1.2.3"},
		"both, other unread":  {"10.1.2.3", both("198.51.100.7", "unknown"), "10.1.2.3"},
		"over a Unix socket":  {"", "X-Forwarded-For: 192.0.2.1", "192.0.2.1"},
		"over a Unix socket ": {"", "", "invalid IP"},
	} {
		var ctx fasthttp.RequestCtx
		ctx.Init(&fasthttp.Request{}, tcpAddr(c.peer), nil)
		if c.peer == "" {
			ctx.Init(&fasthttp.Request{}, unixAddr{}, nil)
		}
		head := "GET / HTTP/1.1\r\nHost: x\r\n" + c.headers + "\r\n\r\n"
		if err := ctx.Request.Read(bufio.NewReader(strings.NewReader(head))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := who.addr(&ctx).String(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := (&clients{}).proxies.Trust(netip.Addr{}); got {
		t.Error("Unix sockets are trusted without being asked to")
	}
}

func both(plain, structured string) string {
	return "X-Forwarded-For: " + plain + "\r\nForwarded: for=" + structured
}

type unixAddr struct{}

func (unixAddr) Network() string { return "unix" }
func (unixAddr) String() string  { return "@" }

func TestTrustedProxiesAreChecked(t *testing.T) {
	err := Options{TrustedProxies: []string{"10.0.0.0/8", "proxy", "::1", " unix", "10.0.0.0/33"}}.
		Check()
	if err == nil || strings.Count(err.Error(), "no network") != 2 ||
		!strings.HasPrefix(err.Error(), "server: option TrustedProxies: ") {
		t.Errorf("%v", err)
	}
}

// TestRateBehindAProxy is of each client, and one client's own words do not give it a new one.
func TestRateBehindAProxy(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) {
		o.RatePerIP, o.TrustedProxies = 0.001, []string{"10.0.0.0/8"}
	})
	send := func(want int, peer string, headers ...string) {
		t.Helper()
		c := r.dialFrom(t, peer)
		go func() { _, _ = io.WriteString(c, heartbeatText(validBody, headers...)) }()
		if got := readResponse(t, bufio.NewReader(c), "POST"); got.status != want {
			t.Errorf("%s, %q: %d", peer, headers, got.status)
		}
	}
	send(204, "10.0.0.1", testAuth, "X-Forwarded-For: 192.0.2.1")
	send(429, "10.0.0.2", testAuth, "X-Forwarded-For: 198.51.100.1, 192.0.2.1, 10.0.0.1")
	send(204, "10.0.0.1", testAuth, "X-Forwarded-For: 192.0.2.2")
	send(204, "192.0.2.3", testAuth, "X-Forwarded-For: 192.0.2.4")
	send(429, "192.0.2.3", testAuth, "X-Forwarded-For: 192.0.2.5")
}

// TestConnectionsOfAProxyDoNotCount: for --max-connections-per-ip; the streams over them do, for
// their clients.
func TestConnectionsOfAProxyDoNotCount(t *testing.T) {
	r := start(t, func(o *Options, _ *fakePresence) {
		o.MaxConnsPerIP, o.TrustedProxies = 1, []string{"10.0.0.0/8"}
	})
	for range 3 {
		c := r.dialFrom(t, "10.0.0.1")
		_, _ = io.WriteString(c, heartbeatText(validBody))
		readResponse(t, bufio.NewReader(c), "POST").check(t, 204, "")
	}
	follow := func(client string) *bufio.Reader {
		c := r.dialFrom(t, "10.0.0.1")
		text := text("GET "+wire.StreamPath+"?user_id="+testUser, "",
			"Authorization: Bearer "+sign(t, testKey, payload("")), "X-Forwarded-For: "+client)
		go func() { _, _ = io.WriteString(c, text) }()
		return bufio.NewReader(c)
	}
	go func() { _, _ = io.Copy(io.Discard, follow("192.0.2.1")) }()
	first := <-r.presence.subscriptions
	readResponse(t, follow("192.0.2.1"), "GET").check(t, 503,
		errorBody("unavailable", "Too many connections from this address"))
	go func() { _, _ = io.Copy(io.Discard, follow("192.0.2.2")) }()
	<-r.presence.subscriptions
	_ = first.Conn.Close()
	go func() { _, _ = io.Copy(io.Discard, follow("192.0.2.1")) }()
	<-r.presence.subscriptions
}
