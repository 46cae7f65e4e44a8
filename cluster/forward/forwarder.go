package forward

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"rollcall/cluster/bus"
	"rollcall/engine"
)

// Why a heartbeat is Unavailable, beside the errors of package engine.
var (
	// ErrNoRoom says that the owner had no room for it in the log, or before that.
	ErrNoRoom = errors.New("the owner of the user has no room for more heartbeats")
	// ErrNotStored says that the owner could not store it. The owner's log says why.
	ErrNotStored = errors.New("the owner of the user could not store the heartbeat")

	errNoAnswer = fmt.Errorf("%w, which did not answer in time", engine.ErrNotMine)
	errDown     = fmt.Errorf("%w, which went out of reach", engine.ErrNotMine)
	errFull     = fmt.Errorf("%w, for which too many heartbeats wait", engine.ErrNotMine)
	errClosed   = fmt.Errorf("%w, and this one stops", engine.ErrNotMine)
)

// noRoom is the result of a heartbeat for which there is no room on its way.
var noRoom = engine.Result{Outcome: engine.Unavailable, Err: errFull, LogFull: true}

const (
	subject       bus.Subject = "fwd"
	answerSubject bus.Subject = "fwd.ack"
)

// Options of a Forwarder and its Receiver. The zero value works.
type Options struct {
	// Timeout is how long a heartbeat waits for its answer. Default: 2.5s.
	Timeout time.Duration
	// MaxWait is how long a heartbeat waits for room on its way. Default: 1s.
	MaxWait time.Duration
	// InFlight is how many messages to one node go without any answer before heartbeats gather.
	// Default: 4.
	InFlight int
	// Linger is how long heartbeats gather, at most. Default: 2ms.
	Linger time.Duration
	// MaxWaiting is how many heartbeats may wait for the answers of one node. Default: 131,072,
	// some 10 MB.
	MaxWaiting int
	// MaxInbox is how many heartbeats may wait in one partition's inbox, with those that wait for
	// their commit. Default: 32,768.
	MaxInbox int
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = 2500 * time.Millisecond
	}
	if o.MaxWait == 0 {
		o.MaxWait = time.Second
	}
	if o.InFlight == 0 {
		o.InFlight = 4
	}
	if o.Linger == 0 {
		o.Linger = 2 * time.Millisecond
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 1 << 17
	}
	if o.MaxInbox == 0 {
		o.MaxInbox = 1 << 15
	}
	return o
}

// Forwarder takes heartbeats to their owners. Any goroutine may call its methods.
type Forwarder struct {
	o        Options
	bus      bus.Bus
	receiver *Receiver
	session  uint64 // tells the messages of this process from those of one before it
	figures  *figures

	mu     sync.RWMutex
	lanes  map[string]*lane // by node. guarded by mu
	closed bool             // guarded by mu
}

// Owned returns the engine of a partition of this node, which serves until release is called; not
// ok: it is not this node's now.
type Owned func(partition int) (e Engine, release func(), ok bool)

// Engine is what a Receiver needs of an engine.Engine.
type Engine interface {
	NewResultBatch() engine.ResultBatch
	Kick()
}

// New makes the Forwarder of a node, and the Receiver of what other nodes forward to its own
// partitions. It takes over the bus' subjects fwd and fwd.ack.
func New(b bus.Bus, partitions int, owned Owned, o Options) *Forwarder {
	f := &Forwarder{
		o: o.withDefaults(), bus: b, session: rand.Uint64(), figures: newFigures(),
		lanes: map[string]*lane{},
	}
	f.receiver = newReceiver(f, partitions, owned)
	b.Handle(subject, func(m bus.Message) { f.receiver.take(m.From, m.Data) })
	b.Handle(answerSubject, func(m bus.Message) { f.answered(m.From, m.Data) })
	return f
}

// Waits is what to do around a wait for room. nil: nothing.
type Waits struct{ Before, After func() }

