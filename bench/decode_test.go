package bench

import (
	"encoding/json"
	"testing"

	goccy "github.com/goccy/go-json"
)

// body is the heartbeat that the server's own benchmark decodes, too.
const body = `{"schema_version":1,"user_id":"6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01","device_id":"b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d",` +
	`"status":"online","source":"daemon-do","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000}`

// present tells a field that is missing from one that is zero, as the wire contract asks.
type present struct {
	SchemaVersion *uint64 `json:"schema_version"`
	UserID        *string `json:"user_id"`
	DeviceID      *string `json:"device_id"`
	Status        *string `json:"status"`
	Source        *string `json:"source"`
	SentAtMS      *uint64 `json:"sent_at_ms"`
	Seq           *uint64 `json:"seq"`
	TTLMS         *uint64 `json:"ttl_ms"`
}

// plain does not.
type plain struct {
	SchemaVersion uint64 `json:"schema_version"`
	UserID        string `json:"user_id"`
	DeviceID      string `json:"device_id"`
	Status        string `json:"status"`
	Source        string `json:"source"`
	SentAtMS      uint64 `json:"sent_at_ms"`
	Seq           uint64 `json:"seq"`
	TTLMS         uint64 `json:"ttl_ms"`
}

// BenchmarkDecode reads the body of a heartbeat into fields, without checks. rollcall's own
// decoder is measured by BenchmarkHeartbeat/decode of package server. by=ceiling looks at every
// byte once.
func BenchmarkDecode(b *testing.B) {
	text := []byte(body)
	b.Run("by=encoding-json", func(b *testing.B) { benchDecode[present](b, json.Unmarshal) })
	b.Run("by=goccy-present", func(b *testing.B) { benchDecode[present](b, unmarshalGoccy) })
	b.Run("by=goccy-plain", func(b *testing.B) { benchDecode[plain](b, unmarshalGoccy) })
	b.Run("by=ceiling", func(b *testing.B) {
		b.ReportAllocs()
		quotes := 0
		for b.Loop() {
			for _, c := range text {
				if c == '"' {
					quotes++
				}
			}
		}
		if quotes == 0 {
			b.Fatal("no quotes")
		}
	})
}

func unmarshalGoccy(text []byte, v any) error { return goccy.Unmarshal(text, v) }

func benchDecode[T any](b *testing.B, unmarshal func([]byte, any) error) {
	text := []byte(body)
	b.ReportAllocs()
	for b.Loop() {
		var v T
		if err := unmarshal(text, &v); err != nil {
			b.Fatal(err)
		}
	}
}
