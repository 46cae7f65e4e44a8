package broadcast

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testseed"
)

func TestParcelForms(t *testing.T) {
	var p parcel
	for _, n := range []int{0, 1, 15, 16, 217, 1 << 20} {
		text := strings.Repeat("x", n)
		p.seal(append(p.begin(), text...), 1, 7)
		if got, want := string(p.form(true)), string(appendChunk(nil, text, true)); got != want {
			t.Errorf("%d bytes in a chunk: %.20q, want %.20q", n, got, want)
		}
		if got := string(p.form(false)); got != text {
			t.Errorf("%d bytes plain: %.20q", n, got)
		}
	}
}

func TestBacklogKeepsBytes(t *testing.T) {
	rng := testseed.Rand(t)
	b := &backlog{}
	var in, out []byte
	for i := range 1000 {
		p := make([]byte, rng.IntN(50))
		for k := range p {
			p[k] = byte(i)
		}
		in = append(in, p...)
		b.add(p)
		n := rng.IntN(min(b.left(), 60) + 1)
		out = append(out, b.bytes[b.sent:b.sent+n]...)
		b.sent += n
	}
	if out = append(out, b.bytes[b.sent:]...); string(in) != string(out) {
		t.Error("what went in did not come out")
	}
	if cap(b.bytes) > 8<<10 {
		t.Errorf("%d bytes of memory for %d", cap(b.bytes), b.left())
	}
}

// TestRingAgainstAMap: each item comes up at its tick, whatever the steps of time and the portions
// in which it is asked.
func TestRingAgainstAMap(t *testing.T) {
	rng := testseed.Rand(t)
	var r ring
	now := uint32(1)
	r.start(now)
	due := make(map[uint32]uint32)
	for slot := uint32(1); slot < 20000; slot++ {
		tick := r.clip(now + uint32(rng.IntN(300)))
		r.add(slot, tick)
		due[slot] = tick
		if rng.IntN(10) == 0 {
			now += uint32(rng.IntN(4))
			if rng.IntN(100) == 0 {
				now += uint32(rng.IntN(2000))
			}
		}
		for range rng.IntN(30) {
			slot, tick, ok := r.next(now)
			if !ok {
				for slot, tick := range due {
					if tick <= now {
						t.Fatalf("slot %d of tick %d has not come up at %d", slot, tick, now)
					}
				}
				break
			}
			if due[slot] != tick || tick > now {
				t.Fatalf("slot %d of tick %d came up as %d at %d", slot, due[slot], tick, now)
			}
			delete(due, slot)
		}
	}
}

func TestTicks(t *testing.T) {
	w := &clock{epoch: 5 * second}
	for _, c := range []struct {
		nanos    int64
		in, upTo uint32
	}{
		{5 * second, 1, 1}, {5*second + 1, 1, 2}, {5*second + int64(tickTime), 2, 2},
		{0, 1, 1}, {1<<63 - 1, 1 << 31, 1 << 31},
	} {
		if in, up := w.tickOf(c.nanos), w.tickUp(c.nanos); in != c.in || up != c.upTo {
			t.Errorf("%d ns: in tick %d, up to %d, want %d and %d", c.nanos, in, up, c.in, c.upTo)
		}
	}
	if n := ticksOf(time.Duration(1<<63 - 1)); n != 1<<31-1 {
		t.Errorf("the longest duration has %d ticks", n)
	}
}

func TestStreamIDParts(t *testing.T) {
	for _, c := range [][3]uint32{{0, 1, 0}, {255, 1<<28 - 1, 1<<28 - 1}, {7, 12345, 99}} {
		id := streamID(int(c[0]), c[1], c[2])
		if id.worker() != int(c[0]) || id.slot() != c[1] || id.reuse() != c[2] {
			t.Errorf("%v became %d, %d, %d", c, id.worker(), id.slot(), id.reuse())
		}
	}
}

