package server

import (
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/goccy/go-json"
	"github.com/google/uuid"

	"rollcall/token"
	"rollcall/wire"
)

// The page itself is in the package page; here is what it asks for beside /metrics and /readyz.

// pageSettings answers what the page has to know of its server.
func (s *Server) pageSettings(w http.ResponseWriter, r *http.Request) {
	body, err := json.Marshal(struct {
		PublicURL   string `json:"public_url"`   // "": not serving yet
		MintsTokens bool   `json:"mints_tokens"` // POST /debug/token works
	}{s.publicURL(r.Host), s.refuseToken(r) == none})
	if err != nil {
		panic("bug: " + err.Error())
	}
	writeJSON(w, http.StatusOK, body)
}

// publicURL is where the public listener is, as far as the server itself can tell. One that listens on every address is
// looked for where the operator found this one.
func (s *Server) publicURL(adminHost string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		if l.Addr().Network() != "tcp" {
			continue
		}
		host, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			continue
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			host = hostname(adminHost)
		}
		scheme := "http://"
		if s.opts.TLS {
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

// pageTokenTTL is how long a token lives that the page gets; it takes a new one each time it connects.
const pageTokenTTL = 5 * time.Minute

// debugToken mints a stream token for the page. Who may ask learns no more than /debug/presence shows already.
func (s *Server) debugToken(w http.ResponseWriter, r *http.Request) {
	if refusal := s.refuseToken(r); refusal != none {
		writeAnswer(w, refusal)
		return
	}
	if r.Header.Get(pageHeader) == "" {
		writeAnswer(w, notThePage)
		return
	}
	text := wire.TrimSpace([]byte(r.URL.Query().Get(wire.UserParam)))
	if len(text) == 0 {
		writeAnswer(w, missingUserIDParam)
		return
	}
	user, form := wire.ParseID(text)
	if form == wire.IDInvalid {
		writeAnswer(w, invalidUserID)
		return
	}
	minted, err := s.pageToken(user)
	if err != nil { // the last key went in this moment
		writeAnswer(w, signingNotConfigured)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, []byte(`{"token":"`+minted+`"}`))
}

// pageHeader has to be on a request for a token. Another site's page cannot set it without asking first, and is told no.
const pageHeader = "Rollcall-Page"

// refuseToken tells why this request gets no token. A browser may be led here by any site it visits: by its own requests,
// which CrossOriginProtection knows by their Sec-Fetch-Site or Origin; or by a name of the site's that suddenly means this
// address, which is why only an address or localhost may stand in Host.
func (s *Server) refuseToken(r *http.Request) reply {
	if s.opts.Production {
		return debugDisabled
	}
	if len(s.secrets.Load().signingKeys) == 0 {
		return signingNotConfigured
	}
	host := hostname(r.Host)
	if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
		return notByName
	}
	if http.NewCrossOriginProtection().Check(r) != nil {
		return notThePage
	}
	return none
}

func (s *Server) pageToken(user uuid.UUID) (string, error) {
	keys, now := s.secrets.Load().signingKeys, s.opts.Now()
	if len(keys) == 0 {
		return "", errors.New("server: no signing key")
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
