package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxByGet is how many users a query names in its URL. The server takes 100, but proxies may
	// bound a request's line at 2 KiB.
	maxByGet = 20
	// maxByPost is how many users one request may name.
	maxByPost = 1000
	// defaultAnswerBytes bounds an answer where QueryOptions does not.
	defaultAnswerBytes = 64 << 20
)

// ErrAnswerTooLarge is an answer of a query that would need more memory than is allowed (K10).
var ErrAnswerTooLarge = errors.New("client: the answer is larger than MaxAnswerBytes")

// QueryOptions of a Query. URL, Token and UserIDs are required.
type QueryOptions struct {
	// URL of the server, as https://presence.example.com.
	URL string
	// Token returns a token that covers the users.
	Token TokenFunc
	// UserIDs are the users to ask about, as UUIDs. More than 1,000 take several requests, and a
	// token with presence:read:any; their answers are of different moments.
	UserIDs []string
	// MaxAnswerBytes bounds the answer to one request. Default: 64 MiB.
	MaxAnswerBytes int64

	// HTTPClient makes the requests. Its Timeout and CheckRedirect are not used: ctx bounds the
	// time. Default: one on http.DefaultTransport.
	HTTPClient *http.Client
}

// Device is the state of a device with the times of the server.
type Device struct {
	Event
	// LastHeartbeatMS is when the last heartbeat came, in unix milliseconds; 0: not known.
	LastHeartbeatMS int64 `json:"last_heartbeat_ms"`
	// LastOfflineMS is when the device went offline, 0 while it is online.
	LastOfflineMS int64 `json:"last_offline_ms"`
	UpdatedAtMS   int64 `json:"updated_at_ms"`
}

// UserDevices is a user's presence with that of each device.
type UserDevices struct {
	User
	Devices []Device `json:"devices"`
}

// Query asks once, and returns the users in the order in which they were asked for. A user never
// heard of is Offline without devices. The error is a StatusError if the server refused; nothing is
// tried again.
func Query(ctx context.Context, o QueryOptions) ([]UserDevices, error) {
	base, err := endpoint(o.URL, "")
	ids, wrong := canonicalIDs(o.UserIDs)
	err = errors.Join(err, wrong)
	if o.Token == nil {
		err = errors.Join(err, errors.New("client: Token is missing"))
	}
	if err != nil {
		return nil, err
	}
	setDefault(&o.MaxAnswerBytes, defaultAnswerBytes, o.MaxAnswerBytes == 0)
	o.HTTPClient = httpClient(o.HTTPClient)
	token, err := o.Token(ctx)
	if err != nil {
		return nil, fmt.Errorf("client: token: %w", err)
	}
	users := make([]UserDevices, 0, len(ids))
	for len(ids) > 0 {
		n := min(len(ids), maxByPost)
		answer, err := o.ask(ctx, base, token, ids[:n])
		if err != nil {
			return nil, err
		}
		if len(answer) != n {
			return nil, fmt.Errorf("client: query: %d users in the answer, asked for %d",
				len(answer), n)
		}
		users, ids = append(users, answer...), ids[n:]
	}
	return users, nil
}

// ask makes one request.
func (o *QueryOptions) ask(ctx context.Context, base, token string, ids []string) (
	[]UserDevices, error) {
	method, target, body := http.MethodPost, base+queryPath, usersBody(ids)
	if len(ids) <= maxByGet {
		method, target, body = http.MethodGet, base+askPath+"?"+url.Values{"user_id": ids}.Encode(),
			nil
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := authorize(req, token); err != nil {
		return nil, err
	}
	resp, err := o.HTTPClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("client: query: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, o.MaxAnswerBytes+1))
	if err != nil {
		return nil, fmt.Errorf("client: query: %w", err)
	}
	if int64(len(text)) > o.MaxAnswerBytes {
		return nil, ErrAnswerTooLarge
	}
	var answer struct {
		Users []UserDevices `json:"users"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, fmt.Errorf("client: query: the answer of %s cannot be read: %w",
			strings.TrimPrefix(target, base), err)
	}
	return answer.Users, nil
}
