package test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/partition"
	"rollcall/internal/testport"
	"rollcall/internal/testseed"
)

// TestChaos runs three nodes with heartbeats, streams and queries on all of them, and lets things
// go wrong: processes are killed, stopped and told to end, the network between them loses what goes
// one way or both, a disk is full, a node is replaced. What clients were promised must be so all
// the time (chaosLedger), and when all is well again each stream must show what a query says.
//
// ROLLCALL_CHAOS_SEEDS is how many runs there are, none by default; ROLLCALL_CHAOS_SEED repeats
// one. A seed decides the crowd and the faults; the machine has a say in what meets what.
// ROLLCALL_CHAOS_FAULTS is how many faults a run has. Seeds in a row go through all kinds of
// faults; odd ones have fast failover.
func TestChaos(t *testing.T) {
	report := chaosReport{}
	first, runs := rand.Uint64N(1e6), testseed.Rounds(t, "ROLLCALL_CHAOS_SEEDS", 0, 0)
	if given := os.Getenv("ROLLCALL_CHAOS_SEED"); given != "" {
		seed, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			t.Fatalf("ROLLCALL_CHAOS_SEED: %v", err)
		}
		first, runs = seed, 1
	}
	if runs == 0 {
		t.Skip("ROLLCALL_CHAOS_SEEDS says how many runs: see `make chaos`")
	}
	for seed := first; seed < first+uint64(runs); seed++ {
		t.Run(fmt.Sprintf("ROLLCALL_CHAOS_SEED=%d", seed), func(t *testing.T) {
			r := &chaosRun{t: t, seed: seed, fast: seed%2 == 1, report: report,
				rng: rand.New(rand.NewPCG(seed, 0))}
			r.run(testseed.Rounds(t, "ROLLCALL_CHAOS_FAULTS", 3, 3))
		})
	}
	t.Log("\n" + report.String())
}

// TestChaosAlone: the crowd and the judge of the chaos runs find nothing wrong with a server that
// is alone, killed and stopped.
func TestChaosAlone(t *testing.T) {
	atLeisure(t)
	seed := testseed.Of(t)
	r := &chaosRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), nodes: &nodeSet{t: t}}
	server := &rig{t: t, dir: t.TempDir(), listen: testport.Address(t),
		adminListen: testport.Address(t), env: secretsEnv,
		flags: []string{"--stream-keepalive=1s", "--recovery-grace=5s"}}
	r.nodes.rigs, r.nodes.names = []*rig{server}, []string{"alone"}
	r.begin()
	r.pause(time.Second, 2*time.Second)
	server.kill()
	server.start()
	r.settle(r.crowd.ledger.now())
	r.signal(0, syscall.SIGSTOP)
	r.pause(time.Second, 5*time.Second)
	r.signal(0, syscall.SIGCONT)
	r.settle(r.crowd.ledger.now())
	r.judge()
}

// chaosRun is one run: a cluster, its crowd and the faults.
type chaosRun struct {
	t      *testing.T
	seed   uint64
	fast   bool // failover
	rng    *rand.Rand
	nodes  *nodeSet
	crowd  *chaosCrowd
	report chaosReport
	disk   string // small, of the last node; "": it has none

	kind  string
	since time.Duration // of the fault
	hit   []string      // users whose owner is hit
}

func (r *chaosRun) run(faults int) {
	began := time.Now()
	flags := []string{"--stream-keepalive=1s", "--drain-timeout=1s", "--recovery-grace=5s",
		"--max-streams-per-user=100", "--log-level=info"}
	if r.fast {
		flags = append(flags, "--cluster-fast-failover")
	}
	r.nodes = newNodes(r.t, newRouteNet(r.t), flags...)
	r.arrangeMachines()
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Log(r.nodes.logs())
		}
	})
	r.begin()
	if !r.nodes.net.used() {
		r.t.Fatal("the nodes do not connect through the proxies, so these can cut nothing")
	}
	for i := range faults {
		fault := &chaosFaults[(int(r.seed)*faults+i)%len(chaosFaults)]
		r.kind, r.hit = fault.kind, nil
		r.t.Logf("%6.2fs %s", r.crowd.ledger.now().Seconds(), r.kind)
		fault.do(r)
		r.nodes.net.heal()
		r.settle(r.crowd.ledger.now())
		r.look()
		r.measure()
		r.pause(500*time.Millisecond, time.Second)
	}
	r.judge()
	r.t.Logf("%d faults in %.0fs", faults, time.Since(began).Seconds())
}

// begin starts the nodes and the crowd.
func (r *chaosRun) begin() {
	r.nodes.start()
	var addrs, admins []string
	for _, n := range r.nodes.rigs {
		addrs, admins = append(addrs, n.listen), append(admins, n.adminListen)
	}
	r.crowd = newChaosCrowd(addrs, admins)
	r.crowd.begin(r.seed)
	r.t.Cleanup(r.crowd.end)
	r.settle(0)
}

