package test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"rollcall/internal/testlog"
	"rollcall/internal/testport"
	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
)

// TestCluster: heartbeats through each of three nodes reach a stream on another one; one node stops
// in order, and the two others go on with all users; it comes back, and operators are told of all
// of it.
func TestCluster(t *testing.T) {
	n := newNodes(t, nil)
	n.start()
	n.status(0, "All is well.")

	user := newBeat()["user_id"].(string)
	seq := 0
	beats := func(on, streamOn int) {
		t.Helper()
		s := n.rigs[streamOn].follow(user)
		defer s.conn.Close()
		for range 3 {
			seq++
			b := newBeat().with("user_id", user).with("device_id", user).with("seq", seq)
			n.mustBeat(on, b)
			for fmt.Sprint(s.event()["seq"]) != strconv.Itoa(seq) {
			}
		}
	}
	for i := range n.rigs {
		beats(i, (i+1)%len(n.rigs))
	}

	n.rigs[2].terminate()
	beats(0, 1)
	beats(1, 0)
	n.status(1, "n3 is not in reach")
	n.rigs[2].start()
	testwait.Until(t, "the node is back", n.whole)
	beats(2, 0)
	testwait.Until(t, "all copies are current", func() bool {
		_, code := n.askStatus(0)
		return code == 0
	})
}

// mustBeat sends a heartbeat until it is accepted: 503 says that its user has no owner yet. A 409
// with its seq says that an earlier one, whose outcome was unknown, was accepted.
func (n *nodeSet) mustBeat(on int, b beat) {
	n.t.Helper()
	testwait.Until(n.t, "a heartbeat is accepted", func() bool {
		a := n.rigs[on].beat(b)
		if a.status == 409 && strings.Contains(a.body, fmt.Sprintf(`"last_seq":%v`, b["seq"])) {
			return true
		}
		if a.status != 204 && a.status != 503 {
			n.t.Fatalf("%d %s\n%s", a.status, a.body, n.logs())
		}
		return a.status == 204
	})
}

// askStatus is `rollcall cluster status` of a node.
func (n *nodeSet) askStatus(node int, flags ...string) (out string, code int) {
	n.t.Helper()
	cmd := exec.Command(binary, append([]string{"cluster", "status",
		"--admin=http://" + n.rigs[node].admin}, flags...)...)
	text, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// status waits until `rollcall cluster status` says something, with an exit code.
func (n *nodeSet) status(code int, says string) {
	n.t.Helper()
	out, got := "", 0
	testwait.Until(n.t, "cluster status says "+says, func() bool {
		out, got = n.askStatus(0, "--partitions")
		return got == code && strings.Contains(out, says)
	})
}

// TestClusterBalance: copies and owners stay where they are from the command on that says so, all
// nodes show it, also after a restart, until the other one.
func TestClusterBalance(t *testing.T) {
	n := newNodes(t, nil)
	n.start()
	const off = "Copies and owners stay where they are"
	for i, is := range []string{"off", "on"} {
		cmd := exec.Command(binary, "cluster", "balance", is, "--admin=http://"+n.rigs[i].admin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		n.rigs[2].terminate()
		n.rigs[2].start()
		testwait.Until(t, "all nodes show that it is "+is, func() bool {
			for i := range n.rigs {
				out, code := n.askStatus(i)
				if code != 0 || strings.Contains(out, off) != (is == "off") {
					return false
				}
			}
			return true
		})
	}
}

// TestClusterMetrics: docs/metrics.md has every metric of a node of a cluster, too.
func TestClusterMetrics(t *testing.T) {
	n := newNodes(t, nil, "--rate-per-ip=1000000")
	n.start()
	for i := range 64 { // users of all partitions, so that some are forwarded
		n.mustBeat(i%2, newBeat())
	}
	families := n.rigs[0].scrape()
	testwait.Until(t, "the leaders of the logs say what copies there are", func() bool {
		families = n.rigs[0].scrape()
		return families["rollcall_log_copies"] != nil
	})
	checkDocumented(t, families, "Log and checkpoint")
}

var (
	devKill = regexp.MustCompile(`(?m)^kill -9 (\d+)$`)
	devBeat = regexp.MustCompile(`(?ms)^# n(\d)\n(curl .*?heartbeat')$`)
)

// TestClusterDev: what `rollcall cluster dev` prints works as it is printed: each heartbeat, the
// process to kill, and the heartbeats after it. SIGINT removes all of it.
func TestClusterDev(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl")
	}
	temp := t.TempDir()
	cmd := exec.Command(binary, "cluster", "dev", "--first-port="+devPorts(t))
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	var printed testlog.Output
	cmd.Stdout = &printed
	p := testproc.Start(t, cmd, &printed)
	p.Await(t, regexp.MustCompile("Ctrl-C stops all"))
	beats := devBeat.FindAllStringSubmatch(printed.String(), -1)
	kill := devKill.FindStringSubmatch(printed.String())
	if len(beats) != 3 || kill == nil {
		t.Fatalf("%d heartbeats, kill %v in\n%s", len(beats), kill, printed.String())
	}
	send := func(line string) string {
		out, _ := exec.Command("bash", "-c", "sleep 1; "+line).Output() // its seq is the second
		return string(out)
	}
	for _, b := range beats {
		if out := send(b[2]); !strings.Contains(out, " 204 ") {
			t.Errorf("n%s: %s", b[1], out)
		}
	}
	pid, _ := strconv.Atoi(kill[1])
	victim := regexp.MustCompile(`n(\d)  process ` + kill[1] + " ").FindStringSubmatch(printed.String())
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil || victim == nil {
		t.Fatal(err, victim)
	}
	for _, b := range beats {
		if b[1] != victim[1] {
			testwait.Until(t, "n"+b[1]+" goes on", func() bool {
				return strings.Contains(send(b[2]), " 204 ")
			})
		}
	}
	_ = cmd.Process.Signal(os.Interrupt)
	<-p.Exited
	if p.Err != nil {
		t.Errorf("after Ctrl-C: %v\n%s", p.Err, printed.String())
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// devPorts is a first port of which all that the nodes take are free.
func devPorts(t *testing.T) string {
	t.Helper()
	addrs := testport.Addresses(t, 0, 1, 2, 10, 11, 12, 20, 21, 22)
	_, first, _ := strings.Cut(addrs[0], ":")
	return first
}
