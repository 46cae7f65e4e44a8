package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/testwait"
)

// streamConn is the connection of a stream: it keeps the last seq of each device, and complains of
// one that is not above the last.
type streamConn struct {
	t     *testing.T
	mu    sync.Mutex
	buf   []byte
	seqs  map[uuid.UUID]uint64 // by device. guarded by mu
	ended bool                 // guarded by mu
}

func (c *streamConn) Attach(broadcast.Notifier, broadcast.StreamID) error { return nil }
func (c *streamConn) Discard([]byte) (int, bool)                          { return 0, false }
func (c *streamConn) Held() int                                           { return 0 }
func (c *streamConn) Close() error                                        { return nil }

func (c *streamConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	return nil
}

func (c *streamConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, p...)
	for {
		line, rest, ok := bytes.Cut(c.buf, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		c.buf = rest
		data, ok := bytes.CutPrefix(line, []byte("data: {\"schema_version\""))
		if !ok {
			continue
		}
		var f struct {
			Device uuid.UUID `json:"device_id"`
			Seq    uint64    `json:"seq"`
		}
		if err := json.Unmarshal(append([]byte("{\"schema_version\""), data...), &f); err != nil {
			c.t.Errorf("%q: %v", data, err)
		}
		if f.Seq <= c.seqs[f.Device] {
			c.t.Errorf("device %v is told seq %d after %d", f.Device, f.Seq, c.seqs[f.Device])
		}
		c.seqs[f.Device] = f.Seq
	}
}

func (c *streamConn) last(device uuid.UUID) (seq uint64, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seqs[device], c.ended
}

// noIDs makes the same cursor of everything.
type noIDs struct{}

func (noIDs) AppendID(dst []byte, _ broadcast.Position) []byte { return append(dst, '1') }

// streamOfUsers opens a stream of many users at a node.
func streamOfUsers(t *testing.T, n *Node, users []uuid.UUID) *streamConn {
	t.Helper()
	c := &streamConn{t: t, seqs: make(map[uuid.UUID]uint64)}
	err := n.Subscribe(broadcast.Subscription{
		List: &broadcast.List{Users: users, IDs: noIDs{}}, Conn: c,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestStreamsOnAnyNode: streams of users of all partitions, on each node, get what any node was
// sent, in order, also when a node ends and its partitions move (E5).
func TestStreamsOnAnyNode(t *testing.T) {
	if testing.Short() {
		t.Skip("three log servers, and an election")
	}
	nodes := startNodes(t, 3, 6)
	allOwned(t, nodes)
	users := make([]uuid.UUID, 40)
	devices := make([]*engine.Heartbeat, len(users))
	for i := range users {
		users[i] = uuid.New()
		hb := new(engine.Heartbeat)
		hb.User, hb.Device, hb.Status, hb.Source = users[i], uuid.New(), engine.Online, []byte("d")
		hb.TTLMS = 600_000
		devices[i] = hb
	}
	beat := func(nodes []*Node) {
		t.Helper()
		for i, hb := range devices {
			hb.Seq++
			testwait.Until(t, "the heartbeat is accepted", func() bool {
				r := nodes[i%len(nodes)].Heartbeat(hb)
				return r.Outcome == engine.Accepted ||
					r.Outcome == engine.Stale && r.LastSeq == hb.Seq
			})
		}
	}
	var streams []*streamConn
	told := func(streams []*streamConn) {
		t.Helper()
		for _, s := range streams {
			for _, hb := range devices {
				testwait.Until(t, "the stream is told", func() bool {
					seq, ended := s.last(hb.Device)
					if ended {
						t.Fatal("the stream has ended")
					}
					return seq >= hb.Seq
				})
			}
		}
	}
	beat(nodes)
	for _, n := range nodes {
		streams = append(streams, streamOfUsers(t, n, users))
	}
	told(streams)
	beat(nodes)
	told(streams)
	for _, n := range nodes {
		testwait.Until(t, "reads are answered where the user is watched", func() bool {
			return n.edge.Fresh(users[0])
		})
	}
	began := time.Now()
	if err := nodes[2].Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	beat(nodes[:2])
	t.Logf("all partitions answer again after %v", time.Since(began).Round(time.Millisecond))
	told(streams[:2])
}
