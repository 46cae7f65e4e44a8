package broadcast

import (
	"math/bits"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Broadcaster sends each stream the events of its user. See the package comment.
type Broadcaster struct {
	options Options
	workers []*worker
	batches []batch // by source; single writer: the source's commit loop
	poller  *poller // nil: sockets are held with goroutines
	count   *openCount
	quota   quota
	marks   [2]*marks // of list streams, by view
	next    atomic.Uint32
	retries retries
	ids     streamIDs

	startOnce, closeOnce sync.Once
	running              sync.WaitGroup // the workers
	conns                sync.WaitGroup // goroutines of connections without a poller: workers add
}

// Subscription asks for a stream.
type Subscription struct {
	User   uuid.UUID
	Source Source // of the user
	Conn   Conn

	// Head is written first: the response head. It belongs to the stream.
	Head []byte

	// Chunked selects chunked framing of the body, for HTTP/1.1; an HTTP/1.0 client gets it plain.
	Chunked bool

	// IDAt is where in Head the stream's id is to stand, in place of StreamIDLen bytes. Default: 0,
	// nowhere.
	IDAt int

	// Owner is whose stream it is: the subject of the token that opened it, in a form of the
	// caller's. Renew shows it.
	Owner [16]byte

	// List makes it a stream of many users, and User is ignored. Default: nil.
	List *List

	// Hold has the stream wait for Begin. Default: nil, it begins at once.
	Hold *Hold

	// Done is called once when the stream has ended, if Subscribe took it. A worker calls it: it
	// must not block. Default: nil, nothing.
	Done func()

	// ExpiresNanos is the instant, on the clock of Tick, at which the stream ends. Default: never.
	ExpiresNanos int64

	hashes []uint64 // of List.Users, until the inbox has it
}

// New makes a Broadcaster. Streams may be subscribed from now on; they are answered after Start.
func New(o Options) (*Broadcaster, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	b := &Broadcaster{
		options: o,
		workers: make([]*worker, o.Workers),
		batches: make([]batch, o.Sources),
		count:   newOpenCount(int64(o.MaxStreams)),
		ids:     newStreamIDs(),
		marks:   [2]*marks{new(marks), new(marks)},
	}
	b.quota.init(&b.options)
	b.retries.low, b.retries.high = o.RetryMin, o.RetryMax
	for i := range b.workers {
		b.workers[i] = newWorker(i, &b.options, b)
	}
	for i := range b.batches {
		b.batches[i].stages = make([]stage, o.Workers)
	}
	if !o.portable {
		if b.poller, err = newPoller(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Start starts the workers, at the time given. Call it once, before Tick. A source begins with
// Lose and Flush, before or after Start: its table then holds every change through that LSN, and
// streams of its users that were opened before get the newest states. Until then its users have no
// devices.
func (b *Broadcaster) Start(nowNanos int64) {
	b.startOnce.Do(func() {
		for _, w := range b.workers {
			w.start(nowNanos)
			b.running.Go(w.run)
		}
	})
}

// Publish queues an event for the user's streams; it leaves with the source's next Flush. LSNs only
// grow. Publish copies the event, unless no stream will get it, and never blocks: a full queue is
// conflated. From the first Publish to the Flush, new streams of the source's users wait (B9). The
// source's commit loop only.
func (b *Broadcaster) Publish(source Source, user uuid.UUID, lsn uint64, bytes []byte) {
	batch := &b.batches[source]
	if !batch.begun {
		b.begin(source)
	}
	batch.last = lsn
	hash := hashOf(user)
	home := b.workerIndex(hash)
	e := event{user: user, lsn: lsn, source: source}
	if s := &batch.stages[home]; s.wanted && b.workers[home].in.follows.has(hash) {
		s.add(e, bytes, b.options.QueueBytes)
	} else {
		home = -1
	}
	if !batch.lists {
		return
	}
	for w := b.listWorkers(hash, bytes); w != 0; w &= w - 1 {
		if i := bits.TrailingZeros64(w); i != home {
			batch.stages[i].add(e, bytes, b.options.QueueBytes)
		}
	}
}

// begin begins a batch of a source: before any of its events is left out (B9).
func (b *Broadcaster) begin(source Source) {
	batch := &b.batches[source]
	batch.begun, batch.lists = true, false
	for i, w := range b.workers {
		wanted, lists := w.in.begin(source)
		batch.stages[i].wanted = wanted
		batch.lists = batch.lists || lists
	}
}

// listWorkers are the workers with list streams that get an event, a bit each.
func (b *Broadcaster) listWorkers(hash uint64, event []byte) uint64 {
	all := b.marks[ViewDevices].of(hash)
	if turns := b.marks[ViewUsers].of(hash) &^ all; turns != 0 && b.options.Codec.Turn(event) {
		all |= turns
	}
	return all
}

// Flush ends a batch: all events of the source with an LSN at or below through have been published.
// Each worker gets the batch's events and through in one step, those without an event too (B1).
// receivedNanos is when the first event of the batch came in, on the clock of Tick, for
// Options.Delivered; 0: not known. Flush never blocks. The source's commit loop only.
func (b *Broadcaster) Flush(source Source, through uint64, receivedNanos int64) {
	batch := &b.batches[source]
	if batch.last > through {
		panic("bug: an event was published above the LSN of its Flush") // I3 would not hold
	}
	batch.begun, batch.last = false, 0
	for i, w := range b.workers {
		w.in.flush(source, &batch.stages[i], through, receivedNanos, b.options.QueueBytes)
	}
}

// Lose says that events of the source were not published. At the next Flush the streams of its
// users, and of no other source, get the newest state of each device that changed; events that have
// been published since the last Flush or still wait for a worker are dropped in favour of it. The
// source's commit loop only.
func (b *Broadcaster) Lose(source Source) {
	for i := range b.batches[source].stages {
		b.batches[source].stages[i].lose()
	}
}

// Tick tells the time, in nanoseconds of the clock of Start. It is due about four times a second:
// keepalives, write timeouts, token expiry and draining happen as Ticks go by. Any goroutine: the
// latest instant counts.
func (b *Broadcaster) Tick(nowNanos int64) {
	for _, w := range b.workers {
		w.in.tick(nowNanos)
	}
}

// Subscribe opens a stream: Head, a snapshot, then every event that follows it. When it returns nil
// the broadcaster owns the Conn and always ends it; after an error it still belongs to the caller.
// Any goroutine.
func (b *Broadcaster) Subscribe(s Subscription) error {
	if int(s.Source) >= b.options.Sources {
		panic("bug: a stream of a source beyond Options.Sources")
	}
	if !b.count.enter() {
		return ErrTooMany
	}
	subscribe := b.subscribe
	if s.List != nil {
		subscribe = b.subscribeList
	}
	if err := subscribe(s); err != nil {
		b.count.leave()
		return err
	}
	return nil
}

func (b *Broadcaster) subscribe(s Subscription) error {
	w := b.workerOf(s.User)
	if s.Hold != nil {
		s.Hold.home = w
	}
	return w.in.subscribe(s)
}

// subscribeList opens a stream of many users. The worker that it falls to takes the events of all
// of them.
func (b *Broadcaster) subscribeList(s Subscription) error {
	if len(s.List.Users) == 0 || s.List.IDs == nil {
		panic("bug: a stream of many users without users or IDs")
	}
	if err := b.quota.take(&s); err != nil {
		return err
	}
	s.hashes = make([]uint64, len(s.List.Users)) // made here: a commit loop may wait for the inbox
	for i, user := range s.List.Users {
		s.hashes[i] = hashOf(user)
	}
	w := b.workers[int(b.next.Add(1))%min(len(b.workers), maxListWorkers)]
	if s.Hold != nil {
		s.Hold.home = w
	}
	if err := w.in.subscribe(s); err != nil {
		b.quota.give(s.Owner, len(s.List.Users))
		return err
	}
	return nil
}

// Take makes a Conn of an accepted connection. On Linux the descriptor of a TCP or Unix connection
// is duplicated and c closed, so that the stream costs no goroutine; anything else is held with
// goroutines. On error c is still the caller's. Any goroutine.
func (b *Broadcaster) Take(c net.Conn) (Conn, error) {
	if b.poller != nil {
		conn, ok, err := b.poller.take(c, b.options.WriteTimeout)
		if ok || err != nil {
			return conn, err
		}
	}
	return newGoConn(c, &b.conns, b.options.WriteTimeout), nil
}

// Ready implements Notifier: Conns call it.
func (b *Broadcaster) Ready(id StreamID, r Readiness) {
	if i := id.worker(); i < len(b.workers) {
		b.workers[i].in.notify(id, r)
	}
}

// Streams is how many streams follow a user. It waits for the workers' answers, so it may be called
// between Start and Close only. Any goroutine.
func (b *Broadcaster) Streams(user uuid.UUID) int {
	streams := 0
	for _, w := range b.workers {
		w.call(func() { streams += w.users.streams(user) + w.lists.streams(user) })
	}
	return streams
}

// Drain refuses new streams from now on and ends the open ones, each at a random instant of the
// time given, as Ticks go by; each is sent its reconnect delay, see Retry. done is closed when the
// last connection is, which is a second later at most, but for clients that take nothing. A second
// call changes nothing. Any goroutine.
func (b *Broadcaster) Drain(over time.Duration) (done <-chan struct{}) {
	return b.count.drain(func() {
		b.retries.drained.Store(max(1, b.workers[0].in.now()+int64(over)))
		for _, w := range b.workers {
			w.in.startDrain(over)
		}
	})
}

// SetRestart says how long a restart of the server takes, from the end of this process to the first
// stream of the next. It is part of each reconnect delay of a drain, see Retry. Default: 0. Any
// goroutine.
func (b *Broadcaster) SetRestart(d time.Duration) { b.retries.restart.Store(int64(max(d, 0))) }

// Retry is when a client whose stream Subscribe refused should come back: after a random time of
// RetryMin to RetryMax; while draining, that long after the end of the drain and the usual time of
// a restart, so that it does not come back into the drain. Any goroutine.
func (b *Broadcaster) Retry() time.Duration {
	delay := b.retries.low + rand.N(b.retries.high-b.retries.low+1)
	if drained := b.retries.drained.Load(); drained != 0 {
		left := time.Duration(max(drained-b.workers[0].in.now(), 0))
		delay += left + b.retries.afterDrain()
	}
	return delay
}

// Close ends every stream now, with one attempt to send its end, and waits until all goroutines and
// descriptors are gone. Publish, Flush and Tick have no effect afterwards. Any goroutine, any
// number of times.
func (b *Broadcaster) Close() {
	b.closeOnce.Do(func() {
		b.retries.drained.CompareAndSwap(0, 1)
		b.Start(0) // a worker that never ran has subscriptions to end, too
		for _, w := range b.workers {
			w.in.close()
		}
		b.running.Wait()
		if b.poller != nil {
			b.poller.close()
		}
		b.conns.Wait()
	})
}

// Open is how many streams there are now, including those that are ending. Any goroutine.
func (b *Broadcaster) Open() int { return int(b.count.live.Load()) }

// Stats sums what the workers published at the start of their last turn. Any goroutine.
func (b *Broadcaster) Stats() Stats {
	var sum Stats
	for _, w := range b.workers {
		s := w.in.figures()
		sum.add(&s)
	}
	sum.QueueLimitBytes = len(b.workers) * b.options.QueueBytes
	sum.PendingLimitBytes = len(b.workers) * b.options.PendingBytes
	sum.MaxStreams, sum.MaxFollows = b.options.MaxStreams, b.options.MaxFollows
	return sum
}

func (b *Broadcaster) workerIndex(hash uint64) int {
	return int(hash & (1<<32 - 1) % uint64(len(b.workers)))
}

func (b *Broadcaster) workerOf(user uuid.UUID) *worker {
	return b.workers[b.workerIndex(hashOf(user))]
}
