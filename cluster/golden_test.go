package cluster

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const goldenMarker = `{
  "format": 1,
  "node": "n1",
  "id": "ID1",
  "cluster": {
    "rollcall_partitions": "12"
  },
  "nodes": {
    "n2": "ID2"
  }
}
`

// TestGolden fixes the JSON that nodes exchange: those of other versions read it, see
// docs/cluster-formats.md. A field may be added, which others pass over; none may be renamed, or
// mean something else.
func TestGolden(t *testing.T) {
	for name, c := range map[string]struct {
		message any // pointer
		want    string
	}{
		"a pulse": {&pulse{
			Node: "n1", ID: "ID1", Version: "v", Formats: []int{1}, WallMS: 2, Draining: true,
			Missing: map[string]uint64{"P0001": 12}, Unusable: []string{"P0002"},
			Partitions: []pulsePartition{{
				Partition: 3, Epoch: 4, Sure: true, AgeNanos: 11, Sent: 5,
			}}, Boot: 6, AtNanos: 7, Echo: &pulseEcho{Boot: 8, AtNanos: 9, HeldNanos: 10},
		}, `{"node":"n1","id":"ID1","version":"v","formats":[1],"wall_ms":2,"draining":true,` +
			`"missing":{"P0001":12},"unusable":["P0002"],` +
			`"partitions":[{"p":3,"e":4,"s":true,"g":11,"n":5}],"boot":6,"at":7,` +
			`"echo":{"b":8,"at":9,"held":10}}`},
		"a hello": {&hello{"n1"}, `{"node":"n1"}`},
		"a welcome": {&welcome{Node: "n1", Made: true, Known: "ID1", Bootstrap: 3},
			`{"node":"n1","made":true,"known":"ID1","bootstrap":3}`},
	} {
		got, err := json.Marshal(c.message)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v\nwant %s", name, got, err, c.want)
		}
		later := strings.Replace(c.want, "{", `{"of_a_later_version":[{}],`, 1)
		for _, text := range []string{c.want, later} {
			read := reflect.New(reflect.TypeOf(c.message).Elem()).Interface()
			if err := json.Unmarshal([]byte(text), read); err != nil ||
				!reflect.DeepEqual(read, c.message) {
				t.Errorf("%s is read as %+v, %v", text, read, err)
			}
		}
	}
}

// TestGoldenMarker fixes the file by which a data directory knows whose it is.
func TestGoldenMarker(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cluster.json")
	if err := os.WriteFile(path, []byte(goldenMarker), 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := openIdentity(dir, "n1", slog.New(slog.DiscardHandler))
	if err != nil || i.known("n1") != "ID1" || i.known("n2") != "ID2" ||
		i.get().Cluster[partitionsKey] != "12" {
		t.Fatalf("%+v, %v", i, err)
	}
	if err := i.change(func(*marker) {}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != goldenMarker {
		t.Errorf("%s, %v", got, err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(goldenMarker, "1", "2", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openIdentity(dir, "n1", slog.New(slog.DiscardHandler)); err == nil ||
		!strings.Contains(err.Error(), "format 2") {
		t.Errorf("a marker of format 2: %v", err)
	}
}

// TestGoldenStreams fixes the names of streams and subjects, and the configuration that a stream is
// made with: a node that finds it otherwise does not serve it.
func TestGoldenStreams(t *testing.T) {
	n := &Node{o: Options{Partitions: 12, Replicas: 3}}
	got, err := json.Marshal(n.streamConfig(streamOf(7), "00"))
	const want = `{"name":"P0007","subjects":["log.P0007"],"retention":"limits","max_consumers":0,` +
		`"max_msgs":0,"max_bytes":0,"discard":"new","max_age":0,"max_msgs_per_subject":0,` +
		`"storage":"file","num_replicas":3,"deny_delete":true,"compression":"none","allow_direct":true,` +
		`"mirror_direct":false,"consumer_limits":{},` +
		`"metadata":{"rollcall_partitions":"12","rollcall_replicas":"3","rollcall_secret":"00"},"allow_msg_ttl":false}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
	names := strings.Join([]string{metaStream, metaSubjects, nodeSubject, balanceSubject, balanceOn,
		balanceOff, deedsStream, string(helloSubject)}, " ")
	if names != "META meta.> meta.node. meta.balance on off DEEDS hello" {
		t.Errorf("names: %s", names)
	}
}
