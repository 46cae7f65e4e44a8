package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/internal/faultfs"
	"rollcall/internal/testwait"
	"rollcall/wire"
)

// looped is a daemon whose connection is in a loop, with a user of its own.
type looped struct {
	*daemon
	user string
	seq  int // of the last heartbeat that was accepted
}

func (l *looped) beatText(seq int) string {
	return strings.ReplaceAll(seqText(seq), testUser, l.user)
}

// answeredWith reads answers with these statuses.
func (l *looped) answeredWith(statuses ...int) {
	l.t.Helper()
	for n, want := range statuses {
		if got := readResponse(l.t, l.in, "POST"); got.status != want {
			l.t.Fatalf("answer %d of %d: %d %s, want %d", n+1, len(statuses), got.status, got.body,
				want)
		}
	}
}

// daemons are n connections that a loop serves. Each has sent seq 1 and 2.
func (w *whole) daemons(t testing.TB, n int) (all []*looped) {
	t.Helper()
	before := w.conns.Stats().Plain
	for range n {
		l := &looped{dial(t, w.addr), uuid.NewString(), 2}
		l.write(l.beatText(1))
		l.answeredWith(204)
		l.write(l.beatText(2))
		l.answeredWith(204)
		all = append(all, l)
	}
	if served := w.conns.Stats().Plain - before; served != uint64(n) && w.Loops() > 0 {
		t.Fatalf("of %d heartbeats the loop served %d", n, served)
	}
	return all
}

// TestStalledDiskDelaysHeartbeatsOnly: while a sync hangs, all else that clients of a loop ask for
// is answered, and heartbeats are refused in the log's time, on connections that are there and on
// new ones. When the disk goes on, nothing is answered a second time, and all goes on by itself.
func TestStalledDiskDelaysHeartbeatsOnly(t *testing.T) {
	for _, loops := range []int{1, 2, -1} {
		t.Run(fmt.Sprintf("loops=%d", loops), func(t *testing.T) {
			t.Parallel()
			testStalledDisk(t, loops, false)
		})
	}
	t.Run("far", func(t *testing.T) {
		t.Parallel()
		testStalledDisk(t, 1, true)
	})
}

func testStalledDisk(t *testing.T, loops int, far bool) {
	gate := &faultfs.Gate{Holds: faultfs.Syncs}
	defer gate.Open()
	w := startWhole(t, wholeOptions{
		fs: gate.Wrap(vfs.NewMem()), server: func(o *Options) { o.Loops = loops }, far: far,
	})
	queue := newReceiveQueue(t)
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = w.ServeAdmin(admin) }()
	all := w.daemons(t, 24)
	held, later, mixed, others := all[:8], all[8:12], all[12:14], all[14:]

	for round := range 2 {
		seq := 10 * (round + 1)
		gate.Shut()
		for _, l := range held {
			l.write(l.beatText(seq))
		}
		testwait.Until(t, "a sync hangs", func() bool { return gate.Held() > 0 })

		// None of this waits for the disk.
		for i, request := range []string{
			text("GET /nope", ""), text("OPTIONS "+wire.HeartbeatPath, ""),
			text("GET "+wire.HeartbeatPath, ""), heartbeatText("{}"), seqText(seq, "X: y"),
		} {
			l := others[i]
			if i == 4 { // its connection is closed behind the answer
				l = others[8+round]
			}
			l.write(request)
			l.answeredWith([]int{404, 204, 405, 400, 401}[i])
		}
		others[5+round].opens(others[5+round].user).sees(others[5+round].seq)
		follower := dial(t, w.addr).opens(held[0].user)
		get(t, "http://"+admin.Addr().String()+"/debug/presence?user_id="+others[0].user)

		// Heartbeats that come while it hangs, alone and in front of something else.
		for _, l := range later {
			l.write(l.beatText(seq))
		}
		for _, l := range mixed {
			l.write(l.beatText(seq) + l.beatText(seq+1) + text("GET /nope", ""))
		}
		fresh := &looped{dial(t, w.addr), uuid.NewString(), 0}
		fresh.write(fresh.beatText(1))
		testwait.Until(t, "they are read", func() bool {
			unread, _ := queue.of(t, later[0].Conn)
			return unread == 0
		})
		stale := others[7] // depends on what was committed long ago
		stale.write(stale.beatText(1))
		for _, l := range held {
			l.answeredWith(503)
		}
		for _, l := range later {
			l.answeredWith(503)
		}
		for _, l := range mixed {
			l.answeredWith(503, 503, 404)
		}
		fresh.answeredWith(503)
		if got := readResponse(t, stale.in, "POST"); got.status != 409 && got.status != 503 {
			t.Errorf("a stale heartbeat: %d %s", got.status, got.body)
		}
		if gate.Held() == 0 {
			t.Fatal("the disk did not hang")
		}
		fresh.write(fresh.beatText(1)) // on a stalled log
		fresh.answeredWith(503)
		if s := w.conns.Stats(); loops > 0 && !far && s.StandIns == 0 {
			t.Error("no other goroutine has read for the one in the sync")
		}

		gate.Open()
		for _, l := range slices.Concat(later, held) {
			l.goesOn(seq)
		}
		follower.sees(seq)
		for _, l := range mixed {
			l.goesOn(seq + 1)
		}
		fresh.goesOn(1)
	}
}

