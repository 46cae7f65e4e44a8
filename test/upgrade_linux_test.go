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

// TestUpgrade begins with three nodes of an earlier program, under the load of the chaos runs,
// gives each of them today's program, one after the other, as docs/cluster.md says, and then the
// earlier one again. All promises hold meanwhile (chaosLedger), and the streams that are open on
// the other nodes stay open.
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

// exchange gives a node another program: SIGTERM, which drains it, the other program, and a wait
// until the cluster's status says that all is well.
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
	var all []string
	for _, n := range r.nodes.told() {
		all = append(all, fmt.Sprintf("%s has %.12s", n.Name, n.Version))
	}
	return strings.Join(all, ", ")
}

// toldNode is a node as /clusterz has it.
type toldNode struct {
	Name, Version string
	Formats       []int
}

// told is what the first node knows of all.
func (n *nodeSet) told() []toldNode {
	n.t.Helper()
	var told struct{ Nodes []toldNode }
	_, body := n.rigs[0].ask("/clusterz")
	if err := json.Unmarshal(body, &told); err != nil {
		n.t.Fatalf("/clusterz: %q: %v", body, err)
	}
	return told.Nodes
}

// TestNewerFormatInLogs: a node that is given back a program which does not read what is in the
// logs any more says so, and owns nothing; the other nodes serve all users, with nothing lost. With
// the newer program it is a node like the others again.
func TestNewerFormatInLogs(t *testing.T) {
	atLeisure(t)
	n := newNodes(t, nil, "--drain-timeout=1s")
	next := nextProgram(t)
	for _, r := range n.rigs {
		r.program = next
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.logs())
		}
	})
	n.start()
	const users = 4 * testPartitions
	var beats []beat
	for range users {
		beats = append(beats, newBeat())
	}
	seq := 0
	beatAll := func() {
		t.Helper()
		seq++
		for i, b := range beats {
			n.mustBeat(i%testNodes, b.with("seq", seq))
		}
	}
	exchange := func(node int, program string) {
		t.Helper()
		n.rigs[node].terminate()
		n.rigs[node].program = program
		n.rigs[node].start()
		testwait.Until(t, "all nodes are ready and every partition is owned", n.whole)
		beatAll()
	}
	beatAll()
	older := n.rigs[0]
	exchange(0, binary)
	// Where all is well in the eyes of all nodes, the older one has current copies, and it owns the
	// fewest partitions, so that the next node that stops hands some to it.
	testwait.Until(t, "the older node says which version to start", func() bool {
		n.well()
		node, _ := n.busiest()
		exchange(node, next)
		return strings.Contains(older.logs(), "start the newer version that wrote it")
	})
	for _, told := range n.told() {
		want := []int{1, 2}
		if told.Name == n.names[0] {
			want = []int{1}
		}
		if !slices.Equal(told.Formats, want) {
			t.Errorf("%s reads %v, not %v", told.Name, told.Formats, want)
		}
	}
	for p, owner := range older.owners() {
		if owner == n.names[0] {
			t.Errorf("the older node owns partition %d", p)
		}
	}
	exchange(0, next)
	n.status(0, "All is well.")
	for i, b := range beats {
		a := n.rigs[i%testNodes].beat(b.with("seq", seq-1))
		if a.status != 409 || !strings.Contains(a.body, fmt.Sprintf(`"last_seq":%d`, seq)) {
			t.Errorf("an older heartbeat: %d %s, and %d was acknowledged", a.status, a.body, seq)
		}
	}
}

// nextProgram builds today's program as if it were of the next format of the logs.
func nextProgram(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replaced := map[string]string{}
	for file, change := range map[string][2]string{
		"jslog/message.go":    {"\tFormat = 1\n", "\tFormat = 2\n"},
		"cluster/versions.go": {"formats = []int{1}", "formats = []int{1, 2}"},
	} {
		path, err := filepath.Abs(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil || strings.Count(string(text), change[0]) != 1 {
			t.Fatalf("%s does not say %q once (%v): this test has to change", file, change[0], err)
		}
		changed := filepath.Join(dir, filepath.Base(file))
		text = []byte(strings.Replace(string(text), change[0], change[1], 1))
		if err := os.WriteFile(changed, text, 0o600); err != nil {
			t.Fatal(err)
		}
		replaced[path] = changed
	}
	text, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	overlay, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "rollcall")
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-ldflags", "-X main.version=next",
		"-o", program, "./cmd/rollcall")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the next program: %v\n%s", err, out)
	}
	return program
}
