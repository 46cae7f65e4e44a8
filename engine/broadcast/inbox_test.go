package broadcast

import (
	"sync"
	"testing"
)

// newTestInbox is an inbox of a worker with one stream.
func newTestInbox(sources int) (*inbox, *mail) {
	in, m, slots := &inbox{}, &mail{}, &slots{}
	in.init(&Options{Sources: sources}, slots, &users{})
	m.init(sources)
	slots.init(&in.mu)
	in.streams = 1
	return in, m
}

// TestEventsComeWithTheirThrough (B1): whenever the worker looks, what it has taken of a source
// goes exactly as far as its through of this source.
func TestEventsComeWithTheirThrough(t *testing.T) {
	const sources, batches, each = 3, 2000, 3
	in, m := newTestInbox(sources)
	var commitLoops sync.WaitGroup
	for source := range Source(sources) {
		commitLoops.Go(func() {
			var s stage
			for lsn := uint64(1); lsn <= batches*each; lsn++ {
				s.add(event{lsn: lsn, source: source}, []byte("x"), 1<<20)
				if lsn%each == 0 {
					in.flush(source, &s, lsn, 0, 1<<20)
				}
			}
		})
	}
	var taken [sources]uint64
	for taken != [sources]uint64{batches * each, batches * each, batches * each} {
		in.take(m, Stats{}, false)
		for _, e := range m.queue.events {
			if e.lsn != taken[e.source]+1 {
				t.Fatalf("event %d of source %d follows %d", e.lsn, e.source, taken[e.source])
			}
			taken[e.source] = e.lsn
		}
		for source, through := range m.through {
			if through != taken[source] {
				t.Fatalf("source %d: through %d, events %d", source, through, taken[source])
			}
		}
	}
	commitLoops.Wait()
}
