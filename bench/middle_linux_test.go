package bench

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/wire"
)

var (
	programs = flag.String("programs", "../bin/rollcall",
		"what BenchmarkMiddle, BenchmarkSilence and BenchmarkQuiet measure in turn; commas between")
	serveFlags = flag.String("serve-flags", "", "more flags of those programs, with spaces between")
)

const (
	// middleBeats is how long the devices take to beat, and middleTTL is as long, so that all of
	// them have expired within 4 s and none before the last has beaten.
	middleTTL, middleBeats = 2 * time.Second, 2 * time.Second
	middleConns            = 64
	middleBatch            = 100
	middleToken            = "token-for-measurements-of-a-server"
)

// BenchmarkMiddle is what a server takes of its processor for devices that beat once, evenly over
// two seconds, and expire, all within 4 s. Each operation is one such round of each of -programs;
// figures are medians. A ratio is the first program's over the last's.
//
//	go test -run '^$' -bench '^BenchmarkMiddle$' -benchtime 5x -programs NEW,OLD .
func BenchmarkMiddle(b *testing.B) {
	for _, route := range []string{"single", "batch"} {
		for _, devices := range []int{1_000, 20_000} {
			b.Run(fmt.Sprintf("route=%s/devices=%dk", route, devices/1000), func(b *testing.B) {
				compare(b, func(p *program) {
					start, began := time.Now(), p.used(b)
					p.beatAll(b, devices, route == "batch", middleTTL)
					time.Sleep(time.Until(start.Add(middleBeats)))
					beaten := p.used(b)
					time.Sleep(time.Until(start.Add(middleBeats + middleTTL + middleBeats/20)))
					ended := p.used(b)
					p.awaitOffline(b, devices)
					used := ended.since(began)
					p.note("cpu-ms", float64(used.cpu.Microseconds())/1000)
					p.note("cpu-ms-expiring", float64(ended.since(beaten).cpu.Microseconds())/1000)
					p.note("wakes", float64(used.switches))
					p.note("wakes-expiring", float64(ended.since(beaten).switches))
					p.note("commits", p.metric(b, "rollcall_log_commit_records_count"))
					p.note("late-over-1ms-%", 100-100*
						p.metric(b, `rollcall_expiry_lateness_seconds_bucket{le="0.001"}`)/
						float64(devices))
				})
			})
		}
	}
}

// quietTime is for how long a server that has nothing to do is watched.
const quietTime = 10 * time.Second

// BenchmarkQuiet is what a server with nothing to do takes: of a core, in percent, and how often
// its threads go to sleep, that is wake up, in a second.
//
//	go test -run '^$' -bench '^BenchmarkQuiet$' -benchtime 3x -programs NEW,OLD .
func BenchmarkQuiet(b *testing.B) {
	for _, devices := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("devices=%dk", devices/1000), func(b *testing.B) {
			compare(b, func(p *program) {
				p.beatAll(b, devices, true, 10*24*time.Hour)
				time.Sleep(3 * time.Second) // what the heartbeats left to do is done
				began := p.used(b)
				time.Sleep(quietTime)
				used := p.used(b).since(began)
				p.note("core-%", 100*used.cpu.Seconds()/quietTime.Seconds())
				p.note("wakes/s", float64(used.switches)/quietTime.Seconds())
			})
		})
	}
}

// silentDevices fall silent at one moment, in BenchmarkSilence.
const silentDevices = 20_000