func (w *Waits) begin() {
	if w != nil && w.Before != nil {
		w.Before()
	}
}

func (w *Waits) end() {
	if w != nil && w.After != nil {
		w.After()
	}
}

// Send hands beats to a node, this one included. It keeps nothing of b, and waits for room,
// Options.MaxWait at most. The sinks of the heartbeats are told what came of them, within that time
// and Options.Timeout, in any order. False: there was no room for some.
func (f *Forwarder) Send(to string, b *Beats, around *Waits) bool {
	return b.Len() == 0 || f.lane(to).add(b, f.o.MaxWait, around)
}

// TrySend is Send, if there is room for all of b.
func (f *Forwarder) TrySend(to string, b *Beats) bool { return f.lane(to).tryAdd(b) }

// Heartbeat forwards one heartbeat of a partition to a node, and returns what came of it. It keeps
// nothing of hb.
func (f *Forwarder) Heartbeat(to string, partition int, hb *engine.Heartbeat) engine.Result {
	s := singles.Get().(*single)
	defer s.release()
	s.beats.Add(partition, hb, s, 0)
	f.Send(to, &s.beats, nil)
	r := <-s.told
	if hb.Sender == nil || !errors.Is(r.Err, engine.ErrTooManyNew) {
		return r
	}
	if !hb.Sender.AdmitsNew() {
		return r
	}
	s.beats.Reset()
	unasked := *hb
	unasked.Sender = nil
	s.beats.Add(partition, &unasked, s, 0)
	f.Send(to, &s.beats, nil)
	return <-s.told
}

// single is one heartbeat whose sender waits for it.
type single struct {
	beats Beats
	told  chan engine.Result
}

var singles = sync.Pool{New: func() any { return &single{told: make(chan engine.Result, 1)} }}

func (s *single) release() {
	s.beats.Reset()
	singles.Put(s)
}

// Told implements Sink.
func (s *single) Told(_ int, r engine.Result, _ Beat) { s.told <- r }

// Down says that a node went out of reach: what it has not answered is told to be Unavailable.
func (f *Forwarder) Down(node string) {
	f.mu.RLock()
	l := f.lanes[node]
	f.mu.RUnlock()
	if l != nil {
		l.down(errDown, outcomeDown, false)
	}
}

// Close tells all that waits that it is Unavailable, and takes no more.
func (f *Forwarder) Close() {
	f.mu.Lock()
	f.closed = true
	lanes := slices.Collect(maps.Values(f.lanes)) // those that are made from now on are closed
	f.mu.Unlock()
	for _, l := range lanes {
		l.down(errClosed, outcomeDown, true)
	}
}

// lane returns the lane of a node.
func (f *Forwarder) lane(to string) *lane {
	f.mu.RLock()
	l := f.lanes[to]
	f.mu.RUnlock()
	if l != nil {
		return l
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if l = f.lanes[to]; l == nil {
		l = newLane(f, to)
		l.closed = f.closed
		f.lanes[to] = l
	}
	return l
}

// deliver puts a message on its way; false: too much waits for the node.
func (f *Forwarder) deliver(to string, text []byte) bool {
	if to == f.bus.Self() {
		f.receiver.take(to, text)
		return true
	}
	return f.bus.Send(to, subject, text)
}

// reply brings answers to the node that sent the heartbeats. It is not called from within deliver.
func (f *Forwarder) reply(to string, text []byte) {
	if to == f.bus.Self() {
		f.answered(to, text)
		return
	}
	if !f.bus.Send(to, answerSubject, text) {
		f.figures.lost.Inc()
	}
}

// answered takes answers of a node.
func (f *Forwarder) answered(from string, text []byte) {
	f.mu.RLock()
	l := f.lanes[from]
	f.mu.RUnlock()
	if l == nil || l.answered(text) != nil {
		f.figures.unread.Inc()
	}
}
