package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"rollcall/bench/raw"
	"rollcall/cluster/partition"
	"rollcall/wire"
)

const (
	clusterNodes = 3
	// firstNode is the public port of the first node; each has three, and the next ones ten above.
	firstNode = 8811
	// fewPartitions are owned within seconds, with everything on one machine.
	fewPartitions  = 12
	manyPartitions = 64
)

// clusters is what three nodes do on this machine, beside one server and the same client, in rounds
// that take turns; and what their clients feel when one of them goes.
func (m *measurement) clusters() error {
	var all []string
	for _, step := range []struct {
		name string
		run  func() ([]string, error)
	}{
		{"cluster-post", m.clusterPost},
		{"cluster-frame", m.clusterFrame},
		{"cluster-idle", m.clusterIdle},
		{"cluster-kill", func() ([]string, error) { return m.clusterKill(true) }},
		{"cluster-slow-kill", func() ([]string, error) { return m.clusterKill(false) }},
		{"cluster-stop", m.clusterStop},
	} {
		if !m.wanted(step.name) {
			continue
		}
		lines, err := step.run()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		for _, line := range lines {
			fmt.Fprintln(os.Stderr, "         ", line)
		}
		all = append(all, lines...)
	}
	if len(all) == 0 {
		return nil
	}
	return m.writeLines("cluster", all,
		"cd bench && go run ./cmd/measure -rollcall ../bin/rollcall -only cluster")
}

// nodes are a cluster. Single owner.
type nodes struct {
	m          *measurement
	dir        string
	partitions int
	fast       bool
	all        [clusterNodes]*server
}

