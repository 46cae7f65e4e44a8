package embed_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rollcall/cluster/bus"
	"rollcall/cluster/embed"
	"rollcall/internal/testlog"
	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// start starts a cluster of three servers, each with a bus.
func start(t *testing.T, key string) (servers []*embed.Server, buses []*embed.Bus) {
	if testing.Short() {
		t.Skip("it starts three servers")
	}
	var peers []string
	for range 3 {
		peers = append(peers, testport.Address(t))
	}
	dir := t.TempDir()
	for i, addr := range peers {
		name := fmt.Sprintf("n%d", i)
		out := new(testlog.Output)
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(name, out)
			}
		})
		s, err := embed.Start(embed.Options{
			Node: name, Cluster: "c", Dir: filepath.Join(dir, name), Listen: addr, Peers: peers,
			Key: key, Accepts: func() []string { return []string{key} }, Logger: out.Logger(),
		})
		if err != nil {
			t.Fatal(err, out)
		}
		b, err := embed.NewBus(s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close(); s.Close() })
		servers, buses = append(servers, s), append(buses, b)
	}
	return servers, buses
}

func TestThreeServers(t *testing.T) {
	servers, buses := start(t, "the key")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := servers[0]
	config := &nats.StreamConfig{
		Name: "P0000", Subjects: []string{"log.0"}, Replicas: 3, Storage: nats.FileStorage,
	}
	testwait.Until(t, "a stream is made", func() bool { return a.Create(ctx, config) == nil })
	if _, err := a.Stream(ctx, "P0001"); !errors.Is(err, embed.ErrNoStream) {
		t.Fatal(err)
	}
	var led int
	leader := func() bool {
		led = slices.IndexFunc(servers, func(s *embed.Server) bool { return s.Leads("P0000") })
		return led >= 0
	}
	testwait.Until(t, "the stream has a leader", leader)
	to := servers[(led+1)%3].Name()
	testwait.Until(t, "the leader steps down for another, which has all", func() bool {
		if !leader() || servers[led].Name() == to {
			return led >= 0
		}
		servers[led].LearnGroups()
		if servers[led].Copies("P0000", []string{"n9", to})[to] {
			if err := servers[led].StepDown("P0000", to); err != nil {
				t.Fatal(err)
			}
		}
		return false
	})
	servers[led].LearnGroups()
	if n := len(servers[led].Copies("P0000", []string{"n0", "n1", "n2"})); n != 0 && n != 3 {
		t.Fatalf("%d copies", n)
	}
	if err := a.StepDown("P0001", to); !errors.Is(err, embed.ErrNoGroup) {
		t.Fatal(err)
	}
	testwait.Until(t, "a value is put", func() bool {
		return a.Put(ctx, "log.0", []byte("1")) == nil
	})
	if value, err := a.Get(ctx, "P0000", "log.0"); err != nil || string(value) != "1" {
		t.Fatalf("%q, %v", value, err)
	}
	if err := a.Set(ctx, "log.0", []byte("2")); err != nil {
		t.Fatal(err)
	}
	if value, err := a.Get(ctx, "P0000", "log.0"); err != nil || string(value) != "2" {
		t.Fatalf("%q, %v", value, err)
	}
	if _, err := a.Get(ctx, "P0000", "log.1"); !errors.Is(err, embed.ErrNoValue) {
		t.Fatal(err)
	}
	testwait.Until(t, "the cluster has three servers", func() bool {
		first, all := a.Meta()
		return first != "" && len(all) == 3
	})
	unmet := fmt.Sprintf("Server name unknown at this time (peerID: %s)", servers[1].ID())
	for _, shown := range []string{unmet, "n1"} {
		if name := embed.Named(shown, []string{"n0", "n1", "n2"}); name != "n1" {
			t.Errorf("%s is %q", shown, name)
		}
	}
	if name := embed.Named(unmet, []string{"n0"}); name != unmet {
		t.Error(name)
	}

	got := make(chan string, 100)
	buses[1].Handle("s", func(m bus.Message) {
		if m.Reply != nil {
			m.Reply(append(m.Data, '!'))
			return
		}
		got <- m.From + " " + string(m.Data)
	})
	testwait.Until(t, "a request is answered", func() bool {
		answer, err := buses[0].Request(ctx, "n1", "s", []byte("x"))
		return err == nil && string(answer) == "x!"
	})
	if _, err := buses[0].Request(ctx, "n9", "s", nil); err != bus.ErrNoNode {
		t.Fatal(err)
	}
	for i := range cap(got) {
		if !buses[0].Send("n1", "s", fmt.Append(nil, i)) {
			t.Fatal("no room for a small message")
		}
	}
	for i := range cap(got) {
		if text := testwait.For(t, "a message", got); text != fmt.Sprint("n0 ", i) {
			t.Fatalf("message %d is %q", i, text)
		}
	}
	if peers := buses[0].Peers(); !slices.Equal(peers, []string{"n1", "n2"}) {
		t.Fatal(peers)
	}

	leader()
	servers[led].Close()
	heir := servers[(led+1)%3]
	heir.LearnGroups()
	if replicas := heir.Replicas("P0000"); !slices.Equal(replicas, []string{"n0", "n1", "n2"}) {
		t.Fatal(replicas)
	}
	var last time.Time // each campaign sets the time of the election anew
	testwait.Until(t, "a campaign is won", func() bool {
		if time.Since(last) > 2*time.Second {
			last = time.Now()
			if err := heir.Campaign("P0000"); err != nil {
				t.Fatal(err)
			}
		}
		return heir.Leads("P0000")
	})
}
