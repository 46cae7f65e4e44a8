package jslog_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"rollcall/jslog"
)

// serve runs a NATS server in this process.
func serve(t testing.TB) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "n1", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
		JetStreamMaxStore: 4 << 30, JetStreamMaxMemory: 64 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the NATS server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

var streams atomic.Int64

// addStream makes a stream, and returns its name.
func addStream(t testing.TB, nc *nats.Conn) string {
	t.Helper()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprint("p", streams.Add(1))
	if _, err := js.AddStream(jslog.Config(name, 1, nil)); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestNATS: the stream of a NATS server is one as the log needs it.
func TestNATS(t *testing.T) {
	nc := serve(t)
	s := jslog.NATS(nc, addStream(t, nc))
	first, last, err := s.Info(t.Context())
	if err != nil || first > 1 || last != 0 {
		t.Errorf("empty: %d to %d, %v", first, last, err)
	}
	if err := s.Read(t.Context(), 1, nil); err != nil {
		t.Errorf("an empty stream: %v", err)
	}
	for i := range uint64(10) {
		seq, err := s.Publish(t.Context(), i, fmt.Appendf(nil, "message %d", i+1))
		if err != nil || seq != i+1 {
			t.Fatalf("%d: %d, %v", i, seq, err)
		}
	}
	var wrong *jslog.WrongLastError
	if _, err := s.Publish(t.Context(), 4, []byte("x")); !errors.As(err, &wrong) || wrong.Last != 10 {
		t.Errorf("an older last one: %v", err)
	}
	if _, err := s.Publish(t.Context(), 11, []byte("x")); !errors.As(err, &wrong) || wrong.Last != 10 {
		t.Errorf("a later last one: %v", err)
	}
	if err := s.Purge(t.Context(), 4); err != nil {
		t.Error(err)
	}
	if first, last, err := s.Info(t.Context()); first != 4 || last != 10 || err != nil {
		t.Errorf("purged: %d to %d, %v", first, last, err)
	}
	for from, want := range map[uint64]string{1: "4 to 10", 4: "4 to 10", 8: "8 to 10", 11: ""} {
		var seqs []uint64
		err := s.Read(t.Context(), from, func(seq uint64, data []byte) error {
			if string(data) != fmt.Sprintf("message %d", seq) {
				t.Errorf("%d: %q", seq, data)
			}
			seqs = append(seqs, seq)
			return nil
		})
		got := ""
		if len(seqs) > 0 {
			got = fmt.Sprintf("%d to %d", seqs[0], seqs[len(seqs)-1])
		}
		if err != nil || got != want {
			t.Errorf("from %d: %v, %v", from, seqs, err)
		}
	}
	stop := errors.New("stop")
	if err := s.Read(t.Context(), 1, func(uint64, []byte) error { return stop }); err != stop {
		t.Errorf("stopped: %v", err)
	}
	if _, _, err := jslog.NATS(nc, "none").Info(t.Context()); err == nil {
		t.Error("a stream that is not there has messages")
	}
}

// TestNATSOwners: as TestOwners, on a NATS server (C1, C4).
func TestNATSOwners(t *testing.T) {
	nc := serve(t)
	s := jslog.NATS(nc, addStream(t, nc))
	first := start(t, s)
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprint("record ", i))
		add(t, first, want[i])
	}
	if err := first.Wait(100); err != nil {
		t.Fatal(err)
	}
	second, records := claim(t, s)
	defer second.Close()
	if !slices.Equal(records, want) {
		t.Errorf("%d records", len(records))
	}
	if err := first.Vouch(100); !errors.Is(err, jslog.ErrLost) {
		t.Errorf("the first owner vouches: %v", err)
	}
}
