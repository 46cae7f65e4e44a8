package main

import (
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

// ask sends a request without a body. An answer other than 200 is an error with what it says.
func (o operator) ask(method, path string, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), askWait)
	defer cancel()
	url := strings.TrimSuffix(o.Admin, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
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
		return fmt.Errorf("%w: is a node there, and is --admin its admin listener?", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if err := json.Unmarshal(body, v); err != nil {
			return fmt.Errorf("%s: the answer is not that of a node: %w", url, err)
		}
		return nil
	case http.StatusUnauthorized:
		return fmt.Errorf("%s asks for an operators' token: give --admin-token-file", url)
	case http.StatusNotFound:
		return fmt.Errorf("%s: the server is not a node of a cluster, or is older", url)
	}
	var refusal struct{ Error, Details string }
	if json.Unmarshal(body, &refusal) == nil && refusal.Error != "" {
		return errors.New(refusal.Details + " (" + refusal.Error + ")")
	}
	return fmt.Errorf("%s answers %s: %s", url, resp.Status, wire.TrimSpace(body))
}
