package admin

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-json"
	"github.com/google/uuid"

	"rollcall/token"
	"rollcall/wire"
)

func TestPageIsServed(t *testing.T) {
	r := start(nil)
	if w := r.get("/"); w.Code != 200 || !strings.HasPrefix(w.Body.String(), "<!doctype html>") {
		t.Errorf("answer %d", w.Code)
	}
	check(t, r.get("/index.html"), 404, errorBody("unavailable", "Route not found"))
}

// TestPageSettings: the page learns where the stream is, and whether it may ask for tokens and
// for users.
func TestPageSettings(t *testing.T) {
	r := start(func(c *Config) { c.Hosts = []string{"admin.test"} })
	check(t, r.ask("GET", "/page.json", "127.0.0.1:8788"), 200,
		`{"public_url":"","mints_tokens":true,"lists_users":true}`)
	r.addrs = []net.Addr{
		&net.UnixAddr{Name: "/run/rollcall.sock", Net: "unix"}, tcpAddr("0.0.0.0"), tcpAddr("10.0.0.2"),
	}
	const port = "8787"
	for host, want := range map[string]string{
		"127.0.0.1:8788":  `{"public_url":"http://127.0.0.1:` + port + `","mints_tokens":true,"lists_users":true}`,
		"localhost":       `{"public_url":"http://localhost:` + port + `","mints_tokens":true,"lists_users":true}`,
		"[::1]:8788":      `{"public_url":"http://[::1]:` + port + `","mints_tokens":true,"lists_users":true}`,
		"[::1]":           `{"public_url":"http://[::1]:` + port + `","mints_tokens":true,"lists_users":true}`,
		"admin.test:8788": `{"public_url":"http://admin.test:` + port + `","mints_tokens":true,"lists_users":true}`,
	} {
		check(t, r.ask("GET", "/page.json", host), 200, want)
	}
	r.addrs = []net.Addr{tcpAddr("127.0.0.1")}
	check(t, r.ask("GET", "/page.json", "10.0.0.1:8788"), 200,
		`{"public_url":"http://127.0.0.1:`+port+`","mints_tokens":true,"lists_users":true}`)
	r = start(func(c *Config) { c.Production, c.TLS = true, true })
	r.addrs = []net.Addr{tcpAddr("127.0.0.1")}
	check(t, r.ask("GET", "/page.json", "10.0.0.1:8788"), 200,
		`{"public_url":"https://127.0.0.1:`+port+`","mints_tokens":false,"lists_users":false}`)
}

func tcpAddr(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 8787} }

// TestDebugToken: the server's own page gets a token; no other page does, by whatever way a browser
// was led here.
func TestDebugToken(t *testing.T) {
	r := start(nil)
	const (
		host   = "127.0.0.1:8788"
		target = "/debug/token?user_id=" + testUser
		own    = "Rollcall-Page: 1"
	)
	w := r.ask("POST", target, host, own, "Sec-Fetch-Site: same-origin", "Origin: http://"+host)
	var got struct{ Token string }
	if err := json.Unmarshal(w.Body.Bytes(), &got); w.Code != 200 || err != nil ||
		w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("answer %d %s", w.Code, w.Body)
	}
	keys := r.keys
	until, err := keys.Verify([]byte(got.Token), wire.ScopeRead, testUser, testNow)
	if err != nil || int64(until) != testNow.Add(pageTokenTTL).UnixMilli() {
		t.Errorf("token until %v, %v", until, err)
	}
	_, err = keys.Verify([]byte(got.Token), wire.ScopeRead, testUser,
		testNow.Add(pageTokenTTL+time.Second))
	if err != token.ErrExpired {
		t.Errorf("the token does not end: %v", err)
	}

	notPage := errorBody("forbidden", "Tokens are given to the server's own page only")
	otherSite := errorBody("forbidden",
		"Requests of other sites are refused: open the address by hand")
	notName := errorBody("forbidden",
		"Host must be an address, localhost or a name that this listener was given")
	for name, test := range map[string]struct {
		method, target, host string
		headers              []string
		status               int
		body                 string
	}{
		"without the header": {"POST", target, host, nil, 403, notPage},
		"another site": {"POST", target, host,
			[]string{own, "Sec-Fetch-Site: cross-site"}, 403, otherSite},
		"another port, same site": {"POST", target, host,
			[]string{own, "Sec-Fetch-Site: same-site"}, 403, otherSite},
		"another origin": {"POST", target, host,
			[]string{own, "Origin: http://evil.example"}, 403, otherSite},
		"no origin": {"POST", target, host, []string{own, "Origin: null"}, 403,
			otherSite},
		"a name that means us now": {"POST", target, "evil.example:8788",
			[]string{own, "Sec-Fetch-Site: same-origin"}, 403, notName},
		"a name that looks local": {"POST", target, "localhost.evil.example", []string{own}, 403,
			notName},
		"a GET, as a link or image": {"GET", target, host, []string{own}, 405,
			errorBody("unavailable", "Method not allowed")},
		"a preflight": {"OPTIONS", target, host,
			[]string{"Origin: http://evil.example"}, 403, otherSite},
		"no user": {"POST", "/debug/token", host, []string{own}, 400,
			errorBody("invalid_payload", "Missing user_id query param")},
		"no UUID": {"POST", "/debug/token?user_id=bob", host, []string{own}, 400,
			errorBody("invalid_payload", "Invalid user_id")},
		"the nil user": {"POST", "/debug/token?user_id=" + uuid.Nil.String(), host,
			[]string{own}, 400, errorBody("invalid_payload", "Invalid user_id")},
		"IPv6, upper case, trimmed": {"POST", "/debug/token?user_id=%20" +
			strings.ToUpper(testDevice), "[::1]:8788", []string{own}, 200, ""},
		"localhost without a port":   {"POST", target, "localhost", []string{own}, 200, ""},
		"curl, which sends no Fetch": {"POST", target, host, []string{own}, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := r.ask(test.method, test.target, test.host, test.headers...)
			if test.body == "" {
				test.body = w.Body.String() // a fresh token
			}
			check(t, w, test.status, test.body)
		})
	}

	r = start(inProduction)
	check(t, r.ask("POST", target, host, own), 403,
		errorBody("forbidden", "Not available in production"))
	notHere := errorBody("forbidden",
		"Tokens are given where an admin token is set, or in development")
	r = start(func(c *Config) { c.MintOpen = false })
	check(t, r.ask("POST", target, host, own), 403, notHere)
	r.tokens = []string{"admin"}
	check(t, r.ask("POST", target, host, own), 401, errorBody("unauthorized", "Unauthorized"))
	w = r.ask("POST", target, host, own, "Authorization: Bearer admin")
	if logged := r.log.String(); w.Code != 200 || !strings.Contains(logged, "user_id="+testUser) ||
		!strings.Contains(logged, "token_id=") || strings.Contains(logged, w.Body.String()[10:60]) {
		t.Errorf("answer %d, log %s", w.Code, logged)
	}
	r = start(nil)
	r.keys = nil
	check(t, r.ask("POST", target, host, own), 503,
		errorBody("unavailable", "Token signing key not configured"))
}
