package broadcast

const (
	ringBuckets = 256 // 64 s
	ringHorizon = 240 // ticks that an item is filed ahead at most
)

// ring files streams by the tick at which they are due: a hashed timing wheel of one level
// (Varghese and Lauck 1987, https://doi.org/10.1145/41457.37504). Each stream has one valid item.
// The worker asks the ring as ticks go by; in between it costs nothing. Items lie in pieces that
// the buckets share, so that idle streams, which are filed anew at each keepalive, leave nothing
// for the garbage collector. Single owner: its worker.
type ring struct {
	done    uint32 // ticks before it are worked off
	last    uint32 // value of done when turned was last asked
	buckets [ringBuckets]*ringPiece
	spare   *ringPiece // pieces that no bucket needs, one more at most than are in use
	spares  int        // of them
	used    int        // pieces in buckets
}

type ringItem struct{ slot, tick uint32 }

// ringPiece has some items of one bucket, 512 bytes.
type ringPiece struct {
	next  *ringPiece
	n     int // of items
	items [62]ringItem
}

func (r *ring) start(now uint32) { r.done, r.last = now+1, now+1 }

// clip is the nearest tick to due that an item can be filed at.
func (r *ring) clip(due uint32) uint32 { return min(max(due, r.done), r.done+ringHorizon) }

func (r *ring) add(slot, tick uint32) {
	bucket := &r.buckets[tick%ringBuckets]
	if p := *bucket; p == nil || p.n == len(p.items) {
		*bucket = r.piece(p)
	}
	p := *bucket
	p.items[p.n] = ringItem{slot, tick}
	p.n++
}

// piece is an empty piece in front of another.
func (r *ring) piece(next *ringPiece) *ringPiece {
	p := r.spare
	if p == nil {
		p = new(ringPiece)
	} else {
		r.spare = p.next
		r.spares--
	}
	p.next = next
	r.used++
	return p
}

// behind reports whether there are ticks to work off.
func (r *ring) behind(now uint32) bool { return r.done <= now }

// next takes an item that is due. An item that is filed for the bucket which is being worked off
// belongs to the same tick, since none is filed a whole round ahead.
func (r *ring) next(now uint32) (slot, tick uint32, ok bool) {
	for r.behind(now) {
		bucket := &r.buckets[r.done%ringBuckets]
		if p := *bucket; p != nil {
			p.n--
			item := p.items[p.n]
			if p.n == 0 {
				*bucket = p.next
				r.keep(p)
			}
			return item.slot, item.tick, true
		}
		r.done++
		if now-r.done > ringBuckets && now > r.done { // a long jump: one round reaches every item
			r.done = now - ringBuckets
		}
	}
	return 0, 0, false
}

// keep has an empty piece used again, unless streams have become few.
func (r *ring) keep(p *ringPiece) {
	r.used--
	p.next, r.spare = r.spare, p
	for r.spares++; r.spares > r.used+1; r.spares-- {
		r.spare = r.spare.next
	}
}

// turned reports whether a tick has gone by since it was last asked.
func (r *ring) turned() bool {
	turned := r.done != r.last
	r.last = r.done
	return turned
}
