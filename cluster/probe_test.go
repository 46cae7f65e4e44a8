package cluster

import (
	"bufio"
	"errors"
	"net"
	"strings"
	"testing"

	"rollcall/cluster/embed"
	"rollcall/internal/testlog"
)

// TestProbePeers: a node says its name and its cluster's, and whether it would take the key; what
// is none is told from it.
func TestProbePeers(t *testing.T) {
	s, err := embed.Start(embed.Options{
		Node: "n1", Cluster: "presence", Listen: "127.0.0.1:0", Key: "the key",
		Accepts: func() []string { return []string{"another key", "the key"} },
		Logger:  new(testlog.Output).Logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	node := s.ClusterAddr().String()
	mail := says(t, "220 mail.example\r\n")
	gone := says(t, "")
	for name, c := range map[string]struct {
		addr, cluster, key string
		node               string
		err                error
		says               string
	}{
		"a key":           {node, "presence", "another key", "n1", nil, ""},
		"a wrong key":     {node, "presence", "a key", "n1", ErrKey, ""},
		"no key":          {node, "presence", "", "n1", ErrKey, ""},
		"another cluster": {node, "staging", "the key", "n1", nil, ""},
		"a mail server":   {mail, "presence", "the key", "", ErrNoNode, ""},
		"silence":         {gone, "presence", "the key", "", ErrTLS, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Name: c.cluster, Listen: "127.0.0.1:6222", Peers: []string{c.addr}}
			if c.key != "" {
				o.Keys = []string{c.key}
			}
			found := ProbePeers(t.Context(), o)
			if len(found) != 1 || found[0].Node != c.node {
				t.Fatalf("%+v", found)
			}
			err := found[0].Err
			if c.says == "" && !errors.Is(err, c.err) ||
				c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// says listens, says a text to all that come, and returns the address.
func says(t *testing.T, text string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn) // what is left unread at the end resets the connection
			_, _ = in.ReadString('\n')
			_, _ = in.ReadString('\n')
			_, _ = conn.Write([]byte(text))
			conn.Close()
		}
	}()
	return ln.Addr().String()
}
