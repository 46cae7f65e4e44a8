package broadcast

// journal keeps the events of followed users for the list streams that are owed them, in the order
// of their LSNs, and the text of their frames, which is made once. Entries have numbers that count
// up; those before first are gone. Single owner: the worker.
type journal struct {
	codec   Codec
	limit   int // of bytes
	first   uint32
	entries []entry
	bytes   []byte
}

// entry is an event, with its texts by form.
type entry struct {
	lsn   uint64
	event span
	texts [frameForms]span
}

// span is a piece of the journal's bytes; end 0: not made.
type span struct{ start, end uint32 }

// frameForm is one of the texts that an event may have.
type frameForm uint8

const (
	formDevice  frameForm = iota // of the device
	formUser                     // of the user's aggregate
	formLingers                  // the same, but online where it says offline
	frameForms
)

const entryBytes = 40 // of an entry, in the journal's size

func (j *journal) size() int { return len(j.bytes) + entryBytes*len(j.entries) }

// add appends an event and returns its number.
func (j *journal) add(lsn uint64, event []byte) uint32 {
	if j.size() > j.limit {
		j.drop(len(j.entries)/2 + 1)
	}
	start := uint32(len(j.bytes))
	j.bytes = append(j.bytes, event...)
	j.entries = append(j.entries, entry{lsn: lsn, event: span{start, uint32(len(j.bytes))}})
	return j.first + uint32(len(j.entries)) - 1
}

// has reports whether an entry is still there.
func (j *journal) has(number uint32) bool { return number-j.first < uint32(len(j.entries)) }

func (j *journal) at(number uint32) *entry { return &j.entries[number-j.first] }

// event is the event of an entry. It is valid until the next text.
func (j *journal) event(e *entry) []byte { return j.bytes[e.event.start:e.event.end] }

// text is the text of an event in a form, without its id line. It is valid until the next text.
func (j *journal) text(e *entry, form frameForm) []byte {
	s := &e.texts[form]
	if s.end == 0 {
		s.start = uint32(len(j.bytes))
		event := j.event(e)
		if form == formDevice {
			j.bytes = append(j.bytes, presenceLine...)
			j.bytes = j.codec.AppendFrame(j.bytes, event)
		} else {
			j.bytes = append(j.bytes, userLine...)
			j.bytes = j.codec.AppendUserFrame(j.bytes, event, form == formLingers)
		}
		s.end = uint32(len(j.bytes))
	}
	return j.bytes[s.start:s.end]
}

// drop forgets the first entries: a stream that is owed one of them gets the newest states instead.
func (j *journal) drop(n int) {
	j.first += uint32(n)
	j.entries = j.entries[:copy(j.entries, j.entries[n:])]
	// Texts lie in no order: those that stay are made again.
	kept := make([]byte, 0, cap(j.bytes))
	for i := range j.entries {
		e := &j.entries[i]
		start := uint32(len(kept))
		kept = append(kept, j.event(e)...)
		*e = entry{lsn: e.lsn, event: span{start, uint32(len(kept))}}
	}
	j.bytes = kept
}

// clear forgets all entries. Numbers go on.
func (j *journal) clear() {
	j.first += uint32(len(j.entries))
	j.entries, j.bytes = j.entries[:0], j.bytes[:0]
}

// trim gives the memory of a rare peak back.
func (j *journal) trim() {
	if len(j.entries) == 0 && j.capacity() > keepBytes {
		j.entries, j.bytes = nil, nil
	}
}

func (j *journal) capacity() int { return cap(j.bytes) + entryBytes*cap(j.entries) }

// debts are the entries of the journal that list streams are owed: a queue for each stream, in one
// piece of memory. Single owner: the worker.
type debts struct {
	nodes slab[debt]
	limit int
}

// debt is an entry that a stream is owed, and its follow of the entry's user.
type debt struct{ number, follow, next uint32 }

// debtQueue is one stream's.
type debtQueue struct{ first, last, count uint32 }

// debtShares is the part of all debts that one stream may have: one that is in a catch-up for very
// long takes no room from the others.
const debtShares = 1024

func (q *debtQueue) empty() bool { return q.first == 0 }

// push appends an entry's number; false: there is no room.
func (d *debts) push(q *debtQueue, number, follow uint32) bool {
	if d.nodes.inUse() >= d.limit || q.count >= max(1, uint32(d.limit/debtShares)) {
		return false
	}
	q.count++
	n := d.nodes.take()
	*d.nodes.at(n) = debt{number: number, follow: follow}
	if q.first == 0 {
		q.first = n
	} else {
		d.nodes.at(q.last).next = n
	}
	q.last = n
	return true
}

// peek is the first debt. The queue must not be empty.
func (d *debts) peek(q *debtQueue) *debt { return d.nodes.at(q.first) }

// pop takes the first entry out.
func (d *debts) pop(q *debtQueue) {
	n := q.first
	q.first = d.nodes.at(n).next
	q.count--
	d.nodes.give(n)
}

func (d *debts) clear(q *debtQueue) {
	for !q.empty() {
		d.pop(q)
	}
}

// trim gives the memory of a rare peak back.
func (d *debts) trim() {
	if d.nodes.inUse() == 0 && len(d.nodes.pages) > 4 {
		d.nodes = slab[debt]{}
	}
}
