package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// upgradeEnv names the commit whose program TestUpgrade begins with.
const upgradeEnv = "ROLLCALL_UPGRADE_FROM"

// TestUpgrade begins with three nodes of an earlier program, under the load of the chaos runs, gives
// each of them today's program, one after the other, as docs/cluster.md says, and then the earlier one
// again. All promises hold meanwhile (chaosLedger), and the streams that are open on the other nodes
// stay open.
func TestUpgrade(t *testing.T) {
	from := os.Getenv(upgradeEnv)
	if from == "" {
		t.Skip(upgradeEnv + " is the commit to begin with: see `make upgrade`")
	}
	seed := testseed.Of(t)
	r := &chaosRun{t: t, seed: seed, report: chaosReport{}, rng: rand.New(rand.NewPCG(seed, 0))}
	r.nodes = newNodes(t, nil, "--stream-keepalive=1s", "--drain-timeout=1s", "--recovery-grace=5s",
		"--max-streams-per-user=100", "--log-level=info")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.nodes.logs())
		}
	})
	earlier := earlierProgram(t, from)
	for _, n := range r.nodes.rigs {
		n.program = earlier
	}
	r.begin()
	for _, to := range []string{binary, earlier} {
		for node := range r.nodes.rigs {
			r.exchange(node, to)
		}
	}
	r.judge()
	t.Log("\n" + r.report.String())
}

// earlierProgram builds the program of an earlier commit.
func earlierProgram(t *testing.T, commit string) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "rollcall")
	build := exec.Command("bash", "-euo", "pipefail", "-c", `git archive "$1" | tar -x -C "$2"
		cd "$2" && go build -ldflags "-X main.version=$1" -o "$3" ./cmd/rollcall`,
		"-", commit, dir, program)
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	return program
}

// exchange gives a node another program: SIGTERM, which drains it, the other program, and a wait until
// the cluster's status says that all is well.
func (r *chaosRun) exchange(node int, program string) {
	r.t.Helper()
	n, name := r.nodes.rigs[node], r.nodes.names[node]
	r.kind = "exchange"
	_, owners := r.nodes.busiest()
	var others []*chaosStream
	for _, s := range r.crowd.streams {
		if s.node >= 0 && s.node != node {
			others = append(others, s)
		}
	}
	before := connections(others)
	r.strike(owners, node)
	n.terminate()
	n.program = program
	n.start()
	r.settle(r.crowd.ledger.now())
	testwait.Until(r.t, "rollcall cluster status says that all is well", func() bool {
		_, code := r.nodes.askStatus(node)
		return code == 0
	})
	r.look()
	r.measure()
	if after := connections(others); !slices.Equal(after, before) {
		r.t.Errorf("%s was stopped, and streams of others ended: %v connections, then %v", name, before,
			after)
	}
	r.t.Logf("%6.2fs %s, then %s", r.crowd.ledger.now().Seconds(), name, r.versions())
}

// connections are how often each stream was opened.
func connections(streams []*chaosStream) (opened []int) {
	for _, s := range streams {
		s.mu.Lock()
		opened = append(opened, s.opened)
		s.mu.Unlock()
	}
	return opened
}

// versions is which program each node runs, as the first one says.
func (r *chaosRun) versions() string {
	var told struct {
		Nodes []struct{ Name, Version string }
	}
	_, body := r.nodes.rigs[0].ask("/clusterz")
	if err := json.Unmarshal(body, &told); err != nil {
		r.t.Fatalf("/clusterz: %q: %v", body, err)
	}
	var all []string
	for _, n := range told.Nodes {
		all = append(all, fmt.Sprintf("%s has %.12s", n.Name, n.Version))
	}
	return strings.Join(all, ", ")
}
