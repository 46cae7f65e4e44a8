package wheel

// Horizon is how many ticks ahead an item may be filed: 2^31, 248 days of 10 ms ticks. Within it an
// item's 32 bits of tick tell its tick. Below 258,048 ticks (63 * 64^2) an item fires after at
// most two cascades; beyond, it is filed anew that often.
const Horizon = 1 << 31

// Item is one filed reference.
type Item struct {
	Ref  uint32
	Tick uint32 // low 32 bits of the tick it was filed for
}

// Wheel files items by tick and hands them over when their tick has come. One goroutine owns it.
type Wheel struct {
	// the next tick to be handed over: everything filed for an earlier one is overdue (H1, H2)
	cursor  uint64
	levels  [levels]level
	overdue bucket // filed for a tick that had passed; fires first
	count   int
	pool    pool
}

// level is one ring of buckets.
type level struct {
	occupied uint64 // bit b: buckets[b] holds an item
	buckets  [buckets]bucket
}

// New makes an empty wheel on which tick now has passed.
func New(now uint64) *Wheel { return &Wheel{cursor: now + 1} }

// Len returns the number of items filed.
func (w *Wheel) Len() int { return w.count }

// Now returns the last tick that was handed over in full.
func (w *Wheel) Now() uint64 { return w.cursor - 1 }

// Add files an item for a tick. One that has passed fires at the next Advance, or within the one
// whose fire calls Add. More than Horizon ahead is filed for Horizon ahead, and its Item says so.
func (w *Wheel) Add(ref uint32, tick uint64) {
	if tick > w.Now() && tick-w.Now() > Horizon {
		tick = w.Now() + Horizon
	}
	w.count++
	item := Item{Ref: ref, Tick: uint32(tick)}
	if tick < w.cursor {
		w.overdue.push(&w.pool, item)
		return
	}
	w.file(item, tick)
}

// file puts an item that is not overdue into its bucket (H3).
func (w *Wheel) file(item Item, tick uint64) {
	l, b := place(w.cursor, tick)
	w.levels[l].occupied |= 1 << b
	w.levels[l].buckets[b].push(&w.pool, item)
}

// tickOf returns the whole tick of an item that is not overdue (H4).
func (w *Wheel) tickOf(item Item) uint64 {
	return w.cursor + uint64(item.Tick-uint32(w.cursor))
}

// Next returns a tick before which nothing fires or cascades; false: the wheel is empty. With
// overdue items it is Now.
func (w *Wheel) Next() (tick uint64, ok bool) {
	if w.overdue.head != nil {
		return w.Now(), true
	}
	_, tick, ok = w.first()
	return tick, ok
}

// first returns the level whose first occupied bucket comes first, and its tick. A bucket that the
// cursor has reached and that is not empty yet is due at the cursor itself, so that the cursor
// never leaves it behind (H2).
func (w *Wheel) first() (l int, tick uint64, ok bool) {
	for i := range levels {
		if t, occupied := due(i, w.levels[i].occupied, w.cursor); occupied && (!ok || t < tick) {
			l, tick, ok = i, t, true
		}
	}
	return l, tick, ok
}

// Advance hands over the items filed for ticks up to and including to, in the order of their ticks,
// in runs of one tick each (of several for overdue items). The run is fire's until it returns; fire
// may call Add. After about limit items handed over or cascaded (less than a block more) it returns
// false: call again. True: all of to is done and Now is at least to.
func (w *Wheel) Advance(to uint64, limit int, fire func([]Item)) bool {
	for budget := max(limit, 1); ; {
		if w.overdue.head != nil {
			if budget <= 0 {
				return false
			}
			budget -= w.handOver(w.overdue.pop(), fire)
			continue
		}
		l, tick, ok := w.first()
		if !ok || tick > to {
			w.reach(to + 1)
			return true
		}
		if budget <= 0 {
			return false
		}
		w.reach(tick)
		if l > 0 {
			budget -= w.cascade(l)
		} else {
			budget -= w.handOver(w.take(0), fire)
		}
	}
}

// reach moves the cursor forward over ticks that have nothing filed.
func (w *Wheel) reach(tick uint64) {
	w.cursor = max(w.cursor, tick)
}

// take takes a block out of the bucket of a level that the cursor is in.
func (w *Wheel) take(l int) *block {
	at := bucketOf(l, w.cursor)
	b := w.levels[l].buckets[at].pop()
	if w.levels[l].buckets[at].head == nil {
		w.levels[l].occupied &^= 1 << at
	}
	return b
}

// handOver gives a block's items to fire and returns how many they were. The cursor stays on the
// tick: what fire adds for it is handed over too.
func (w *Wheel) handOver(b *block, fire func([]Item)) int {
	n := b.n
	w.count -= n
	fire(b.items[:n])
	w.pool.put(b)
	return n
}

// cascade files a block's items anew, now that the cursor has reached their bucket, and returns how
// many they were. None comes back to the same bucket: within it, place finds a lower level, and
// beyond the ring's end another bucket.
func (w *Wheel) cascade(l int) int {
	b := w.take(l)
	for _, item := range b.items[:b.n] {
		w.file(item, w.tickOf(item))
	}
	n := b.n
	w.pool.put(b)
	return n
}
