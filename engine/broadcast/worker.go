package broadcast

import (
	"log/slog"
	"math/rand/v2"
	"time"
)

// Bounds of the work in one turn: the inbox is looked at in between, so that nothing waits long
// behind a crowd. The rest is done in the next turns.
const (
	visitsPerUser = 8    // streams of a user at a time, unless only crowds are left to do
	visitsPerTurn = 4096 // streams in all
	crowdShare    = 4    // one in so many visits is a crowd's, however many other users have frames
	readyPerTurn  = 1024
	duePerTurn    = 1024
	endsPerTurn   = 64 // of either, when the budget is spent: the end of a list stream takes long

	// turnBudget is what a turn may spend on opening streams and on snapshots, in bytes: those that
	// it writes, and what else costs as much time. Some 200 us in all.
	turnBudget = 128 << 10
	openCost   = 4 << 10
	lookCost   = 64 // a device that a snapshot looks at

	// restTime is how long a worker rests after a turn that spent its budget, so that snapshots
	// take no more than some two thirds of a processor.
	restTime = 100 * time.Microsecond
)

const (
	inputLimit = 64 << 10 // bytes that a client may send on its stream
	lingerTime = 5 * time.Second

	// drainLinger is the same in a drain: a restart waits for the last client to hang up.
	drainLinger = time.Second

	keepBytes = 256 << 10 // of a buffer that was last filled for less
)

// worker owns the streams of the users that hash to it. It joins the types that own the parts. Its
// goroutine alone touches what follows the inbox; the fields before never change.
type worker struct {
	index    int
	ids      streamIDs
	log      *slog.Logger
	notifier Notifier // of connections
	count    *openCount
	quota    *quota
	visits   int // streams of one user at a time
	allowed  int // what a turn may spend
	rest     func()
	in       inbox

	mail      mail
	slots     slots
	users     users
	deadlines deadlines
	fans      fans
	laps      laps
	parcels   parcels
	snapshots snapshots
	lists     lists
	writer    writer
	drain     drain
	delivery  delivery
	guests    guests
	stats     Stats

	budget int    // bytes that the turn may still spend, see turnBudget
	out    []byte // scratch: what one stream alone is sent
	input  []byte // scratch: what Discard reads
	warned uint32 // tick of the last warning about a full queue; 0: none
}

func newWorker(index int, o *Options, b *Broadcaster) *worker {
	w := &worker{
		index:    index,
		ids:      b.ids,
		log:      o.Logger,
		notifier: b,
		count:    b.count,
		quota:    &b.quota,
		visits:   o.visits,
		allowed:  o.budget,
		rest:     o.rest,
		deadlines: deadlines{
			keepalive: ticksOf(o.Keepalive), writeTimeout: ticksOf(o.WriteTimeout),
		},
		snapshots: snapshots{
			codec: o.Codec, most: o.piece, newest: make(map[*user]*snapshot),
		},
		drain: drain{
			rand:    rand.New(rand.NewPCG(o.Seed, uint64(index))),
			retries: &b.retries,
		},
		delivery: delivery{observe: o.Delivered},
		input:    make([]byte, 4<<10),
	}
	w.in.init(o, &w.slots, &w.users)
	for view := range w.in.marks {
		w.in.marks[view].shared, w.in.marks[view].bit = b.marks[view], 1<<(index%maxListWorkers)
	}
	w.mail.init(o.Sources)
	w.slots.init(&w.in.mu)
	w.users.init(&w.slots, &w.in.mu, o.MaxStreamsPerUser)
	w.fans = fans{
		codec: o.Codec, stats: &w.stats, holds: make(map[*user]*hold),
		userLimit: fanFactor * o.BacklogBytes, limit: o.PendingBytes,
	}
	w.writer = writer{
		clock: &w.deadlines.clock, backlogLimit: o.BacklogBytes, pendingLimit: o.PendingBytes,
		pending: make(map[*user]int), owners: make(map[[16]byte]int),
		stats: &w.stats,
	}
	w.lists = lists{
		codec: o.Codec, most: o.piece,
		journal: journal{codec: o.Codec, limit: o.QueueBytes},
		debts:   debts{limit: o.debts},
	}
	w.lists.follows.init()
	return w
}

// start sets the clock, before run.
func (w *worker) start(nowNanos int64) {
	w.deadlines.start(nowNanos)
	w.in.tick(nowNanos)
}

