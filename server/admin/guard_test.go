package admin

import "testing"

// guarded are routes that show something; "/" is the page without a figure.
var guarded = []string{
	"/page.json", "/metrics", "/debug/presence?user_id=" + testUser, "/debug/pprof/",
	"/debug/pprof/cmdline", "/debug/pprof/heap", "/debug/pprof/symbol", "/nope",
}

var probes = []string{"/livez", "/healthz", "/readyz"}

// TestOperatorsRoutesWantAKnownHost: a web site that points its own name at the listener reads
// nothing, and a probe comes by any name.
func TestOperatorsRoutesWantAKnownHost(t *testing.T) {
	r := start(func(c *Config) { c.Hosts = []string{"rollcall.internal"} })
	refusal := errorBody("forbidden",
		"Host must be an address, localhost or a name that this listener was given")
	unknown := []string{"evil.example", "evil.example:8788", "localhost.evil.example",
		"127.0.0.1.evil.example:8788", "rollcall.internal.evil.example", ""}
	for _, host := range unknown {
		for _, path := range append([]string{"/"}, guarded...) {
			check(t, r.ask("GET", path, host), 403, refusal)
		}
		check(t, r.ask("POST", "/debug/token?user_id="+testUser, host, "Rollcall-Page: 1"), 403,
			refusal)
		for _, path := range probes {
			check(t, r.ask("GET", path, host), 200, "ok\n")
		}
	}
	want := len(unknown) * (len(guarded) + 2)
	if n := r.refused.counts[UnknownHost].Load(); n != uint64(want) {
		t.Errorf("%d refusals are counted, want %d", n, want)
	}
	for _, host := range []string{"127.0.0.1:8788", "10.1.2.3", "[::1]:8788", "[fe80::1]",
		"localhost:8788", "LOCALHOST", "localhost.", "rollcall.internal:8788",
		"Rollcall.Internal."} {
		if w := r.ask("GET", "/metrics", host); w.Code != 200 {
			t.Errorf("%s: %d %s", host, w.Code, w.Body)
		}
	}
}

// TestOperatorsRoutesRefuseOtherSites: what a browser sends for another site's page, with or
// without Sec-Fetch-Site, which it leaves out for plain HTTP to other machines.
func TestOperatorsRoutesRefuseOtherSites(t *testing.T) {
	r := start(nil)
	const host = "127.0.0.1:8788"
	refusal := errorBody("forbidden",
		"Requests of other sites are refused: open the address by hand")
	for _, header := range []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site",
		"Sec-Fetch-Site: new-kind", "Origin: http://evil.example", "Origin: null",
		"Origin: http://127.0.0.1:9999"} {
		for _, path := range append([]string{"/"}, guarded...) {
			check(t, r.ask("GET", path, host, header), 403, refusal)
		}
		for _, path := range probes {
			check(t, r.ask("GET", path, host, header), 200, "ok\n")
		}
	}
	for _, header := range []string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none",
		"Origin: http://" + host} {
		if w := r.ask("GET", "/metrics", host, header); w.Code != 200 {
			t.Errorf("%s: %d %s", header, w.Code, w.Body)
		}
	}
}

// TestOperatorsRoutesWantTheToken, where there is one; the probes, the page itself and, where it is
// opened, /metrics do not.
func TestOperatorsRoutesWantTheToken(t *testing.T) {
	r := start(nil)
	r.tokens = []string{"old", "new"}
	const host, auth = "127.0.0.1:8788", "Authorization: "
	refusal := errorBody("unauthorized", "Unauthorized")
	for _, path := range guarded {
		for _, headers := range [][]string{nil, {auth + "Bearer"}, {auth + "Bearer "},
			{auth + "Bearer ol"}, {auth + "Bearer old new"}, {auth + "Basic old"}, {auth + "old"}} {
			w := r.ask("GET", path, host, headers...)
			check(t, w, 401, refusal)
			if w.Header().Get("WWW-Authenticate") != `Bearer realm="rollcall"` {
				t.Error("the answer does not say what it wants")
			}
		}
		for _, token := range r.tokens {
			if w := r.ask("GET", path, host, auth+"bearer "+token); w.Code == 401 || w.Code == 403 {
				t.Errorf("%s: %d with a token", path, w.Code)
			}
		}
		check(t, r.ask("GET", path, "evil.example", auth+"Bearer old"), 403, errorBody("forbidden",
			"Host must be an address, localhost or a name that this listener was given"))
	}
	for _, path := range append([]string{"/"}, probes...) {
		if w := r.get(path); w.Code != 200 {
			t.Errorf("%s: %d without a token", path, w.Code)
		}
	}
	if n := r.refused.counts[NoToken].Load(); n != uint64(7*len(guarded)) {
		t.Errorf("%d refusals are counted", n)
	}

	r = start(func(c *Config) { c.MetricsOpen = true })
	r.tokens = []string{"token"}
	if w := r.get("/metrics"); w.Code != 200 {
		t.Errorf("/metrics is not open: %d", w.Code)
	}
	check(t, r.get("/debug/pprof/"), 401, refusal)
	check(t, r.ask("GET", "/metrics", "evil.example"), 403, errorBody("forbidden",
		"Host must be an address, localhost or a name that this listener was given"))
}

// TestOperatorsRoutesHaveMethods: another one is answered 405, and its body is not read.
func TestOperatorsRoutesHaveMethods(t *testing.T) {
	r := start(nil)
	for path, allow := range map[string]string{"/livez": "GET", "/": "GET", "/metrics": "GET",
		"/debug/pprof/heap": "GET", "/debug/pprof/symbol": "GET, POST", "/debug/token": "POST"} {
		w := r.ask("PUT", path, "localhost")
		check(t, w, 405, errorBody("unavailable", "Method not allowed"))
		if got := w.Header().Get("Allow"); got != allow {
			t.Errorf("%s: Allow: %q, want %q", path, got, allow)
		}
	}
	for _, path := range []string{"/livez", "/metrics", "/"} {
		if w := r.ask("HEAD", path, "localhost"); w.Code != 200 {
			t.Errorf("HEAD %s: %d", path, w.Code)
		}
	}
}