// arrangeMachines makes the nodes as different as machines are: clocks that count from another
// instant, as of hosts that were started at another time, and a small disk for one. Both take root.
// Wall clocks cannot be moved apart for processes of one kernel.
func (r *chaosRun) arrangeMachines() {
	if os.Geteuid() != 0 {
		r.t.Log("not root: one clock for all, and no disk is full")
		return
	}
	if exec.Command("unshare", "--time", "--monotonic", "1", "true").Run() == nil {
		for i, n := range r.nodes.rigs[1:] {
			uptime := strconv.Itoa((i + 1) * 1_000_000)
			n.under = []string{"unshare", "--time", "--monotonic", uptime, "--boottime", uptime}
		}
	}
	disk := r.t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=128m"); err == nil {
		unmountAfter(r.t, disk)
		r.disk = disk
		r.nodes.rigs[testNodes-1].dir = filepath.Join(disk, "data")
	}
}

// pause lets the fault last for a time in between.
func (r *chaosRun) pause(least, most time.Duration) {
	time.Sleep(least + time.Duration(r.rng.Int64N(int64(most-least))))
}

// chaosLimit is how long the cluster may take to come back when nothing is wrong any more.
const chaosLimit = 90 * time.Second

// settle waits until all nodes are ready and each user's heartbeats are acknowledged again.
func (r *chaosRun) settle(since time.Duration) {
	for late := time.Now().Add(chaosLimit); ; time.Sleep(50 * time.Millisecond) {
		if _, silent := r.crowd.ledger.gaps(r.crowd.users, since); silent == 0 && r.nodes.whole() {
			return
		} else if time.Now().After(late) {
			r.crowd.ledger.found(ruleDead, "%v after %s: whole: %v, users without an acknowledgement: %d",
				chaosLimit, cmp.Or(r.kind, "the start"), r.nodes.whole(), silent)
			r.t.Fatalf("ROLLCALL_CHAOS_SEED=%d:\n%s", r.seed, r.crowd.ledger.verdict())
		}
	}
}

// strike notes that a fault hits these nodes now.
func (r *chaosRun) strike(owners map[int]string, nodes ...int) {
	r.hit = nil
	for _, user := range r.crowd.users {
		p := partition.Of(uuid.MustParse(user), testPartitions)
		if slices.ContainsFunc(nodes, func(i int) bool { return r.nodes.names[i] == owners[p] }) {
			r.hit = append(r.hit, user)
		}
	}
	r.crowd.become(hurried)
	time.Sleep(200 * time.Millisecond)
	// The fault comes at once, and what takes over comes later than this.
	time.AfterFunc(50*time.Millisecond, func() { r.crowd.become(mute) })
	r.since = r.crowd.ledger.now()
}

// look reads all users through each node when what the witnesses were acknowledged must be seen
// everywhere, and lets them go on.
func (r *chaosRun) look() {
	time.Sleep(max(0, r.since+readBound+50*time.Millisecond-r.crowd.ledger.now()))
	for node := range r.crowd.nodes {
		r.crowd.query(node, r.crowd.users, false)
	}
	r.crowd.become(calm)
}

// measure takes how long the users of the nodes that were hit had no acknowledgement.
func (r *chaosRun) measure() {
	gaps, _ := r.crowd.ledger.gaps(r.hit, r.since)
	key := r.kind
	if r.fast {
		key += ", fast failover"
	}
	r.report[key] = append(r.report[key], gaps...)
	if len(gaps) > 0 {
		r.t.Logf("%6.2fs %s: users of %d back after %.2f to %.2f s", r.crowd.ledger.now().Seconds(),
			r.kind, len(gaps), slices.Min(gaps).Seconds(), slices.Max(gaps).Seconds())
	}
}

func (r *chaosRun) signal(node int, s syscall.Signal) {
	r.nodes.rigs[node].proc.Cmd.Process.Signal(s)
}

