package watch

import (
	"runtime"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// requestsPerNode bounds what waits of one node. More is dropped: the node asks again.
const requestsPerNode = 256

// request is a WATCH or an UNWATCH.
type request struct {
	unwatch  bool
	question uint64
	users    userList
}

// requests are what waits for the goroutine of a hub, which lives while there is something to do.
// Any goroutine.
type requests struct {
	mu         sync.Mutex
	byNode     map[string][]request
	vouch      bool // a vouch is due
	vouchNanos int64
	serving    bool // the goroutine runs
	closed     bool
	running    sync.WaitGroup
}

// Receive takes a message of HubSubject that is for this partition. It never blocks, and keeps the
// message. An error says that it cannot be read.
func (h *Hub) Receive(from string, data []byte) error {
	head, rest, err := cutHead(data)
	if err != nil {
		return err
	}
	var r request
	switch head.kind {
	case kindWatch:
		r.question, r.users, err = cutWatch(rest)
	case kindUnwatch:
		r.unwatch = true
		r.users, err = cutUsers(rest)
	default:
		err = errMessage
	}
	if err != nil || head.epoch != h.o.Epoch {
		return err
	}
	h.requests.add(h, from, r)
	return nil
}

func (q *requests) add(h *Hub, from string, r request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.byNode[from]); n < requestsPerNode && (n > 0 || len(q.byNode) < maxNodes) {
		q.byNode[from] = append(q.byNode[from], r)
		q.wake(h)
	}
}

// tick has the goroutine vouch when that is due.
func (q *requests) tick(h *Hub, nowNanos int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if nowNanos-q.vouchNanos >= vouchNanos {
		q.vouchNanos = nowNanos
		q.vouch = true
		q.wake(h)
	}
}

// wake starts the goroutine. The caller holds mu.
func (q *requests) wake(h *Hub) {
	if q.closed || q.serving {
		return
	}
	q.serving = true
	if h.spawn != nil {
		h.spawn(h.serve)
		return
	}
	q.running.Go(h.serve)
}

// take is what the goroutine is to do; false: nothing, and it is over.
func (q *requests) take() (byNode map[string][]request, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.byNode) == 0 && !q.vouch {
		q.serving = false
		return nil, false
	}
	q.vouch = false
	byNode, q.byNode = q.byNode, make(map[string][]request)
	return byNode, true
}

func (q *requests) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// serve answers what waits: one vouch for all of it, which begins after it came (C5), and then the
// nodes by turns. A WATCH that nothing vouches for is not answered: its node asks again, or finds
// the new owner.
func (h *Hub) serve() {
	for {
		byNode, ok := h.requests.take()
		if !ok {
			return
		}
		through, watched := h.look()
		if len(byNode) == 0 && !watched {
			continue
		}
		if err := h.o.Vouch(through); err != nil {
			continue
		}
		for len(byNode) > 0 {
			for node, waiting := range byNode {
				h.answer(node, waiting[0])
				if byNode[node] = waiting[1:]; len(waiting) == 1 {
					delete(byNode, node)
				}
			}
		}
	}
}

// look forgets nodes that are gone, and says what there is to vouch for.
func (h *Hub) look() (through uint64, watched bool) {
	peers := h.o.Bus.Peers()
	now := h.o.Clock.Nanos()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, s := range h.nodes {
		switch {
		case s.gone || s.node == h.o.Bus.Self() || slices.Contains(peers, s.node):
			s.absentNanos = 0
		case s.absentNanos == 0:
			s.absentNanos = now
		case now-s.absentNanos >= goneNanos:
			h.forget(i)
		}
	}
	return h.through, len(h.users) > 0
}

// forget takes a node out of the sets of all users. The caller holds mu, which is free now and
// then: commits wait for a part of the users. Only the hub's goroutine changes sets, so none is
// missed.
func (h *Hub) forget(at int) {
	bit := uint64(1) << at
	n := 0
	for user, set := range h.users {
		if set == bit {
			delete(h.users, user)
		} else if set&bit != 0 {
			h.users[user] = set &^ bit
		}
		if n++; n%usersPerWatch == 0 {
			h.mu.Unlock()
			runtime.Gosched()
			if h.mu.Lock(); h.users == nil {
				return // it was closed meanwhile
			}
		}
	}
	h.nodes[at].gone = true
	h.skip(h.nodes[at])
	h.watched.Store(int64(len(h.users)))
}