// BenchmarkSilence is what another daemon waits, which beats on a connection of its own as fast as
// it is answered, while very many devices go offline that fell silent at one moment, and before.
//
//	go test -run '^$' -bench '^BenchmarkSilence$' -benchtime 5x -programs NEW,OLD .
func BenchmarkSilence(b *testing.B) {
	const ttl, watched = time.Second, 150 * time.Millisecond
	compare(b, func(p *program) {
		var probe sync.WaitGroup
		var sent []time.Time
		var waits []time.Duration
		stop := make(chan struct{})
		probe.Go(func() {
			conn := p.dial(b)
			defer conn.Close()
			answers := bufio.NewReader(conn)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				request := middleRequest(silentDevices+n, 1, false, time.Hour)
				began := time.Now()
				if !post(b, conn, answers, request) {
					return
				}
				sent, waits = append(sent, began), append(waits, time.Since(began))
			}
		})
		conn := p.dial(b)
		defer conn.Close()
		answers := bufio.NewReader(conn)
		const each = silentDevices / 4
		var requests [][]byte
		for n := 0; n < silentDevices; n += each {
			requests = append(requests, middleRequest(n, each, true, ttl))
		}
		began := time.Now()
		for _, request := range requests {
			post(b, conn, answers, request)
		}
		taken := time.Now()
		time.Sleep(time.Until(taken.Add(ttl + watched)))
		close(stop)
		probe.Wait()
		if left := silentDevices - int(p.metric(b, "rollcall_expiries_total")); left > 0 {
			b.Logf("%d devices are online after %v", left, watched)
		}
		var before, during []float64
		for i, at := range sent {
			switch ms := float64(waits[i].Microseconds()) / 1000; {
			case at.Add(waits[i]).After(began.Add(ttl)):
				during = append(during, ms)
			case at.After(taken.Add(ttl / 2)):
				before = append(before, ms)
			}
		}
		slices.Sort(before)
		slices.Sort(during)
		p.note("p99-ms", during[len(during)*99/100])
		p.note("max-ms", during[len(during)-1])
		p.note("p99-ms-before", before[len(before)*99/100])
		p.note("p99-factor", during[len(during)*99/100]/before[len(before)*99/100])
	})
}

// compare runs a round of each program in turn, b.N times, and reports medians of what the rounds
// note.
func compare(b *testing.B, round func(p *program)) {
	paths := strings.Split(*programs, ",")
	notes := make([]map[string][]float64, len(paths))
	for i := range notes {
		notes[i] = make(map[string][]float64)
	}
	for range b.N {
		for i, path := range paths {
			p := startProgram(b, path, notes[i])
			round(p)
			p.stop(b)
		}
	}
	b.ReportMetric(0, "ns/op")
	for unit, first := range notes[0] {
		for i := range notes {
			slices.Sort(notes[i][unit])
		}
		b.ReportMetric(median(first), unit)
		if last := notes[len(notes)-1][unit]; len(notes) > 1 && median(last) > 0 {
			b.ReportMetric(median(last), "last-"+unit)
			b.ReportMetric(median(first)/median(last), unit+"-ratio")
			if b.N > 1 {
				b.Logf("%s: %.2f, last program %.2f", unit, first, notes[len(notes)-1][unit])
			}
		}
	}
}

func median(sorted []float64) float64 { return sorted[len(sorted)/2] }

// program is a server that runs.
type program struct {
	cmd         *exec.Cmd
	addr, admin string
	notes       map[string][]float64
}

func (p *program) note(unit string, v float64) { p.notes[unit] = append(p.notes[unit], v) }

func startProgram(b *testing.B, path string, notes map[string][]float64) *program {
	p := &program{addr: freeAddr(b), admin: freeAddr(b), notes: notes}
	args := []string{"serve", "--listen", p.addr, "--admin-listen", p.admin,
		"--data-dir", filepath.Join(tempDir(b), "data"), "--log-level", "error"}
	p.cmd = exec.Command(path, append(args, strings.Fields(*serveFlags)...)...)
	p.cmd.Env = append(os.Environ(), "PRESENCE_DO_INGEST_TOKEN="+middleToken,
		"PRESENCE_DO_TOKEN_SIGNING_KEY="+middleToken)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.cmd.Process.Kill() })
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if r, err := http.Get("http://" + p.admin + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				http.DefaultClient.CloseIdleConnections()
				return p
			}
		}
		if time.Now().After(end) {
			b.Fatalf("%s is not ready", path)
		}
	}
}

func freeAddr(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (p *program) stop(b *testing.B) {
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		b.Error(err)
	}
	if err := p.cmd.Wait(); err != nil {
		b.Error(err)
	}
}

