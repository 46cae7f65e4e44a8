package watch

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/option"
	"rollcall/internal/sample"
)

const (
	// vouchNanos is how often a watched partition shows that it is still the owner's.
	vouchNanos = int64(2 * time.Second)
	// goneNanos is for how long a node may be out of reach before it is forgotten. It asks for all
	// of its users when it comes back.
	goneNanos = int64(time.Minute)
	// maxNodes bounds the nodes that watch: a set of them is one word.
	maxNodes = 64
)

// ErrHubClosed says that the partition is no longer this node's.
var ErrHubClosed = errors.New("watch: the partition is no longer here")

// Table is what a Hub reads of the engine of its partition.
type Table interface {
	AppendStates(dst []byte, user uuid.UUID, through uint64) (
		out []byte, newer uint64, told engine.Told)
	DeviceCount(user uuid.UUID) int
}

// HubBus is what a Hub needs of a bus.Bus. Send may be called with locks held that the handlers of
// messages want, too: it calls none.
type HubBus interface {
	Self() string
	Send(to string, s bus.Subject, data []byte) bool
	Peers() []string
}

// HubOptions are those of a Hub. Bus, Vouch and Clock are required.
type HubOptions struct {
	Partition int
	Epoch     uint64 // of the claim that the hub is for: each has a hub of its own
	Bus       HubBus
	// Vouch is that of the partition's log, see engine.Log. A goroutine of the hub calls it, and
	// Close waits for it: a log that has ended returns an error.
	Vouch func(lsn uint64) error
	Clock engine.Clock
	// MaxUsers bounds the users that are watched. More are not answered, so that their streams end
	// and come again. Default: 1 << 22.
	MaxUsers int
	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

// Hub is the owner's side of one partition and one claim: it knows which nodes watch which users,
// and tells each what happens to its own. It is the engine's Events.
//
// Publish and Flush are the commit loop's; the lock is taken by the first Publish of a batch and
// given back by its Flush, so that a user is never registered in the middle of one (E2). Any
// goroutine may call the other methods. Lock order: mu, then nothing; requests.mu by itself.
type Hub struct {
	o        HubOptions
	requests requests
	full     sample.Second // log lines of MaxUsers
	watched  atomic.Int64  // len(users), for Tick

	inBatch bool // the commit loop's: it holds mu

	// Tests run the goroutine's work when they like, and make chunks small.
	spawn func(func())
	chunk int // chunkBytes
	many  int // manyDevices
	few   int // fewBytes

	mu      sync.Mutex
	table   Table // nil: not open, or closed
	through uint64
	users   map[uuid.UUID]uint64 // the nodes that watch, a bit each; no pointers, for the collector
	nodes   []*sink
	dirty   uint64   // the nodes for which there is a DELTA
	highest uint64   // number of all that were given out: a node that takes another's place goes on
	scratch []byte   // states of a user
	reading *reading // nil: none is
}

// sink is what a hub knows of a node. Guarded by Hub.mu.
type sink struct {
	node        string
	sent        uint64 // the number of its last message
	delta       []byte // of the present batch
	room        int    // as long as the DELTA before was
	absentNanos int64  // out of reach since; 0: it is in reach
	gone        bool   // it is in no set, and its place can be another's
}

// NewHub makes the hub of a claim. It answers nothing until Open.
func NewHub(o HubOptions) (*Hub, error) {
	option.Default(&o.MaxUsers, 1<<22)
	option.Default(&o.Logger, slog.Default())
	p := option.Problems{Package: "watch"}
	p.When(o.Bus == nil, "Bus is missing")
	p.When(o.Vouch == nil, "Vouch is missing")
	p.When(o.Clock == nil, "Clock is missing")
	p.When(o.Partition < 0 || o.Partition > 1<<16-1, "Partition is %d", o.Partition)
	option.NotNegative(&p, "MaxUsers", o.MaxUsers)
	if err := p.Err(); err != nil {
		return nil, err
	}
	h := &Hub{o: o, chunk: chunkBytes, many: manyDevices, few: fewBytes,
		users: make(map[uuid.UUID]uint64)}
	h.requests.byNode = make(map[string][]request)
	return h, nil
}

// Open has the hub answer from a table. Call it before the engine starts, or later.
func (h *Hub) Open(t Table) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.table = t
}

// Close ends the hub: when it returns, the table is not read any more. Call it when the log has
// ended, and before the engine is closed.
func (h *Hub) Close() {
	h.requests.close()
	h.mu.Lock()
	h.table = nil
	h.users, h.nodes = nil, nil
	h.watched.Store(0)
	h.mu.Unlock()
	h.requests.running.Wait()
}

