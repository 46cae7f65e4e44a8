package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// A volume is frozen while it is snapshotted: each write and sync of it returns when it is thawed.

// thawedAfter is when a frozen disk is thawed by itself, in case the test process is killed.
const thawedAfter = 40

// freeze freezes the disk and returns what thaws it. It is thawed at the test's end, and after a
// while in any case.
func freeze(t *testing.T, disk string) (thaw func()) {
	t.Helper()
	safety := exec.Command("sh", "-c", fmt.Sprintf("sleep %d; fsfreeze -u %s", thawedAfter, disk))
	safety.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := safety.Start(); err != nil {
		t.Fatal(err)
	}
	if err := runTool("fsfreeze", "-f", disk); err != nil {
		safety.Process.Kill()
		safety.Wait()
		t.Skipf("a disk cannot be frozen here: %v", err)
	}
	var once sync.Once
	thaw = func() {
		once.Do(func() {
			if err := runTool("fsfreeze", "-u", disk); err != nil {
				t.Error(err)
			}
			syscall.Kill(-safety.Process.Pid, syscall.SIGKILL)
			safety.Wait()
		})
	}
	t.Cleanup(thaw)
	return thaw
}

// sendFor sends heartbeats of one device until stop is closed, again with the same seq after a 503.
// It returns how many were refused, and the longest time that an answer took.
func (s *sender) sendFor(t *testing.T, stop <-chan struct{}) (refused int, longest time.Duration) {
	for {
		select {
		case <-stop:
			return refused, longest
		default:
		}
		began := time.Now()
		switch status := s.send(); status {
		case 204:
		case 409: // the last one was stored
			s.acked = s.sent
		case 503:
			refused++
			s.sent--
			time.Sleep(20 * time.Millisecond) // as a daemon does
		default:
			t.Errorf("status %d", status)
			return refused, longest
		}
		longest = max(longest, time.Since(began))
	}
}

// TestFrozenDisk freezes the disk under a running server, in each sync mode. Heartbeats are refused
// within seconds, /readyz, the log and the metrics say so, streams stay, and no device goes offline
// for it. After the thaw all goes on, and kill -9 loses nothing that was acknowledged.
func TestFrozenDisk(t *testing.T) {
	for _, mode := range []string{"always", "interval", "never"} {
		t.Run(mode, func(t *testing.T) { testFrozenDisk(t, mode) })
	}
}

func testFrozenDisk(t *testing.T, mode string) {
	atLeisure(t)
	disk, _ := mountFile(t, 256<<20)
	r := startServerIn(t, filepath.Join(disk, "data"), "--sync="+mode, "--stream-keepalive=100ms")
	user := uuid.NewString()
	var senders []*sender
	for range 16 {
		s := r.sender(user)
		s.beat = s.beat.with("ttl_ms", 5000)
		if status := s.send(); status != 204 {
			t.Fatal(status)
		}
		senders = append(senders, s)
	}
	other := uuid.NewString()
	stream := r.follow(other)
	thaw := freeze(t, disk)
	stop := make(chan struct{})
	var sending sync.WaitGroup
	var mu sync.Mutex
	refused, longest := 0, time.Duration(0)
	for _, s := range senders {
		sending.Go(func() {
			n, d := s.sendFor(t, stop)
			mu.Lock()
			defer mu.Unlock()
			refused, longest = refused+n, max(longest, d)
		})
	}
	r.untilReadyz(503, "the disk has not finished a commit for")
	if r.gauge(t, "rollcall_log_commit_in_flight_seconds") < 2 || r.gauge(t, "rollcall_log_stalls_total") < 1 {
		t.Error("the metrics do not show the stall")
	}
	r.until("the stall is logged", func() bool {
		return strings.Contains(r.logs(), "the disk has not finished a commit")
	})
	late := r.beat(newBeat().with("user_id", other))
	if late.status != 503 || late.header.Get("Retry-After") == "" {
		t.Errorf("a heartbeat on a frozen disk: %d %v", late.status, late.header)
	}
	if text, err := stream.frame(); err != nil || !strings.HasPrefix(text, ":") {
		t.Errorf("an open stream on a frozen disk: %q, %v", text, err)
	}
	r.until("the freeze outlasts the TTL", func() bool {
		return r.gauge(t, "rollcall_log_commit_in_flight_seconds") > 7
	})
	thaw()
	r.untilReadyz(200, "")
	r.until("the end is logged", func() bool { return strings.Contains(r.logs(), "the disk goes on") })
	before := r.gauge(t, "rollcall_log_appended_lsn")
	r.until("heartbeats are accepted again", func() bool {
		return r.gauge(t, "rollcall_log_appended_lsn") > before+100
	})
	if n := r.gauge(t, "rollcall_expiries_total"); n > 0 {
		t.Errorf("%v devices went offline for a frozen disk", n)
	}
	close(stop)
	sending.Wait()
	if refused == 0 || longest > testwait.Limit/2 {
		t.Errorf("%d heartbeats were refused, an answer took up to %v", refused, longest)
	}
	t.Logf("%d heartbeats were refused, an answer took up to %v", refused, longest)
	r.kill()
	r.start()
	wantSeqs(t, r, user, senders)
}

