package admin

import (
	"crypto/rand"
	"errors"
	"log/slog"
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

// settings answers GET /page.json: what the page has to know of its server.
func settings(w http.ResponseWriter, r *http.Request, p publicSide, m minter) {
	body, err := json.Marshal(struct {
		PublicURL   string `json:"public_url"`   // "": not serving yet
		MintsTokens bool   `json:"mints_tokens"` // POST /debug/token works
		ListsUsers  bool   `json:"lists_users"`  // GET /debug/users works
	}{p.url(r.Host), m.refuse() == reply.None, !m.production})
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

// url is the address of the first public listener on TCP, as far as the server can tell; "": none.
// When it listens on every address, the host is the one that the operator used for this listener.
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
	// pageHeader has to be on a request for a token. Another site's page cannot set it without a
	// preflight request, which this listener refuses.
	pageHeader = "Rollcall-Page"
)

// minter mints stream tokens for the page. A token shows an operator no more than /debug/presence
// does.
type minter struct {
	keys       func() token.Keys
	now        func() time.Time
	open       func() bool // tokens are given at all
	logger     *slog.Logger
	production bool
}

// serve answers POST /debug/token.
func (m minter) serve(w http.ResponseWriter, r *http.Request) {
	if refusal := m.refuse(); refusal != reply.None {
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
	text, id, err := m.mint(user)
	if err != nil { // the last key was removed since refuse
		write(w, reply.SigningNotConfigured)
		return
	}
	m.logger.Info("minted a stream token for the page", "user_id", user.String(), "token_id", id,
		"address", r.RemoteAddr)
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, []byte(`{"token":"`+text+`"}`))
}

// refuse returns why no request gets a token, or None.
func (m minter) refuse() reply.Reply {
	switch {
	case m.production:
		return reply.DebugDisabled
	case !m.open():
		return reply.MintingOff
	case len(m.keys()) == 0:
		return reply.SigningNotConfigured
	}
	return reply.None
}

func (m minter) mint(user uuid.UUID) (text, id string, err error) {
	keys, now := m.keys(), m.now()
	if len(keys) == 0 {
		return "", "", errors.New("admin: no signing key")
	}
	id = rand.Text()
	text, err = token.Sign(keys[0], token.Claims{
		TokenID:    id,
		UserID:     user.String(),
		DeviceID:   uuid.NewString(),
		Scope:      []string{wire.ScopeRead},
		ExpMS:      now.Add(pageTokenTTL).UnixMilli(),
		IssuedAtMS: now.UnixMilli(),
	})
	return text, id, err
}
