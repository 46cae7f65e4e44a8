package broadcast

import (
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
)

// What a worker does at most in one turn before it looks at its inbox again, so that nothing waits long behind a
// crowd. The rest is done in the next turns.
const (
	visitsPerUser = 8    // streams of one user at a time, unless only crowds are left and something else is to be done
	visitsPerTurn = 4096 // streams in all
	crowdShare    = 4    // one in so many visits is a crowd's, however many other users have something to tell
	opensPerTurn  = 256
	readyPerTurn  = 1024
	duePerTurn    = 1024
)

const (
	inputLimit = 64 << 10 // bytes that a client may send on its stream
	fanFactor  = 16       // a user's frames may be this many times BacklogBytes long before they are conflated
	lingerTime = 5 * time.Second
	keepBytes  = 256 << 10 // of a buffer that was last filled for less
)

// worker owns the streams of the users that hash to it. One goroutine; nobody else touches its fields, the inbox
// aside.
type worker struct {
	b     *Broadcaster
	index int
	log   *slog.Logger
	in    inbox

	through []uint64 // by source: every event at or below it has been taken, W of B1
	users   map[uuid.UUID]*user
	vacant  []uint32 // free slots
	slots   uint32   // slots ever used
	woken   []*user  // users whose lap has not begun, first come first served
	crowds  []*user  // users in the middle of a lap, in turn
	fans    []*fan   // spare

	// The present turn's mail. What its limits leave over stays for the next turn.
	batch    batch
	subs     []Subscription
	ready    []report
	queries  []query
	closed   bool
	drainFor time.Duration // below 0: not draining

	ring     ring
	epoch    int64  // nanoseconds at tick 1
	now      uint32 // tick
	draining bool
	drainEnd uint32 // tick by which the last stream is told to go

	rand     *rand.Rand
	parcel   parcel // the last one made
	watched  watched
	out      []byte // scratch: what one stream alone is sent
	input    []byte // scratch: what Discard reads
	fanBytes int    // in all users' fans
	peak     int    // longest batch since the last tick
	stats    Stats
	warned   uint32 // tick of the last warning about a full queue
}

func newWorker(b *Broadcaster, index int) *worker {
	w := &worker{
		b:     b,
		index: index,
		log:   b.options.Logger,
		users: make(map[uuid.UUID]*user),
		rand:  rand.New(rand.NewPCG(b.options.Seed, uint64(index))),
		input: make([]byte, 4<<10),
		slots: 1, // slot 0 means none
	}
	w.in.cond.L = &w.in.mu
	sources := b.options.Sources
	w.through, w.in.through = make([]uint64, sources), make([]uint64, sources)
	w.batch.lost, w.in.batch.lost = newSourceSet(sources), newSourceSet(sources)
	if b.options.MaxStreamsPerUser > 0 {
		w.in.perUser = make(followers)
	}
	return w
}

// start sets the worker's clock, before its goroutine runs.
func (w *worker) start(nowNanos int64) {
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	w.epoch, w.in.nowNanos = nowNanos, max(w.in.nowNanos, nowNanos)
	w.now = 1
	w.ring.start(w.now)
}

// run is the worker's life: turn after turn. The order inside a turn is free, but for one thing: the batch comes
// first, since the rest is done as of its through.
func (w *worker) run() {
	for {
		w.takeMail()
		w.takeBatch()
		w.startDrain()
		w.openStreams()
		w.handleReady()
		w.runLaps()
		w.checkDue()
		w.answer()
		w.stats.Turns++
		if w.closed {
			w.endAll()
			return
		}
		w.trim()
	}
}

// busyLocked: there is work left from the last turn, or mail that was left in the inbox until it would be done.
func (w *worker) busyLocked() bool {
	return len(w.woken) > 0 || len(w.crowds) > 0 || w.leftOver() || len(w.in.subs) > 0 || len(w.in.ready) > 0
}

// leftOver: a limit of the last turn kept something back.
func (w *worker) leftOver() bool { return len(w.subs) > 0 || len(w.ready) > 0 || w.ring.behind(w.now) }

