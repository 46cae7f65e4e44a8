package bench

import (
	"encoding/json"
	"testing"

	goccy "github.com/goccy/go-json"
	"github.com/google/uuid"

	"rollcall/record"
	"rollcall/wire"
)

func sampleEvent() wire.Event {
	return wire.Event{
		User:   uuid.MustParse("6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01"),
		Device: uuid.MustParse("b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d"),
		Status: record.Online, Source: "daemon-do", SentAtMS: 1739030400000, Seq: 42, TTLMS: 12000,
	}
}

// BenchmarkFrame encodes the frame of one event. by=ceiling copies the finished text.
func BenchmarkFrame(b *testing.B) {
	ev := sampleEvent()
	text := wire.AppendFrame(nil, &ev)
	dst := make([]byte, 0, 512)
	b.Run("by=rollcall", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = wire.AppendFrame(dst[:0], &ev)
		}
	})
	for _, m := range []struct {
		by      string
		marshal func(any) ([]byte, error)
	}{{"encoding-json", json.Marshal}, {"goccy", goccy.Marshal}} {
		b.Run("by="+m.by, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst = marshalFrame(b, dst[:0], &ev, m.marshal)
			}
		})
	}
	b.Run("by=ceiling", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			dst = append(dst[:0], text...)
		}
	})
}

func marshalFrame(t testing.TB, dst []byte, ev *wire.Event,
	marshal func(any) ([]byte, error)) []byte {
	status := "offline"
	if ev.Status == record.Online {
		status = "online"
	}
	data, err := marshal(&plain{SchemaVersion: 1, UserID: ev.User.String(),
		DeviceID: ev.Device.String(), Status: status,
		Source: ev.Source, SentAtMS: ev.SentAtMS, Seq: ev.Seq, TTLMS: ev.TTLMS})
	if err != nil {
		t.Fatal(err)
	}
	dst = append(append(dst, "data: "...), data...)
	return append(dst, "\n\n"...)
}

// TestFramesAreTheSame shows that the alternatives make the frame that is measured.
func TestFramesAreTheSame(t *testing.T) {
	ev := sampleEvent()
	want := string(wire.AppendFrame(nil, &ev))
	if got := string(marshalFrame(t, nil, &ev, json.Marshal)); got != want {
		t.Errorf("encoding/json: %q, want %q", got, want)
	}
	if got := string(marshalFrame(t, nil, &ev, goccy.Marshal)); got != want {
		t.Errorf("goccy: %q, want %q", got, want)
	}
}
