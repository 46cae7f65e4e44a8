package bench

import (
	"container/heap"
	"testing"
	"time"

	"github.com/RussellLuo/timingwheel"

	"rollcall/engine/wheel"
)

const (
	tick     = 10 * time.Millisecond
	interval = 4 * time.Second
	ttl      = 12 * time.Second
	// of timers that run on the real clock: none of them fires while it is measured
	forever = time.Hour
)

// deadlines puts off when a device expires.
type deadlines interface {
	// heartbeat puts the deadline of device n off.
	heartbeat(n int)
	close()
}

// BenchmarkWheel is what one heartbeat costs the structure that watches the
// deadlines. Each device sends every
// 4 s and lives for 12 s, so the lazy wheel files each device anew at every third heartbeat; its
// share of that is in the figure. The order of the devices jumps through memory. by=ceiling is the
// store of the new deadline alone.
func BenchmarkWheel(b *testing.B) {
	eachSize(b, func(b *testing.B, size int) {
		for _, s := range []struct {
			by   string
			make func(size int) deadlines
		}{
			{"rollcall", newLazyWheel},
			{"time.AfterFunc", newRuntimeTimers},
			{"container-heap", newDeadlineHeap},
			{"timingwheel", newTimingWheel},
			{"ceiling", func(size int) deadlines { return &storeOnly{deadlines: make([]int64, size)} }},
		} {
			b.Run("by="+s.by, func(b *testing.B) {
				before := heapBytes()
				d := s.make(size)
				held := heapBytes() - before
				collection := collectionCPU()
				next := 0
				b.Run("procs=1", func(b *testing.B) {
					b.ReportAllocs()
					b.ResetTimer()
					for range b.N {
						next = (next + stride) % size
						d.heartbeat(next)
					}
					b.ReportMetric(float64(held)/float64(size), "B/device")
					b.ReportMetric(float64(collection.Microseconds())/1000, "gc-ms")
				})
				d.close()
			})
		}
	})
}

// stride is odd and no multiple of 5, so that it visits each of 10^n devices before it visits one
// twice.
const stride = 6_180_339_887

// virtualClock moves by one interval in as many heartbeats as there are devices.
type virtualClock struct {
	nanos float64
	step  float64
}

func newVirtualClock(size int) virtualClock {
	return virtualClock{step: float64(interval) / float64(size)}
}

// lazyWheel is the wheel as the engine uses it: a heartbeat stores a deadline, and whatever comes
// up is filed again.
type lazyWheel struct {
	virtualClock
	wheel     *wheel.Wheel
	deadlines []int64
	refile    func([]wheel.Item)
}

func newLazyWheel(size int) deadlines {
	d := &lazyWheel{virtualClock: newVirtualClock(size), wheel: wheel.New(0),
		deadlines: make([]int64, size)}
	for n := range size {
		// Filed as if the devices had been sending all along.
		at := int64(ttl) * int64(n) / int64(size)
		d.deadlines[n] = at
		d.wheel.Add(uint32(n), 1+uint64(at)/uint64(tick))
	}
	d.refile = func(items []wheel.Item) {
		for _, item := range items {
			due := uint64(d.deadlines[item.Ref]) / uint64(tick)
			d.wheel.Add(item.Ref, max(due, d.wheel.Now()+1)+1)
		}
	}
	for n := range size { // one interval, so that every bucket and block is warm
		d.heartbeat(n * (stride % size) % size)
	}
	return d
}

func (d *lazyWheel) heartbeat(n int) {
	d.nanos += d.step
	d.deadlines[n] = int64(d.nanos) + int64(ttl)
	if now := uint64(d.nanos) / uint64(tick); now > d.wheel.Now() {
		d.wheel.Advance(now, 1<<30, d.refile)
	}
}

func (d *lazyWheel) close() {}

type runtimeTimers struct{ timers []*time.Timer }

func newRuntimeTimers(size int) deadlines {
	d := &runtimeTimers{make([]*time.Timer, size)}
	for n := range d.timers {
		d.timers[n] = time.AfterFunc(forever, func() {})
	}
	return d
}

func (d *runtimeTimers) heartbeat(n int) { d.timers[n].Reset(forever) }

func (d *runtimeTimers) close() {
	for _, t := range d.timers {
		t.Stop()
	}
}

// deadlineHeap is container/heap of the devices, which know where in it they are.
type deadlineHeap struct {
	virtualClock
	order []uint32 // heap of devices
	at    []uint32 // of a device in order
	due   []int64  // of a device
}

func newDeadlineHeap(size int) deadlines {
	d := &deadlineHeap{virtualClock: newVirtualClock(size)}
	for n := range size {
		d.order, d.at, d.due = append(d.order, uint32(n)), append(d.at, uint32(n)),
			append(d.due, int64(n))
	}
	for n := range size {
		d.heartbeat(n * (stride % size) % size)
	}
	return d
}

func (d *deadlineHeap) heartbeat(n int) {
	d.nanos += d.step
	d.due[n] = int64(d.nanos) + int64(ttl)
	heap.Fix(d, int(d.at[n]))
}

func (d *deadlineHeap) close() {}

func (d *deadlineHeap) Len() int           { return len(d.order) }
func (d *deadlineHeap) Less(i, j int) bool { return d.due[d.order[i]] < d.due[d.order[j]] }
func (d *deadlineHeap) Swap(i, j int) {
	d.order[i], d.order[j] = d.order[j], d.order[i]
	d.at[d.order[i]], d.at[d.order[j]] = uint32(i), uint32(j)
}
func (d *deadlineHeap) Push(any) { panic("not used") }
func (d *deadlineHeap) Pop() any { panic("not used") }

type timingWheel struct {
	wheel  *timingwheel.TimingWheel
	timers []*timingwheel.Timer
}

func newTimingWheel(size int) deadlines {
	d := &timingWheel{timingwheel.NewTimingWheel(tick, 64), make([]*timingwheel.Timer, size)}
	d.wheel.Start()
	for n := range d.timers {
		d.timers[n] = d.wheel.AfterFunc(forever, func() {})
	}
	return d
}

func (d *timingWheel) heartbeat(n int) {
	d.timers[n].Stop()
	d.timers[n] = d.wheel.AfterFunc(forever, func() {})
}

func (d *timingWheel) close() { d.wheel.Stop() }

type storeOnly struct{ deadlines []int64 }

func (d *storeOnly) heartbeat(n int) { d.deadlines[n] += int64(interval) }
func (d *storeOnly) close()          {}

// TestDeadlinesMove shows that the structures on virtual time do the work that is measured: nothing
// expires while every device sends.
func TestDeadlinesMove(t *testing.T) {
	const size = 1000
	w := newLazyWheel(size).(*lazyWheel)
	h := newDeadlineHeap(size).(*deadlineHeap)
	for op, next := 0, 0; op < 20*size; op++ {
		next = (next + stride) % size
		w.heartbeat(next)
		h.heartbeat(next)
	}
	if w.wheel.Len() != size {
		t.Errorf("the wheel holds %d items, want %d", w.wheel.Len(), size)
	}
	for _, at := range w.deadlines {
		if at <= int64(w.nanos) {
			t.Fatal("a deadline has passed, though every device sends")
		}
	}
	if first := h.due[h.order[0]]; first <= int64(h.nanos) ||
		first > int64(h.nanos)+int64(ttl)-int64(interval)+int64(tick) {
		t.Errorf("the first deadline is %v ahead", time.Duration(first-int64(h.nanos)))
	}
}
