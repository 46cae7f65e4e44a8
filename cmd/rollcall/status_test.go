package main

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rollcall/cluster"
	"rollcall/cluster/members"
)

// TestStatusTable: the golden tables of a cluster that is well and of one that is not.
func TestStatusTable(t *testing.T) {
	s := &cluster.Status{
		Cluster: "presence", Node: "n1", Leader: "n2", Replicas: 3, MaxSkewMS: 1000,
		Nodes: []cluster.NodeStatus{
			{Name: "n1", Version: "v1.0", InReach: true},
			{Name: "n2", Version: "v1.0", InReach: true, SkewMS: 3},
			{Name: "n3", Version: "v1.1", InReach: true, SkewMS: -12},
		},
	}
	for p, owner := range []string{"n1", "n2", "n3", "n1"} {
		s.Partitions = append(s.Partitions, cluster.PartitionStatus{
			Partition: p, Owner: owner, Epoch: uint64(17 + p), Sure: true,
			Replicas: []cluster.ReplicaStatus{{Node: "n1", Current: true},
				{Node: "n2", Current: true}, {Node: "n3", Current: true}},
		})
	}
	for _, c := range []struct {
		name       string
		change     func()
		partitions bool
	}{
		{"well", func() {}, false},
		{"busy", func() {
			s.AtMS, s.Balance = 200_000, "off"
			s.Deed = &members.Deed{Kind: "leave", Node: "n3", Runner: "n1", BeganMS: 12_345,
				AtMS: 198_000, Step: "moving the copy of P0002 from n3; 3 to go", Moved: 1, Left: 3}
		}, false},
		{"wrong", func() {
			s.Balance, s.Deed.Done = "on", true
			s.Deed.Failed = "members: the journal takes no entry"
			s.Nodes[2] = cluster.NodeStatus{Name: "n3", Version: "v1.1", HeardMS: 42_500}
			s.Nodes = append(s.Nodes, cluster.NodeStatus{Name: "n4", HeardMS: -1})
			s.Partitions[2].Owner = ""
			for i := range s.Partitions {
				s.Partitions[i].Replicas[2] = cluster.ReplicaStatus{Node: "n3", Lag: uint64(i),
					Offline: i == 0}
			}
			s.Partitions[1].Replicas[0] = cluster.ReplicaStatus{Node: "n1", Lag: 5, Missing: 5}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.change()
			var got strings.Builder
			if err := printStatus(&got, s, c.partitions); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "status-"+c.name+".txt")
			if os.Getenv("ROLLCALL_UPDATE") != "" {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got\n%swant\n%s", &got, want)
			}
		})
	}
}

// TestStatusAsks: the token is sent, and each refusal says what to do.
func TestStatusAsks(t *testing.T) {
	answers := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/clusterz" || r.Method != http.MethodGet {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		if r.Header.Get("Authorization") != answers["token"] {
			w.WriteHeader(401)
			return
		}
		if answers["body"] == "" {
			w.WriteHeader(404)
			return
		}
		_, _ = w.Write([]byte(answers["body"]))
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := clusterStatusCmd{operator: operator{Admin: server.URL + "/"}}
	check := func(want string) {
		t.Helper()
		err := ask.Run()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	answers["token"] = "Bearer secret"
	check("--admin-token-file")
	ask.AdminTokenFile = file
	check("not a node of a cluster")
	answers["body"] = "<html>"
	check("not that of a node")
	answers["body"] = `{"node":"n1","leader":""}`
	var code exitCode
	if err := ask.Run(); !errors.As(err, &code) || code.code != 1 {
		t.Errorf("a cluster that is not made: %v", err)
	}
	server.Close()
	check("admin listener")
	ask.Admin = "127.0.0.1:8788"
	check("http://HOST:PORT")
}
