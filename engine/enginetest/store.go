package enginetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/wire"
)

// replace writes values as the range of a checkpoint that holds them: those of one first byte.
func replace(t testing.TB, s engine.Store, first byte, lsn uint64, texts ...string) {
	t.Helper()
	err := s.Replace([]byte{first}, []byte{first + 1},
		func(yield func(key, value []byte) bool) {
			for _, text := range texts {
				value := binary.LittleEndian.AppendUint64(nil, lsn)
				value = fmt.Appendf(value, "value %s", text)
				if !yield([]byte(text), value) {
					return
				}
			}
		})
	if err != nil {
		t.Fatal(err)
	}
}

// end ends a checkpoint as an engine does.
func end(t testing.TB, l engine.Log, s engine.Store, lsn uint64) {
	t.Helper()
	for _, err := range []error{
		l.Sync(lsn), s.Install(), s.SetClock(1000 + lsn), s.Commit(lsn), l.TruncateBefore(lsn + 1),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkpoint: what it holds and what it is as of comes back, with the records behind it, life after
// life and checkpoint after checkpoint.
func checkpoint(t *testing.T, m Medium) {
	var secret []byte
	for life := range uint64(4) {
		l, s := m.Open(t)
		got, err := s.Secret(func() []byte { return make([]byte, 32) })
		if err != nil || len(got) != 32 || secret != nil && string(got) != string(secret) {
			t.Fatalf("secret %x, then %x, %v", secret, got, err)
		}
		secret = got
		c := read(t, l, s)
		if err := errors.Join(s.Start(), l.Start(nil)); err != nil {
			t.Fatal(err)
		}
		clock, err := s.Clock()
		as := life * 10 // of the last checkpoint
		if life == 0 {
			if c.lsn != 0 || c.next != 1 || clock != 0 || err != nil {
				t.Errorf("new: as of %d at %d, next %d: %v", c.lsn, clock, c.next, err)
			}
		} else if c.lsn != as || clock != 1000+as || c.next != as+4 || err != nil {
			t.Errorf("life %d: as of %d at %d, next %d: %v", life, c.lsn, clock, c.next, err)
		} else if c.values["a one"] != as || c.values["b two"] != as || c.records[as+3] == "" {
			t.Errorf("life %d: %v, %v", life, c.values, c.records)
		}
		for l.Appended() < as+10 {
			commit(t, l, "record")
		}
		replace(t, s, 'a', as+10, fmt.Sprintf("a life %d", life), "a one")
		replace(t, s, 'b', as+10, "b two")
		end(t, l, s, as+10)
		if s.LSN() != as+10 {
			t.Errorf("as of %d", s.LSN())
		}
		for range 3 {
			commit(t, l, "behind")
		}
		m.Close(t)
	}
	_, _, c := open(t, m, nil)
	if c.values["a life 3"] != 40 || c.values["a life 0"] != 0 {
		t.Errorf("%v", c.values)
	}
	if len(c.records) != 3 {
		t.Errorf("%d records are left", len(c.records))
	}
	m.Close(t)
}

// checkpointNotEnded: the one before counts, whether it was given up or cut off.
func checkpointNotEnded(t *testing.T, m Medium) {
	l, s, _ := open(t, m, nil)
	commit(t, l, "record 1")
	replace(t, s, 'a', 1, "a one")
	end(t, l, s, 1)
	commit(t, l, "record 2")
	replace(t, s, 'a', 2, "a two")
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	commit(t, l, "record 3")
	replace(t, s, 'a', 3, "a three")
	if err := errors.Join(l.Sync(3), s.Install()); err != nil {
		t.Fatal(err)
	}
	m.Break()
	l, s, c := open(t, m, nil)
	if c.lsn != 1 || c.next != 4 || c.records[2] != "record 2" || c.records[3] != "record 3" {
		t.Errorf("as of %d, next %d, %v", c.lsn, c.next, c.records)
	}
	replace(t, s, 'a', 3, "a four")
	end(t, l, s, 3)
	m.Close(t)
	_, _, c = open(t, m, nil)
	if c.lsn != 3 || c.next != 4 || c.values["a four"] != 3 {
		t.Errorf("as of %d, next %d, %v", c.lsn, c.next, c.values)
	}
	m.Close(t)
}

// checkpointUnderLoad: records go on while one is taken, and none behind it is lost.
func checkpointUnderLoad(t *testing.T, m Medium) {
	l, s, _ := open(t, m, nil)
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		last := uint64(0)
		defer func() { done <- last }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if l.Reserve(6, time.Minute) != nil {
				return
			}
			lsn := l.Append([]byte("record"), 0)
			if l.Wait(lsn) != nil {
				return
			}
			last = lsn
		}
	}()
	as := uint64(0)
	for range 5 {
		as = l.Appended()
		for _, first := range []byte("abcd") {
			replace(t, s, first, as, string(first)+" more text", string(first)+" text")
		}
		end(t, l, s, as)
	}
	close(stop)
	last := <-done
	m.Close(t)
	_, _, c := open(t, m, nil)
	for lsn := as + 1; lsn <= last; lsn++ {
		if c.records[lsn] != "record" {
			t.Fatalf("record %d is missing: as of %d, next %d", lsn, c.lsn, c.next)
		}
	}
	if c.lsn != as || c.next <= last || c.values["d text"] != as {
		t.Errorf("as of %d, want %d; next %d, want more than %d", c.lsn, as, c.next, last)
	}
	m.Close(t)
}

// engineLives: an engine finds its devices again, from checkpoint and log.
func engineLives(t *testing.T, m Medium) {
	users := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	devices := make([]uuid.UUID, 12)
	for i := range devices {
		devices[i] = uuid.New()
	}
	seq, want := uint64(0), map[uuid.UUID]string{}
	for life := range 4 {
		l, s := m.Open(t)
		e, err := engine.New(l, engine.Options{
			Store: s, Logger: slog.New(slog.DiscardHandler), Shards: 4,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		for _, user := range users {
			if got := describe(t, e, user); life > 0 && got != want[user] {
				t.Errorf("life %d: user %s has\n%swant\n%s", life, user, got, want[user])
			}
		}
		for i := range 60 {
			if i == 30 {
				if _, err := e.Checkpoint(nil); err != nil {
					t.Fatal(err)
				}
			}
			seq++
			d := int(seq*7) % len(devices)
			hb := &engine.Heartbeat{Heartbeat: wire.Heartbeat{
				User: users[d%len(users)], Device: devices[d], Seq: seq, SentAtMS: 1000 + seq,
				TTLMS: 3_600_000, Status: engine.Status(seq % 2), Source: []byte("test"),
			}}
			if r := e.Heartbeat(hb); r.Outcome != engine.Accepted {
				t.Fatalf("life %d, seq %d: %+v", life, seq, r)
			}
		}
		for _, user := range users {
			want[user] = describe(t, e, user)
		}
		e.Close(context.Background())
		m.Close(t)
	}
}

func describe(t testing.TB, e *engine.Engine, user uuid.UUID) (text string) {
	t.Helper()
	page, _, err := e.Devices(user, uuid.Nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range page {
		text += fmt.Sprintf("%+v\n", d)
	}
	at, online := e.Turned(user)
	return text + fmt.Sprintln("turned", at, online)
}
