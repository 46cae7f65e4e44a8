package watch

import (
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/internal/option"
	"rollcall/internal/sample"
	"rollcall/record"
)

// ErrIsolated says that this node is cut off, so that it opens no streams.
var ErrIsolated = fmt.Errorf("watch: this node is cut off from the others: %w", engine.ErrNotMine)

// Changes is what a Follower is told at once, see engine.Update.
type Changes interface {
	Change(rec []byte) error
	Replace(user uuid.UUID, told engine.Told, recs iter.Seq[[]byte]) error
	Drop(user uuid.UUID)
}

// Follower is what an Edge needs of an engine.Follower, see Of.
type Follower interface {
	Update(receivedNanos int64, fn func(c Changes))
	Subscribe(s broadcast.Subscription) error
	Begin(h *broadcast.Hold)
	Shed(over time.Duration)
}

// Of makes a Follower of an engine's.
func Of(f *engine.Follower) Follower { return follower{f} }

type follower struct{ *engine.Follower }

func (f follower) Update(receivedNanos int64, fn func(c Changes)) {
	f.Follower.Update(receivedNanos, func(u *engine.Update) { fn(u) })
}

// EdgeBus is what an Edge needs of a bus.Bus. Send is called with locks held that the handlers of
// messages want, too: it calls none.
type EdgeBus interface {
	Send(to string, s bus.Subject, data []byte) bool
}

