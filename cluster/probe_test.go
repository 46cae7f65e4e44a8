package cluster

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"rollcall/internal/testwait"
)

// TestProbe: a node says its name and its cluster's, and what is none is told from it.
func TestProbe(t *testing.T) {
	s, err := server.NewServer(&server.Options{
		ServerName: "n1", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: "presence", Host: "127.0.0.1", Port: server.RANDOM_PORT},
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
	ctx, cancel := context.WithTimeout(t.Context(), testwait.Limit)
	defer cancel()
	found, err := Probe(ctx, s.ClusterAddr().String(), "", nil)
	if err != nil || found != (Probed{Node: "n1", Cluster: "presence"}) {
		t.Errorf("%+v, %v", found, err)
	}

	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		for {
			conn, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("220 mail.example\r\n"))
			conn.Close()
		}
	}()
	if found, err := Probe(ctx, other.Addr().String(), "", nil); err == nil ||
		!strings.Contains(err.Error(), "no node") {
		t.Errorf("a mail server: %+v, %v", found, err)
	}
}