// goesOn sends a heartbeat again until it is not refused, and then more. There is one answer for
// each request, and it is to that.
func (l *looped) goesOn(seq int) {
	l.t.Helper()
	for n := 0; ; n++ {
		l.write(l.beatText(seq))
		got := readResponse(l.t, l.in, "POST")
		if got.status == 503 {
			continue
		}
		if got.status != 204 && (got.status != 409 || !got.tells(seq)) {
			l.t.Fatalf("a heartbeat that is sent again: %d %s", got.status, got.body)
		}
		break
	}
	l.write(l.beatText(seq+2) + l.beatText(seq+1) + text("GET /nope", "") + l.beatText(seq+3))
	l.answeredWith(204)
	if got := readResponse(l.t, l.in, "POST"); got.status != 409 || !got.tells(seq+2) {
		l.t.Fatalf("behind it: %d %s", got.status, got.body)
	}
	l.answeredWith(404, 204)
	l.seq = seq + 3
	if n := l.in.Buffered(); n > 0 {
		l.t.Fatalf("%d bytes more than was asked for", n)
	}
}

// tells reports whether a 409 tells this seq.
func (r response) tells(seq int) bool {
	return strings.HasSuffix(r.body, fmt.Sprintf(`"last_seq":%d}`, seq))
}

// following is an open stream.
type following struct {
	t    testing.TB
	body *bufio.Reader
}

// opens opens a stream, whose head comes at once.
func (d *daemon) opens(user string) following {
	d.t.Helper()
	key := sign(d.t, testKey, strings.ReplaceAll(payload(""), testUser, user))
	d.write(streamText("?user_id="+user, key))
	r, err := http.ReadResponse(bufio.NewReader(d.Conn), nil)
	if err != nil || r.StatusCode != 200 {
		d.t.Fatalf("a stream: %+v, %v", r, err)
	}
	return following{d.t, bufio.NewReader(r.Body)}
}

// sees reads the next event.
func (f following) sees(seq int) {
	f.t.Helper()
	line, err := f.body.ReadString('\n')
	if want := fmt.Sprintf(`"seq":%d,`, seq); err != nil || !strings.Contains(line, want) {
		f.t.Errorf("a stream has %q, %v: want %s", line, err, want)
	}
}

func get(t testing.TB, url string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	r.Body.Close()
	if r.StatusCode != 200 {
		t.Errorf("%s: %d", url, r.StatusCode)
	}
}
