package table

import "sync/atomic"

// Budget bounds the devices of several tables together. Any goroutine may use it. A nil Budget
// bounds nothing.
type Budget struct {
	limit int64
	used  atomic.Int64 // takes a place before a table takes a slot
}

// NewBudget returns a budget of so many devices.
func NewBudget(devices int) *Budget { return &Budget{limit: int64(devices)} }

// Left returns how many more devices there may be.
func (b *Budget) Left() int { return int(max(0, b.limit-b.used.Load())) }

// over returns how many more devices there are than there may be; negative: how many fewer.
func (b *Budget) over() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load() - b.limit
}

// take reserves a place; unless it is over the bound too, false when there is none.
func (b *Budget) take(over bool) bool {
	if b == nil {
		return true
	}
	if b.used.Add(1) > b.limit && !over {
		b.used.Add(-1)
		return false
	}
	return true
}

func (b *Budget) give(n int64) {
	if b != nil {
		b.used.Add(-n)
	}
}
