package wheel

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"rollcall/internal/testseed"
)

// filed is an item of the model.
type filed struct {
	tick uint64
	ref  uint32
}

// model is a wheel as a sorted list.
type model struct {
	now   uint64
	items []filed // ascending by tick
	refs  uint32
}

// harness drives a wheel and its model together.
type harness struct {
	t testing.TB
	w *Wheel
	m model
}

func newHarness(t testing.TB, now uint64) *harness {
	return &harness{t: t, w: New(now), m: model{now: now}}
}

func (h *harness) add(tick uint64) {
	h.m.refs++
	h.w.Add(h.m.refs, tick)
	h.insert(filed{tick: tick, ref: h.m.refs})
}

// addMany files n items for one tick; the model sorts once.
func (h *harness) addMany(n int, tick uint64) {
	for range n {
		h.m.refs++
		h.w.Add(h.m.refs, tick)
		h.m.items = append(h.m.items, filed{tick: tick, ref: h.m.refs})
	}
	slices.SortStableFunc(h.m.items, func(a, b filed) int { return int(int64(a.tick - b.tick)) })
}

func (h *harness) insert(f filed) {
	i, _ := slices.BinarySearchFunc(h.m.items, f,
		func(a, b filed) int { return int(int64(a.tick - b.tick)) })
	h.m.items = slices.Insert(h.m.items, i, f)
}

// advance goes to a tick in slices and checks that what fires is what the model holds for ticks
// up to it: whole, in order, none of them early, none late.
func (h *harness) advance(to uint64, limit int) {
	h.t.Helper()
	h.checkNext()
	var got []Item
	collect := func(items []Item) { got = append(got, items...) }
	for calls := 0; !h.w.Advance(to, limit, collect); calls++ {
		if calls > 1_000_000 {
			h.t.Fatal("Advance never ends")
		}
	}
	n, _ := slices.BinarySearchFunc(h.m.items, to+1,
		func(f filed, tick uint64) int { return int(int64(f.tick - tick)) })
	want := h.m.items[:n]
	h.m.items = h.m.items[n:]
	overdue := 0
	for overdue < len(want) && want[overdue].tick <= h.m.now {
		overdue++
	}
	h.m.now = max(h.m.now, to)
	h.checkRun(got, want, overdue)
	if h.w.Now() != h.m.now || h.w.Len() != len(h.m.items) {
		h.t.Fatalf("Now %d, Len %d; want %d, %d", h.w.Now(), h.w.Len(), h.m.now, len(h.m.items))
	}
	h.checkNext()
}

func (h *harness) checkRun(got []Item, want []filed, overdue int) {
	h.t.Helper()
	if len(got) != len(want) {
		h.t.Fatalf("at %d: %d items fired, want %d", h.m.now, len(got), len(want))
	}
	ticks := map[uint32]uint64{}
	for _, f := range want {
		ticks[f.ref] = f.tick
	}
	last := uint64(0)
	for i, item := range got {
		tick, there := ticks[item.Ref]
		if delete(ticks, item.Ref); !there || item.Tick != uint32(tick) {
			h.t.Fatalf("at %d: %+v fired, filed for %d (%v)", h.m.now, item, tick, there)
		}
		if i < overdue {
			continue // in no order, but before all others
		}
		if tick < last {
			h.t.Fatalf("at %d: tick %d fired after %d", h.m.now, tick, last)
		}
		last = tick
	}
}

// checkNext checks that Next is a lower bound, and none that has passed.
func (h *harness) checkNext() {
	h.t.Helper()
	next, ok := h.w.Next()
	if ok != (len(h.m.items) > 0) {
		h.t.Fatalf("Next: %v with %d items", ok, len(h.m.items))
	}
	if ok && (next > max(h.m.items[0].tick, h.m.now) || next < h.m.now) {
		h.t.Fatalf("Next: %d at %d, but an item is filed for %d", next, h.m.now, h.m.items[0].tick)
	}
}

// starts are ticks to begin from: all over the levels, and where 32 bits of tick come round.
func starts(rng *rand.Rand) []uint64 {
	all := []uint64{0, 1, 62, 63, 64, 4094, 4095, 4096, 1<<18 - 2, 1<<18 - 1, 1 << 18, 1<<32 - 2,
		1<<32 - 1, 1 << 32, 1<<32 - 1<<18}
	for range 20 {
		all = append(all, rng.Uint64N(1<<40))
	}
	return all
}

// TestWheelAgainstSortedList compares a wheel with a sorted list (H1), from all kinds of starts,
// with limits that stop in the middle of a cascade (H2).
func TestWheelAgainstSortedList(t *testing.T) {
	rng := testseed.Rand(t)
	for _, start := range starts(rng) {
		h := newHarness(t, start)
		for range 300 {
			for range rng.IntN(20) {
				h.add(h.w.Now() + distance(rng))
			}
			h.advance(h.w.Now()+rng.Uint64N(3)*distance(rng), 1+rng.IntN(5000))
		}
		h.advance(h.w.Now()+1<<25, 1<<30)
		if h.w.Len() != 0 {
			t.Fatalf("from %d: %d items never fired", start, h.w.Len())
		}
	}
}

