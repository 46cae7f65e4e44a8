package members

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"rollcall/cluster/embed"
	"rollcall/internal/testport"
	"rollcall/internal/testwait"
	"rollcall/jslog"
)

// lab is a cluster of servers in this process.
type lab struct {
	t       *testing.T
	servers map[string]*server.Server
	routes  []*url.URL     // of the first ones
	ports   map[string]int // for routes
	dirs    map[string]string
	app     *nats.Conn
	at      string // the server that is asked
	logs    []string
	moved   atomic.Int64 // copies
}

// newLab starts servers that know of each other, and logs with copies.
func newLab(t *testing.T, names []string, logs, copies int) *lab {
	t.Helper()
	l := &lab{t: t, servers: make(map[string]*server.Server), dirs: make(map[string]string),
		ports: make(map[string]int)}
	for _, name := range append(names, "spare1", "spare2") {
		addr := netip.MustParseAddrPort(testport.Address(t))
		l.ports[name] = int(addr.Port())
		if slices.Contains(names, name) {
			l.routes = append(l.routes, &url.URL{Scheme: "nats", Host: addr.String()})
		}
		l.dirs[name] = t.TempDir()
	}
	t.Cleanup(l.close)
	for _, name := range names {
		l.start(name)
	}
	l.connect(names[0])
	testwait.Until(t, "there is a leader", func() bool {
		s := l.look()
		return s != nil && len(s.Nodes) >= len(names)
	})
	for i := range logs {
		l.create(fmt.Sprintf("P%d", i), copies)
	}
	l.create("DEEDS", copies)
	l.settle()
	return l
}

func (l *lab) start(name string) {
	l.t.Helper()
	system := server.NewAccount("SYSTEM")
	o := &server.Options{
		ServerName: name, Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: l.dirs[name], JetStreamMaxStore: 1 << 30,
		JetStreamMaxMemory: 1 << 20, Routes: l.routes,
		Cluster: server.ClusterOpts{
			Name: "lab", Host: "127.0.0.1", Port: l.ports[name], NoAdvertise: true, PoolSize: -1,
		},
		Accounts: []*server.Account{system}, SystemAccount: "SYSTEM",
		Users: []*server.User{
			{Username: "system", Password: "p", Account: system},
			{Username: "app", Password: "p"},
		},
	}
	s, err := server.NewServer(o)
	if err != nil {
		l.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(testwait.Limit) {
		l.t.Fatal("a server is not ready")
	}
	l.servers[name] = s
}

// connect has the lab ask this server.
func (l *lab) connect(name string) {
	l.t.Helper()
	l.hangUp()
	url := l.servers[name].ClientURL()
	var err error
	if l.app, err = nats.Connect(url, nats.UserInfo("app", "p")); err != nil {
		l.t.Fatal(err)
	}
	l.at = name
}

func (l *lab) hangUp() {
	if l.app != nil {
		l.app.Close()
	}
}

func (l *lab) create(name string, copies int) {
	l.t.Helper()
	js, err := l.app.JetStream()
	if err != nil {
		l.t.Fatal(err)
	}
	testwait.Until(l.t, "a log is made", func() bool {
		_, err := js.AddStream(jslog.Config(name, copies, nil))
		return err == nil
	})
	l.logs = append(l.logs, name)
}

// fill appends so many messages to each log.
func (l *lab) fill(n int) {
	l.t.Helper()
	js, _ := l.app.JetStream()
	for _, log := range l.logs {
		if log == "DEEDS" {
			continue
		}
		for range n {
			// One that is sent again, since its answer was late, is the same message.
			id := nats.MsgId(rand.Text())
			testwait.Until(l.t, "a message is stored", func() bool {
				_, err := js.Publish("log."+log, make([]byte, 1000), id)
				return err == nil
			})
		}
	}
}

func (l *lab) asked() *Servers {
	return &Servers{App: l.app, System: func() (*nats.Conn, error) {
		return nats.Connect(l.servers[l.at].ClientURL(), nats.UserInfo("system", "p"))
	}, Copies: 3, PeerID: embed.PeerID, Named: func(shown string) string {
		return embed.Named(shown, slices.Collect(maps.Keys(l.dirs)))
	}}
}

// members are those as the server sees them that the lab asks.
func (l *lab) members() *Members {
	m := New(Options{
		Node: l.at, Servers: l.asked(), Logger: slog.New(slog.DiscardHandler),
		Moves: func(kind string) func(error) {
			return func(err error) {
				l.moved.Add(1)
				// A deed that is asked for fails with it. Copies are balanced again.
				if err != nil && kind != balance {
					l.t.Errorf("a move of %s: %v", kind, err)
				}
			}
		},
		Journal: func(context.Context) (Journal, error) {
			return jslog.NATS(l.app, "DEEDS"), nil
		},
	})
	l.t.Cleanup(m.Close)
	return m
}

// waitDone waits until the newest deed is over, and returns it.
func (l *lab) waitDone(m *Members) (d Deed) {
	l.t.Helper()
	testwait.Until(l.t, "the deed is done", func() bool {
		var err error
		d, _, err = m.Last(context.Background())
		return err == nil && d.Done
	})
	return d
}

// look returns nil when there is no answer.
func (l *lab) look() *State {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := l.asked().Look(ctx)
	if err != nil {
		return nil
	}
	return s
}

func (l *lab) settle() {
	l.t.Helper()
	testwait.Until(l.t, "all copies are current", func() bool {
		s := l.look()
		return s != nil && s.unsettled("") == ""
	})
}

func (l *lab) stop(name string) {
	l.servers[name].Shutdown()
	l.servers[name].WaitForShutdown()
	delete(l.servers, name)
}

func (l *lab) close() {
	l.hangUp()
	for name := range l.servers {
		l.stop(name)
	}
}