// chaosFaults are the kinds of faults; do returns when it is over, or may be ended by healing the
// network.
var chaosFaults = []struct {
	kind string
	do   func(*chaosRun)
}{
	{"kill", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		r.strike(owners, node)
		r.nodes.rigs[node].kill()
		r.pause(200*time.Millisecond, 4*time.Second)
		r.nodes.rigs[node].start()
	}},
	{"stop", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		r.strike(owners, node)
		r.signal(node, syscall.SIGSTOP)
		most := 10 * time.Second
		if r.rng.IntN(5) == 0 {
			most = 30 * time.Second
		}
		r.pause(time.Second, most)
		r.signal(node, syscall.SIGCONT)
	}},
	{"hand-over", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		r.strike(owners, node)
		r.nodes.rigs[node].terminate()
		r.nodes.rigs[node].start()
	}},
	{"isolated", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		in, out := around(node, testNodes)
		r.strike(owners, node)
		r.nodes.net.hold(append(in, out...)...)
		r.pause(3*time.Second, 10*time.Second)
	}},
	{"kill two", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		other := (node + 1 + r.rng.IntN(testNodes-1)) % testNodes
		r.strike(owners, node, other)
		r.nodes.rigs[node].kill()
		r.nodes.rigs[other].kill()
		r.pause(100*time.Millisecond, 2*time.Second)
		r.nodes.rigs[node].launch()
		r.nodes.rigs[other].launch()
		r.nodes.rigs[node].serves()
		r.nodes.rigs[other].serves()
	}},
	{"hears nothing", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		in, _ := around(node, testNodes)
		r.strike(owners, node)
		r.nodes.net.hold(in...)
		r.pause(3*time.Second, 10*time.Second)
	}},
	{"pauses", func(r *chaosRun) {
		_, owners := r.nodes.busiest()
		r.strike(owners, 0, 1, 2)
		for range 8 {
			node := r.rng.IntN(testNodes)
			r.signal(node, syscall.SIGSTOP)
			r.pause(100*time.Millisecond, 1500*time.Millisecond)
			r.signal(node, syscall.SIGCONT)
			r.pause(0, 200*time.Millisecond)
		}
	}},
	{"kill all", func(r *chaosRun) {
		_, owners := r.nodes.busiest()
		r.strike(owners, 0, 1, 2)
		for _, n := range r.nodes.rigs {
			n.kill()
		}
		r.pause(100*time.Millisecond, 2*time.Second)
		for _, n := range r.nodes.rigs {
			n.launch()
		}
		for _, n := range r.nodes.rigs {
			n.serves()
		}
	}},
	{"is not heard", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		_, out := around(node, testNodes)
		r.strike(owners, node)
		r.nodes.net.hold(out...)
		r.pause(3*time.Second, 10*time.Second)
	}},
	{"rolling restart", func(r *chaosRun) {
		_, owners := r.nodes.busiest()
		r.strike(owners, 0, 1, 2)
		for _, n := range r.nodes.rigs {
			n.terminate()
			n.start()
			r.settle(r.crowd.ledger.now())
		}
	}},
	{"cut off", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		in, _ := around(node, testNodes)
		r.strike(owners, node)
		r.nodes.net.sever(in...)
		r.pause(3*time.Second, 10*time.Second)
	}},
	{"two apart", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		r.strike(owners, node)
		w := way{node, (node + 1 + r.rng.IntN(testNodes-1)) % testNodes}
		switch r.rng.IntN(4) {
		case 0:
			r.nodes.net.hold(w)
		case 1:
			r.nodes.net.hold(w.back())
		case 2:
			r.nodes.net.hold(w, w.back())
		default:
			r.nodes.net.sever(w)
		}
		r.pause(3*time.Second, 10*time.Second)
	}},
	{"crashes", func(r *chaosRun) {
		_, owners := r.nodes.busiest()
		r.strike(owners, 0, 1, 2)
		for range 4 {
			n := r.nodes.rigs[r.rng.IntN(testNodes)]
			n.kill()
			r.pause(0, time.Second)
			n.start()
			r.pause(0, time.Second)
		}
	}},
	{"full disk", (*chaosRun).fillDisk},
	{"replaced", (*chaosRun).replace},
	{"kill in a flapping network", func(r *chaosRun) {
		node, owners := r.nodes.busiest()
		r.strike(owners, node)
		for range 6 {
			a := r.rng.IntN(testNodes)
			w := way{a, (a + 1 + r.rng.IntN(testNodes-1)) % testNodes}
			if r.rng.IntN(2) == 0 {
				r.nodes.net.hold(w)
			} else {
				r.nodes.net.sever(w)
			}
			r.pause(100*time.Millisecond, 1500*time.Millisecond)
			r.nodes.net.heal()
			r.pause(0, 300*time.Millisecond)
		}
		r.nodes.rigs[node].kill()
		r.pause(0, time.Second)
		r.nodes.rigs[node].start()
	}},
}

