package test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"rollcall/internal/testseed"
)

// pauses is how often servers are stopped. ROLLCALL_PAUSES raises it.
func pauses(t *testing.T) int {
	return testseed.Rounds(t, "ROLLCALL_PAUSES", 8, 20)
}

// pausedServers is how many servers are stopped side by side.
const pausedServers = 4

// pauseCounts is what a test over paused servers did.
type pauseCounts struct {
	pauses, beats, refused atomic.Int64
	// devices that went offline while they sent, by whose fault: the server's, their own, the
	// machine's
	judged, starved, waited atomic.Int64
}

// TestPauses stops servers for 0.1 to 5 s, alone and in bursts, as a live migration does, while
// devices with TTLs of 0.2 to 12 s send a heartbeat each 0.7 of it: some at fixed times over a
// connection that nothing holds up, some when they have the answer to the last. None goes offline.
// A device that could not write in time itself, for want of a processor, proves nothing; so what
// counts is when its heartbeats were in the socket. Nor does one whose heartbeat lay there while
// threads of the server waited for a processor, which a server that is stopped does not.
func TestPauses(t *testing.T) {
	seed := testseed.Of(t)
	total := pauses(t)
	var counts pauseCounts
	var servers sync.WaitGroup
	for i := range pausedServers {
		r := startServer(t)
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		n := total / pausedServers
		if i < total%pausedServers {
			n++
		}
		servers.Go(func() { pauseServer(t, r, rng, n, &counts) })
	}
	servers.Wait()
	t.Logf("%d heartbeats over %d pauses, %d not answered 204; went offline in time: %d, too late: %d, "+
		"while the server had no processor: %d", counts.beats.Load(), counts.pauses.Load(),
		counts.refused.Load(), counts.judged.Load(), counts.starved.Load(), counts.waited.Load())
}

func pauseServer(t *testing.T, r *rig, rng *rand.Rand, pauses int, counts *pauseCounts) {
	user := uuid.NewString()
	watch := newPauseWatch(r, user)
	stop := make(chan struct{})
	var sending sync.WaitGroup
	waits := &processorWaits{pid: r.proc.Cmd.Process.Pid, waited: map[string]time.Duration{}}
	sending.Go(func() { waits.watch(stop) })
	devices := make(map[string]*pausedDevice)
	for i := range 16 {
		ttl := 200*time.Millisecond + time.Duration(rng.Int64N(int64(11800*time.Millisecond)))
		if i < 6 {
			ttl = 200*time.Millisecond + time.Duration(rng.Int64N(int64(time.Second)))
		}
		d := &pausedDevice{ttl: ttl.Truncate(time.Millisecond), waits: i%2 == 1, conn: r.dial()}
		d.conn.SetDeadline(time.Time{})
		d.beat = newBeat().with("user_id", user).with("ttl_ms", d.ttl.Milliseconds())
		devices[d.beat["device_id"].(string)] = d
		sending.Go(func() { d.send(t, stop, counts) })
	}
	for left := pauses; left > 0; {
		burst := 1
		if rng.IntN(4) == 0 {
			burst = min(left, 1+rng.IntN(4))
		}
		length := 100*time.Millisecond + time.Duration(rng.Int64N(int64(900*time.Millisecond)))
		if rng.IntN(3) == 0 {
			length = time.Second + time.Duration(rng.Int64N(int64(4*time.Second)))
		}
		time.Sleep(time.Duration(rng.Int64N(int64(1500 * time.Millisecond))))
		for range burst {
			r.proc.Cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(length)
			r.proc.Cmd.Process.Signal(syscall.SIGCONT)
			counts.pauses.Add(1)
			time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
			left--
		}
	}
	time.Sleep(2 * time.Second) // what the last pause led to
	close(stop)
	sending.Wait()
	watch.close()
	for _, o := range watch.offline {
		d := devices[o.device]
		switch why, since := d.inTime(o.at); {
		case why == "":
			counts.starved.Add(1)
		case waits.half(since, o.at):
			counts.waited.Add(1)
		default:
			counts.judged.Add(1)
			t.Errorf("ttl %v, waits for answers: %v: offline at %v, though %s", d.ttl, d.waits,
				o.at.Format(time.StampMicro), why)
		}
	}
	if t.Failed() {
		t.Log(r.logs())
	}
}

// pausedDevice sends on a connection of its own.
type pausedDevice struct {
	beat  beat
	ttl   time.Duration
	waits bool // for the answer, before it sends the next
	conn  net.Conn

	mu   sync.Mutex
	sent []sentBeat // guarded by mu
}

// sentBeat is when a heartbeat was written, between from and to, and when its answer was in the
// socket; zero: it was not.
type sentBeat struct{ from, to, answered time.Time }

func (d *pausedDevice) every() time.Duration { return d.ttl * 7 / 10 }

// send sends until stop is closed.
func (d *pausedDevice) send(t *testing.T, stop <-chan struct{}, counts *pauseCounts) {
	answers := make(chan struct{}, 1<<16)
	var reading sync.WaitGroup
	reading.Go(func() { d.readAnswers(answers, counts) })
	defer reading.Wait()
	defer d.conn.Close()
	timer := time.NewTimer(0)
	for next := time.Now(); ; {
		timer.Reset(time.Until(next))
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		if err := d.write(); err != nil {
			t.Errorf("ttl %v: %v", d.ttl, err)
			return
		}
		counts.beats.Add(1)
		next = next.Add(d.every())
		if d.waits {
			select {
			case <-stop:
				return
			case <-answers:
			}
			if now := time.Now(); next.Before(now) {
				next = now
			}
		}
	}
}

