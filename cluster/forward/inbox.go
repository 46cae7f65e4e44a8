package forward

import (
	"sync"

	"rollcall/engine"
)

// maxChunk is how many heartbeats, or a message more, an inbox applies before their commit is asked
// for.
const maxChunk = 1024

// inbox is what waits for one partition of this node. Two goroutines, which are there only while
// there is something to do, work it off: one applies in the order of arrival (F2), the other waits
// for commits, in the same order, and answers. Any goroutine may call put.
//
//	put ► queue ► apply ► settling ► settle ► answers
type inbox struct {
	of        *Receiver
	partition int

	mu       sync.Mutex
	queue    []piece  // guarded by mu
	settling []*chunk // guarded by mu
	beats    int      // in both. guarded by mu
	applies  bool     // a goroutine is in apply. guarded by mu
	settles  bool     // a goroutine is in settle. guarded by mu
}

// chunk is heartbeats that are applied and committed together.
type chunk struct {
	pieces  []piece
	beats   int
	owned   bool // else the partition is not this node's
	batch   engine.ResultBatch
	release func()
	results []engine.Result
}

// put takes a piece, and never blocks: what is too much is refused.
func (x *inbox) put(p piece) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.beats+len(p.spots) > x.of.of.o.MaxInbox {
		go x.of.refuse(p)
		return
	}
	x.queue = append(x.queue, p)
	x.beats += len(p.spots)
	if !x.applies {
		x.applies = true
		go x.apply()
	}
}

// apply applies what comes, until there is nothing.
func (x *inbox) apply() {
	for {
		c := x.next()
		if c == nil {
			return
		}
		c.apply(x)
		x.mu.Lock()
		x.settling = append(x.settling, c)
		if !x.settles {
			x.settles = true
			go x.settle()
		}
		x.mu.Unlock()
	}
}

// next takes what has come together; nil: nothing, and the applying goroutine ends.
func (x *inbox) next() *chunk {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.queue) == 0 {
		x.applies = false
		return nil
	}
	c := new(chunk)
	n := 0
	for ; n < len(x.queue) && c.beats < maxChunk; n++ {
		c.beats += len(x.queue[n].spots)
	}
	c.pieces = x.queue[:n:n]
	if x.queue = x.queue[n:]; len(x.queue) == 0 {
		x.queue = nil
	}
	return c
}

// apply applies a chunk and has it committed.
func (c *chunk) apply(x *inbox) {
	e, release, ok := x.of.owned(x.partition)
	if !ok {
		return
	}
	c.owned, c.release, c.batch = true, release, e.NewResultBatch()
	c.results = make([]engine.Result, c.beats)
	g := groups.Get().(*group)
	defer groups.Put(g)
	at, n := 0, 0
	for _, p := range c.pieces {
		for _, s := range p.spots {
			b, _ := beatAt(p.text[s.at:]) // take has read it
			b.fill(&g[n])
			g[n].Index = at + n
			if n++; n == len(g) {
				c.batch.Apply(g[:n], c.results[at:at+n])
				at, n = at+n, 0
			}
		}
	}
	c.batch.Apply(g[:n], c.results[at:at+n])
	e.Kick()
}

type group [engine.GroupSize]engine.Heartbeat

var groups = sync.Pool{New: func() any { return new(group) }}

// settle waits for the commits of what was applied and answers, until there is nothing.
func (x *inbox) settle() {
	for {
		x.mu.Lock()
		if len(x.settling) == 0 {
			x.settles, x.settling = false, nil
			x.mu.Unlock()
			return
		}
		c := x.settling[0]
		x.settling[0] = nil
		x.settling = x.settling[1:]
		x.mu.Unlock()
		c.settle()
		x.mu.Lock()
		x.beats -= c.beats
		x.mu.Unlock()
		x.of.answer(c)
	}
}

// settle waits until the results of a chunk may be told (I2), or makes them Unavailable.
func (c *chunk) settle() {
	if !c.owned {
		return
	}
	if err := c.batch.Settle(); err != nil {
		for i := range c.results {
			if r := &c.results[i]; r.Outcome != engine.Unavailable {
				*r = failed(err)
			}
		}
	}
	c.batch.Release()
	c.release()
}

// answer answers a chunk, all of it that is one node's in one message.
func (r *Receiver) answer(c *chunk) {
	var a answers
	at := 0
	for _, p := range c.pieces {
		a.part(p)
		for _, s := range p.spots {
			if !c.owned {
				a.add(s.place, codeNotMine, 0)
				continue
			}
			result := &c.results[at]
			a.add(s.place, codeOf(result), result.LastSeq)
			at++
		}
	}
	a.send(r.of)
}

// refuse answers a piece that the inbox has no room for.
func (r *Receiver) refuse(p piece) {
	var a answers
	a.part(p)
	for _, s := range p.spots {
		a.add(s.place, codeNoRoom, 0)
	}
	a.send(r.of)
}

// answers gathers answers, by the process that gets them. Single owner.
type answers struct {
	texts []answerText
	to    *answerText
}

type answerText struct {
	node    string
	session uint64
	text    []byte
}

// part begins the answers to a piece, which follow.
func (a *answers) part(p piece) {
	a.to = nil
	for i := range a.texts {
		if t := &a.texts[i]; t.session == p.session && t.node == p.from {
			a.to = t
		}
	}
	if a.to == nil {
		text := make([]byte, 0, answerHead+2*partHead+answerBytes*len(p.spots))
		a.texts = append(a.texts, answerText{p.from, p.session, beginAnswers(text, p.session)})
		a.to = &a.texts[len(a.texts)-1]
	}
	a.to.text = appendPart(a.to.text, p.number, len(p.spots))
}

func (a *answers) add(place uint16, c code, lastSeq uint64) {
	a.to.text = appendAnswer(a.to.text, place, c, lastSeq)
}

func (a *answers) send(f *Forwarder) {
	for _, t := range a.texts {
		f.reply(t.node, t.text)
	}
}
