package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	heartbeatPath = "/api/v1/daemon/presence/heartbeat"
	streamPath    = "/api/v1/mobile/presence/stream"
	manyPath      = "/api/v1/presence/stream"
	askPath       = "/api/v1/presence"
	queryPath     = "/api/v1/presence/query"
	batchPath     = "/api/v1/daemon/presence/heartbeats"

	// maxErrorBytes bounds what is read of an error's body.
	maxErrorBytes = 4 << 10
)

// Status of a device.
type Status string

// The two statuses of the wire contract.
const (
	Online  Status = "online"
	Offline Status = "offline"
)

// A TokenFunc returns a bearer token. It should return soon, and must when ctx ends.
type TokenFunc func(ctx context.Context) (string, error)

// StaticToken returns always the same token.
func StaticToken(token string) TokenFunc {
	return func(context.Context) (string, error) { return token, nil }
}

// StatusError is an answer other than success. Find it with errors.As.
type StatusError struct {
	Status int // of HTTP
	// Code is one of "unauthorized", "forbidden", "rate_limited", "unavailable", "invalid_payload";
	// "" for an answer of another server.
	Code       string
	Details    string        // for people
	RetryAfter time.Duration // how long the server asks to wait; 0: it does not say

	lastSeq *uint64 // of a 409
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("rollcall answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Details != "" {
		text += ": " + e.Details
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += " (check what Token returns)"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		text += " (check that URL is the server's base URL)"
	}
	return text
}

// answerOf is the answer in err, or nil. Of nil each method below reports false.
func answerOf(err error) *StatusError {
	if answer, ok := errors.AsType[*StatusError](err); ok {
		return answer
	}
	return nil
}

// isTemporary reports whether waiting alone may help.
func (e *StatusError) isTemporary() bool {
	return e != nil &&
		(e.Status >= 500 || e.Status == http.StatusTooManyRequests ||
			e.Status == http.StatusRequestTimeout)
}

// isRefusal reports whether the server, or a proxy before it, surely did not take the request.
func (e *StatusError) isRefusal() bool {
	return e != nil && e.Status < 500 && e.Status != http.StatusRequestTimeout
}

func (e *StatusError) isConflict() bool { return e != nil && e.Status == http.StatusConflict }

// saysLast reports whether it is a 409 that names seq as the last accepted one.
func (e *StatusError) saysLast(seq uint64) bool {
	return e.isConflict() && e.lastSeq != nil && *e.lastSeq == seq
}

// statusError reads what the server says of its refusal.
func statusError(resp *http.Response) *StatusError {
	e := &StatusError{Status: resp.StatusCode,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	if err != nil {
		return e // the status counts, whatever the body would have been
	}
	var reply struct {
		Error   string  `json:"error"`
		Details string  `json:"details"`
		LastSeq *uint64 `json:"last_seq"`
	}
	if json.Unmarshal(body, &reply) == nil {
		e.Code, e.Details, e.lastSeq = reply.Error, reply.Details, reply.LastSeq
	}
	return e
}

// endpoint joins the base URL, which may have a path of its own, and the path of a route.
func endpoint(base, path string) (string, error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", fmt.Errorf("client: URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" ||
		u.Fragment != "" {
		return "", fmt.Errorf("client: URL %q: want http://HOST or https://HOST, as in "+
			"https://presence.example.com", base)
	}
	return strings.TrimSuffix(u.String(), "/") + path, nil
}

// httpClient is c, or a new one, without a timeout and without redirects: a token is for one
// server.
func httpClient(c *http.Client) *http.Client {
	if c == nil {
		c = &http.Client{}
	}
	own := *c
	own.Timeout = 0
	own.CheckRedirect =
		func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// authorize sets the bearer token that token returns.
func authorize(req *http.Request, token string) error {
	if token == "" ||
		strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("client: Token returned something that cannot be a bearer token: it is " +
			"empty or has white space in it")
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return nil
}

// canonicalIDs returns ids in lowercase. The error names the first that is no UUID.
func canonicalIDs(ids []string) ([]string, error) {
	canonical := make([]string, len(ids))
	for i, id := range ids {
		if canonical[i] = strings.ToLower(id); !canonicalID(canonical[i]) {
			return nil, fmt.Errorf("client: UserIDs[%d] %q: want a UUID", i, id)
		}
	}
	return canonical, nil
}

// canonicalID reports whether id is a UUID as the server takes it: 36 lowercase characters.
func canonicalID(id string) bool {
	if len(id) != 36 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}
