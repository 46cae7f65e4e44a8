package forward

import (
	"sync"
)

// Receiver applies what was forwarded to the partitions of this node. Any goroutine may call take,
// which does not block.
type Receiver struct {
	of      *Forwarder
	owned   Owned
	inboxes []inbox // by partition

	mu    sync.Mutex // before that of an inbox
	ends  []int      // of the spots of a message, by partition. guarded by mu
	spots []uint32   // scratch: where the heartbeats of a message are. guarded by mu
}

// incoming is a message.
type incoming struct {
	from            string
	session, number uint64
	text            []byte
}

// piece is the heartbeats of a message that are of one partition.
type piece struct {
	*incoming
	spots []spot
}

// spot is where a heartbeat is.
type spot struct {
	at    uint32 // in the text
	place uint16 // among the heartbeats of the message
}

func newReceiver(f *Forwarder, partitions int, owned Owned) *Receiver {
	r := &Receiver{
		of: f, owned: owned, inboxes: make([]inbox, partitions), ends: make([]int, partitions),
	}
	for p := range r.inboxes {
		r.inboxes[p].of, r.inboxes[p].partition = r, p
	}
	return r
}

// take takes a message of a node apart, for the inboxes of its partitions. It keeps text.
func (r *Receiver) take(from string, text []byte) {
	h, err := readHead(text)
	if err != nil {
		r.of.figures.unread.Inc()
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.scan(text, h.count) {
		r.of.figures.unread.Inc()
		return
	}
	m := &incoming{from: from, session: h.session, number: h.number, text: text}
	for p, spots := range r.sorted(text) {
		r.inboxes[p].put(piece{m, spots})
	}
}

// scan finds the heartbeats of a message; false: it cannot be read.
func (r *Receiver) scan(text []byte, count int) bool {
	r.spots = r.spots[:0]
	at := headBytes
	for range count {
		b, err := beatAt(text[at:])
		if err != nil || b.partition() >= len(r.inboxes) {
			return false
		}
		r.spots = append(r.spots, uint32(at))
		at += len(b)
	}
	return at == len(text)
}

// sorted yields the heartbeats of a message by partition, each one's in their order.
func (r *Receiver) sorted(text []byte) func(yield func(p int, spots []spot) bool) {
	return func(yield func(int, []spot) bool) {
		clear(r.ends)
		for _, at := range r.spots {
			r.ends[Beat(text[at:]).partition()]++
		}
		sum := 0
		for p, n := range r.ends { // counts become places
			r.ends[p] = sum
			sum += n
		}
		all := make([]spot, len(r.spots))
		for place, at := range r.spots {
			p := Beat(text[at:]).partition()
			all[r.ends[p]] = spot{at, uint16(place)}
			r.ends[p]++
		}
		begin := 0
		for p, end := range r.ends {
			if end > begin && !yield(p, all[begin:end:end]) {
				return
			}
			begin = end
		}
	}
}