func newQueue(sources int) *queue { return &queue{lost: newSourceSet(sources)} }

// stageOf is n events of a source, of 20 bytes each.
func stageOf(source Source, n, limit int) *stage {
	s := &stage{}
	for lsn := range uint64(n) {
		s.add(event{lsn: lsn, source: source}, bytes.Repeat([]byte{byte(source)}, 20), limit)
	}
	return s
}

// TestQueueBound (B6): above its bound a queue is empty and knows what it lost.
func TestQueueBound(t *testing.T) {
	const limit = 1000
	q := newQueue(1)
	for range 10 {
		o := stageOf(0, 1, limit)
		q.take(0, o, 0, limit)
		if o.size() != 0 {
			t.Errorf("a stage that was taken has %d bytes", o.size())
		}
	}
	if len(q.events) != 10 || q.events[9].end != 200 {
		t.Errorf("%d events, ends %+v", len(q.events), q.events)
	}
	o := stageOf(0, 30, limit)
	if !o.lost || o.size() != 0 {
		t.Error("a stage above its bound still has events")
	}
	q.take(0, o, 0, limit)
	if !q.lost.has(0) || !q.full || q.size() != 0 || q.dropped != 40 || o.lost {
		t.Errorf("lost %v with %d bytes, %d events dropped, want 40", q.lost, q.size(), q.dropped)
	}
	q.take(0, stageOf(0, 3, limit), 0, limit)
	if q.size() != 0 || q.dropped != 43 {
		t.Errorf("events behind the lost ones are kept: %d bytes, %d dropped", q.size(), q.dropped)
	}
}

// TestLoseDropsOneSource (B7): the other sources' events stay, with their bytes.
func TestLoseDropsOneSource(t *testing.T) {
	const limit = 1 << 20
	q := newQueue(3)
	for _, source := range []Source{1, 0, 2, 1, 1, 0, 2, 1} {
		q.take(source, stageOf(source, 3, limit), 0, limit)
	}
	o := stageOf(1, 5, limit)
	o.lose()
	q.take(1, o, 0, limit)
	if q.lost.len() != 1 || !q.lost.has(1) || q.full || q.dropped != 4*3+5 {
		t.Errorf("lost %b, full %v, dropped %d", q.lost, q.full, q.dropped)
	}
	start := uint32(0)
	for i, e := range q.events {
		text := string(q.bytes[start:e.end])
		if want := strings.Repeat(string(rune(e.source)), 20); e.source == 1 || text != want {
			t.Errorf("event %d is of source %d: %q", i, e.source, text)
		}
		start = e.end
	}
	if len(q.events) != 4*3 || int(start) != len(q.bytes) {
		t.Errorf("%d events in %d of %d bytes", len(q.events), start, len(q.bytes))
	}
}

// TestFullQueueLosesWhatIsInIt (B6, B7): the sources whose events were dropped are lost, and no
// other.
func TestFullQueueLosesWhatIsInIt(t *testing.T) {
	const limit = 1000
	q := newQueue(100)
	q.take(99, stageOf(99, 5, limit), 0, limit)
	q.take(3, stageOf(3, 5, limit), 0, limit)
	q.take(70, stageOf(70, 15, limit), 0, limit)
	if q.lost.len() != 3 || !q.lost.has(99) || !q.lost.has(3) || !q.lost.has(70) || !q.full {
		t.Errorf("lost %b, full %v", q.lost, q.full)
	}
	q.take(4, stageOf(4, 5, limit), 0, limit)
	if len(q.events) != 5 || q.dropped != 25 {
		t.Errorf("%d events are kept, %d dropped", len(q.events), q.dropped)
	}
}

func TestReasonNames(t *testing.T) {
	seen := make(map[string]bool)
	for r := range reasons {
		if name := r.String(); name == "" || seen[name] {
			t.Errorf("reason %d is called %q", r, name)
		} else {
			seen[name] = true
		}
	}
}
