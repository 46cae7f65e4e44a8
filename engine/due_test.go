package engine

import (
	"slices"
	"testing"

	"rollcall/engine/wheel"
	"rollcall/internal/testseed"
)

// TestDueListAgainstModel: what is due comes out in the order of its deadlines, all of it and
// nothing before its time, however adding and taking are mixed.
func TestDueListAgainstModel(t *testing.T) {
	rng := testseed.Rand(t)
	var l dueList
	var model []int64
	group := make([]dueItem, 0, GroupSize)
	for now := int64(0); now < 3000; now += rng.Int64N(4) {
		for range rng.IntN(60) {
			deadline := now + rng.Int64N(20)
			l.add(dueItem{deadline: deadline, item: wheel.Item{Ref: uint32(deadline)}})
			model = append(model, deadline)
		}
		slices.Sort(model)
		if first, ok := l.first(); ok != (len(model) > 0) || ok && first != model[0] {
			t.Fatalf("at %d the first is %d, %v, want %v", now, first, ok, model[:min(1, len(model))])
		}
		for range rng.IntN(3) {
			due := 0
			for due < min(len(model), GroupSize) && model[due] <= now {
				due++
			}
			got := l.take(now, group)
			for i, d := range got {
				if d.deadline != model[i] || d.item.Ref != uint32(d.deadline) {
					t.Fatalf("at %d item %d is %+v, want %d", now, i, d, model[i])
				}
			}
			if len(got) != due {
				t.Fatalf("at %d %d items, want %d", now, len(got), due)
			}
			model = model[due:]
		}
	}
}

// TestDueListsGiveUpMemory of a burst.
func TestDueListsGiveUpMemory(t *testing.T) {
	var due dueList
	var held heldList
	for i := range int64(2 * manyItems) {
		due.add(dueItem{deadline: i})
		held.add(heldItem{caughtUp: i})
	}
	group := make([]dueItem, 0, GroupSize)
	for want := int64(0); want < 2*manyItems; want += GroupSize {
		if n := len(due.take(2*manyItems, group)); n != GroupSize {
			t.Fatalf("%d due items of %d", n, GroupSize)
		}
		if first, ok := held.first(); !ok || first != want {
			t.Fatalf("the first that is held: %d, %v, want %d", first, ok, want)
		}
		held.take(2*manyItems, group)
	}
	if _, ok := held.first(); ok || due.items != nil || held.items != nil {
		t.Errorf("empty lists keep %d and %d places", cap(due.items), cap(held.items))
	}
}