// distance is a number of ticks, small and large ones equally likely, up to 2^24.
func distance(rng *rand.Rand) uint64 { return rng.Uint64N(1 << rng.IntN(25)) }

// TestEveryTickComesUpOnItsTick files one item for every tick of the first two levels and beyond
// and goes tick by tick (H1).
func TestEveryTickComesUpOnItsTick(t *testing.T) {
	for _, start := range []uint64{0, 63, 4000, 1<<18 - 100, 1<<32 - 5000} {
		w := New(start)
		for tick := start + 1; tick <= start+10_000; tick++ {
			w.Add(uint32(tick-start), tick)
		}
		for tick := start + 1; tick <= start+10_000; tick++ {
			var got []Item
			if !w.Advance(tick, 1<<30, func(items []Item) { got = append(got, items...) }) {
				t.Fatal("Advance without a limit stopped")
			}
			if len(got) != 1 || got[0] != (Item{Ref: uint32(tick - start), Tick: uint32(tick)}) {
				t.Fatalf("from %d: at tick %d fired %+v", start, tick, got)
			}
		}
	}
}

func TestOverdueComesUpAtTheNextAdvance(t *testing.T) {
	w := New(100)
	for _, tick := range []uint64{0, 99, 100} {
		w.Add(1, tick)
		if next, ok := w.Next(); !ok || next != 100 {
			t.Fatalf("Next: %d, %v", next, ok)
		}
		var got []Item
		if !w.Advance(100, 10, func(items []Item) { got = append(got, items...) }) ||
			len(got) != 1 || got[0].Tick != uint32(tick) {
			t.Fatalf("an item for tick %d: %+v", tick, got)
		}
	}
	if w.Now() != 100 {
		t.Errorf("Now: %d", w.Now())
	}
}

func TestTimeNeverGoesBack(t *testing.T) {
	w := New(100)
	if !w.Advance(50, 10, nil) || w.Now() != 100 {
		t.Errorf("Now: %d", w.Now())
	}
}

// TestNothingHappensBeforeNext goes from Next to Next: each time right before it nothing fires,
// and the number of steps shows that Next does not merely count ticks.
func TestNothingHappensBeforeNext(t *testing.T) {
	rng := testseed.Rand(t)
	for _, start := range starts(rng) {
		w := New(start)
		for ref := range uint32(20) {
			w.Add(ref, start+1+distance(rng))
		}
		steps := 0
		for ; w.Len() > 0; steps++ {
			next, _ := w.Next()
			w.Advance(next-1, 1<<30,
				func(items []Item) { t.Fatalf("at %d, before Next, fired %+v", w.Now(), items) })
			w.Advance(next, 1<<30, func([]Item) {})
		}
		// An item cascades at most twice, and beyond the levels' reach once more for every 63
		// buckets of the top level.
		if steps > 20*(3+1<<24/(63<<12)) {
			t.Errorf("from %d: %d steps for 20 items", start, steps)
		}
	}
}

// TestFireMayAdd re-files every item from within fire, for ticks before, at and after the one that
// is handed over.
func TestFireMayAdd(t *testing.T) {
	rng := testseed.Rand(t)
	w := New(1000)
	due := map[uint32]uint64{}
	const items, to = 2000, 60_000
	for ref := range uint32(items) {
		due[ref] = 1000 + distance(rng)
		w.Add(ref, due[ref])
	}
	fired, last := 0, uint64(0)
	for now := uint64(1000); now < to; {
		now += rng.Uint64N(300)
		for !w.Advance(now, 1+rng.IntN(1000), func(items []Item) {
			for _, item := range items {
				tick := due[item.Ref]
				if item.Tick != uint32(tick) || tick > now || (tick < last && tick > w.Now()) {
					t.Fatalf("at %d: %+v fired, filed for %d, after %d", now, item, tick, last)
				}
				last = max(last, tick)
				fired++
				due[item.Ref] = tick + rng.Uint64N(1<<rng.IntN(16)) - rng.Uint64N(3)
				w.Add(item.Ref, due[item.Ref])
			}
		}) {
		}
		for ref, tick := range due {
			if tick <= now {
				t.Fatalf("at %d: item %d for %d did not fire", now, ref, tick)
			}
		}
	}
	if w.Len() != items || fired < items {
		t.Errorf("%d items, %d fired", w.Len(), fired)
	}
}