// usage is what a process has used until now.
type usage struct {
	cpu      time.Duration
	switches int64 // voluntary ones, of all its threads
}

func (u usage) since(v usage) usage { return usage{u.cpu - v.cpu, u.switches - v.switches} }

func (p *program) used(b *testing.B) (u usage) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal("no threads: ", err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(filepath.Join(task, "schedstat"))
		if err != nil {
			b.Fatal(err)
		}
		nanos, _, _ := strings.Cut(string(text), " ")
		ran, err := strconv.ParseInt(nanos, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		u.cpu += time.Duration(ran)
		if text, err = os.ReadFile(filepath.Join(task, "status")); err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		var n int64
		if _, err := fmt.Sscan(rest, &n); err != nil {
			b.Fatal(err)
		}
		u.switches += n
	}
	return u
}

// beatAll sends a heartbeat of each device, evenly over middleBeats, over kept connections.
func (p *program) beatAll(b *testing.B, devices int, batched bool, ttl time.Duration) {
	conns, each := middleConns, 1
	if batched {
		conns, each = 1, middleBatch
	}
	requests := devices / each
	began := time.Now()
	var group sync.WaitGroup
	for c := range conns {
		group.Go(func() {
			conn := p.dial(b)
			defer conn.Close()
			answers := bufio.NewReader(conn)
			for n := c; n < requests; n += conns {
				time.Sleep(time.Until(began.Add(
					time.Duration(n) * middleBeats / time.Duration(requests))))
				if !post(b, conn, answers, middleRequest(n*each, each, batched, ttl)) {
					return
				}
			}
		})
	}
	if group.Wait(); b.Failed() {
		b.FailNow()
	}
}

// dial connects to the server. In place of a connection that cannot be made it returns one that
// fails.
func (p *program) dial(b *testing.B) net.Conn {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		b.Error(err)
		conn, _ = net.Pipe()
		conn.Close()
	}
	return conn
}

// post sends a request and reads the answer, which must be 2xx.
func post(b *testing.B, conn net.Conn, answers *bufio.Reader, request []byte) bool {
	if _, err := conn.Write(request); err != nil {
		b.Error(err)
		return false
	}
	r, err := http.ReadResponse(answers, nil)
	if err != nil {
		b.Error(err)
		return false
	}
	text, err := io.ReadAll(r.Body)
	if r.Body.Close(); err != nil || r.StatusCode/100 != 2 {
		b.Errorf("%s %s %v", r.Status, text, err)
		return false
	}
	return true
}

// middleRequest is that of some devices, from one on.
func middleRequest(first, count int, batched bool, ttl time.Duration) []byte {
	var body bytes.Buffer
	for n := first; n < first+count; n++ {
		u := streamUser(n)
		fmt.Fprintf(&body, `{"schema_version":1,"user_id":"%s","device_id":"%s","status":"online",`+
			`"source":"bench","sent_at_ms":%d,"seq":1,"ttl_ms":%d}`+"\n",
			u, middleDevice(n), time.Now().UnixMilli(), ttl.Milliseconds())
	}
	path, kind := wire.HeartbeatPath, "application/json"
	if batched {
		path, kind = wire.HeartbeatsPath, "application/x-ndjson"
	}
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: bench\r\n"+
		"Authorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		path, middleToken, kind, body.Len(), body.Bytes())
}

// middleDevice is a random-looking version 4 id.
func middleDevice(n int) string {
	u := id(uint64(n))
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return u.String()
}

// awaitOffline returns when so many devices have expired. It asks seldom, so that the asking does
// not count.
func (p *program) awaitOffline(b *testing.B, devices int) {
	const expired = "rollcall_expiries_total"
	for end := time.Now().Add(time.Minute); p.metric(b, expired) < float64(devices); {
		if time.Now().After(end) {
			b.Fatalf("%d devices have not expired", devices)
		}
		time.Sleep(time.Second / 4)
	}
}

func (p *program) metric(b *testing.B, name string) float64 {
	r, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				b.Fatal(err)
			}
			return v
		}
	}
	b.Fatal("no metric ", name)
	return 0
}
