package loadgen

import "container/heap"

// timers is a heap of things to do later.
type timers []timer

type timer struct {
	at int64
	do func()
}

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	(*t)[last] = timer{}
	*t = (*t)[:last]
	return x
}

func (t *timers) add(at int64, do func()) { heap.Push(t, timer{at, do}) }

func (t timers) next() int64 {
	if len(t) == 0 {
		return never
	}
	return t[0].at
}

func (t *timers) runDue(now int64) {
	for len(*t) > 0 && (*t)[0].at <= now {
		heap.Pop(t).(timer).do()
	}
}

// fifo is a growing ring.
type fifo[T any] struct {
	ring       []T
	head, size int
}

func (f *fifo[T]) len() int { return f.size }

func (f *fifo[T]) push(x T) {
	f.grow()
	f.ring[(f.head+f.size)&(len(f.ring)-1)] = x
	f.size++
}

// unshift puts x in front.
func (f *fifo[T]) unshift(x T) {
	f.grow()
	f.head = (f.head - 1) & (len(f.ring) - 1)
	f.ring[f.head] = x
	f.size++
}

func (f *fifo[T]) pop() T {
	var zero T
	x := f.ring[f.head]
	f.ring[f.head] = zero
	f.head = (f.head + 1) & (len(f.ring) - 1)
	f.size--
	return x
}

// at is the i-th oldest.
func (f *fifo[T]) at(i int) *T { return &f.ring[(f.head+i)&(len(f.ring)-1)] }

// front is the oldest; the fifo must not be empty.
func (f *fifo[T]) front() *T { return &f.ring[f.head] }

func (f *fifo[T]) grow() {
	if f.size < len(f.ring) {
		return
	}
	bigger := make([]T, max(8, 2*len(f.ring)))
	for i := range f.size {
		bigger[i] = f.ring[(f.head+i)&(len(f.ring)-1)]
	}
	f.ring, f.head = bigger, 0
}