// Sent is how many messages were sent to a node so far, which the pulse tells it.
func (h *Hub) Sent(node string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, s := h.find(node); s != nil {
		return s.sent
	}
	return 0
}

// Watched is how many users are watched.
func (h *Hub) Watched() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.users)
}

// Publish implements engine.Events.
func (h *Hub) Publish(_ broadcast.Source, user uuid.UUID, lsn uint64, rec []byte) {
	if !h.inBatch {
		h.mu.Lock()
		h.inBatch = true
	}
	if r := h.reading; r != nil && r.user == user {
		r.missed = appendState(r.missed, rec)
	}
	if len(h.users) == 0 {
		return
	}
	set := h.users[user]
	h.dirty |= set
	for ; set != 0; set &= set - 1 {
		s := h.nodes[bits.TrailingZeros64(set)]
		if len(s.delta) == 0 {
			s.delta = h.begin(kindDelta, s.room)
		}
		s.delta = appendState(s.delta, rec)
		if len(s.delta) > h.chunk {
			// The node has everything of its users up to this record.
			h.sendDelta(s, lsn, noAge)
		}
	}
}

// Forget implements engine.Forgets: nodes that watch the user let go of the device.
func (h *Hub) Forget(source broadcast.Source, user uuid.UUID, lsn uint64, rec []byte) {
	h.Publish(source, user, lsn, rec)
}

// Flush implements engine.Events.
func (h *Hub) Flush(_ broadcast.Source, through uint64, receivedNanos int64) {
	if !h.inBatch {
		h.mu.Lock()
	}
	h.inBatch = false
	h.through = through
	if h.dirty != 0 {
		age := h.age(receivedNanos)
		for ; h.dirty != 0; h.dirty &= h.dirty - 1 {
			s := h.nodes[bits.TrailingZeros64(h.dirty)]
			if len(s.delta) > 0 {
				h.sendDelta(s, through, age)
			}
		}
	}
	h.mu.Unlock()
}

// age is how long ago something was received, in microseconds.
func (h *Hub) age(receivedNanos int64) uint64 {
	if receivedNanos == 0 {
		return noAge
	}
	return uint64(max(h.o.Clock.Nanos()-receivedNanos, 0)) / 1000
}

// Lose implements engine.Events. All who watch find that messages are missing, and ask anew.
func (h *Hub) Lose(broadcast.Source) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.nodes {
		h.skip(s)
	}
	if h.reading != nil {
		h.reading.lost = true
	}
}

// Tick implements engine.Events: it has the hub vouched for while it is watched, and forgets nodes
// that are gone.
func (h *Hub) Tick(nowNanos int64) {
	if h.watched.Load() > 0 {
		h.requests.tick(h, nowNanos)
	}
}

func (h *Hub) sendDelta(s *sink, through, age uint64) {
	h.send(s, s.delta, through, age)
	s.delta, s.room = nil, len(s.delta)
}

// begin makes a message with room for what send puts into it, and for some more.
func (h *Hub) begin(kind byte, room int) []byte {
	b := appendHead(make([]byte, 0, 512+room), head{kind, h.o.Partition, h.o.Epoch})
	return append(b, make([]byte, numberedBytes-headBytes)...)
}

// send numbers a message and puts it on its way. One that the bus drops has its number all the
// same: the node finds that it is missing.
func (h *Hub) send(s *sink, message []byte, through, word uint64) {
	s.sent++
	h.highest = max(h.highest, s.sent)
	numbered{s.sent, through, word}.put(message)
	h.o.Bus.Send(s.node, EdgeSubject, message)
}

// skip has a node find that messages are missing.
func (h *Hub) skip(s *sink) {
	s.sent++
	h.highest = max(h.highest, s.sent)
}

// find returns a node's place.
func (h *Hub) find(node string) (at int, s *sink) {
	for i, s := range h.nodes {
		if s.node == node {
			return i, s
		}
	}
	return 0, nil
}

// place is find, and gives a node its place: a new one, or when all are taken that of a node that
// is gone. There its numbers go on above all others: a node that had a place before finds that
// messages are missing.
func (h *Hub) place(node string) (at int, err error) {
	if at, s := h.find(node); s != nil {
		s.gone = false
		return at, nil
	}
	if len(h.nodes) < maxNodes {
		h.nodes = append(h.nodes, &sink{node: node})
		return len(h.nodes) - 1, nil
	}
	for i, s := range h.nodes {
		if s.gone {
			h.nodes[i] = &sink{node: node, sent: h.highest + 1}
			return i, nil
		}
	}
	return 0, fmt.Errorf("watch: %d nodes watch, and no more can", maxNodes)
}
