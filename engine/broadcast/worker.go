package broadcast

import (
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// What a worker does at most in one turn before it looks at its inbox again, so that nothing waits long behind a
// crowd. The rest is done in the next turns.
const (
	visitsPerUser = 256  // streams of one user
	visitsPerTurn = 4096 // streams in all
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

	through uint64 // every event at or below it has been taken: W of B1
	users   map[uuid.UUID]*user
	vacant  []uint32 // free slots
	slots   uint32   // slots ever used
	laps    []*user  // users with streams to visit, first come first served
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
	return w
}

// start sets the worker's place in the log and its clock, before its goroutine runs.
func (w *worker) start(through uint64, nowNanos int64) {
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	w.through, w.in.through = through, max(w.in.through, through)
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

// busy: there is work left from the last turn.
func (w *worker) busy() bool {
	return len(w.laps) > 0 || len(w.subs) > 0 || len(w.ready) > 0 || w.ring.behind(w.now)
}

// takeMail waits until there is something to do and takes it all at once.
func (w *worker) takeMail() {
	in := &w.in
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stats = w.figures()
	for !in.mail && !w.busy() {
		in.cond.Wait()
	}
	in.mail = false
	w.batch.reset()
	in.dropped += in.batch.dropped
	w.batch, in.batch = in.batch, w.batch
	w.through = in.through
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

// takeBatch turns events into frames of the users that have streams, and moves those users into the queue of laps.
func (w *worker) takeBatch() {
	w.peak = max(w.peak, w.batch.size())
	start := 0
	for i := range w.batch.events {
		e := &w.batch.events[i]
		if u := w.users[e.user]; u != nil {
			w.collect(u, e.lsn, w.batch.bytes[start:e.end])
		}
		start = e.end
	}
	if w.batch.lost {
		w.warnOverflow()
		for _, u := range w.users {
			w.conflate(u, w.through)
			w.enqueue(u)
		}
	}
}

// collect adds an event's frame to what the user's streams are owed.
func (w *worker) collect(u *user, lsn uint64, event []byte) {
	if lsn <= u.last {
		return // a source may repeat itself
	}
	f := w.fanOf(u)
	before := len(f.text)
	f.text = w.b.options.Codec.AppendFrame(f.text, event)
	f.frames = append(f.frames, frame{lsn, len(f.text)})
	w.fanBytes += len(f.text) - before
	u.last = lsn
	if len(f.text) > fanFactor*w.b.options.BacklogBytes || w.fanBytes > w.b.options.PendingBytes {
		w.stats.FanOverflows++
		w.conflate(u, lsn)
	}
	w.enqueue(u)
}

// conflate drops the user's frames up to an LSN: streams below it will get the newest state instead (B4).
func (w *worker) conflate(u *user, through uint64) {
	w.release(u, through)
	u.last = max(u.last, through)
}

// release moves a user's base and drops the frames that nobody is owed any more.
func (w *worker) release(u *user, through uint64) {
	u.base = max(u.base, through)
	f := u.fan
	if f == nil {
		return
	}
	w.fanBytes -= len(f.text)
	f.cut(u.base)
	w.fanBytes += len(f.text)
	if len(f.frames) > 0 {
		return
	}
	u.fan = nil
	if cap(f.text) <= keepBytes && len(w.fans) < 64 {
		w.fans = append(w.fans, f)
	}
}

func (w *worker) fanOf(u *user) *fan {
	if u.fan == nil {
		u.fan = &fan{}
		if n := len(w.fans); n > 0 {
			u.fan, w.fans = w.fans[n-1], w.fans[:n-1]
		}
	}
	return u.fan
}

func (w *worker) enqueue(u *user) {
	if !u.queued {
		u.queued = true
		w.laps = append(w.laps, u)
	}
}

// runLaps visits streams of the users in the queue, a number of each user's in turn, so that one user with ten
// thousand streams does not hold up the others.
func (w *worker) runLaps() {
	budget := visitsPerTurn
	for n := len(w.laps); n > 0 && budget > 0; n-- {
		u := w.laps[0]
		w.laps[0] = nil
		w.laps = w.laps[1:]
		visited, done := w.lap(u)
		budget -= visited + 1
		if u.queued = !done; u.queued {
			w.laps = append(w.laps, u)
		}
	}
	if len(w.laps) == 0 {
		w.laps = w.laps[:0:0]
	}
}

// lap takes the user's lap on by a number of streams. At its end every stream has been visited since last was lap, so
// the frames through there are no longer needed: who has not taken them lags. Frames that came meanwhile begin another
// lap, in which only those who lack them are written to.
func (w *worker) lap(u *user) (visited int, done bool) {
	if u.cursor == 0 {
		u.cursor, u.lap = u.first, u.last
	}
	for u.cursor != 0 {
		if visited == w.b.options.visits {
			return visited, false
		}
		s := w.at(u.cursor)
		u.cursor = s.next // first: the visit may free s
		w.visit(s)
		visited++
	}
	w.release(u, u.lap)
	return visited, u.count == 0 || u.lap >= u.last // not base == last: conflation moves base in the middle of a lap
}

// visit gives a stream what it is owed: writes it, or adds it to the backlog.
func (w *worker) visit(s *stream) {
	for s.user != nil && s.through < s.user.last && !s.lagging {
		limit := w.b.options.BacklogBytes
		if s.backlog != nil {
			limit = min(limit-s.backlog.left(), w.b.options.PendingBytes-w.stats.PendingBytes)
		}
		if s.backlog != nil && (s.through < s.user.base || limit <= 0) {
			w.lag(s)
			return
		}
		p := w.owed(s.user, s.through, limit)
		bytes := p.form(s.chunked)
		if s.backlog != nil && len(bytes) > limit {
			w.lag(s)
			return
		}
		if p.key.snapshot {
			w.stats.Conflated++
		}
		w.stats.Frames += uint64(p.frames)
		s.through = p.through
		w.send(s, bytes)
	}
}

// lag marks a stream that has no room for what it is owed. It goes on when its backlog is empty.
func (w *worker) lag(s *stream) {
	s.lagging = true
	w.stats.Lagging++
}

// owed is the parcel of a stream of the user that has everything through an LSN.
func (w *worker) owed(u *user, after uint64, limit int) *parcel {
	if after < u.base {
		return w.snapshot(u.id, after)
	}
	p := &w.parcel
	if key := (parcelKey{u.id, after, u.last, limit, false}); p.key != key {
		text, frames, through := u.fan.span(after, limit)
		p.seal(append(p.begin(key), text...), frames, through)
	}
	return p
}

// snapshot is the parcel of the newest state of the user's devices that changed above an LSN. Events above W are still
// to come, and the codec leaves their devices out (I3).
func (w *worker) snapshot(id uuid.UUID, after uint64) *parcel {
	p := &w.parcel
	if key := (parcelKey{id, after, w.through, snapshotLimit, true}); p.key != key {
		p.seal(w.b.options.Codec.AppendSnapshot(p.begin(key), id, after, w.through), 0, w.through)
	}
	return p
}

const snapshotLimit = -1 // snapshots have none

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
	w.link(s, sub.User)
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
	p := w.snapshot(sub.User, 0)
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
	w.in.batch, w.batch = batch{}, batch{}
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
		w.batch = batch{}
	}
	w.peak = 0
}

// endText is the last thing that a stream is sent.
func (w *worker) endText(s *stream, reason Reason) []byte {
	w.out = w.out[:0]
	if reason == Drained {
		low, high := w.b.options.RetryMin.Milliseconds(), w.b.options.RetryMax.Milliseconds()
		retry := low + w.rand.Int64N(high-low+1)
		w.out = appendChunk(w.out, "retry: "+strconv.FormatInt(retry, 10)+"\n\n", s.chunked)
	}
	if s.chunked {
		w.out = append(w.out, lastChunk...)
	}
	return w.out
}
