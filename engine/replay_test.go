package engine

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"rollcall/record"
)

// keep appends a record to the log of an engine that is not there yet.
func (l *memLog) keep(forget bool, user, device uuid.UUID, seq uint64, source string) {
	s := record.State{Seq: seq, SentAtMS: 1, UpdatedAtMS: 1, TTLMS: 1}
	rec := record.Append(nil, user, device, &s, []byte(source))
	if forget {
		rec = record.AppendForget(nil, record.View(rec))
	}
	l.records = append(l.records, rec)
}

// TestReplayMixesMoments: replay goes through the log several users at a time, so in the middle of
// it the table may want to hold devices that it never held together. Nothing of that is lost, and
// nothing is refused.
func TestReplayMixesMoments(t *testing.T) {
	t.Run("devices", func(t *testing.T) {
		log := newMemLog()
		var user, device uuid.UUID
		// one device at a time, each forgotten before the next comes
		for seq := range uint64(20_000) {
			if seq > 0 {
				log.keep(true, user, device, seq, "daemon")
			}
			user, device = uuid.New(), uuid.New()
			log.keep(false, user, device, seq, "daemon")
		}
		r := startRig(t, log, Options{MaxDevices: 1})
		if rec, ok := r.device(user, device); !ok || r.table.Len() != 1 || rec.Seq != 19_999 {
			t.Errorf("%d devices, the last one is there: %v, at %d", r.table.Len(), ok, rec.Seq)
		}
	})
	t.Run("sources", func(t *testing.T) {
		log := newMemLog()
		type device struct{ user, device uuid.UUID }
		devices := make([]device, 5000)
		want := make(map[device]string)
		keep := func(d device, seq uint64, source string) {
			log.keep(false, d.user, d.device, seq, source)
			want[d] = source
		}
		for i := range devices {
			devices[i] = device{uuid.New(), uuid.New()}
			keep(devices[i], 1, fmt.Sprintf("source %d", i))
		}
		for i := range 2000 { // the first of two gives its source up, and the other takes a new one
			keep(devices[2*i], 2, want[devices[2*i+1]])
			keep(devices[len(devices)-1-i], 2, fmt.Sprintf("new %d", i))
		}
		r := startRig(t, log, Options{})
		for d, source := range want {
			if rec, _ := r.device(d.user, d.device); rec.Source != source {
				t.Fatalf("source %q, want %q", rec.Source, source)
			}
		}
		checkSources(t, r.devices)
	})
}
