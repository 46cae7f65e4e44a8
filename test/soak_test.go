package test

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// TestSoak runs the server for ROLLCALL_SOAK (10m, say) under soakChurn: new users all the time,
// each heard a few times and forgotten some seconds later, streams that open and close, checkpoints
// and segments that are short. Memory, goroutines, descriptors and the disk must not grow: the last
// third of the samples is compared with the one before.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("ROLLCALL_SOAK"))
	if err != nil {
		t.Skip("set ROLLCALL_SOAK to a duration, or run make soak")
	}
	r := startServer(t, "--segment-bytes=8388608", "--checkpoint-interval=3s", "--checkpoint-bytes=4194304", "--forget-after=5s")
	c := &soakChurn{rig: r, stop: make(chan struct{})}
	s := testseed.Of(t)
	var workers sync.WaitGroup
	for i := range 8 {
		workers.Go(func() { c.beats(rand.New(rand.NewPCG(s, uint64(i)))) })
	}
	for range 4 {
		workers.Go(c.follows)
	}
	const samples = 60
	var taken []soakSample
	for range samples {
		time.Sleep(length / samples)
		taken = append(taken, r.sample(c))
	}
	close(c.stop)
	workers.Wait()
	printSamples(os.Stdout, taken, length/samples)
	last := taken[len(taken)-1]
	if last.heartbeats == 0 || last.streams == 0 || last.forgotten == 0 || c.failed.Load() > 0 {
		t.Fatalf("%d heartbeats, %d streams, %d devices forgotten, %d failures", last.heartbeats, last.streams, last.forgotten, c.failed.Load())
	}
	for _, figure := range soakFigures {
		middle, end := worst(taken[samples/3:2*samples/3], figure.of),
			worst(taken[2*samples/3:], figure.of)
		if limit := middle + middle*figure.percent/100 + figure.slack; end > limit {
			t.Errorf("%s grew from %d in the middle third to %d in the last; %d would pass", figure.name, middle, end, limit)
		}
	}
}

// soakSample is what the server had and had done at one time.
type soakSample struct {
	residentBytes, goroutines, descriptors, diskBytes, devices int64
	heartbeats, streams, forgotten                             int64
}

// soakFigures are what must not grow, and by how much it may for reasons other than a leak: the
// collector's rhythm, the moment of the sample within a checkpoint.
var soakFigures = []struct {
	name           string
	of             func(soakSample) int64
	percent, slack int64
}{
	{"resident memory", func(s soakSample) int64 { return s.residentBytes }, 15, 16 << 20},
	{"goroutines", func(s soakSample) int64 { return s.goroutines }, 0, 20},
	{"descriptors", func(s soakSample) int64 { return s.descriptors }, 0, 20},
	{"disk", func(s soakSample) int64 { return s.diskBytes }, 15, 24 << 20},
	{"devices", func(s soakSample) int64 { return s.devices }, 50, 1000},
}

func worst(samples []soakSample, of func(soakSample) int64) (most int64) {
	for _, s := range samples {
		most = max(most, of(s))
	}
	return most
}

func printSamples(w io.Writer, samples []soakSample, every time.Duration) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "time\tresident MiB\tgoroutines\tdescriptors\tdisk MiB\tdevices\tforgotten\theartbeats\tstreams\t")
	for i, s := range samples {
		fmt.Fprintf(tw, "%v\t%.1f\t%d\t%d\t%.1f\t%d\t%d\t%d\t%d\t\n", (every * time.Duration(i+1)).Round(time.Second),
			float64(s.residentBytes)/(1<<20), s.goroutines, s.descriptors,
			float64(s.diskBytes)/(1<<20), s.devices, s.forgotten, s.heartbeats, s.streams)
	}
	tw.Flush()
}

// sample reads the server's metrics and the size of its directory.
func (r *rig) sample(c *soakChurn) soakSample {
	r.t.Helper()
	m := r.metrics()
	return soakSample{
		residentBytes: m["process_resident_memory_bytes"],
		goroutines:    m["go_goroutines"],
		descriptors:   m["process_open_fds"],
		diskBytes:     diskBytes(r.dir),
		devices:       m[`rollcall_devices{status="online"}`] + m[`rollcall_devices{status="offline"}`],
		forgotten:     m["rollcall_forgotten_total"],
		heartbeats:    c.accepted.Load(),
		streams:       c.streams.Load(),
	}
}

// metrics reads the series of /metrics, by name and labels.
func (r *rig) metrics() map[string]int64 {
	r.t.Helper()
	found := make(map[string]int64)
	for line := range strings.Lines(r.metricsText()) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			found[name] = int64(v)
		}
	}
	return found
}

// diskBytes is the size of the files of a directory. Files come and go meanwhile.
func diskBytes(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}

// soakChurn is what the clients of a soak do.
type soakChurn struct {
	rig                       *rig
	stop                      chan struct{}
	accepted, streams, failed atomic.Int64
	newest                    atomic.Pointer[string] // a user that was heard just now
}

func (c *soakChurn) stopped() bool {
	select {
	case <-c.stop:
		return true
	default:
		return false
	}
}

// beats sends heartbeats of new users, each a few times and then no more. Some say that they go,
// some fall silent.
func (c *soakChurn) beats(rng *rand.Rand) {
	conn, err := net.Dial("tcp", c.rig.addr)
	if err != nil {
		c.failed.Add(1)
		return
	}
	defer conn.Close()
	br := bufio.NewReader(conn)
	for !c.stopped() {
		user := uuid.NewString()
		c.newest.Store(&user)
		b := newBeat().with("user_id", user).with("ttl_ms", 1+rng.IntN(1000))
		for seq := range 1 + rng.IntN(4) {
			if rng.IntN(4) == 0 {
				b = b.with("status", "offline")
			}
			if _, err := io.WriteString(conn,
				request("POST", heartbeatPath, b.with("seq", seq).json(), bearer(ingestToken))); err != nil {
				c.failed.Add(1)
				return
			}
			resp, err := http.ReadResponse(br, nil)
			if err != nil || resp.StatusCode != 204 {
				c.failed.Add(1)
				return
			}
			c.accepted.Add(1)
		}
		time.Sleep(time.Millisecond) // a rate that leaves the machine to others, too
	}
}

// follows opens one stream after the other and closes each after its first frame, or without
// waiting for it.
func (c *soakChurn) follows() {
	for n := 0; !c.stopped(); n++ {
		if user := c.newest.Load(); user != nil {
			if err := c.follow(*user, n%2 == 0); err != nil {
				c.failed.Add(1)
				return
			}
			c.streams.Add(1)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *soakChurn) follow(user string, read bool) error {
	conn, err := net.Dial("tcp", c.rig.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	open := request("GET", streamPath+"?user_id="+user, "", bearer(tokenFor(user, time.Hour)))
	if _, err := io.WriteString(conn, open); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(testwait.Limit))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	if read {
		_, err = bufio.NewReader(resp.Body).ReadString('\n')
	}
	return err
}
