package forward

import (
	"rollcall/engine"
)

// Sink takes what came of heartbeats.
type Sink interface {
	// Told is called once for each heartbeat, from any goroutine, also from within Send. It must
	// not block, nor call the Forwarder. beat is valid during the call.
	Told(index int, r engine.Result, beat Beat)
}

// Beats are heartbeats for one node, in the order in which they are to be applied. Single owner.
// The zero value has none.
type Beats struct {
	text  []byte
	known []known
}

// known is what the sender knows of a heartbeat.
type known struct {
	sink  Sink // nil: it was told
	index int32
	at    uint32 // in the text
}

// Add adds a heartbeat of a partition, and keeps nothing of it. Of one with a Sender the device
// must not be a new one, see Beat.Asks: then the sink is told ErrTooManyNew.
func (b *Beats) Add(partition int, hb *engine.Heartbeat, sink Sink, index int) {
	b.note(sink, index)
	b.text = appendBeat(b.text, partition, hb)
}

// AddAdmitted adds a heartbeat that the sink was told of, whose device may be a new one now.
func (b *Beats) AddAdmitted(beat Beat, sink Sink, index int) {
	b.note(sink, index)
	at := len(b.text)
	b.text = append(b.text, beat...)
	b.text[at+2] &^= flagAsks
}

func (b *Beats) note(sink Sink, index int) {
	b.known = append(b.known, known{sink, int32(index), uint32(len(b.text))})
}

// Len is how many heartbeats there are.
func (b *Beats) Len() int { return len(b.known) }

// Refuse has the sinks told that there is no room.
func (b *Beats) Refuse() { b.refuse(0) }

func (b *Beats) refuse(from int) {
	for i := from; i < len(b.known); i++ {
		k := &b.known[i]
		k.sink.Told(int(k.index), noRoom, b.beat(i))
	}
}

// Reset forgets them.
func (b *Beats) Reset() {
	clear(b.known)
	b.text, b.known = b.text[:0], b.known[:0]
}

// take moves up to n heartbeats, from one on, to the end of dst.
func (b *Beats) take(dst *Beats, from, n int) {
	start, end := b.known[from].at, uint32(len(b.text))
	if from+n < len(b.known) {
		end = b.known[from+n].at
	}
	shift := uint32(len(dst.text)) - start
	dst.text = append(dst.text, b.text[start:end]...)
	for _, k := range b.known[from : from+n] {
		k.at += shift
		dst.known = append(dst.known, k)
	}
}

// beat returns the i-th heartbeat.
func (b *Beats) beat(i int) Beat {
	at := b.known[i].at
	return Beat(b.text[at : at+beatBytes+uint32(b.text[at+3])])
}
