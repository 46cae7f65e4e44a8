package jslog

import "sync"

// maxMarks bounds the marks. With half as many the space of at most two messages more stays.
const maxMarks = 4096

// marks say where in the stream LSNs are, for messages that may still be there: so that a purge
// knows how far it may go. Any goroutine.
type marks struct {
	mu    sync.Mutex
	list  []mark // guarded by mu: ascending
	bytes int64  // guarded by mu: of all messages that were marked or left out
	gone  int64  // guarded by mu: of those that were purged
}

// mark says that all messages below seq have LSNs below first.
type mark struct {
	seq, first uint64
	before     int64 // bytes of the messages below seq
}

// add marks a message. Where there are too many marks every second one goes: a purge then takes
// less away than it might.
func (m *marks) add(seq, first uint64, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.list) == maxMarks {
		for i := range maxMarks / 2 {
			m.list[i] = m.list[2*i]
		}
		m.list = m.list[:maxMarks/2]
	}
	m.list = append(m.list, mark{seq, first, m.bytes})
	m.bytes += int64(bytes)
}

// below returns a sequence below which no message has an LSN of lsn or above, the highest that is
// known; 0: none is.
func (m *marks) below(lsn uint64) (seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.list {
		if k.first > lsn {
			break
		}
		seq = k.seq
	}
	return seq
}

// purged forgets the messages below seq.
func (m *marks) purged(seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := 0
	for i < len(m.list) && m.list[i].seq < seq {
		m.gone = m.list[i].before
		i++
	}
	if i < len(m.list) {
		m.gone = m.list[i].before
	}
	m.list = append(m.list[:0], m.list[i:]...)
}

// size is about how many bytes the messages have that are still there.
func (m *marks) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes - m.gone
}
