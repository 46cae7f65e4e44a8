package test

import (
	"bufio"
	"encoding/json"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
)

// churn is one random run: daemons that beat, fall silent and come back, and streams of every
// temper.
type churn struct {
	t     *testing.T
	rig   *rig
	users []*churnUser
	quiet chan struct{} // closed when the daemons have ended
}

// churnUser is a user and what was told of it. Everything that happens to a calm one fits into a
// stream's backlog, so that no stream may miss anything, however late it reads. A busy one's
// streams skip when they do not keep up.
type churnUser struct {
	id      string
	devices []string
	calm    bool
	beats   int // of each device
	// every frame, as the witness was told: a stream that reads from before the first heartbeat
	all     []told
	place   map[string]int // of each frame's text in all
	mu      sync.Mutex
	streams []story // guarded by mu
}

// story is what a stream was told.
type story struct {
	frames []told
	stayed bool // until all was said
}

// told is a frame.
type told struct {
	text   string
	Device string `json:"device_id"`
	Status string `json:"status"`
	Seq    int    `json:"seq"`
}

const (
	churnUsers   = 4
	churnDevices = 3
	churnBacklog = 256 << 10
	calmBeats    = 200 // of some 350 bytes
	busyBeats    = 900
)

// TestHistoriesUnderChurn: while devices beat, expire and come back, and streams open and close at
// random, each stream is told a snapshot and then exactly what follows, in one order for all. One
// that is owed more than its backlog holds may skip, but never goes back and ends at the truth.
// When all have gone, the server holds no stream and no descriptor more. With
// ROLLCALL_RACE=1 the server runs under the race detector.
func TestHistoriesUnderChurn(t *testing.T) { withAndWithoutLoops(t, churnHistories) }

func churnHistories(t *testing.T, loops string) {
	seed := testseed.Of(t)
	c := &churn{t: t, quiet: make(chan struct{})}
	c.rig = startServer(t, loops, "--sync=never", "--max-streams-per-user=100",
		"--stream-backlog="+strconv.Itoa(churnBacklog))
	c.rig.mustBeat(newBeat())
	c.rig.collectGarbage()
	before := c.rig.usage()
	c.play(seed)
	conflated := value(t, c.rig.scrape(), "stream_conflations_total")
	c.rig.wantLooped(loops)
	c.rig.collectGarbage()
	memory := before.memory*1.2 + 32<<20
	if underRace {
		memory = math.Inf(1) // the detector keeps what it has
	}
	c.rig.untilUsage(before, false, memory)
	c.rig.terminate()
	for _, u := range c.users {
		if u.calm {
			c.checkWitness(u)
		}
		for _, s := range u.streams {
			if u.calm {
				c.checkExact(u, s.frames)
			} else {
				c.checkSkipping(u, s)
			}
		}
		t.Logf("calm %v: %d streams", u.calm, len(u.streams))
	}
	if conflated == 0 {
		t.Error("the slow streams were never slow")
	}
}

func (c *churn) play(seed uint64) {
	rng := func(role, n int) *rand.Rand {
		return rand.New(rand.NewPCG(seed,
			uint64(role)<<32|uint64(n)))
	}
	var daemons, streams sync.WaitGroup
	for n := range churnUsers {
		u := &churnUser{id: uuid.NewString(), calm: n%2 == 0, beats: busyBeats}
		if u.calm {
			u.beats = calmBeats
		}
		for range churnDevices {
			u.devices = append(u.devices, uuid.NewString())
		}
		c.users = append(c.users, u)
		witness := c.rig.follow(u.id)
		streams.Go(func() {
			u.all = c.readOn(u, witness, nil)
			witness.conn.Close()
		})
		for s := range 3 {
			rng := rng(1, n<<8|s)
			streams.Go(func() { c.comeAndGo(u, rng) })
		}
		streams.Go(func() { c.dawdle(u) })
	}
	for n, u := range c.users {
		for d, device := range u.devices {
			rng := rng(2, n<<8|d)
			daemons.Go(func() { c.daemon(u, device, rng) })
		}
	}
	daemons.Wait()
	close(c.quiet)
	streams.Wait()
}

// daemon sends every seq of a device. Now and then it is silent for longer than the TTL. Its last
// word is offline, so that nothing changes afterwards.
func (c *churn) daemon(u *churnUser, device string, rng *rand.Rand) {
	conn := c.rig.dial()
	defer conn.Close()
	br := bufio.NewReader(conn)
	b := newBeat().with("user_id", u.id).with("device_id", device).with("source", strings.Repeat("s", 120))
	for seq := 1; seq <= u.beats; seq++ {
		b := b.with("seq", seq)
		silence := rng.IntN(100) == 0
		if silence {
			b["ttl_ms"] = 1 + rng.IntN(20)
		}
		if rng.IntN(10) == 0 || seq == u.beats {
			b["status"] = "offline"
		}
		conn.SetDeadline(time.Now().Add(testwait.Limit))
		io.WriteString(conn, request("POST", heartbeatPath, b.json(), bearer(ingestToken)))
		if a := readAnswer(c.t, br, false); a.status != 204 {
			c.t.Errorf("heartbeat: %d %s", a.status, a.body)
			return
		}
		if silence {
			// sometimes longer than the TTL: either is right
			time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
		}
	}
}

// comeAndGo opens stream after stream, and leaves in the middle, or at the end of all.
func (c *churn) comeAndGo(u *churnUser, rng *rand.Rand) {
	for {
		s := c.rig.follow(u.id)
		var frames []told
		for range rng.IntN(300) {
			if frames = append(frames, c.next(s)); c.saidAll(u, frames) {
				break
			}
		}
		select {
		case <-c.quiet:
			u.keep(story{c.readOn(u, s, frames), true})
			s.conn.Close()
			return
		default:
		}
		u.keep(story{frames, false})
		if rng.IntN(2) == 0 {
			s.conn.(*net.TCPConn).SetLinger(0) // a reset
		}
		s.conn.Close()
	}
}