// TestStartOnAFrozenDisk: a start that waits for the disk says so, and goes on with it.
func TestStartOnAFrozenDisk(t *testing.T) {
	atLeisure(t)
	disk, _ := mountFile(t, 256<<20)
	r := startServerIn(t, filepath.Join(disk, "data"))
	user := uuid.NewString()
	s := r.sender(user)
	if status := s.send(); status != 204 {
		t.Fatal(status)
	}
	r.terminate()
	thaw := freeze(t, disk)
	r.launch()
	r.until("the console says what it waits for", func() bool {
		return strings.Contains(r.logs(), "everything is read, 1 devices; waiting for the disk")
	})
	thaw()
	r.serves()
	wantSeqs(t, r, user, []*sender{s})
}

// TestKilledOnAFrozenDisk: what was acknowledged while the disk hung is there after a kill of the
// process, in the modes that do not wait for a sync, too.
func TestKilledOnAFrozenDisk(t *testing.T) {
	for _, mode := range []string{"interval", "never"} {
		t.Run(mode, func(t *testing.T) {
			atLeisure(t)
			disk, _ := mountFile(t, 256<<20)
			r := startServerIn(t, filepath.Join(disk, "data"), "--sync="+mode)
			user := uuid.NewString()
			s := r.sender(user)
			for range 10 {
				s.send()
			}
			thaw := freeze(t, disk)
			for s.send() == 204 && s.acked < 1000 {
			}
			r.proc.Cmd.Process.Kill() // it ends when the disk goes on
			thaw()
			r.kill()
			r.start()
			wantSeqs(t, r, user, []*sender{s})
		})
	}
}

// TestSecondSignalOnAFrozenDisk: after a second signal the process has ended as far as the kernel
// lets it: no thread runs, nothing answers, connections are closed, another process could listen.
// The thread that is inside a write ends with the thaw.
func TestSecondSignalOnAFrozenDisk(t *testing.T) {
	atLeisure(t)
	disk, _ := mountFile(t, 256<<20)
	r := startServerIn(t, filepath.Join(disk, "data"), "--listen="+testport.Address(t),
		"--admin-listen="+testport.Address(t))
	user := uuid.NewString()
	s := r.sender(user)
	if status := s.send(); status != 204 {
		t.Fatal(status)
	}
	stream := r.follow(uuid.NewString())
	thaw := freeze(t, disk)
	answered := make(chan int, 1)
	go func() { answered <- s.send() }()
	r.until("a commit hangs", func() bool { return r.gauge(t, "rollcall_log_commit_in_flight_seconds") > 0.1 })
	pid := r.proc.Cmd.Process.Pid
	syscall.Kill(pid, syscall.SIGTERM)
	r.until("it drains", func() bool { return strings.Contains(r.logs(), "draining") })
	syscall.Kill(pid, syscall.SIGTERM)
	r.until("no thread runs", func() bool { return strings.Trim(threads(pid), "ZD") == "" })
	if status := testwait.For(t, "a heartbeat in flight ends", answered); status == 204 {
		t.Error("acknowledged on a frozen disk")
	}
	for _, address := range []string{r.addr, r.admin} {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			t.Errorf("another process cannot listen there: %v", err)
			continue
		}
		ln.Close()
	}
	for {
		if _, err := stream.frame(); err != nil {
			break // its end
		}
	}
	thaw()
	select {
	case <-r.proc.Exited:
	case <-time.After(testwait.Limit):
		t.Fatalf("still there after the thaw\n%s", r.logs())
	}
	if code := r.proc.Cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit status %d", code)
	}
	r.start()
	wantSeqs(t, r, user, []*sender{s})
}

// TestPrometheusSeesAFrozenDisk: a real Prometheus alarms while the disk hangs, and says afterwards
// that it did.
func TestPrometheusSeesAFrozenDisk(t *testing.T) {
	atLeisure(t)
	disk, _ := mountFile(t, 256<<20)
	r := startServerIn(t, filepath.Join(disk, "data"))
	p := startPrometheus(t, r.admin)
	p.until(`rollcall_log_commit_in_flight_seconds{job="rollcall"} >= bool 0`, "1")
	if firing, _ := p.query(`ALERTS{alertname=~"RollcallDisk.*"}`); len(firing) > 0 {
		t.Errorf("alarms before the disk hangs: %v", firing)
	}
	thaw := freeze(t, disk)
	if a := r.beat(newBeat()); a.status != 503 {
		t.Errorf("a heartbeat on a frozen disk: %d", a.status)
	}
	p.until(`count(ALERTS{alertname="RollcallDiskHangs",alertstate="firing"})`, "1")
	thaw()
	p.until(`count(ALERTS{alertname="RollcallDiskStalled",alertstate="firing"})`, "1")
	p.until(`count(ALERTS{alertname="RollcallDiskHangs"}) or vector(0)`, "0")
}

// threads returns the letters in /proc for the states of the process's threads, in their order: Z,
// it has ended; D, it sleeps in the kernel uninterruptibly.
func threads(pid int) (states string) {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, stat := range stats {
		if text, err := os.ReadFile(stat); err == nil { // it may have ended
			_, rest, _ := strings.Cut(string(text), ") ")
			states += rest[:1]
		}
	}
	return states
}
