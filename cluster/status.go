package cluster

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/members"
	"rollcall/cluster/partition"
)

// Status is what one node knows of the cluster at an instant: the answer of /clusterz. Times are
// wall clock milliseconds.
type Status struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"` // the one that tells
	AtMS    int64  `json:"at_ms"`
	// NotReady is why this node takes no traffic; "": it does.
	NotReady string `json:"not_ready,omitempty"`
	// Leader is the node that decides where logs are; "": there is none now.
	Leader string `json:"leader"`
	// Replicas is how many copies of each log there are to be.
	Replicas int `json:"replicas"`
	// MaxSkewMS is how far clocks may be apart.
	MaxSkewMS int64 `json:"max_skew_ms"`

	// Balance says whether copies and owners are spread evenly by themselves: on, off, or "" while
	// this node does not know.
	Balance string `json:"balance"`
	// Deed is what is being done to the cluster, or was not done to its end in the last hour.
	Deed *members.Deed `json:"deed,omitempty"`

	Nodes      []NodeStatus      `json:"nodes"`      // by name
	Partitions []PartitionStatus `json:"partitions"` // all, by number; none: the cluster is not made
}

// NodeStatus is what is known of a node.
type NodeStatus struct {
	Name    string `json:"name"`
	Version string `json:"version"` // "": it was not heard since this node started
	// Formats are the versions of the logs' messages that it reads.
	Formats []int `json:"formats,omitempty"`
	// HeardMS is how long ago it was heard, in milliseconds; -1: not since this node started.
	HeardMS  int64 `json:"heard_ms"`
	InReach  bool  `json:"in_reach"`
	Draining bool  `json:"draining,omitempty"`
	// Unusable are the logs that it could not use when it claimed them last: its copy is damaged,
	// or a newer version wrote what is in it.
	Unusable []string `json:"unusable,omitempty"`
	// SkewMS is its clock minus this node's.
	SkewMS int64 `json:"skew_ms"`
}

// PartitionStatus is what is known of a partition.
type PartitionStatus struct {
	Partition int    `json:"partition"`
	Owner     string `json:"owner"` // "": none known
	Epoch     uint64 `json:"epoch"`
	// Sure says that the owner had an answer from its log within 5 s.
	Sure     bool            `json:"sure"`
	Replicas []ReplicaStatus `json:"replicas"` // none: not known here now
	// Claimed is of the last claim by this node; nil: it has made none.
	Claimed *ClaimStatus `json:"claimed,omitempty"`
}

// ReplicaStatus is a copy of a partition's log.
type ReplicaStatus struct {
	Node    string `json:"node"`
	Current bool   `json:"current"`
	Offline bool   `json:"offline,omitempty"`
	Lag     uint64 `json:"lag"` // messages that it lacks
	// Missing is how many of them it lacks since they were damaged on its disk.
	Missing uint64 `json:"missing,omitempty"`
}

// ClaimStatus is how a claim came to be, and what it took.
type ClaimStatus struct {
	AtMS     int64  `json:"at_ms"`
	Reason   string `json:"reason"`
	TookMS   int64  `json:"took_ms"`   // until it served
	ReplayMS int64  `json:"replay_ms"` // of that
}

// deedShown is how long a deed is shown that did not end well.
const deedShown = time.Hour

// note notes the last deed, if it is worth it.
func (s *Status) note(d *members.Deed) {
	age := time.Duration(0)
	if d != nil {
		age = time.UnixMilli(s.AtMS).Sub(time.UnixMilli(d.AtMS))
	}
	if d != nil && (!d.Done || d.Failed != "" && age < deedShown) {
		s.Deed = d
	}
}

// Problems are what an operator should look at, most urgent first; none: all is well.
func (s *Status) Problems() []string {
	var all []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	add(s.NotReady != "", "%s is not ready: %s", s.Node, s.NotReady)
	add(len(s.Partitions) == 0, "the cluster has not been made")
	add(s.Leader == "", "no node leads the cluster: a majority of the nodes is not in reach")
	add(true, "%s", s.partitions("without owner", func(p *PartitionStatus) bool {
		return p.Owner == ""
	}))
	add(true, "%s", s.partitions("whose owner has no answer from the log", func(p *PartitionStatus) bool {
		return p.Owner != "" && !p.Sure
	}))
	add(true, "%s", s.partitions("whose copies are not known now", func(p *PartitionStatus) bool {
		return p.Owner != "" && len(p.Replicas) == 0
	}))
	add(true, "%s", s.partitions(fmt.Sprintf("with fewer than %d current copies", s.Replicas),
		func(p *PartitionStatus) bool {
			return len(p.Replicas) > 0 && p.current() < s.Replicas
		}))
	for i := range s.Nodes {
		n := &s.Nodes[i]
		add(true, "%s", s.partitions("with a damaged copy on "+n.Name, func(p *PartitionStatus) bool {
			return slices.ContainsFunc(p.Replicas, func(r ReplicaStatus) bool {
				return r.Node == n.Name && r.Missing > 0
			})
		}))
		add(!n.InReach, "%s is not in reach", n.Name)
		add(len(n.Unusable) > 0, "%s cannot use its copies of %s, as its log says", n.Name,
			strings.Join(n.Unusable, ", "))
		add(n.InReach && n.Draining, "%s drains", n.Name)
		add(n.InReach && 2*max(n.SkewMS, -n.SkewMS) > s.MaxSkewMS,
			"the clock of %s is %d ms from that of %s, of %d ms that are allowed", n.Name, n.SkewMS,
			s.Node, s.MaxSkewMS)
	}
	return slices.DeleteFunc(all, func(text string) bool { return text == "" })
}

// partitions names those of which something is true; "": none.
func (s *Status) partitions(what string, of func(p *PartitionStatus) bool) string {
	const named = 8
	var names []string
	n := 0
	for i := range s.Partitions {
		if !of(&s.Partitions[i]) {
			continue
		}
		if n++; n <= named {
			names = append(names, fmt.Sprint(s.Partitions[i].Partition))
		}
	}
	switch {
	case n == 0:
		return ""
	case n > named:
		names = append(names, "...")
	}
	return fmt.Sprintf("%d of %d partitions %s: %s", n, len(s.Partitions), what,
		strings.Join(names, ", "))
}

func (p *PartitionStatus) current() (n int) {
	for _, r := range p.Replicas {
		if r.Current && !r.Offline {
			n++
		}
	}
	return n
}

// Of returns the partition of a user, or nil while the cluster is not made.
func (s *Status) Of(user uuid.UUID) *PartitionStatus {
	if len(s.Partitions) == 0 {
		return nil
	}
	return &s.Partitions[partition.Of(user, len(s.Partitions))]
}

// Owned is how many partitions a node owns.
func (s *Status) Owned(node string) (n int) {
	for i := range s.Partitions {
		if s.Partitions[i].Owner == node {
			n++
		}
	}
	return n
}

// Copies is how many copies of logs a node has, how many of them are not current, and how many
// messages these lack.
func (s *Status) Copies(node string) (all, behind int, lag uint64) {
	for i := range s.Partitions {
		for _, r := range s.Partitions[i].Replicas {
			if r.Node != node {
				continue
			}
			all++
			if !r.Current || r.Offline {
				behind++
				lag += r.Lag
			}
		}
	}
	return all, behind, lag
}

// answer writes a status, with its problems, as JSON.
func (s *Status) answer(w http.ResponseWriter) {
	body, err := json.Marshal(struct {
		*Status
		Problems []string `json:"problems"`
	}{s, append([]string{}, s.Problems()...)})
	if err != nil {
		panic("bug: a status is not JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}
