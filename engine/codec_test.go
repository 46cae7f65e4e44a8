package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/engine/table"
	"rollcall/internal/testwait"
	"rollcall/record"
)

// TestStateOfAClaimedDevice (I3): the owner of a claim appends the record first, and may be
// preempted for longer than its commit takes. What is asked for then waits for the state of that
// record, which was published by now, and does not take the device for one that has not changed.
func TestStateOfAClaimedDevice(t *testing.T) {
	for name, before := range map[string]int{"known": 2, "new": 0} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, newMemLog(), Options{})
			hb := newHeartbeat(1, 60_000)
			for range before {
				r.mustAccept(hb)
				hb.Seq++
			}
			ref, entry, err := r.table.FindOrInsert(hb.User, hb.Device)
			if err != nil || !entry.Claim(hb.User, hb.Device) {
				t.Fatal("the device cannot be claimed", err)
			}
			after := entry.LSN()
			asked := make(chan string)
			go func() {
				text, _ := r.Codec().AppendState(nil, 0, hb.User, uint32(ref), after, after+1)
				asked <- string(text)
			}()
			select {
			case text := <-asked:
				t.Errorf("told %q while the device was changed", text)
			case <-time.After(10 * time.Millisecond):
			}
			s := table.State{LSN: after + 1}
			s.Seq = 77
			entry.Commit(&s)
			if t.Failed() {
				return
			}
			select {
			case text := <-asked:
				if !strings.Contains(text, `"seq":77`) {
					t.Errorf("told %q, not the newest state", text)
				}
			case <-time.After(testwait.Limit):
				t.Error("told nothing")
			}
		})
	}
}

// plainIDs are ids that say the LSN.
type plainIDs struct{}

func (plainIDs) AppendID(dst []byte, at broadcast.Position) []byte {
	return fmt.Appendf(dst, "%d %t", at.Through, at.Synced)
}

// textConn is a connection that takes everything and remembers the text.
type textConn struct{ testConn }

func (c *textConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// wait waits until the text is as wanted.
func (c *textConn) wait(t *testing.T, want string) {
	t.Helper()
	var got string
	defer func() {
		if t.Failed() {
			t.Logf("got\n%s\nwant\n%s", got, want)
		}
	}()
	testwait.Until(t, "the stream is told all", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		got = string(c.buf)
		return len(got) >= len(want)
	})
	if got != want {
		t.Error("the stream was told something else")
	}
}

// TestUsersView: the text of a stream of users, to the byte: who is not known, two devices, linger,
// and the end of it.
func TestUsersView(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	stranger := uuid.New()
	first := newHeartbeat(1, 60_000)
	second := newHeartbeat(1, 60_000)
	second.User = first.User
	r.mustAccept(first)
	c := &textConn{*newTestConn()}
	err := r.Subscribe(broadcast.Subscription{Conn: c, List: &broadcast.List{
		Users: []uuid.UUID{stranger, first.User}, View: broadcast.ViewUsers,
		Linger: time.Second, IDs: plainIDs{},
	}})
	if err != nil {
		t.Fatal(err)
	}
	at := func(ms int64) string { return fmt.Sprint(wallZero + ms) }
	event := func(id string, user uuid.UUID, status string, n int, seen, changed string) string {
		return fmt.Sprintf("id: %s\nevent: user\ndata: {\"schema_version\":1,\"user_id\":\"%v\","+
			"\"status\":\"%s\",\"devices_online\":%d,\"last_seen_ms\":%s,\"changed_at_ms\":%s}\n\n",
			id, user, status, n, seen, changed)
	}
	want := event("0 false", stranger, "offline", 0, "null", "null") +
		event("0 false", first.User, "online", 1, at(0), at(0)) +
		"id: 1 true\nevent: synced\ndata: {\"resumed\":false,\"users\":2}\n\n"
	c.wait(t, want)

	r.now.Store(int64(5 * time.Millisecond))
	first.Seq++
	r.mustAccept(first) // LSN 2: nothing changes
	r.now.Store(int64(10 * time.Millisecond))
	r.mustAccept(second) // LSN 3
	want += event("3 true", first.User, "online", 2, at(10), at(10))
	c.wait(t, want)

	r.now.Store(int64(20 * time.Millisecond))
	first.Seq++
	r.mustAccept(first) // LSN 4: the user was seen
	r.now.Store(int64(30 * time.Millisecond))
	second.Seq, second.Status = 2, Offline
	r.mustAccept(second) // LSN 5
	want += event("5 true", first.User, "online", 1, at(20), at(30))
	c.wait(t, want)

	r.now.Store(int64(40 * time.Millisecond))
	first.Seq, first.Status = first.Seq+1, Offline
	r.mustAccept(first) // LSN 6
	want += event("6 true", first.User, "online", 0, at(20), at(40))
	c.wait(t, want)

	tick := func(at time.Duration) {
		r.now.Store(int64(at))
		r.events.Tick(r.now.Load())
	}
	tick(900 * time.Millisecond)
	c.wait(t, want)
	tick(2 * time.Second)
	want += event("6 true", first.User, "offline", 0, at(20), at(40))
	c.wait(t, want)
}

