package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"

	"rollcall/record"
)

const (
	testUser   = "6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01"
	testDevice = "b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d"
)

func testEvent() Event {
	return Event{
		User: uuid.MustParse(testUser), Device: uuid.MustParse(testDevice),
		Status: record.Online, Source: "daemon-do",
		SentAtMS: 1739030400000, Seq: 42, TTLMS: 12000,
	}
}

func TestFrame(t *testing.T) {
	const head = `data: {"schema_version":1,"user_id":"` + testUser + `","device_id":"` +
		testDevice + `","status":`
	ev := testEvent()
	if got, want := string(AppendFrame(nil, &ev)),
		head+`"online","source":"daemon-do","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000}`+"\n\n"; got != want {
		t.Errorf("frame\n     %q\nwant %q", got, want)
	}
	ev = Event{User: ev.User, Device: ev.Device, SentAtMS: 1<<53 - 1, Seq: 0, TTLMS: 1}
	for source, want := range map[string]string{ // as JSON.stringify writes it
		"a<b>&\"\\/ \u2028é😀\x07\x7f": "a<b>&\\\"\\\\/ \u2028é😀\\u0007\x7f",
		"\b\t\n\f\r\x00\x0b\x1f":      `\b\t\n\f\r\u0000\u000b\u001f`,
		`"`:                           `\"`,
		"x":                           "x",
	} {
		ev.Source = source
		want = head + `"offline","source":"` + want +
			`","sent_at_ms":9007199254740991,"seq":0,"ttl_ms":1}` + "\n\n"
		if got := string(AppendFrame(nil, &ev)); got != want {
			t.Errorf("frame\n     %q\nwant %q", got, want)
		}
	}
}

// FuzzFrame: a frame is one data line, and parses back to what was put in.
func FuzzFrame(f *testing.F) {
	f.Add("daemon-do", uint64(1), uint64(2), uint64(3), true)
	f.Add("\x00\"\\\n\u2028😀\x7f", uint64(0), uint64(1<<53-1), uint64(1<<63), false)
	f.Fuzz(func(t *testing.T, source string, sentAt, seq, ttl uint64, online bool) {
		if !utf8.ValidString(source) {
			t.Skip("the engine holds valid UTF-8 only")
		}
		ev := testEvent()
		ev.Source, ev.SentAtMS, ev.Seq, ev.TTLMS, ev.Status = source, sentAt, seq, ttl,
			record.Offline
		if online {
			ev.Status = record.Online
		}
		frame := string(AppendFrame([]byte("x"), &ev))
		data, ok := strings.CutPrefix(frame, "xdata: ")
		data, ok2 := strings.CutSuffix(data, "\n\n")
		if !ok || !ok2 || strings.ContainsAny(data, "\r\n") {
			t.Fatalf("not one data line: %q", frame)
		}
		var got struct {
			SchemaVersion int       `json:"schema_version"`
			UserID        uuid.UUID `json:"user_id"`
			DeviceID      uuid.UUID `json:"device_id"`
			Status        string    `json:"status"`
			Source        string    `json:"source"`
			SentAtMS      uint64    `json:"sent_at_ms"`
			Seq           uint64    `json:"seq"`
			TTLMS         uint64    `json:"ttl_ms"`
		}
		if err := json.Unmarshal([]byte(data), &got); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if got.SchemaVersion != 1 || got.UserID != ev.User || got.DeviceID != ev.Device ||
			got.Status != ev.Status.String() ||
			got.Source != source || got.SentAtMS != sentAt || got.Seq != seq || got.TTLMS != ttl {
			t.Fatalf("%q parses back to %+v", data, got)
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	ev, dst := testEvent(), make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendFrame(dst[:0], &ev)
	}
}