func (d *pausedDevice) write() error {
	d.mu.Lock()
	i := len(d.sent)
	d.sent = append(d.sent, sentBeat{from: time.Now()})
	d.mu.Unlock()
	_, err := io.WriteString(d.conn, request("POST", heartbeatPath, d.beat.with("seq", i+1).json(),
		bearer(ingestToken)))
	d.mu.Lock()
	d.sent[i].to = time.Now()
	d.mu.Unlock()
	return err
}

func (d *pausedDevice) readAnswers(answers chan<- struct{}, counts *pauseCounts) {
	br := bufio.NewReader(d.conn)
	for i := 0; ; i++ {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 204 {
			counts.refused.Add(1)
		}
		answered := time.Now().Add(-sinceArrival(d.conn))
		d.mu.Lock()
		d.sent[i].answered = answered
		d.mu.Unlock()
		if d.waits {
			answers <- struct{}{}
		}
	}
}

// sinceArrival is how long ago the last bytes came to a connection, to the tick of the kernel. When
// they were read depends on when this process had a processor.
func sinceArrival(c net.Conn) (ago time.Duration) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // of a closed connection: not known
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			ago = time.Duration(info.Last_data_recv) * time.Millisecond
		}
	})
	return ago
}

// inTime says why the device should not have gone offline at an instant, and since when the
// heartbeat was in the socket that says so; "": it was silent.
func (d *pausedDevice) inTime(at time.Time) (why string, since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := len(d.sent) - 1
	for last > 0 && (d.sent[last].from.After(at) || !d.wasInTime(last)) {
		last--
	}
	s := d.sent[last]
	switch {
	case d.waits && (s.answered.IsZero() || s.answered.After(at)):
		return "it waited for an answer", s.to
	case at.Add(time.Millisecond).Before(s.from.Add(d.ttl)): // at is cut to milliseconds
		return "it had sent at " + s.to.Format(time.StampMicro), s.to
	case d.waits && at.Sub(d.nextAfter(last)) < d.ttl/10:
		return "it had no time to send after an answer at " + s.answered.Format(time.StampMicro), s.to
	}
	return "", s.to
}

// nextAfter is when a device that waits was to send the next heartbeat.
func (d *pausedDevice) nextAfter(i int) time.Time {
	next := d.sent[i].from.Add(d.every())
	if d.sent[i].answered.After(next) {
		next = d.sent[i].answered
	}
	return next
}

// wasInTime reports whether a heartbeat was in the socket before the TTL of the one before ended,
// or soon after the answer that the device waited for.
func (d *pausedDevice) wasInTime(i int) bool {
	if i == 0 {
		return true
	}
	to := d.sent[i].to
	if to.Before(d.sent[i-1].from.Add(d.ttl)) {
		return true
	}
	return d.waits && to.Sub(d.nextAfter(i-1)) < d.ttl/10
}

// pauseWatch notes which devices of a user go offline.
type pauseWatch struct {
	stream *follower
	done   sync.WaitGroup

	offline []wentOffline // after close
}

type wentOffline struct {
	device string
	at     time.Time // by the server's clock
}

func newPauseWatch(r *rig, user string) *pauseWatch {
	w := &pauseWatch{stream: r.follow(user)}
	w.done.Go(func() {
		for {
			text, err := w.stream.frame()
			if err != nil {
				return
			}
			if ev, ok := parseFrame(text); ok && ev["status"] == "offline" {
				w.offline = append(w.offline, wentOffline{ev["device_id"].(string),
					time.UnixMilli(ev.number("sent_at_ms"))})
			}
		}
	})
	return w
}

func (w *pauseWatch) close() {
	w.stream.conn.Close()
	w.done.Wait()
}

// processorWaits notes how long the threads of a server have waited for a processor that others
// had. A process that is stopped waits for none.
type processorWaits struct {
	pid    int
	waited map[string]time.Duration // by the thread's file
	looks  []waitsLook
}

// waitsLook is how long all threads had waited at an instant.
type waitsLook struct {
	at  time.Time
	all time.Duration
}

// watch looks until stop is closed, and once more.
func (p *processorWaits) watch(stop <-chan struct{}) {
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		p.look()
		select {
		case <-stop:
			tick.Stop()
			p.look()
			return
		case <-tick.C:
		}
	}
}

// look adds what the threads have waited since the last look. A kernel that does not say it says
// nothing.
func (p *processorWaits) look() {
	var all time.Duration
	if n := len(p.looks); n > 0 {
		all = p.looks[n-1].all
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	for _, thread := range threads {
		var ran, waited time.Duration
		if text, err := os.ReadFile(thread); err != nil { // it may have ended
			continue
		} else if _, err := fmt.Sscan(string(text), &ran, &waited); err != nil {
			continue
		}
		all += waited - p.waited[thread]
		p.waited[thread] = waited
	}
	p.looks = append(p.looks, waitsLook{time.Now(), all})
}

// half reports whether the threads waited for at least half of the time between two instants. The
// kernel counts a wait when it is over: so it looks for as long again.
func (p *processorWaits) half(from, to time.Time) bool {
	first, last := p.looks[0], p.looks[len(p.looks)-1]
	for _, l := range p.looks {
		if !l.at.After(from) {
			first = l
		}
		if l.at.After(to.Add(to.Sub(from))) {
			last = l
			break
		}
	}
	return last.all-first.all >= to.Sub(from)/2
}
