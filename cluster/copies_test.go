package cluster

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"rollcall/internal/testwait"
)

// TestCopies: what the leaders of logs say of the copies is read page by page, and asked for once
// in a second.
func TestCopies(t *testing.T) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	if !s.ReadyForConnections(testwait.Limit) {
		t.Fatal("the server does not come up")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	pages := []string{
		`{"config":{"name":"P0"},"cluster":{"leader":"a","replicas":[` +
			`{"name":"b","current":true},{"name":"c","offline":true,"lag":7}]}},` +
			`{"config":{"name":"P1"},"cluster":{"replicas":[{"name":"b"}]}}`,
		`{"config":{"name":"P2"},"cluster":{"leader":"b"}}`,
	}
	asked := 0
	_, err = nc.Subscribe(listSubject, func(m *nats.Msg) {
		page := pages[0]
		if strings.Contains(string(m.Data), `"offset":2`) {
			page = pages[1]
		}
		asked++
		_ = m.Respond(fmt.Appendf(nil, `{"total":3,"streams":[%s]}`, page))
	})
	if err != nil {
		t.Fatal(err)
	}
	c := copies{nc: nc,
		named: func(shown string) string { return shown },
		missing: func(node, log string) uint64 {
			if node == "a" && log == "P0" {
				return 5
			}
			return 0
		},
	}
	for range 2 {
		logs, err := c.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := fmt.Sprint(logs), "map[P0:[{a false false 5 5} {b true false 0 0} "+
			"{c false true 7 0}] P2:[{b true false 0 0}]]"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if asked > 4 { // two, but for a machine that stood still for a second
		t.Errorf("asked %d times", asked)
	}
}
