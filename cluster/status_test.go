package cluster

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"testing"

	"rollcall/cluster/members"
)

// well is the status of a cluster without problems.
func well() *Status {
	s := &Status{Cluster: "c", Node: "a", Leader: "b", Replicas: 3, MaxSkewMS: 1000}
	for _, name := range []string{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, NodeStatus{Name: name, Version: "v1", InReach: true})
	}
	for p := range 12 {
		s.Partitions = append(s.Partitions, PartitionStatus{
			Partition: p, Owner: s.Nodes[p%3].Name, Epoch: 1, Sure: true,
			Replicas: []ReplicaStatus{{Node: "a", Current: true}, {Node: "b", Current: true},
				{Node: "c", Current: true}},
		})
	}
	return s
}

func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *Status)
		want   []string
	}{
		"none":     {func(*Status) {}, nil},
		"isolated": {func(s *Status) { s.NotReady = "isolated" }, []string{"a is not ready: isolated"}},
		"new":      {func(s *Status) { s.Partitions = nil }, []string{"the cluster has not been made"}},
		"no majority": {func(s *Status) { s.Leader = "" },
			[]string{"no node leads the cluster: a majority of the nodes is not in reach"}},
		"no owner": {func(s *Status) { s.Partitions[7].Owner, s.Partitions[9].Owner = "", "" },
			[]string{"2 of 12 partitions without owner: 7, 9"}},
		"many": {func(s *Status) {
			for i := range s.Partitions {
				s.Partitions[i].Sure = false
			}
		}, []string{"12 of 12 partitions whose owner has no answer from the log: " +
			"0, 1, 2, 3, 4, 5, 6, 7, ..."}},
		"a copy behind": {func(s *Status) {
			s.Partitions[1].Replicas[2] = ReplicaStatus{Node: "c", Lag: 5}
			s.Partitions[2].Replicas[2].Offline = true
		}, []string{"2 of 12 partitions with fewer than 3 current copies: 1, 2"}},
		"copies unknown": {func(s *Status) { s.Partitions[3].Replicas = nil },
			[]string{"1 of 12 partitions whose copies are not known now: 3"}},
		"a damaged copy": {func(s *Status) {
			s.Partitions[4].Replicas[0] = ReplicaStatus{Node: "a", Lag: 2, Missing: 2}
		}, []string{"1 of 12 partitions with fewer than 3 current copies: 4",
			"1 of 12 partitions with a damaged copy on a: 4"}},
		"unusable": {func(s *Status) { s.Nodes[1].Unusable = []string{"P0003", "P0004"} },
			[]string{"b cannot use its copies of P0003, P0004, as its log says"}},
		"a node": {func(s *Status) { s.Nodes[1].InReach, s.Nodes[2].Draining = false, true },
			[]string{"b is not in reach", "c drains"}},
		"clocks": {func(s *Status) { s.Nodes[1].SkewMS, s.Nodes[2].SkewMS = -501, 500 },
			[]string{"the clock of b is -501 ms from that of a, of 1000 ms that are allowed"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := well()
			c.change(s)
			if got := s.Problems(); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestStatusAnswer: what /clusterz answers is read back as it was, and says what is wrong.
func TestStatusAnswer(t *testing.T) {
	s := well()
	s.Leader = ""
	s.AtMS = 10_000_000
	s.note(&members.Deed{Kind: "leave", Done: true, AtMS: s.AtMS})
	s.note(&members.Deed{Kind: "replace", Done: true, Failed: "long ago", AtMS: 1})
	if s.Deed != nil {
		t.Errorf("what is over is shown: %+v", s.Deed)
	}
	s.note(&members.Deed{Kind: "balance", AtMS: 1})
	rec := httptest.NewRecorder()
	s.answer(rec)
	var got struct {
		Status
		Problems []string `json:"problems"`
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Problems, s.Problems()) || got.Owned("b") != 4 ||
		got.Deed.Kind != "balance" || got.Nodes[2].Name != "c" {
		t.Errorf("%+v", got)
	}
}