// takeMail waits until there is something to do and takes it all at once.
func (w *worker) takeMail() {
	in := &w.in
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stats = w.figures()
	for !in.mail.Load() && !w.busyLocked() {
		in.cond.Wait()
	}
	in.mail.Store(false)
	w.batch.reset()
	in.dropped += in.batch.dropped
	w.batch, in.batch = in.batch, w.batch
	copy(w.through, in.through)
	w.queries, in.queries = in.queries, w.queries[:0]
	w.closed = in.closed
	w.now = w.tickOf(in.nowNanos)
	if len(w.subs) == 0 {
		w.subs, in.subs = in.subs, nil
	} else if w.closed {
		w.subs, in.subs = append(w.subs, in.subs...), nil
	}
	if len(w.ready) == 0 { // else a stream could be listed again and again
		for _, slot := range in.ready {
			s := w.at(slot)
			w.ready = append(w.ready, report{slot, s.reuse, s.ready})
			s.ready, s.listed = 0, false
		}
		in.ready = in.ready[:0]
	}
	w.drainFor = -1
	if in.draining {
		w.drainFor = in.drain
	}
}

// openStreams answers subscriptions: between batches, with a snapshot at W (I3).
func (w *worker) openStreams() {
	n := min(len(w.subs), opensPerTurn)
	if w.closed {
		n = len(w.subs)
	}
	for i := range w.subs[:n] {
		w.open(&w.subs[i])
		w.subs[i] = Subscription{}
	}
	if w.subs = w.subs[n:]; len(w.subs) == 0 {
		w.subs = nil
	}
}

func (w *worker) open(sub *Subscription) {
	s := w.allocate()
	s.conn, s.chunked, s.state, s.reason = sub.Conn, sub.Chunked, open, 0
	s.wrote = w.now
	if sub.ExpiresNanos != 0 {
		s.ends = w.tickUp(sub.ExpiresNanos)
	}
	w.link(s, sub.User, sub.Source)
	w.stats.Opened++
	if err := s.conn.Attach(w.b, streamID(w.index, s.slot, s.reuse)); err != nil {
		w.log.Error("broadcast: a stream's connection cannot be watched", "err", err)
		w.free(s, Failed)
		return
	}
	if w.draining {
		w.drain(s)
	}
	w.file(s)
	p := w.snapshot(s.user, 0)
	s.through = p.through
	w.stats.Snapshots++
	if snapshot := p.form(s.chunked); len(sub.Head) == 0 {
		w.send(s, snapshot)
	} else {
		w.out = append(append(w.out[:0], sub.Head...), snapshot...)
		w.send(s, w.out)
	}
}

// handleReady works off what connections have become ready for.
func (w *worker) handleReady() {
	n := min(len(w.ready), readyPerTurn)
	for _, r := range w.ready[:n] {
		if s := w.at(r.slot); s.reuse == r.reuse && s.state != free {
			w.handle(s, r.ready)
		}
	}
	w.ready = w.ready[:copy(w.ready, w.ready[n:])]
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

// discard drops input. False: that was the stream's end.
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
		w.visit(s)
	case ending:
		w.shut(s)
	}
}

// answer tells how many streams users have.
func (w *worker) answer() {
	for _, q := range w.queries {
		n := 0
		if u := w.users[q.user]; u != nil {
			n = int(u.count)
		}
		q.reply <- n
	}
	w.queries = w.queries[:0]
}

// endAll is the last turn: one attempt to tell each stream, and everything is given back.
func (w *worker) endAll() {
	for slot := uint32(1); slot < w.slots; slot++ {
		s := w.at(slot)
		if s.state == open && w.flush(s) && s.backlog == nil {
			w.end(s, Drained)
		}
		if s.state != free {
			s.conn.Discard(w.input) // closing with input unread would reset the connection and take the end with it
			w.free(s, Drained)
		}
	}
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	w.in.batch.run, w.batch.run = run{}, run{}
	w.in.stats = w.figures()
}

// figures are the stats with the gauges that are read off the worker's fields.
func (w *worker) figures() Stats {
	s := w.stats
	s.Users = len(w.users)
	return s
}

// warnOverflow logs a full queue, not more often than every ten seconds.
func (w *worker) warnOverflow() {
	if w.warned != 0 && w.now-w.warned < ticksOf(10*time.Second) {
		return
	}
	w.warned = max(w.now, 1)
	w.log.Warn("broadcast: a worker's queue was full, its streams get the newest states instead of each event",
		"worker", w.index, "events", w.batch.dropped, "streams", w.slots-1-uint32(len(w.vacant)))
}

// trim gives memory of unusual peaks back.
func (w *worker) trim() {
	w.parcel.forget(keepBytes)
	if cap(w.out) > keepBytes {
		w.out = nil
	}
	if !w.ring.turned() {
		return
	}
	if cap(w.batch.bytes) > keepBytes && w.peak < cap(w.batch.bytes)/4 {
		w.batch.run = run{}
	}
	w.peak = 0
}
