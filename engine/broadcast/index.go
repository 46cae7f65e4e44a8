package broadcast

import "github.com/google/uuid"

// userIndex leads from users to what there is of each: N is its number or its address, of which the
// zero value is none. It is many small tables with open addressing and linear probing, so that the
// growth of one is short, and a user takes three cells of two on average. Single owner.
type userIndex[N comparable] struct {
	idOf   func(N) uuid.UUID
	users  int
	tables [indexTables]indexTable[N]
}

const indexTables = 256

type indexTable[N comparable] struct {
	cells []N // the zero value: vacant
	used  int
}

// tableOf goes by bits of the hash that choose neither the worker nor the bucket of a filter.
func (x *userIndex[N]) tableOf(hash uint64) *indexTable[N] {
	return &x.tables[hash>>40%indexTables]
}

// home is the cell of a user where it is free: by further bits of the hash, which are scaled to the
// number of cells (Lemire, "Fast random integer generation in an interval", 2019,
// https://doi.org/10.1145/3230636).
func (t *indexTable[N]) home(hash uint64) int {
	return int(hash >> 16 & (1<<24 - 1) * uint64(len(t.cells)) >> 24)
}

// after is the cell behind another.
func (t *indexTable[N]) after(i int) int {
	if i++; i < len(t.cells) {
		return i
	}
	return 0
}

// from is how far a cell is behind another.
func (t *indexTable[N]) from(i, behind int) int {
	if d := behind - i; d >= 0 {
		return d
	}
	return behind - i + len(t.cells)
}

func (x *userIndex[N]) find(hash uint64, id uuid.UUID) (n N) {
	t := x.tableOf(hash)
	if len(t.cells) == 0 {
		return n
	}
	for i := t.home(hash); ; i = t.after(i) {
		var none N
		if n = t.cells[i]; n == none || x.idOf(n) == id {
			return n
		}
	}
}

// insert adds a user that is not there.
func (x *userIndex[N]) insert(hash uint64, n N) {
	t := x.tableOf(hash)
	if 5*(t.used+1) > 4*len(t.cells) {
		old := t.cells
		t.cells = make([]N, max(8, len(old)+len(old)/2))
		var none N
		for _, n := range old {
			if n != none {
				t.put(hashOf(x.idOf(n)), n)
			}
		}
	}
	t.put(hash, n)
	t.used++
	x.users++
}

func (t *indexTable[N]) put(hash uint64, n N) {
	i := t.home(hash)
	var none N
	for t.cells[i] != none {
		i = t.after(i)
	}
	t.cells[i] = n
}

// remove takes a user out, and moves those behind it that would not be found any more (Knuth, The
// Art of Computer Programming 3, 6.4, algorithm R).
func (x *userIndex[N]) remove(hash uint64, n N) {
	var none N
	t := x.tableOf(hash)
	hole := t.home(hash)
	for t.cells[hole] != n {
		hole = t.after(hole)
	}
	x.users--
	if t.used--; t.used == 0 {
		t.cells = nil
		return
	}
	for i := t.after(hole); t.cells[i] != none; i = t.after(i) {
		home := t.home(hashOf(x.idOf(t.cells[i])))
		if t.from(home, i) >= t.from(hole, i) {
			t.cells[hole] = t.cells[i]
			hole = i
		}
	}
	t.cells[hole] = none
}

// all calls yield for each user. It must not change the index.
func (x *userIndex[N]) all(yield func(N) bool) {
	var none N
	for i := range x.tables {
		for _, n := range x.tables[i].cells {
			if n != none && !yield(n) {
				return
			}
		}
	}
}
