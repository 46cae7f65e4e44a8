package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rollcall/checkpoint"
	"rollcall/cluster"
	"rollcall/datadir"
	"rollcall/engine"
	"rollcall/internal/testlog"
	"rollcall/internal/testport"
	"rollcall/internal/testwait"
	"rollcall/wal"
)

// populate makes the data directory of a server that had so many users, each with devices that are
// online, offline, and offline twice, and half of it in a checkpoint.
func populate(t *testing.T, dir string, users int) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	log, store, err := datadir.Open(dir, wal.Options{Sync: wal.SyncNever, Logger: quiet},
		checkpoint.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(log, engine.Options{Store: store, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range users {
		hb := new(engine.Heartbeat)
		hb.User, hb.TTLMS, hb.SentAtMS = uuid.New(), 3_600_000, uint64(1_700_000_000_000+i)
		for d := range 3 {
			hb.Device, hb.Source = uuid.New(), []byte(fmt.Sprint("source ", d))
			for n := range 1 + rand.IntN(4) {
				hb.Seq, hb.Status = uint64(10*i+n+1), engine.Status(rand.IntN(2))
				if r := e.Heartbeat(hb); r.Outcome != engine.Accepted {
					t.Fatalf("%+v", r)
				}
			}
		}
		if i == users/2 {
			if _, err := e.Checkpoint(nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = e.Close(context.Background())
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// records are those of all that a data directory knows: of each device what is known, and of each
// user with a turn when the last one was, and when the user was seen.
func recordsOf(t *testing.T, dir string) (all []string) {
	t.Helper()
	view, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	found := lookInto(view)
	defer found.close()
	if found.damage != nil {
		t.Fatal(found.damage)
	}
	// Which device a user's last turn is told with depends on the hash, so devices are left out
	// there.
	err = found.devices.EachExported(func(rec []byte) error {
		if rec[1]&4 != 0 {
			all = append(all, fmt.Sprintf("turn %x %x", rec[4:20], rec[68:92]))
			return nil
		}
		all = append(all, fmt.Sprintf("%x", rec))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// startCluster starts nodes in this process, and returns what answers operators on the first.
func startCluster(t *testing.T, count, partitions int) (admin string) {
	t.Helper()
	peers := make([]string, count)
	for i := range peers {
		peers[i] = testport.Address(t)
	}
	out := new(testlog.Output)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out)
		}
	})
	nodes := make([]*cluster.Node, count)
	for i := range nodes {
		n, err := cluster.New(cluster.Options{
			Node: fmt.Sprint("n", i+1), Dir: t.TempDir(), Listen: peers[i], Peers: peers,
			Bootstrap: count, Partitions: partitions, Replicas: count, Logger: out.Logger(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close(context.Background()) })
		nodes[i] = n
	}
	server := httptest.NewServer(nodes[0])
	t.Cleanup(server.Close)
	testwait.Until(t, "all partitions are owned", func() bool {
		s := nodes[0].Status(t.Context())
		return len(s.Partitions) > 0 && !slices.ContainsFunc(s.Partitions,
			func(p cluster.PartitionStatus) bool { return p.Owner == "" })
	})
	return server.URL
}

// TestIntoAClusterAndBack: what a server that was alone knew is, after an import into a cluster and
// a backup of that, the same to the last bit: devices, when they and their users were last seen,
// and when users changed.
func TestIntoAClusterAndBack(t *testing.T) {
	if testing.Short() {
		t.Skip("three log servers")
	}
	dir := t.TempDir()
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	populate(t, before, 400)
	admin := startCluster(t, 3, 5)
	if err := (clusterImportCmd{operator: operator{Admin: admin}, Dir: before}).Run(); err != nil {
		t.Fatal(err)
	}
	if err := (backupCmd{Dir: after, Cluster: admin}).Run(); err != nil {
		t.Fatal(err)
	}
	want, got := recordsOf(t, before), recordsOf(t, after)
	if len(want) < 1200 || !slices.Equal(got, want) {
		t.Errorf("%d records came back of %d", len(got), len(want))
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("record %d is\n%s\nwant\n%s", i, got[i], want[i])
			}
		}
	}

	// A second import is refused, and with --continue changes nothing.
	err := (clusterImportCmd{operator: operator{Admin: admin}, Dir: before}).Run()
	if err == nil || !strings.Contains(err.Error(), "--continue") {
		t.Errorf("import into a cluster that is not empty: %v", err)
	}
	again := clusterImportCmd{operator: operator{Admin: admin}, Dir: before, Continue: true}
	if err := again.Run(); err != nil {
		t.Error(err)
	}
	if err := (backupCmd{Dir: after, Cluster: admin}).Run(); err == nil {
		t.Error("a backup was made over another one")
	}
}

// TestBackupOfACluster: what is cut or damaged on the way leaves no backup behind.
func TestBackupOfAClusterIsWhole(t *testing.T) {
	for name, page := range map[string][]byte{"damaged": make([]byte, 40), "cut": nil} {
		answers := http.NewServeMux()
		answers.HandleFunc("GET /clusterz", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"partitions":[{"partition":0}]}`)
		})
		answers.HandleFunc("GET /clusterz/export", func(w http.ResponseWriter, _ *http.Request) {
			w.Write(page)
		})
		server := httptest.NewServer(answers)
		target := filepath.Join(t.TempDir(), "backup")
		if err := (backupCmd{Dir: target, Cluster: server.URL}).Run(); err == nil {
			t.Errorf("%s: no error", name)
		}
		for _, path := range []string{target, target + partialSuffix} {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s: %s is there", name, path)
			}
		}
		server.Close()
	}
}

// TestBackupBesideAnother: of two backups to the same place that begin at a time, the one that is
// second to make its directory is refused, and leaves what the other writes.
func TestBackupBesideAnother(t *testing.T) {
	target := filepath.Join(t.TempDir(), "backup")
	theirs := filepath.Join(target+partialSuffix, "of the other one")
	answers := http.NewServeMux()
	// the other one begins when this one has found that the place is free
	answers.HandleFunc("GET /clusterz", func(w http.ResponseWriter, _ *http.Request) {
		err := errors.Join(os.Mkdir(filepath.Dir(theirs), 0o700), os.WriteFile(theirs, nil, 0o600))
		if err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, `{"partitions":[{"partition":0}]}`)
	})
	server := httptest.NewServer(answers)
	defer server.Close()
	err := (backupCmd{Dir: target, Cluster: server.URL}).Run()
	if err == nil || !strings.Contains(err.Error(), "another backup is running") {
		t.Errorf("it was made: %v", err)
	}
	if names, err := os.ReadDir(filepath.Dir(theirs)); err != nil || len(names) != 1 {
		t.Errorf("of the other backup is there: %v, %v", names, err)
	}
}

// A deed that fails, or is refused, is an error that says why.
func TestDeeds(t *testing.T) {
	deed := `{"done":true}`
	refuse := false
	answers := http.NewServeMux()
	answers.HandleFunc("POST /clusterz/leave", func(w http.ResponseWriter, r *http.Request) {
		if refuse {
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"error":"refused","details":"start another node first"}`)
			return
		}
		fmt.Fprintf(w, `{"begun":%v}`, r.URL.Query().Get("node") == "n4")
	})
	answers.HandleFunc("GET /clusterz/deed", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, deed)
	})
	server := httptest.NewServer(answers)
	defer server.Close()
	c := clusterLeaveCmd{operator{Admin: server.URL}, "n4"}
	if err := c.Run(); err != nil {
		t.Error(err)
	}
	deed = `{"done":true,"failed":"the disk is full"}`
	if err := c.Run(); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Error(err)
	}
	refuse = true
	if err := c.Run(); err == nil || !strings.Contains(err.Error(), "start another node first") {
		t.Error(err)
	}
}