// TestSlicesAreBounded lets a crowd fire at one tick, from the top level down, and a jump over
// many ticks: cascades stop in the middle and go on (H2).
func TestSlicesAreBounded(t *testing.T) {
	const crowd, limit = 50_000, 700
	h := newHarness(t, 5)
	h.addMany(crowd, 5+20_000)
	h.addMany(crowd, 5+20_001)
	for n := range uint64(crowd) {
		h.w.Add(uint32(n), 1_000_000+n%9999)
	}
	calls := 0
	for done := false; !done; calls++ {
		n := 0
		done = h.w.Advance(2_000_000, limit, func(items []Item) { n += len(items) })
		if n > limit+blockItems {
			t.Fatalf("a slice handed over %d items, the limit is %d", n, limit)
		}
	}
	if most := 3 * 3 * crowd / (limit - blockItems); calls < 3*crowd/(limit+blockItems) ||
		calls > most || h.w.Len() != 0 {
		t.Errorf("%d slices, %d items left", calls, h.w.Len())
	}
}

// TestFarItemsKeepTheirTick files beyond what the levels cover: never early, and the item still
// bears its tick (H4).
func TestFarItemsKeepTheirTick(t *testing.T) {
	for _, ahead := range []uint64{63 << 12, 63<<12 + 1, 1 << 18, 1<<18 + 1, 1 << 20, 1 << 24,
		Horizon} {
		w := New(777)
		w.Add(1, 777+ahead)
		var got []Item
		fire := func(items []Item) { got = append(got, items...) }
		if w.Advance(777+ahead-1, 1<<30, fire); len(got) != 0 {
			t.Fatalf("%d ahead fired early", ahead)
		}
		if w.Advance(777+ahead, 1<<30, fire); len(got) != 1 || got[0].Tick != uint32(777+ahead) {
			t.Fatalf("%d ahead: %+v", ahead, got)
		}
	}
}

func TestBeyondTheHorizonIsClipped(t *testing.T) {
	w := New(777)
	w.Add(1, 1<<63)
	n := 0
	w.Advance(777+Horizon, 1<<30, func(items []Item) {
		if n += len(items); items[0].Tick != uint32(777+Horizon&(1<<32-1)) {
			t.Errorf("%+v", items[0])
		}
	})
	if n != 1 {
		t.Errorf("%d items", n)
	}
}

// TestBurstDoesNotHoldMemory counts blocks, used and spare, after a crowd has come and gone (H5).
func TestBurstDoesNotHoldMemory(t *testing.T) {
	w := New(0)
	for n := range uint64(1_000_000) {
		w.Add(uint32(n), 1+n%3000)
	}
	if p := w.pool; p.inUse > 1_000_000/blockItems+levels*buckets+1 {
		t.Errorf("%d blocks for a million items", p.inUse)
	}
	for !w.Advance(3000, 10_000, func([]Item) {}) {
		if p := w.pool; p.frees > spareBlocks+p.inUse/2 {
			t.Fatalf("%d blocks are spare beside %d in use", p.frees, p.inUse)
		}
	}
	n := 0
	for b := w.pool.free; b != nil; b = b.next {
		n++
	}
	if p := w.pool; p.inUse != 0 || n != p.frees || n > spareBlocks {
		t.Errorf("an empty wheel: %d blocks in use, %d spare, counted as %d", p.inUse, n, p.frees)
	}
}

func TestRefilingDoesNotAllocate(t *testing.T) {
	w := New(0)
	for n := range uint32(10_000) {
		w.Add(n, uint64(1+n%1200))
	}
	refile := func(items []Item) {
		for _, item := range items {
			w.Add(item.Ref, w.Now()+1200)
		}
	}
	w.Advance(100_000, 1<<30, refile)
	if n := testing.AllocsPerRun(1000, func() { w.Advance(w.Now()+1, 1<<30, refile) }); n != 0 {
		t.Errorf("%v allocations per tick", n)
	}
}

// FuzzWheel reads a start and then commands: add, go on a little, jump.
func FuzzWheel(f *testing.F) {
	f.Add(uint64(0), []byte{0, 10, 0, 0, 70, 0, 1, 80, 0})
	f.Add(uint64(4095), []byte{0, 1, 0, 0, 0, 16, 2, 255, 0, 1, 1, 0})
	f.Add(uint64(1<<32-3), []byte{0, 9, 1, 0, 200, 255, 1, 64, 0, 2, 255, 255})
	f.Fuzz(func(t *testing.T, start uint64, commands []byte) {
		h := newHarness(t, start%(1<<48))
		for ; len(commands) >= 3 && h.m.refs < 3000; commands = commands[3:] {
			n := uint64(binary.LittleEndian.Uint16(commands[1:]))
			switch commands[0] % 4 {
			case 0:
				h.add(h.w.Now() + n)
			case 1:
				h.advance(h.w.Now()+n, 1+int(commands[0]))
			case 2:
				h.advance(h.w.Now()+n<<7, 1<<30)
			case 3:
				h.add(h.w.Now() - min(h.w.Now(), n&3) + n<<9)
			}
		}
		h.advance(h.w.Now()+1<<26, 1<<30)
		if h.w.Len() != 0 {
			t.Fatalf("%d items never fired", h.w.Len())
		}
	})
}
