package admin

import (
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/goccy/go-json"
	"github.com/google/uuid"

	"rollcall/server/reply"
	"rollcall/token"
	"rollcall/wire"
)

// The page itself is in the package page; here is what it asks for beside /metrics and /readyz.

// settings answers what the page has to know of its server.
func settings(w http.ResponseWriter, r *http.Request, p publicSide, m minter) {
	body, err := json.Marshal(struct {
		PublicURL   string `json:"public_url"`   // "": not serving yet
		MintsTokens bool   `json:"mints_tokens"` // POST /debug/token works
	}{p.url(r.Host), m.refuse(r) == reply.None})
	if err != nil {
		panic("bug: " + err.Error())
	}
	writeJSON(w, http.StatusOK, body)
}

// publicSide is where the public listeners are.
type publicSide struct {
	addrs func() []net.Addr
	tls   bool
}

// url is where the first public listener is, as far as the server itself can tell. One that listens
// on every address is looked for where the operator found this one.
func (p publicSide) url(adminHost string) string {
	for _, addr := range p.addrs() {
		if addr.Network() != "tcp" {
			continue
		}
		host, port, err := net.SplitHostPort(addr.String())
		if err != nil {
			continue
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			host = hostname(adminHost)
		}
		scheme := "http://"
		if p.tls {
			scheme = "https://"
		}
		return scheme + net.JoinHostPort(host, port)
	}
	return ""
}

// hostname is a Host header without its port, and an IPv6 address without its brackets.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	if len(hostport) > 1 && hostport[0] == '[' {
		return hostport[1 : len(hostport)-1]
	}
	return hostport
}

const (
	// pageTokenTTL is how long a token of the page lives; the page takes a new one each time it
	// connects.
	pageTokenTTL = 5 * time.Minute
	// pageHeader has to be on a request for a token. Another site's page cannot set it without
	// asking first, and that is refused.
	pageHeader = "Rollcall-Page"
)

// minter mints stream tokens for the page. A token shows an operator no more than /debug/presence
// does.
type minter struct {
	keys       func() token.Keys
	now        func() time.Time
	production bool
}

// serve answers POST /debug/token.
func (m minter) serve(w http.ResponseWriter, r *http.Request) {
	if refusal := m.refuse(r); refusal != reply.None {
		write(w, refusal)
		return
	}
	if r.Header.Get(pageHeader) == "" {
		write(w, reply.NotThePage)
		return
	}
	user, refusal := userOf(r)
	if refusal != reply.None {
		write(w, refusal)
		return
	}
	text, err := m.mint(user)
	if err != nil { // the last key went in this moment
		write(w, reply.SigningNotConfigured)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, []byte(`{"token":"`+text+`"}`))
}

// refuse returns why this request gets no token, or None. A browser may be led here by any site it
// visits: by its own requests, which CrossOriginProtection knows by their Sec-Fetch-Site or Origin;
// or by a name of the site's that suddenly means this address, which is why only an address or
// localhost may stand in Host.
func (m minter) refuse(r *http.Request) reply.Reply {
	if m.production {
		return reply.DebugDisabled
	}
	if len(m.keys()) == 0 {
		return reply.SigningNotConfigured
	}
	host := hostname(r.Host)
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		return reply.NotByName
	}
	if http.NewCrossOriginProtection().Check(r) != nil {
		return reply.NotThePage
	}
	return reply.None
}

func (m minter) mint(user uuid.UUID) (string, error) {
	keys, now := m.keys(), m.now()
	if len(keys) == 0 {
		return "", errors.New("admin: no signing key")
	}
	return token.Sign(keys[0], token.Claims{
		TokenID:    rand.Text(),
		UserID:     user.String(),
		DeviceID:   uuid.NewString(),
		Scope:      []string{wire.ScopeRead},
		ExpMS:      now.Add(pageTokenTTL).UnixMilli(),
		IssuedAtMS: now.UnixMilli(),
	})
}
