package test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOnACluster runs tests that were written for one server on three nodes, whose connections go
// to one after the other: the wire contract is the same. Those of shared have one cluster together;
// the others stop theirs. The documents' commands speak to one node of three. TestHalfABatchIsSeen
// is not among them: a node gathers a batch before it goes to the owners.
func TestOnACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("drives the built binary only")
	}
	t.Run("shared", func(t *testing.T) {
		sharedNodes = newNodes(t, nil)
		sharedNodes.start()
		for name, test := range map[string]func(*testing.T){
			"TestHeartbeatFields":          TestHeartbeatFields,
			"TestHeartbeatOrderOfChecks":   TestHeartbeatOrderOfChecks,
			"TestHeartbeatBodies":          TestHeartbeatBodies,
			"TestSeq":                      TestSeq,
			"TestRacingEqualSeqs":          TestRacingEqualSeqs,
			"TestRoutes":                   TestRoutes,
			"TestHeads":                    TestHeads,
			"TestKeepAliveAndPipelining":   TestKeepAliveAndPipelining,
			"TestStreamChecks":             TestStreamChecks,
			"TestStreamBytes":              TestStreamBytes,
			"TestStreamSnapshotThenEvents": TestStreamSnapshotThenEvents,
			"TestTTL":                      TestTTL,
			"TestTTLChanges":               TestTTLChanges,
			"TestQueryChecks":              TestQueryChecks,
			"TestListStreamChecks":         TestListStreamChecks,
			"TestListStreamOfDevices":      TestListStreamOfDevices,
			"TestListStreamOfUsers":        TestListStreamOfUsers,
			"TestListStreamLingers":        TestListStreamLingers,
		} {
			t.Run(name, test)
		}
		for _, page := range documents(t) {
			blocks := fences(t, page)
			own := slices.ContainsFunc(blocks, func(f fence) bool { return f.starts("serve") })
			some := slices.ContainsFunc(blocks, func(f fence) bool { return f.language == "sh" })
			if some && !own {
				t.Run(filepath.Base(page), func(t *testing.T) {
					runDocument(t, page, blocks)
				})
			}
		}
	})
	for name, test := range map[string]func(*testing.T){
		"TestQuery":     TestQuery,
		"TestRenewal":   TestRenewal,
		"TestSeqPolicy": TestSeqPolicyRestart,
	} {
		t.Run(name, test)
	}
}

// TestLoadSeesANodeLost: the generator's oracle, which spans the nodes, finds nothing wrong when
// one of them is killed under the load. The streams that it had go on at the others.
func TestLoadSeesANodeLost(t *testing.T) {
	if testing.Short() {
		t.Skip("drives the built binary only")
	}
	n := newNodes(t, nil)
	n.start()
	var more []string
	for _, r := range n.rigs[1:] {
		more = append(more, "--target=http://"+r.addr)
	}
	// The owner of a single partition may have none of the users: then no heartbeat is refused.
	busiest, _ := n.busiest()
	code, out := load(t, n.rigs[0].addr, append(more, "--scenario=node-loss", "--duration=8s",
		"--lists=6", "--list-size=10", "--list-view=both", "--max-wait=30s",
		fmt.Sprintf("--restart-command=kill -9 %d", n.rigs[busiest].proc.Cmd.Process.Pid))...)
	if code != 0 || !strings.Contains(out, "longest outage") {
		t.Errorf("exit %d\n%s\n%s", code, out, n.logs())
	}
}

// sharedNodes is the cluster of the tests under TestOnACluster/shared.
var sharedNodes *nodeSet

// clusterFor is the server that a test under TestOnACluster gets: three nodes. Others get nil.
func clusterFor(t *testing.T, flags []string) *rig {
	t.Helper()
	name, ok := strings.CutPrefix(t.Name(), "TestOnACluster/")
	if !ok {
		return nil
	}
	n := sharedNodes
	if shared := strings.HasPrefix(name, "shared/"); !shared || len(flags) > 0 {
		n = newNodes(t, nil, flags...)
		n.start()
	}
	first := n.rigs[0]
	return &rig{t: t, dir: first.dir, addr: first.addr, admin: first.admin, proc: first.proc,
		nodes: n}
}
