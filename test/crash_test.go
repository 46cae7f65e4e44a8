package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
)

// crashRounds is how often the server is killed. ROLLCALL_CRASH_ROUNDS raises it.
func crashRounds(t *testing.T) int {
	return testseed.Rounds(t, "ROLLCALL_CRASH_ROUNDS", 3, 8)
}

// crashDevice is what one writer knows of its device: the truth lies between acked and sent.
type crashDevice struct {
	beat        beat
	acked, sent int
}

// TestCrash kills the server with SIGKILL under concurrent load, single heartbeats and batches,
// again and again over the same data directory. After each restart every device must stand at a seq
// that was acknowledged or later, and none at one that was never sent. Heartbeats are served by
// event loops or not, as chance will have it at each start.
func TestCrash(t *testing.T) { crash(t, "--segment-bytes=8388608") }

// TestCrashInCheckpoint is the same while one checkpoint follows the other.
func TestCrashInCheckpoint(t *testing.T) { crash(t, "--checkpoint-bytes=1") }

func crash(t *testing.T, flags ...string) {
	const writers, devicesPerWriter = 8, 5
	rng := testseed.Rand(t)
	r := startServer(t, flags...)
	user := uuid.NewString()
	devices := make([][]*crashDevice, writers)
	for w := range devices {
		for range devicesPerWriter {
			devices[w] = append(devices[w],
				&crashDevice{beat: newBeat().with("user_id", user), acked: -1, sent: -1})
		}
	}
	acked := 0
	for round := range crashRounds(t) {
		killed := make(chan struct{})
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				if w%2 == 0 {
					writeUntilKilled(r.addr, devices[w], killed)
				} else {
					batchUntilKilled(r.addr, devices[w], killed)
				}
			})
		}
		// the moment of the crash, not a wait for anything
		time.Sleep(time.Duration(20+rng.IntN(150)) * time.Millisecond)
		r.kill()
		close(killed)
		wg.Wait()
		r.flags = append(slices.Clone(flags), "--loops="+[]string{"1", "2", "-1"}[rng.IntN(3)])
		r.start()
		got := snapshotSeqs(r, user)
		for _, ds := range devices {
			for _, d := range ds {
				seq, known := got[d.beat["device_id"].(string)]
				if !known {
					seq = -1
				}
				if seq < d.acked {
					t.Fatalf("round %d: acknowledged seq %d, but the server stands at %d", round, d.acked, seq)
				}
				if seq > d.sent {
					t.Fatalf("round %d: the server stands at %d, but only %d was sent", round, seq, d.sent)
				}
				acked += max(0, seq)
				d.acked = seq
			}
		}
	}
	if acked == 0 {
		t.Fatal("nothing was acknowledged in any round: the test proved nothing")
	}
}

// writeUntilKilled sends heartbeats for its devices in turn over one connection until the server is
// gone.
func writeUntilKilled(addr string, devices []*crashDevice, killed <-chan struct{}) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	go func() { <-killed; c.SetDeadline(time.Now()) }()
	br := bufio.NewReader(c)
	for i := 0; ; i++ {
		d := devices[i%len(devices)]
		d.sent++
		if _, err := io.WriteString(c, request("POST", heartbeatPath,
			d.beat.with("seq", d.sent).json(), bearer(ingestToken))); err != nil {
			return
		}
		status, _, ok := answerUntilKilled(br)
		if !ok {
			return
		}
		if status != 204 {
			panic(fmt.Sprintf("status %d for a growing seq", status))
		}
		d.acked = d.sent
	}
}

// batchUntilKilled sends batches, in which each of its devices comes several times, until the
// server is gone.
func batchUntilKilled(addr string, devices []*crashDevice, killed <-chan struct{}) {
	const beatsPerDevice = 40
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer c.Close()
	go func() { <-killed; c.SetDeadline(time.Now()) }()
	br := bufio.NewReader(c)
	for {
		var body strings.Builder
		for range beatsPerDevice {
			for _, d := range devices {
				d.sent++
				body.WriteString(d.beat.with("seq", d.sent).json() + "\n")
			}
		}
		if _, err := io.WriteString(c,
			request("POST", batchPath, body.String(), bearer(ingestToken), "Content-Type: application/x-ndjson")); err != nil {
			return
		}
		status, text, ok := answerUntilKilled(br)
		if !ok {
			return
		}
		if want := fmt.Sprintf(`{"accepted":%d,"rejected":0,"errors":[]}`, beatsPerDevice*len(devices)); status != 200 || text != want {
			panic(fmt.Sprintf("%d %s for growing seqs", status, text))
		}
		for _, d := range devices {
			d.acked = d.sent
		}
	}
}

// answerUntilKilled reads an answer; false: it did not come whole.
func answerUntilKilled(br *bufio.Reader) (status int, body string, ok bool) {
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return 0, "", false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err == nil
}

// snapshotSeqs reads the user's devices from a new stream.
func snapshotSeqs(r *rig, user string) map[string]int {
	r.t.Helper()
	s := r.follow(user)
	defer s.conn.Close()
	// A heartbeat of a device that no writer has marks the end of the snapshot: it is accepted
	// after it.
	mark := newBeat().with("user_id", user).with("status", "offline")
	r.mustBeat(mark)
	got := map[string]int{}
	for {
		ev := s.event()
		if ev["device_id"] == mark["device_id"] {
			return got
		}
		got[ev["device_id"].(string)] = int(ev.number("seq"))
	}
}
