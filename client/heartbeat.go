package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const (
	// maxSeq is the largest seq of the wire contract: what a JavaScript number holds exactly.
	maxSeq = 1<<53 - 1
	// maxSource bounds the source, in bytes.
	maxSource = 128
)

// errNotSent marks an attempt that ended before anything was sent.
var errNotSent = errors.New("client: not sent")

// heartbeat is the body of one, made once: what is sent again is the same (K1).
type heartbeat struct {
	SchemaVersion int    `json:"schema_version"`
	UserID        string `json:"user_id"`
	DeviceID      string `json:"device_id"`
	Status        Status `json:"status"`
	Source        string `json:"source"`
	SentAtMS      int64  `json:"sent_at_ms"`
	Seq           uint64 `json:"seq"`
	TTLMS         int64  `json:"ttl_ms"`
}

// post sends h once. The error is a StatusError if there was an answer, and wraps errNotSent if
// nothing was sent.
func (d *Daemon) post(ctx context.Context, h *heartbeat) error {
	token, err := d.options.Token(ctx)
	if err != nil {
		return fmt.Errorf("%w: token: %w", errNotSent, err)
	}
	body, err := json.Marshal(h)
	if err != nil {
		panic("bug: a heartbeat that is no JSON: " + err.Error())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.endpoint, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := authorize(req, token); err != nil {
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return fmt.Errorf("client: heartbeat: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return statusError(resp)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBytes) // or the connection is not used again
	return nil
}
