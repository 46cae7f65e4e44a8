package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"

	"github.com/google/uuid"

	"rollcall/wire"
)

// userID is the n-th user.
func userID(n int) string {
	var id uuid.UUID
	// scattered, as random ones are
	binary.BigEndian.PutUint64(id[:8], uint64(n+1)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], uint64(n+1)*0xbf58476d1ce4e5b9)
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // version 4, variant 10
	return id.String()
}

// userIDs are the users from one number up to, but not including, another, of so many in a ring.
func userIDs(from, to, of int) (ids []string) {
	for n := from; n < to; n++ {
		ids = append(ids, userID(n%of))
	}
	return ids
}

// reporter sends heartbeats in batches. Single owner.
type reporter struct {
	url   string
	lines bytes.Buffer
}

func newReporter(addr string) *reporter {
	return &reporter{url: "http://" + addr + wire.HeartbeatsPath}
}

// add adds a heartbeat of a device of a user to the batch.
func (r *reporter) add(user string, device, seq int, status string) {
	fmt.Fprintf(&r.lines, `{"schema_version":1,"user_id":"%s","device_id":"%s","status":"%s",`+
		`"source":"bench","sent_at_ms":1739030400000,"seq":%d,"ttl_ms":3600000}`+"\n",
		user, deviceID(device), status, seq)
}

func deviceID(n int) string {
	return fmt.Sprintf("aaaaaaaa-bbbb-4ccc-8ddd-%012x", n)
}

// send sends the batch, and returns when all of it is durable.
func (r *reporter) send() error {
	request, err := http.NewRequest(http.MethodPost, r.url, &r.lines)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer ingest-token-of-the-benchmarks---")
	request.Header.Set("Content-Type", wire.NDJSONType)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	r.lines.Reset()
	if err == nil && (answer.StatusCode != http.StatusOK ||
		!bytes.Contains(text, []byte(`"rejected":0`))) {
		err = fmt.Errorf("a batch was answered %d %.200s", answer.StatusCode, text)
	}
	return err
}

// introduce sends a first heartbeat of so many devices of each user.
func (r *reporter) introduce(users, devices int) error {
	for n := range users {
		for d := range devices {
			r.add(userID(n), d, 1, "online")
		}
		if (n+1)%(1000/devices) == 0 || n == users-1 {
			if err := r.send(); err != nil {
				return err
			}
		}
	}
	return nil
}