// EdgeOptions are those of an Edge. Bus, Follower, Clock, Partitions and Of are required.
type EdgeOptions struct {
	Bus      EdgeBus
	Follower Follower
	Clock    engine.Clock // the Follower's
	// Partitions is how many there are, and Of says which is a user's.
	Partitions int
	Of         func(user uuid.UUID) int
	// MaxUsers bounds the users that are watched: a stream of one more is refused with
	// broadcast.ErrTooManyFollows. Default: 1 << 22.
	MaxUsers int
	// MaxHeld bounds the streams that wait for the states of their users: one more is refused with
	// broadcast.ErrTooMany. Default: 1 << 16.
	MaxHeld int
	// Hold is how long a stream waits for the states of its users before it ends. Default: 10s.
	Hold time.Duration
	// Linger is for how long a user is watched after its last stream has ended. Default: 60s.
	Linger time.Duration
	// Gather is for how long streams that open are gathered before their users are asked for.
	// Default: 1ms.
	Gather time.Duration
	// Logger gets what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

func (o EdgeOptions) withDefaults() (EdgeOptions, error) {
	option.Default(&o.MaxUsers, 1<<22)
	option.Default(&o.MaxHeld, 1<<16)
	option.Default(&o.Hold, 10*time.Second)
	option.Default(&o.Linger, time.Minute)
	option.Default(&o.Gather, time.Millisecond)
	option.Default(&o.Logger, slog.Default())
	p := option.Problems{Package: "watch"}
	p.When(o.Bus == nil, "Bus is missing")
	p.When(o.Follower == nil, "Follower is missing")
	p.When(o.Clock == nil, "Clock is missing")
	p.When(o.Of == nil, "Of is missing")
	p.When(o.Partitions < 1 || o.Partitions > 1<<16, "Partitions is %d", o.Partitions)
	option.NotNegative(&p, "MaxUsers", o.MaxUsers)
	option.NotNegative(&p, "MaxHeld", o.MaxHeld)
	option.NotNegative(&p, "Hold", o.Hold)
	option.NotNegative(&p, "Linger", o.Linger)
	option.NotNegative(&p, "Gather", o.Gather)
	return o, p.Err()
}

// Edge is a node's side of all partitions: it watches the users of its streams at their owners and
// tells the Follower what they say. It is a prometheus.Collector. Any goroutine may call its
// methods.
//
// Lock order: applying, mu. What a message says is applied with applying held, from the look at its
// number until its users are marked as told; so do Owner, Pulsed and the ticks, and nothing else
// moves a partition's generation (E3). Subscribe takes mu alone and waits for no application.
type Edge struct {
	o    EdgeOptions
	ends ends          // of streams
	odd  sample.Second // log lines of messages that cannot be read, or applied
	// rewatch is how long partitions were in doubt: from the loss, the silence or the claim until
	// all of its users had their states again.
	rewatch prometheus.Histogram

	applying sync.Mutex
	scratch  scratch // guarded by applying
	ended    bool    // nothing is applied any more. guarded by applying

	mu       sync.Mutex
	parts    []partition
	users    int // of all partitions
	held     int // streams that have not begun
	idle     idleUsers
	isolated bool
	shed     shed // while isolated
	counts   Stats
	marks    uint64 // of Subscribe: which partitions a list has met

	window int           // askWindow; tests make it small
	wake   chan struct{} // there is something to ask for
	stop   chan struct{}
	closed sync.Once
	loop   sync.WaitGroup
}

// scratch is what the application of a message works on.
type scratch struct {
	parts   []part
	recs    []record.View
	told    []*user // whose states are complete with this message
	touched []*user // whose states wait for more, and get some of it
	failed  []uuid.UUID
}

// NewEdge makes an edge that watches nothing.
func NewEdge(o EdgeOptions) (*Edge, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Edge{
		o: o, parts: make([]partition, o.Partitions), rewatch: newRewatch(),
		window: askWindow,
		wake:   make(chan struct{}, 1), stop: make(chan struct{}),
	}
	for i := range e.parts {
		first := o.Clock().WallMS << 20 // higher than the last of an earlier process
		e.parts[i] = partition{
			index: i, generation: 1, round: 1, question: first, since: first + 1,
			users: make(map[uuid.UUID]*user),
		}
	}
	return e, nil
}

// Start has the edge ask for users and watch the time. It is called once.
func (e *Edge) Start() { e.loop.Go(e.run) }

// Close ends what Start began. Streams go on, and are told nothing more: when it returns, the
// Follower is not used any more, whatever messages may still come.
func (e *Edge) Close() {
	e.closed.Do(func() { close(e.stop) })
	e.loop.Wait()
	e.applying.Lock()
	defer e.applying.Unlock()
	e.ended = true
}

// Subscribe starts a stream, which begins at once if all of its users are watched, and when their
// owners have told of them otherwise. It never waits. On an error the connection still belongs to
// the caller.
func (e *Edge) Subscribe(s broadcast.Subscription) error {
	one := [1]uuid.UUID{s.User}
	users := one[:]
	if s.List != nil {
		users = s.List.Users
	}
	pin, err := e.pin(users)
	if err != nil {
		return err
	}
	done := s.Done
	s.Done = func() {
		e.ends.add(pin)
		if done != nil {
			done()
		}
	}
	if pin.wait != nil {
		s.Hold = &pin.wait.hold
	}
	if err := e.o.Follower.Subscribe(s); err != nil {
		e.ends.add(pin)
		return err
	}
	if pin.wait != nil && e.taken(pin.wait) {
		e.o.Follower.Begin(&pin.wait.hold)
	}
	return nil
}

// Fresh reports whether the Follower may answer for a user: it is watched, all of it was told, and
// its owner was the owner at most a second ago, by an append that was acknowledged.
func (e *Edge) Fresh(user uuid.UUID) bool {
	at := e.o.Of(user)
	now := e.o.Clock.Nanos()
	e.mu.Lock()
	defer e.mu.Unlock()
	p := &e.parts[at]
	u := p.users[user]
	return u != nil && p.told(u) && p.fresh(now) && !e.isolated &&
		// One that is about to be dropped could be gone before it is read.
		(u.refs > 0 || now-u.idleNanos < int64(e.o.Linger)/2)
}

// Isolate says that this node is cut off from the others, or is not any more. From then on streams
// are refused with ErrIsolated, and those that are open end within the time given, or twice that
// for one that is just beginning: their clients come back elsewhere.
func (e *Edge) Isolate(isolated bool, over time.Duration) {
	e.mu.Lock()
	began := isolated && !e.isolated
	if e.isolated = isolated; began {
		e.shed = shed{over, e.o.Clock.Nanos()}
	}
	e.mu.Unlock()
	if began {
		e.o.Follower.Shed(over)
	}
}

// shed is how the streams of an isolated node end, and when that began last.
type shed struct {
	over  time.Duration
	nanos int64
}

// shedAgain ends, while this node is isolated, the streams that were past the look at that when the
// others were told to end, and those that waited for their users then and have begun since: that
// puts their end off.
func (e *Edge) shedAgain() {
	now := e.o.Clock.Nanos()
	e.mu.Lock()
	s := e.shed
	due := e.isolated && now-s.nanos >= int64(s.over)
	if due {
		e.shed.nanos = now
	}
	e.mu.Unlock()
	if due {
		e.o.Follower.Shed(s.over)
	}
}

// Stats are the counters of an Edge.
type Stats struct {
	Users      int    // watched
	Held       int    // streams that wait for the states of their users
	Gaps       uint64 // messages of an owner were missing
	Silences   uint64 // an owner said nothing for too long
	Claims     uint64 // a partition with users that are watched was claimed
	Unanswered uint64 // streams that ended before the states of their users came
	Unread     uint64 // messages that could not be read, or not be applied
}

// Stats reads the counters.
func (e *Edge) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.counts
	s.Users, s.Held = e.users, e.held
	return s
}
