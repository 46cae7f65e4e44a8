package broadcast

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

// span finds the text of the frames above an LSN, of which there must be one: as many as fit into
// limit bytes, but at least one. through is the LSN of the last of them.
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

const (
	fanFactor = 16 // a user's frames may be this many times BacklogBytes long
	spareFans = 64
)

// fans keep the frames of a worker's users within their bounds (B6). Single owner: the worker.
type fans struct {
	codec     Codec
	holds     map[*user]*hold
	spare     []*fan
	bytes     int // in all users' fans
	userLimit int
	limit     int // of bytes
	stats     *Stats
}

// add appends an event's frame to what the user's streams are owed. False: they had it before,
// since a source may repeat itself.
func (fs *fans) add(u *user, lsn uint64, event []byte) bool {
	if lsn <= u.last {
		return false
	}
	f := fs.of(u)
	before := len(f.text)
	f.text = fs.codec.AppendFrame(f.text, event)
	f.frames = append(f.frames, frame{lsn, len(f.text)})
	fs.bytes += len(f.text) - before
	u.last = lsn
	if h := fs.holds[u]; h != nil && h.passed > u.base && fs.over(f, 4) {
		fs.stats.FanOverflows++
		h.from = h.passed
		fs.release(u, h.passed)
	}
	if fs.over(f, 1) {
		fs.stats.FanOverflows++
		fs.conflate(u, lsn)
	}
	return true
}

// over reports whether a user's frames, or those of all, pass a part of their bounds.
func (fs *fans) over(f *fan, part int) bool {
	return len(f.text) > fs.userLimit/part || fs.bytes > fs.limit/part
}

// hold keeps a user's frames for streams in the middle of a snapshot: a client that keeps up gets
// every event. A quarter of the bounds is for them, so that clients that read slowly take nothing
// from streams that have their snapshot; past it the frames go, and these clients get the newest
// states.
type hold struct {
	streams int
	from    uint64 // frames above it are kept
	passed  uint64 // frames at or below it are for these streams only
}

// hold keeps the frames above an LSN for one more stream.
func (fs *fans) hold(u *user, from uint64) {
	h := fs.holds[u]
	if h == nil {
		h = &hold{from: from, passed: u.base}
		fs.holds[u] = h
	}
	h.streams++
	h.from = min(h.from, from)
}

// letGo ends one stream's hold.
func (fs *fans) letGo(u *user) {
	h := fs.holds[u]
	if h.streams--; h.streams == 0 {
		delete(fs.holds, u)
		fs.release(u, h.passed)
	}
}

// lapped drops the frames that each stream has been offered, but for those that are held.
func (fs *fans) lapped(u *user) {
	h := fs.holds[u]
	if h == nil {
		fs.release(u, u.lap)
		return
	}
	h.passed = max(h.passed, u.lap)
	if h.from < u.base { // what was held is gone
		h.from = u.base
	}
	fs.release(u, min(u.lap, h.from))
}

// conflate drops the user's frames up to an LSN: streams below it get the newest state instead
// (B4).
func (fs *fans) conflate(u *user, through uint64) {
	fs.release(u, through)
	u.last = max(u.last, through)
}

// release moves a user's base and drops the frames that no stream is owed any more.
func (fs *fans) release(u *user, through uint64) {
	if through <= u.base { // what cut does takes time with every frame that stays
		return
	}
	u.base = through
	f := u.fan
	if f == nil {
		return
	}
	fs.bytes -= len(f.text)
	f.cut(u.base)
	fs.bytes += len(f.text)
	if len(f.frames) > 0 {
		return
	}
	u.fan = nil
	if cap(f.text) <= keepBytes && len(fs.spare) < spareFans {
		fs.spare = append(fs.spare, f)
	}
}

func (fs *fans) of(u *user) *fan {
	if u.fan == nil {
		u.fan = &fan{}
		if n := len(fs.spare); n > 0 {
			u.fan, fs.spare = fs.spare[n-1], fs.spare[:n-1]
		}
	}
	return u.fan
}
