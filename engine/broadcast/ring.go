package broadcast

const (
	ringBuckets = 256 // 64 s
	ringHorizon = 240 // ticks that an item is filed ahead at most
)

// ring files streams by the tick at which they are due: a hashed timing wheel of one level
// (Varghese and Lauck 1987, https://doi.org/10.1145/41457.37504). Each stream has one valid item.
// The worker asks the ring as ticks go by; in between it costs nothing. Single owner: its worker.
type ring struct {
	done    uint32 // ticks before it are worked off
	last    uint32 // value of done when turned was last asked
	buckets [ringBuckets][]ringItem
	spare   []ringItem
}

type ringItem struct{ slot, tick uint32 }

func (r *ring) start(now uint32) { r.done, r.last = now+1, now+1 }

// clip is the nearest tick to due that an item can be filed at.
func (r *ring) clip(due uint32) uint32 { return min(max(due, r.done), r.done+ringHorizon) }

func (r *ring) add(slot, tick uint32) {
	bucket := &r.buckets[tick%ringBuckets]
	if *bucket == nil {
		*bucket, r.spare = r.spare, nil
	}
	*bucket = append(*bucket, ringItem{slot, tick})
}

// behind reports whether there are ticks to work off.
func (r *ring) behind(now uint32) bool { return r.done <= now }

// next takes an item that is due. An item that is filed for the bucket which is being worked off
// belongs to the same tick, since none is filed a whole round ahead.
func (r *ring) next(now uint32) (slot, tick uint32, ok bool) {
	for r.behind(now) {
		bucket := &r.buckets[r.done%ringBuckets]
		if n := len(*bucket); n > 0 {
			item := (*bucket)[n-1]
			*bucket = (*bucket)[:n-1]
			return item.slot, item.tick, true
		}
		if cap(*bucket) > cap(r.spare) {
			r.spare = (*bucket)[:0]
		}
		*bucket = nil
		r.done++
		if now-r.done > ringBuckets && now > r.done { // a long jump: one round reaches every item
			r.done = now - ringBuckets
		}
	}
	return 0, 0, false
}

// turned reports whether a tick has gone by since it was last asked.
func (r *ring) turned() bool {
	turned := r.done != r.last
	r.last = r.done
	return turned
}