// answer does one request, a chunk at a time: commits wait for a chunk, not for a request. A WATCH
// of no user is answered, too: its edge wants to know that it was vouched for.
func (h *Hub) answer(node string, r request) {
	if !r.unwatch && r.users.len() == 0 {
		h.tell(node, r.question, r.users)
	}
	for r.users.len() > 0 {
		var n int
		switch {
		case r.unwatch:
			n = h.unwatch(node, r.users)
		case h.isMany(r.users.at(0)):
			n = h.tellMany(node, r.question, r.users.at(0))
		default:
			n = h.tell(node, r.question, r.users)
		}
		if n == 0 {
			return
		}
		r.users = r.users.from(n)
	}
}

// unwatch takes a node out of the sets of some users, and returns of how many.
func (h *Hub) unwatch(node string, users userList) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, s := h.find(node)
	if s == nil {
		return 0
	}
	for n < min(users.len(), partsPerSnapshot) {
		user := users.at(n)
		if set := h.users[user] &^ (1 << at); set == 0 {
			delete(h.users, user)
		} else {
			h.users[user] = set
		}
		n++
	}
	h.watched.Store(int64(len(h.users)))
	return n
}

// tell registers a node for some users and sends it their states: one step for each (E2). It
// returns of how many, which are those before the next one with many devices; 0: no more can be
// told.
func (h *Hub) tell(node string, question uint64, users userList) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.seat(node)
	if !ok {
		return 0
	}
	s := h.nodes[at]
	message := h.begin(kindSnapshot, 0)
	for n < min(users.len(), partsPerSnapshot) && len(message) < h.chunk {
		user := users.at(n)
		if n > 0 && h.table.DeviceCount(user) > h.many {
			break
		}
		if !h.register(at, user) {
			n = users.len()
			break
		}
		message = h.state(s, question, message, user)
		n++
	}
	h.watched.Store(int64(len(h.users)))
	h.send(s, message, h.through, question)
	return n
}

// seat is place, of a hub that can answer. The caller holds mu.
func (h *Hub) seat(node string) (at int, ok bool) {
	if h.table == nil {
		return 0, false
	}
	at, err := h.place(node)
	if err != nil {
		h.o.Logger.Error("a node cannot watch", "node", node, "error", err)
	}
	return at, err == nil
}

// register puts a node into the set of a user; false: there are too many users. The caller holds
// mu.
func (h *Hub) register(at int, user uuid.UUID) bool {
	set, known := h.users[user]
	if !known && len(h.users) >= h.o.MaxUsers {
		h.tooMany()
		return false
	}
	h.users[user] = set | 1<<at
	return true
}

// state appends the parts of a user, and sends what became too long.
func (h *Hub) state(s *sink, question uint64, message []byte, user uuid.UUID) []byte {
	states, newer, told := h.table.AppendStates(h.scratch[:0], user, h.through)
	p := part{user: user, told: told, until: newer}
	for rest := states; ; p.flags |= flagRest {
		p.states, rest = cutChunk(rest, h.chunk)
		if p.flags &^= flagMore; len(rest) > 0 {
			p.flags |= flagMore
		}
		long := p.flags&flagRest != 0 || len(message)+len(p.states) > 2*h.chunk
		if long && len(message) > numberedBytes {
			h.send(s, message, h.through, question)
			message = h.begin(kindSnapshot, len(p.states))
		}
		message = appendPart(message, &p)
		if len(rest) == 0 {
			break
		}
	}
	if h.scratch = states[:0]; cap(states) > 4*chunkBytes {
		h.scratch = nil
	}
	return message
}

// cutChunk cuts states in two, the first of which is not much longer than a chunk.
func cutChunk(states []byte, most int) (chunk, rest []byte) {
	if len(states) <= most {
		return states, nil
	}
	at := 0
	for at < most {
		at += 2 + int(states[at]) + int(states[at+1])<<8
	}
	return states[:at], states[at:]
}

func (h *Hub) tooMany() {
	if h.full.Take() {
		h.o.Logger.Warn("more users of a partition are watched than may be: streams of others "+
			"wait and end", "partition", h.o.Partition, "max_users", h.o.MaxUsers)
	}
}
