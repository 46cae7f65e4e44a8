package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"rollcall/wire"
)

// operator asks a server's admin listener. Its fields are flags of the commands that do.
type operator struct {
	Admin          string `default:"http://127.0.0.1:8788" placeholder:"URL" help:"The admin listener of a node: http://HOST:PORT (${default})."`
	AdminTokenFile string `type:"path" placeholder:"FILE" help:"A file with an operators' token, where the node asks for one; of several the first is sent."`
}

const (
	// askWait is how long an answer may take.
	askWait = 10 * time.Second
	// maxAnswer bounds an answer, in bytes: of 1,024 partitions with five copies there are 700 KB.
	maxAnswer = 16 << 20
)

// get asks for a path and reads the JSON of the answer into v.
func (o operator) get(path string, v any) error { return o.ask(http.MethodGet, path, v) }

// ask sends a request without a body, and reads the JSON of the answer into v.
func (o operator) ask(method, path string, v any) error { return o.send(method, path, nil, v) }

// send is ask with a body.
func (o operator) send(method, path string, body []byte, v any) error {
	return o.request(method, path, body, func(answer io.Reader) error {
		if err := json.NewDecoder(answer).Decode(v); err != nil {
			return fmt.Errorf("%s%s: the answer is not that of a node: %w", o.Admin, path, err)
		}
		return nil
	})
}

// laterError is one that may go away: the node is not there, or cannot answer in the moment.
type laterError struct{ error }

// Unwrap returns the error itself.
func (e *laterError) Unwrap() error { return e.error }

// request sends a request and has the answer read, if that is 200. Another one is an error with
// what it says.
func (o operator) request(
	method, path string, body []byte, read func(answer io.Reader) error,
) error {
	ctx, cancel := context.WithTimeout(context.Background(), askWait)
	defer cancel()
	if !strings.HasPrefix(o.Admin, "http://") && !strings.HasPrefix(o.Admin, "https://") {
		return fmt.Errorf("--admin is %q: give it as http://HOST:PORT", o.Admin)
	}
	url := strings.TrimSuffix(o.Admin, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	if o.AdminTokenFile != "" {
		tokens, err := readSecrets("", o.AdminTokenFile)
		if err != nil {
			return fmt.Errorf("--admin-token-file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+tokens[0])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return &laterError{fmt.Errorf("%w: is a node there, and is --admin its admin listener?", err)}
	}
	defer resp.Body.Close()
	answer := io.LimitReader(resp.Body, maxAnswer)
	if resp.StatusCode == http.StatusOK {
		return read(answer)
	}
	return refusal(url, resp, answer)
}

// refusal is what an answer other than 200 says.
func refusal(url string, resp *http.Response, answer io.Reader) error {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("%s asks for an operators' token: give --admin-token-file", url)
	case http.StatusNotFound:
		return fmt.Errorf("%s: the server is not a node of a cluster, or is older", url)
	}
	body, err := io.ReadAll(answer)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	err = fmt.Errorf("%s answers %s: %s", url, resp.Status, wire.TrimSpace(body))
	var said struct{ Error, Details string }
	if json.Unmarshal(body, &said) == nil && said.Error != "" {
		err = errors.New(said.Details + " (" + said.Error + ")")
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return &laterError{err}
	}
	return err
}