// dawdle opens a stream over a connection that holds little, and reads nothing before the daemons
// have ended.
func (c *churn) dawdle(u *churnUser) {
	conn := dialNarrow(c.t, c.rig.addr)
	defer conn.Close()
	s := c.rig.followOn(conn, request("GET", streamPath+"?user_id="+u.id, "", bearer(tokenFor(u.id, time.Hour))))
	<-c.quiet
	u.keep(story{c.readOn(u, s, nil), true})
}

func (u *churnUser) keep(s story) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.streams = append(u.streams, s)
}

// readOn reads until the last word on each device was told.
func (c *churn) readOn(u *churnUser, s *follower, frames []told) []told {
	for !c.saidAll(u, frames) {
		if frames = append(frames, c.next(s)); frames[len(frames)-1].text == "" {
			break
		}
	}
	return frames
}

// next is the next event's frame; comments are passed over.
func (c *churn) next(s *follower) (f told) {
	text, err := s.frame()
	for err == nil && strings.HasPrefix(text, ":") {
		text, err = s.frame()
	}
	if err != nil {
		c.t.Errorf("a stream ended: %v", err)
		return told{}
	}
	payload, ok := strings.CutPrefix(text, "data: ")
	if err := json.Unmarshal([]byte(payload), &f); !ok || err != nil {
		c.t.Errorf("not a frame: %q", text)
		return told{}
	}
	f.text = text
	return f
}

// saidAll: every device's last heartbeat was told. The last of all frames is one of them, so the
// others are rarely looked through.
func (c *churn) saidAll(u *churnUser, frames []told) bool {
	if len(frames) == 0 || frames[len(frames)-1].Seq != u.beats {
		return false
	}
	said := make(map[string]bool)
	for _, f := range frames {
		if f.Seq == u.beats {
			said[f.Device] = true
		}
	}
	return len(said) == len(u.devices)
}

// checkWitness: a stream from the beginning gets every heartbeat once, in order, and each
// expiry behind the heartbeat that it ends.
func (c *churn) checkWitness(u *churnUser) {
	last := make(map[string]told)
	u.place = make(map[string]int)
	for i, f := range u.all {
		before := last[f.Device]
		next := f.Seq == before.Seq+1
		expiry := f.Seq == before.Seq && before.Status == "online" && f.Status == "offline"
		if !next && !expiry {
			c.t.Errorf("device %s went from %d %s to %d %s", f.Device, before.Seq, before.Status, f.Seq, f.Status)
		}
		last[f.Device], u.place[f.text] = f, i
	}
	for _, device := range u.devices {
		if last[device].Seq != u.beats {
			c.t.Errorf("device %s ends at %+v", device, last[device])
		}
	}
}

// checkExact: a snapshot, and then exactly what followed: frames[n:] is a piece of the user's
// history without a gap, and the snapshot, frames[:n], is the state right before it. A device that
// is not in the snapshot changed after it.
func (c *churn) checkExact(u *churnUser, frames []told) {
	var why string
	for n := 0; n <= min(len(frames), len(u.devices)); n++ {
		if why = u.explain(frames[:n], frames[n:]); why == "" {
			return
		}
	}
	c.t.Errorf("%d frames are no snapshot and what followed, at best: %s\n%v", len(frames), why, frames)
}

// explain tells what is wrong with a snapshot and what followed it; "" for nothing.
func (u *churnUser) explain(snapshot, followed []told) string {
	at := 0
	if len(followed) == 0 { // any moment will do: right after the newest of the snapshot's frames
		for _, f := range snapshot {
			at = max(at, u.place[f.text]+1)
		}
	} else {
		var known bool
		if at, known = u.place[followed[0].text]; !known {
			return "a frame that no other stream got: " + followed[0].text
		}
	}
	if end := at + len(followed); end > len(u.all) || !slices.Equal(u.all[at:end], followed) {
		return "a gap or a double"
	}
	for _, device := range u.devices {
		state, known := u.lastBefore(at, device)
		i := slices.IndexFunc(snapshot, func(f told) bool { return f.Device == device })
		switch {
		case i >= 0 && (!known || snapshot[i] != state):
			return "the snapshot shows another state of " + device
		case i < 0 && known && len(followed) > 0 &&
			!slices.ContainsFunc(u.all[at:], func(f told) bool { return f.Device == device }):
			return "the snapshot misses " + device
		}
	}
	return ""
}

// lastBefore is a device's last frame before a place in the history.
func (u *churnUser) lastBefore(at int, device string) (told, bool) {
	for at--; at >= 0; at-- {
		if u.all[at].Device == device {
			return u.all[at], true
		}
	}
	return told{}, false
}

// checkSkipping: a stream may skip, but not go back, and the last word of one that stayed is the
// truth.
func (c *churn) checkSkipping(u *churnUser, s story) {
	last := make(map[string]told)
	for _, f := range s.frames {
		before := last[f.Device]
		ended := f.Seq == before.Seq && before.Status == "online" && f.Status == "offline"
		if f.Seq <= before.Seq && !ended {
			c.t.Errorf("device %s went from %d %s to %d %s", f.Device, before.Seq, before.Status, f.Seq, f.Status)
		}
		last[f.Device] = f
	}
	for _, device := range u.devices {
		if s.stayed && (last[device].Seq != u.beats || last[device].Status != "offline") {
			c.t.Errorf("device %s is offline at %d, a stream was told last %+v", device, u.beats, last[device])
		}
	}
}
