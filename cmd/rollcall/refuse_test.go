package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rollcall/internal/testtree"
	"rollcall/internal/testwait"
)

// A start that is refused, for any reason, changes no byte of the data directory: not one that was
// closed in order, and not one whose upgrade it would have been.
func TestRefusedStartChangesNothing(t *testing.T) {
	sec := secrets{ingest: []string{"ingest"}, signing: []string{"signing"}}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	notPEM := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(notPEM, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	remove := func(pattern string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			found, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(found) == 0 {
				t.Fatalf("%v, %v", found, err)
			}
			for _, path := range found {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		flags  []string
		want   string
	}{
		"port taken":       {nil, []string{"--listen=" + taken.Addr().String()}, "--listen"},
		"admin port taken": {nil, []string{"--admin-listen=" + taken.Addr().String()}, "--admin-listen"},
		"bad certificate":  {nil, []string{"--tls-cert=" + notPEM, "--tls-key=" + notPEM}, "tls"},
		"a marker missing": {remove("checkpoint/marker.manifest.*"), nil, "marker.manifest."},
		"tables missing":   {remove("checkpoint/*.sst"), nil, ".sst"},
		"segments missing": {remove("*.wal"), nil, "has no log segment"},
		"no file can be made": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, "fresh.wal", "occupied")
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, nil, "fresh.wal"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			n := startInside(t, sec, "--data-dir="+dir)
			client := &http.Client{Transport: &http.Transport{}, Timeout: testwait.Limit}
			for range 3 {
				beat(t, client, "http://"+n.public.Addr().String(), uuid.NewString())
			}
			client.CloseIdleConnections()
			n.stop(t)
			if c.damage != nil {
				c.damage(t, dir)
			}
			before := testtree.Of(t, dir)
			n, err := tryInside(t, sec, append(c.flags, "--data-dir="+dir)...)
			if err == nil {
				n.stop(t)
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if diff := before.Changes(testtree.Of(t, dir)); diff != "" {
				t.Errorf("the directory was changed:\n%s", diff)
			}
		})
	}
}
