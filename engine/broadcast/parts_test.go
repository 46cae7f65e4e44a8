package broadcast

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
)

func TestParcelForms(t *testing.T) {
	var p parcel
	for _, n := range []int{0, 1, 15, 16, 217, 1 << 20} {
		text := strings.Repeat("x", n)
		p.seal(append(p.begin(parcelKey{limit: n}), text...), 1, 7)
		if got, want := string(p.form(true)), string(appendChunk(nil, text, true)); got != want {
			t.Errorf("%d bytes in a chunk: %.20q, want %.20q", n, got, want)
		}
		if got := string(p.form(false)); got != text {
			t.Errorf("%d bytes plain: %.20q", n, got)
		}
	}
}

func TestFanSpan(t *testing.T) {
	f := &fan{}
	for _, lsn := range []uint64{3, 5, 9} {
		f.text = append(f.text, strings.Repeat(string(rune('0'+lsn)), 10)...)
		f.frames = append(f.frames, frame{lsn, len(f.text)})
	}
	check := func(after uint64, limit int, want string, through uint64) {
		t.Helper()
		if text, n, got := f.span(after, limit); string(text) != want || got != through || n != len(want)/10 {
			t.Errorf("above %d, %d bytes: %q, %d frames, through %d", after, limit, text, n, got)
		}
	}
	three, five, nine := strings.Repeat("3", 10), strings.Repeat("5", 10), strings.Repeat("9", 10)
	check(0, 30, three+five+nine, 9)
	check(2, 29, three+five, 5)
	check(3, 100, five+nine, 9)
	check(4, 1, five, 5)
	check(8, 10, nine, 9)
	f.cut(4)
	check(0, 100, five+nine, 9)
	f.cut(9)
	if len(f.frames) != 0 || len(f.text) != 0 {
		t.Error("frames are left after the last was cut")
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

// TestRingAgainstAMap: each item comes up at its tick, whatever the steps of time and the portions in which it is asked.
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
	w := &worker{epoch: 5 * second}
	for _, c := range []struct {
		nanos    int64
		in, upTo uint32
	}{
		{5 * second, 1, 1}, {5*second + 1, 1, 2}, {5*second + int64(tickTime), 2, 2},
		{0, 1, 1}, {1<<63 - 1, 1 << 31, 1 << 31},
	} {
		if in, up := w.tickOf(c.nanos), w.tickUp(c.nanos); in != c.in || up != c.upTo {
			t.Errorf("%d ns: in tick %d, up to tick %d, want %d and %d", c.nanos, in, up, c.in, c.upTo)
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
			t.Errorf("%v became worker %d, slot %d, reuse %d", c, id.worker(), id.slot(), id.reuse())
		}
	}
}

func TestBatchBound(t *testing.T) {
	var q, o batch
	const limit = 1000
	for lsn := range uint64(10) {
		o.add(uuid.UUID{}, lsn, make([]byte, 20), limit)
		q.take(&o, limit)
	}
	if len(q.events) != 10 || q.events[9].end != 200 || o.size() != 0 {
		t.Errorf("%d events, ends %+v", len(q.events), q.events)
	}
	for lsn := range uint64(30) {
		o.add(uuid.UUID{}, lsn, make([]byte, 20), limit)
	}
	if !o.lost || o.size() != 0 {
		t.Error("a batch above its bound still has events")
	}
	if q.take(&o, limit); !q.lost || q.size() != 0 || q.dropped != 40 || o.lost {
		t.Errorf("lost %v with %d bytes, %d events dropped, want 40", q.lost, q.size(), q.dropped)
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