// fillDisk fills the disk of the last node for some seconds. A node that ends by it is started
// again when there is room.
func (r *chaosRun) fillDisk() {
	if r.disk == "" {
		r.t.Log("left out: a small disk takes root")
		return
	}
	n := r.nodes.rigs[testNodes-1]
	_, owners := r.nodes.busiest()
	r.strike(owners, testNodes-1)
	fill := filepath.Join(r.disk, "ballast")
	ballast(r.t, fill)
	r.pause(4*time.Second, 10*time.Second)
	if err := os.Remove(fill); err != nil {
		r.t.Fatal(err)
	}
	select {
	case <-n.proc.Exited:
		r.t.Logf("the node ended: %v", n.proc.Err)
		n.start()
	case <-time.After(3 * time.Second):
		if status, body := n.ask("/readyz"); status != 200 { // what an operator does
			r.t.Logf("there is room again, and /readyz says %d %.200s: restarted", status, body)
			n.kill()
			n.start()
		}
	}
}

// replace loses the busiest node's disk: a new node takes its place.
func (r *chaosRun) replace() {
	node, owners := r.nodes.busiest()
	n, old := r.nodes.rigs[node], r.nodes.names[node]
	name := old + "x"
	r.strike(owners, node)
	n.kill()
	n.dir = r.t.TempDir()
	if r.disk != "" && node == testNodes-1 {
		if err := os.RemoveAll(filepath.Join(r.disk, "data")); err != nil {
			r.t.Fatal(err)
		}
		n.dir = filepath.Join(r.disk, "data")
	}
	for i, flag := range n.flags {
		if flag == "--cluster-node="+old {
			n.flags[i] = "--cluster-node=" + name
		}
	}
	r.nodes.names[node] = name
	n.start()
	other := r.nodes.rigs[(node+1)%testNodes]
	for late := time.Now().Add(chaosLimit); ; time.Sleep(500 * time.Millisecond) {
		// It is refused until the others have a leader, and all of their copies. A refusal does no
		// harm, so a run goes on with two copies of each log, and says so in the end.
		out, err := exec.Command(binary, "cluster", "replace", "--admin=http://"+other.adminListen,
			old, name).CombinedOutput()
		if err == nil {
			return
		} else if time.Now().After(late) {
			r.t.Errorf("rollcall cluster replace %s %s: %v\n%s", old, name, err, out)
			return
		}
	}
}

// judge ends the load and compares what all streams show to what every node answers, again and
// again, until they agree and every device is offline.
func (r *chaosRun) judge() {
	c := r.crowd
	c.hush()
	var text string
	for late := time.Now().Add(chaosLimit); ; time.Sleep(100 * time.Millisecond) {
		if text = r.disagreement(); text == "" {
			break
		}
		if time.Now().After(late) {
			c.ledger.found(ruleLeft, "%v after the last heartbeat: %s", chaosLimit, text)
			break
		}
	}
	for node := range c.nodes {
		if states, _ := c.query(node, c.users, true); states == nil {
			c.ledger.found(ruleDead, "node %d does not answer a query", node+1)
		}
	}
	r.t.Logf("%v; frames after %s", c.ledger.counts, spread(c.ledger.lags))
	if text := c.ledger.verdict(); text != "" {
		r.t.Errorf("ROLLCALL_CHAOS_SEED=%d:\n%s", r.seed, text)
	}
}

func (r *chaosRun) disagreement() string {
	var truth []chaosState
	var totals []chaosUserState
	for node := range r.crowd.nodes {
		states, users := r.crowd.query(node, r.crowd.users, false)
		if states == nil {
			return fmt.Sprintf("node %d does not answer a query", node+1)
		}
		byDevice(states)
		if node > 0 && !slices.Equal(states, truth) {
			return fmt.Sprintf("nodes 1 and %d answer differently", node+1)
		}
		truth, totals = states, users
	}
	for _, s := range truth {
		if s.Status == "online" && s.TTLMS < 10_000 {
			return fmt.Sprintf("silent, and online: %+v", s)
		}
	}
	for _, s := range r.crowd.streams {
		if text := s.behind(truth, totals); text != "" {
			return text
		}
	}
	return ""
}

func byDevice(states []chaosState) {
	slices.SortFunc(states, func(a, b chaosState) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Device, b.Device))
	})
}

// chaosReport has the gaps of users by kind of fault.
type chaosReport map[string][]time.Duration

func (r chaosReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-45s %6s %8s %8s %8s %8s\n", "from the fault to an acknowledgement, seconds",
		"users", "least", "p50", "p95", "most")
	for _, kind := range slices.Sorted(maps.Keys(r)) {
		if len(r[kind]) > 0 {
			fmt.Fprintf(&b, "%-45s %s\n", kind, spread(r[kind]))
		}
	}
	return b.String()
}

// spread is how many there are, the least, the median, the 95th percentile and the most, in
// seconds.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	all = slices.Sorted(slices.Values(all))
	at := func(share float64) float64 {
		return all[min(len(all)-1, int(share*float64(len(all))))].Seconds()
	}
	return fmt.Sprintf("%6d %8.3f %8.3f %8.3f %8.3f", len(all), at(0), at(0.5), at(0.95), at(1))
}