// TestLastSeenWithinABatch: a frame that shows what a later change of its batch says is not
// followed by one that does not.
func TestLastSeenWithinABatch(t *testing.T) {
	f, err := NewFollower(Options{Shards: 16})
	if err != nil {
		t.Fatal(err)
	}
	f.Start()
	defer f.Close(t.Context())
	user := uuid.New()
	change := func(u *Update, device byte, seq, ms uint64, online bool) {
		s := record.State{Seq: seq, Online: online, UpdatedAtMS: ms, SeenAtMS: ms}
		rec := record.AppendUser(nil, user, uuid.UUID{15: device}, &s, []byte("d"), &record.User{})
		if err := u.Change(rec); err != nil {
			t.Error(err)
		}
	}
	f.Update(0, func(u *Update) {
		change(u, 1, 1, 1001, true)
		change(u, 2, 1, 1002, true)
	})
	c := &textConn{*newTestConn()}
	if err := f.Subscribe(broadcast.Subscription{Conn: c, List: &broadcast.List{
		Users: []uuid.UUID{user}, View: broadcast.ViewUsers, IDs: plainIDs{},
	}}); err != nil {
		t.Fatal(err)
	}
	if f.Streams(user) != 1 { // also: it has begun
		t.Fatal("there is no stream")
	}
	f.Update(0, func(u *Update) {
		change(u, 2, 2, 1289, false)
		change(u, 3, 1, 1290, true)
		change(u, 1, 2, 1339, true)
	})
	var seen []string
	testwait.Until(t, "two turns are told", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		seen = nil
		for _, frame := range strings.Split(string(c.buf), "\n\n") {
			if _, at, ok := strings.Cut(frame, `"last_seen_ms":`); ok {
				seen = append(seen, at[:4])
			}
		}
		return len(seen) == 3
	})
	if !slices.IsSorted(seen) {
		t.Errorf("seen at %v", seen)
	}
}

// TestLastSeenDoesNotGoBack: a device whose last heartbeat is not committed yet counts with what
// was shown of it.
func TestLastSeenDoesNotGoBack(t *testing.T) {
	r := startRig(t, newMemLog(), Options{})
	first, second := newHeartbeat(1, 60_000), newHeartbeat(1, 60_000)
	second.User = first.User
	r.mustAccept(first)  // LSN 1
	r.mustAccept(second) // LSN 2
	beat := func(at time.Duration) {
		r.now.Store(int64(at))
		first.Seq++
		r.mustAccept(first)
	}
	shows := func(through uint64, at time.Duration) {
		t.Helper()
		text, _ := r.Codec().AppendUser(nil, 0, first.User, 0, through, 0)
		want := fmt.Sprintf(`"last_seen_ms":%d,`, wallZero+at.Milliseconds())
		if !strings.Contains(string(text), want) {
			t.Errorf("through %d: %s, want %s", through, text, want)
		}
	}
	beat(5 * time.Second) // LSN 3
	shows(3, 5*time.Second)
	beat(6 * time.Second)   // LSN 4
	shows(3, 5*time.Second) // of which nothing may be shown yet
	shows(4, 6*time.Second)
	second.Seq, second.Status = 2, Offline
	r.now.Store(int64(7 * time.Second))
	r.mustAccept(second) // LSN 5, a turn
	text := r.Codec().AppendUserFrame(nil, r.log.records[4], false)
	if want := fmt.Sprintf(`"last_seen_ms":%d,`, wallZero+6000); !strings.Contains(string(text), want) {
		t.Errorf("the turn's frame: %s, want %s", text, want)
	}
}