// run takes turns until Close. The order inside a turn is free, except that the events come first:
// the rest is done as of the through that came with them.
func (w *worker) run() {
	for {
		w.in.take(&w.mail, w.figures(), w.busy())
		w.deadlines.set(w.mail.nowNanos)
		w.budget = w.allowed
		w.takeEvents()
		w.startDrain()
		w.openStreams()
		w.handleReady()
		w.runLaps()
		w.runLists()
		w.runSnapshots()
		w.checkDue()
		w.runLingers()
		w.answer()
		w.stats.Turns++
		if w.mail.closed {
			w.endAll()
			return
		}
		w.trim()
		if w.budget <= 0 {
			w.rest()
		}
	}
}

// busy reports whether there is something to do without mail.
func (w *worker) busy() bool {
	return w.laps.waiting() || len(w.lists.woken)+len(w.lists.crowd) > 0 || w.leftOver()
}

// leftOver reports whether a limit of the last turn kept something back.
func (w *worker) leftOver() bool {
	return w.mail.left() || w.deadlines.behind() || w.lists.lingers.behind(w.deadlines.now) ||
		len(w.snapshots.waiting)+len(w.lists.waiting) > 0
}

// handleReady works off what connections have become ready for.
func (w *worker) handleReady() {
	ready := w.mail.ready
	n := min(len(ready), readyPerTurn)
	for i, r := range ready[:n] {
		if i >= endsPerTurn && w.budget <= 0 {
			n = i
			break
		}
		if s := w.slots.at(r.slot); s.reuse == r.reuse && s.state != free {
			w.handle(s, r.ready)
		}
	}
	w.mail.ready = ready[:copy(ready, ready[n:])]
}

func (w *worker) handle(s *stream, r Readiness) {
	if r&HangUp != 0 {
		w.free(s, ClientGone)
		return
	}
	if r&Readable != 0 && !w.discard(s) {
		return
	}
	if r&Writable != 0 {
		w.resume(s)
	}
}

// discard drops input. False: the stream has ended.
func (w *worker) discard(s *stream) bool {
	n, gone := s.conn.Discard(w.input)
	s.input += uint32(min(n, 2*inputLimit))
	switch {
	case gone:
		w.free(s, ClientGone)
	case s.input > inputLimit:
		w.free(s, ServerLimit)
	default:
		return true
	}
	return false
}

// resume goes on with a stream that was blocked: the backlog first, then what it missed meanwhile.
func (w *worker) resume(s *stream) {
	if !w.flush(s) || s.backlog != nil {
		return
	}
	switch s.state {
	case open:
		if w.heldOf(s) != nil {
			return
		}
		if s.list != nil {
			w.waitList(s)
			w.visitList(s)
			return
		}
		w.snapshots.wait(s)
		w.visit(s)
	case ending:
		w.shut(s)
	}
}

// send gives bytes to a stream, which ends when that fails.
func (w *worker) send(s *stream, bytes []byte) {
	if reason, ok := w.writer.send(s, bytes); !ok {
		w.free(s, reason)
	}
}

// flush writes from a stream's backlog. False: the stream has ended.
func (w *worker) flush(s *stream) bool {
	reason, ok := w.writer.flush(s)
	if !ok {
		w.free(s, reason)
	}
	return ok
}

// answer does what other goroutines wait for.
func (w *worker) answer() {
	for i, query := range w.mail.queries {
		query(w)
		w.mail.queries[i] = nil
	}
	w.mail.queries = w.mail.queries[:0]
}

// figures are the stats with the gauges that are read off the worker's fields.
func (w *worker) figures() Stats {
	s := w.stats
	s.Users = w.users.index.users
	s.InSnapshot = w.snapshots.taking + w.lists.taking
	s.Lists = w.lists.open
	s.Follows = w.lists.follows.count
	s.Followed = w.lists.follows.users.inUse()
	s.Lingering = w.lists.lingers.live
	return s
}

// warnOverflow logs a full queue, not more often than every ten seconds.
func (w *worker) warnOverflow() {
	now := w.deadlines.now
	if w.warned != 0 && now-w.warned < ticksOf(10*time.Second) {
		return
	}
	w.warned = max(now, 1)
	w.log.Warn("broadcast: a worker's queue was full, so its streams get the newest states only",
		"worker", w.index, "events", w.mail.queue.dropped, "streams", w.slots.inUse())
}

// trim gives the memory of rare peaks back.
func (w *worker) trim() {
	w.parcels.trim()
	if cap(w.out) > keepBytes {
		w.out = nil
	}
	if w.deadlines.ring.turned() {
		w.mail.trim()
		w.snapshots.trim()
		w.lists.trim()
	}
}