// startNodes makes a cluster and waits until all of it is well.
func (m *measurement) startNodes(partitions int, fast bool) (c *nodes, err error) {
	c = &nodes{m: m, partitions: partitions, fast: fast}
	if c.dir, err = os.MkdirTemp("", "rollcall-bench-"); err != nil {
		return nil, err
	}
	for i := range c.all {
		if err == nil {
			err = c.start(i)
		}
	}
	if err == nil {
		err = c.await()
	}
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func nodePort(i, of int) int { return firstNode + 10*i + of }

func nodeAddr(i, of int) string { return fmt.Sprintf("127.0.0.1:%d", nodePort(i, of)) }

func nodeName(i int) string { return fmt.Sprint("n", i+1) }

// start starts a node, on the directory that it had.
func (c *nodes) start(i int) (err error) {
	dir := filepath.Join(c.dir, nodeName(i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var peers []string
	for j := range c.all {
		peers = append(peers, nodeAddr(j, 2))
	}
	args := []string{"serve", "--listen", nodeAddr(i, 0), "--admin-listen", nodeAddr(i, 1),
		"--data-dir", filepath.Join(dir, "data"), "--cluster-node", nodeName(i),
		"--cluster-listen", nodeAddr(i, 2), "--cluster-peers", strings.Join(peers, ","),
		"--cluster-bootstrap", fmt.Sprint(clusterNodes),
		"--cluster-partitions", fmt.Sprint(c.partitions)}
	if c.fast {
		args = append(args, "--cluster-fast-failover")
	}
	cmd := exec.Command(c.m.rollcall, args...)
	cmd.Env = append(os.Environ(), secrets...)
	s := &server{cmd: cmd, shown: "a node", address: nodeAddr(i, 0)}
	if s.log, err = os.OpenFile(filepath.Join(dir, "server.log"),
		os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	c.all[i] = s
	return cmd.Start()
}

// stop ends all nodes that run.
func (c *nodes) stop() error {
	for _, s := range c.all {
		if s != nil {
			_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		}
	}
	for _, s := range c.all {
		if s != nil {
			_ = s.cmd.Wait() // the last ones have no majority to hand over to
			s.log.Close()
		}
	}
	return os.RemoveAll(c.dir)
}

// clusterStatus is what is read of /clusterz.
type clusterStatus struct {
	Partitions []struct {
		Partition int
		Owner     string
	}
	Problems []string
}

func (c *nodes) status(i int) (s clusterStatus, err error) {
	resp, err := http.Get("http://" + nodeAddr(i, 1) + "/clusterz")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// await waits until no node knows of a problem.
func (c *nodes) await() error {
	const atMost = 2 * time.Minute
	for until := time.Now().Add(atMost); ; time.Sleep(100 * time.Millisecond) {
		bad := ""
		for i := range c.all {
			s, err := c.status(i)
			if err != nil {
				bad = err.Error()
			} else if len(s.Problems) > 0 {
				bad = nodeName(i) + ": " + strings.Join(s.Problems, "; ")
			}
		}
		if bad == "" {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("the cluster is not well after %v: %s", atMost, bad)
		}
	}
}

// clusterPost is heartbeats from the same client, to three nodes and to one server.
func (m *measurement) clusterPost() (lines []string, err error) {
	c, err := m.startNodes(fewPartitions, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	_, done, err := m.startRollcall(port)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	var targets []string
	for i := range c.all {
		targets = append(targets, "http://"+nodeAddr(i, 0))
	}
	single := fmt.Sprintf("http://127.0.0.1:%d", port)
	rounds, seconds := 3, 4
	if m.smoke {
		rounds, seconds = 1, 1
	}
	crowd := "--closed --users 10000 --devices-per-user 10 --warmup 2s"
	for _, load := range []struct{ name, args string }{
		{"post/conns=1", crowd + " --connections 1"},
		{"post/conns=64", crowd + " --connections 64"},
		{"post/conns=1000", crowd + " --connections 1000"},
		{"batch/conns=32", "--closed --batch 1000 --connections 32 --users 100000 " +
			"--devices-per-user 10 --ttl 10m --no-verify --warmup 6s"},
	} {
		for range rounds {
			args := append(strings.Fields(load.args), "--duration", fmt.Sprintf("%ds", seconds))
			a, err := m.drive(strings.Join(targets, ","), args)
			if err != nil {
				return nil, err
			}
			b, err := m.drive(single, args)
			if err != nil {
				return nil, err
			}
			lines = append(lines, fmt.Sprintf("BenchmarkCluster/figure=%s/partitions=%d 1 "+
				"%.0f ops/s %.2f p50-ms %.2f p99-ms %.0f single-ops/s %.2f single-p50-ms "+
				"%.2f single-p99-ms %.3f ratio", load.name, fewPartitions, a.Achieved,
				a.Latency["answer"].P50, a.Latency["answer"].P99, b.Achieved,
				b.Latency["answer"].P50, b.Latency["answer"].P99, a.Achieved/b.Achieved))
		}
	}
	return lines, nil
}

// drive runs the generator. A run in which it found a violation is an error.
func (m *measurement) drive(targets string, args []string) (l raw.Load, err error) {
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return l, err
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.json")
	cmd := exec.Command(m.rollcall, append([]string{"load", "--target", targets, "--quiet",
		"--json", report}, args...)...)
	cmd.Env = append(os.Environ(), secrets...)
	out, err := cmd.CombinedOutput()
	text, readErr := os.ReadFile(report)
	if readErr != nil {
		return l, fmt.Errorf("rollcall load %s: %w\n%s", strings.Join(args, " "),
			errors.Join(err, readErr), out)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return l, err
	}
	if len(l.Verdict.Violations) > 0 {
		return l, fmt.Errorf("rollcall load %s: %v", strings.Join(args, " "), l.Verdict.Violations)
	}
	return l, nil
}

const (
	frameRate    = 500 // heartbeats per second
	frameStreams = 60
	frameTime    = 10 * time.Second
	frameSenders = 32
)

// clusterFrame is how long heartbeats take to a stream: sent to one node, read from another one;
// and of one server.
func (m *measurement) clusterFrame() (lines []string, err error) {
	c, err := m.startNodes(fewPartitions, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	_, done, err := m.startRollcall(port)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	for range 3 {
		p50, p99, err := frames(nodePort(0, 0), nodePort(1, 0))
		if err != nil {
			return nil, err
		}
		one50, one99, err := frames(port, port)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("BenchmarkCluster/figure=frame/rate=%d/streams=%d/"+
			"partitions=%d 1 %.2f p50-ms %.2f p99-ms %.2f single-p50-ms %.2f single-p99-ms",
			frameRate, frameStreams, fewPartitions, p50, p99, one50, one99))
	}
	return lines, nil
}

// frames returns how long each heartbeat took, from when it was due until its frame was read, in
// milliseconds.
func frames(to, from int) (p50, p99 float64, err error) {
	r, err := newReceiver()
	if err != nil {
		return 0, 0, err
	}
	defer r.close()
	base := int(time.Now().UnixMilli()) // above those of the last round
	p := newProber(fmt.Sprintf("127.0.0.1:%d", to))
	for n := range frameStreams {
		if status, err := p.beat(userID(n), base); err != nil || status != http.StatusNoContent {
			return 0, 0, fmt.Errorf("a heartbeat was answered %d: %w", status, err)
		}
	}
	for n := range frameStreams {
		if err := r.open(from, singleRequest(userID(n))); err != nil {
			return 0, 0, err
		}
	}
	if err := r.receive(func() bool { return r.frames >= frameStreams }); err != nil {
		return 0, 0, err
	}
	events := frameRate * int(frameTime/time.Second)
	began := time.Now().Add(100 * time.Millisecond)
	due := func(i int) time.Time { return began.Add(time.Duration(i) * time.Second / frameRate) }
	took := make([]time.Duration, 0, events)
	r.seq = func(seq int) {
		if i := seq - base - 1; i >= 0 && i < events {
			took = append(took, time.Since(due(i)))
		}
	}
	var next atomic.Int64
	failed := make(chan error, frameSenders)
	for range frameSenders {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= events {
					failed <- nil
					return
				}
				time.Sleep(time.Until(due(i)))
				status, err := p.beat(userID(i%frameStreams), base+1+i)
				if err == nil && status != http.StatusNoContent && status != http.StatusConflict {
					err = fmt.Errorf("a heartbeat was answered %d", status)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	ended := 0
	for ended < frameSenders && err == nil {
		if err = r.poll(5); err != nil {
			break
		}
		select {
		case err = <-failed:
			ended++
		default:
		}
	}
	for until := time.Now().Add(time.Second); err == nil && time.Now().Before(until); {
		err = r.poll(20)
	}
	if err == nil && len(took) < events*9/10 { // one that a later one overtook is answered 409
		err = fmt.Errorf("%d frames of %d heartbeats", len(took), events)
	}
	if err != nil {
		return 0, 0, err
	}
	slices.Sort(took)
	return quantile(took, 0.5), quantile(took, 0.99), nil
}

// quantile is of sorted durations, in milliseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	return float64(sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]) / 1e6
}

// clusterIdle is what a node takes that has nothing to do: the median node's.
func (m *measurement) clusterIdle() (lines []string, err error) {
	c, err := m.startNodes(manyPartitions, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	time.Sleep(15 * time.Second) // what the start left behind is given back
	var before [clusterNodes]float64
	for i, s := range c.all {
		before[i] = s.cpu()
	}
	const watched = 20 * time.Second
	time.Sleep(watched)
	var cores, resident []float64
	for i, s := range c.all {
		cores = append(cores, (s.cpu()-before[i])/watched.Seconds())
		resident = append(resident, s.resident())
	}
	return []string{fmt.Sprintf("BenchmarkCluster/figure=idle/partitions=%d 1 "+
		"%.4f cores/node %.1f MiB/node", manyPartitions, middle(cores), middle(resident))}, nil
}

// prober sends single heartbeats. Any goroutine may use it.
type prober struct {
	addrs  []string
	client *http.Client
}

func newProber(addrs ...string) *prober {
	return &prober{addrs: addrs, client: &http.Client{Timeout: 4 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
}

// beat sends a heartbeat to one of the addresses and returns the answer's status.
func (p *prober) beat(user string, seq int) (status int, err error) {
	body := fmt.Appendf(nil, `{"schema_version":1,"user_id":"%s","device_id":"%s",`+
		`"status":"online","source":"bench","sent_at_ms":1739030400000,"seq":%d,"ttl_ms":3600000}`,
		user, deviceID(0), seq)
	request, err := http.NewRequest(http.MethodPost,
		"http://"+p.addrs[seq%len(p.addrs)]+wire.HeartbeatPath, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer ingest-token-of-the-benchmarks---")
	request.Header.Set("Content-Type", "application/json")
	answer, err := p.client.Do(request)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

// owned returns the node with the most partitions, and a user of each of them.
func (c *nodes) owned() (node int, users []string, err error) {
	s, err := c.status(0)
	if err != nil {
		return 0, nil, err
	}
	owns := map[string][]int{}
	for _, p := range s.Partitions {
		owns[p.Owner] = append(owns[p.Owner], p.Partition)
	}
	for i := range c.all {
		if len(owns[nodeName(i)]) > len(owns[nodeName(node)]) {
			node = i
		}
	}
	for _, p := range owns[nodeName(node)] {
		for n := 0; ; n++ {
			if partition.Of(uuid.MustParse(userID(n)), c.partitions) == p {
				users = append(users, userID(n))
				break
			}
		}
	}
	return node, users, nil
}

// gaps sends heartbeats of users to the nodes that stay, one after the other for each user, while
// end takes their owner away. It returns the longest time of each user between two that were
// acknowledged, beginning with the last one before the end.
func (c *nodes) gaps(away int, users []string, end func()) ([]time.Duration, error) {
	var stay []string
	for i := range c.all {
		if i != away {
			stay = append(stay, nodeAddr(i, 0))
		}
	}
	p := newProber(stay...)
	longest := make([]time.Duration, len(users))
	var ended atomic.Int64 // unix nanoseconds
	var all sync.WaitGroup
	failed := make([]error, len(users))
	for u, user := range users {
		all.Go(func() {
			last := time.Now()
			base := int(last.UnixMilli()) * 1000
			for seq := base; ; seq++ {
				status, err := p.beat(user, seq)
				now := time.Now()
				at := ended.Load()
				if err == nil && status == http.StatusNoContent {
					if at != 0 && now.UnixNano() > at {
						longest[u] = max(longest[u], now.Sub(last))
					}
					last = now
				}
				// two seconds and an acknowledgement behind the end
				if at != 0 && now.Sub(time.Unix(0, at)) > 2*time.Second && now.Equal(last) {
					return
				}
				if now.Sub(last) > time.Minute {
					failed[u] = errors.New("no heartbeat was acknowledged for a minute")
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	time.Sleep(time.Second)
	ended.Store(time.Now().UnixNano())
	end()
	all.Wait()
	return longest, errors.Join(failed...)
}

// clusterKill kills the owner of the most partitions, some times.
func (m *measurement) clusterKill(fast bool) ([]string, error) {
	rounds := 12
	if !fast {
		rounds = 5
	}
	line, err := m.endings(rounds, fast, syscall.SIGKILL)
	return []string{fmt.Sprintf("BenchmarkCluster/figure=kill/fast=%v/partitions=%d 1 %s", fast,
		fewPartitions, line)}, err
}

// clusterStop stops it, so that it hands its partitions over.
func (m *measurement) clusterStop() ([]string, error) {
	line, err := m.endings(8, true, syscall.SIGTERM)
	return []string{fmt.Sprintf("BenchmarkCluster/figure=stop/partitions=%d 1 %s", fewPartitions,
		line)}, err
}

// endings ends the busiest owner with a signal, some times, and returns what its users felt.
func (m *measurement) endings(
	rounds int, fast bool, signal syscall.Signal,
) (line string, err error) {
	if m.smoke {
		rounds = 1
	}
	c, err := m.startNodes(fewPartitions, fast)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	var all []time.Duration
	for range rounds {
		node, users, err := c.owned()
		if err != nil {
			return "", err
		}
		gone := make(chan struct{})
		gaps, err := c.gaps(node, users, func() {
			_ = c.all[node].cmd.Process.Signal(signal)
			go func() {
				_ = c.all[node].cmd.Wait() // of the signal
				c.all[node].log.Close()
				close(gone)
			}()
		})
		<-gone
		if err != nil {
			return "", err
		}
		fmt.Fprintf(os.Stderr, "          %s of %d partitions: %v\n", nodeName(node), len(users),
			slices.Max(gaps).Round(time.Millisecond))
		all = append(all, gaps...)
		if err := c.start(node); err != nil {
			return "", err
		}
		if err := c.await(); err != nil {
			return "", err
		}
	}
	slices.Sort(all)
	return fmt.Sprintf("%.3f p50-s %.3f p95-s %.3f worst-s %d endings %d users",
		quantile(all, 0.5)/1e3, quantile(all, 0.95)/1e3, quantile(all, 1)/1e3, rounds,
		len(all)), nil
}
