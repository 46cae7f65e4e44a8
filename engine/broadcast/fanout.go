package broadcast

import "github.com/google/uuid"

// user is one user with streams. Single writer: its worker.
//
// What its streams are told lies in fan: the frames of the events in (base, last]. A stream with through >= base is
// owed the frames above through; one below base is owed the newest state of what changed above through, since the
// frames in between are gone (B4).
type user struct {
	id         uuid.UUID
	base, last uint64
	lap        uint64 // every stream that the present lap has passed was visited when last was at least this
	fan        *fan   // nil: no frames
	first      uint32 // its streams
	count      uint32
	cursor     uint32 // the stream that the lap visits next; 0: no lap has begun
	queued     bool   // it is in worker.woken or worker.crowds
	source     Source // that its LSNs are of
}

func (u *user) mustBeOf(source Source) {
	if u.source != source {
		panic("bug: a user is of two sources") // their LSNs cannot be compared
	}
}

// takeBatch turns events into frames of the users that have streams, and queues those users.
func (w *worker) takeBatch() {
	w.peak = max(w.peak, w.batch.size())
	start := uint32(0)
	var last *user
	for i := range w.batch.events {
		e := &w.batch.events[i]
		if u := w.users[e.user]; u != nil {
			u.mustBeOf(e.source)
			w.collect(u, e.lsn, w.batch.bytes[start:e.end])
			last = u
		}
		start = e.end
	}
	w.watch(last, w.batch.since)
	if w.batch.full {
		w.warnOverflow()
	}
	if w.batch.lost.len() > 0 {
		w.makeUp()
	}
}

// makeUp gives the newest states to the streams of the sources that lost events.
func (w *worker) makeUp() {
	for _, u := range w.users {
		if w.batch.lost.has(u.source) {
			w.conflate(u, w.through[u.source])
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
		w.woken = append(w.woken, u)
	}
}

// runLaps visits streams of the users in the queues. First come those that were woken, so that an event waits for no crowd,
// then the crowds, in turn. These go on until something else is to be done, but have their share of the visits in any case.
func (w *worker) runLaps() {
	spent := 0
	for len(w.woken) > 0 && spent < visitsPerTurn {
		spent += w.runFirst(&w.woken, w.b.options.visits)
	}
	share := max(1, spent/(crowdShare-1))
	for budget := visitsPerTurn; len(w.crowds) > 0 && budget > 0 && (share > 0 || !w.pressed()); {
		visits := w.runFirst(&w.crowds, share)
		budget -= visits
		share -= visits
	}
}

// pressed: there is something to do that does not want to wait for a crowd.
func (w *worker) pressed() bool { return w.in.mail.Load() || w.leftOver() }

// runFirst takes on the lap of the first user of a queue, see lap. It returns the cost in visits, which is never 0.
func (w *worker) runFirst(queue *[]*user, share int) int {
	u := (*queue)[0]
	(*queue)[0] = nil
	if *queue = (*queue)[1:]; len(*queue) == 0 {
		*queue = nil // the array may be that of a rare peak
	}
	visited, done := w.lap(u, share)
	if u.queued = !done; u.queued {
		w.crowds = append(w.crowds, u)
	}
	return visited + 1
}

// lap takes the user's lap on by a number of streams, and by no more than its share when something else is to be done. At
// its end every stream has been visited since last was lap, so the frames through there are no longer needed: who has not
// taken them lags. Frames that came meanwhile begin another lap, in which only those who lack them are written to.
func (w *worker) lap(u *user, share int) (visited int, done bool) {
	if u.cursor == 0 {
		u.cursor, u.lap = u.first, u.last
	}
	for u.cursor != 0 {
		if visited == w.b.options.visits || visited >= share && w.pressed() {
			return visited, false
		}
		s := w.at(u.cursor)
		u.cursor = s.next // first: the visit may free s
		w.visit(s)
		visited++
	}
	w.release(u, u.lap)
	w.delivered(u)
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
		return w.snapshot(u, after)
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
func (w *worker) snapshot(u *user, after uint64) *parcel {
	p, through := &w.parcel, w.through[u.source]
	if key := (parcelKey{u.id, after, through, snapshotLimit, true}); p.key != key {
		text := w.b.options.Codec.AppendSnapshot(p.begin(key), u.source, u.id, after, through)
		p.seal(text, 0, through)
	}
	return p
}

const snapshotLimit = -1 // snapshots have none

// fan is the text of a user's frames.
type fan struct {
	text   []byte
	frames []frame // in LSN order
}

// frame is one event's text, which ends at end and begins where the one before ends.
type frame struct {
	lsn uint64
	end int
}

// span finds the text of the frames above an LSN: as many as fit into limit bytes, but at least one. There must be
// one. through is the LSN of the last of them.
func (f *fan) span(after uint64, limit int) (text []byte, count int, through uint64) {
	i := f.above(after)
	start := f.start(i)
	j := i + 1
	for j < len(f.frames) && f.frames[j].end-start <= limit {
		j++
	}
	return f.text[start:f.frames[j-1].end], j - i, f.frames[j-1].lsn
}

// above is the index of the first frame above an LSN.
func (f *fan) above(lsn uint64) int {
	low, high := 0, len(f.frames)
	for low < high {
		if mid := int(uint(low+high) / 2); f.frames[mid].lsn > lsn {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

func (f *fan) start(i int) int {
	if i == 0 {
		return 0
	}
	return f.frames[i-1].end
}

// cut drops the frames at or below an LSN.
func (f *fan) cut(lsn uint64) {
	i := f.above(lsn)
	start := f.start(i)
	f.text = f.text[:copy(f.text, f.text[start:])]
	f.frames = f.frames[:copy(f.frames, f.frames[i:])]
	for k := range f.frames {
		f.frames[k].end -= start
	}
}
