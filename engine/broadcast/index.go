package broadcast

import "github.com/google/uuid"

// userIndex leads from users to what there is of each: N is its number or its address, of which the
// zero value is none. It is many small tables with open addressing and linear probing, so that the
// growth of one is short, and a user takes one or two cells. Single owner.
type userIndex[N comparable] struct {
	idOf   func(N) uuid.UUID
	users  int
	tables [indexTables]indexTable[N]
}

const indexTables = 256

type indexTable[N comparable] struct {
	cells []N // a power of two of them; the zero value: vacant
	used  int
}

// tableOf goes by bits of the hash that choose neither the worker nor the bucket of a filter.
func (x *userIndex[N]) tableOf(hash uint64) *indexTable[N] {
	return &x.tables[hash>>40%indexTables]
}

// homeOf is where a user's cell is, or the first of those before it: it goes by further bits.
func homeOf(hash uint64) uint64 { return hash >> 16 }

func (x *userIndex[N]) find(hash uint64, id uuid.UUID) (n N) {
	t := x.tableOf(hash)
	if len(t.cells) == 0 {
		return n
	}
	mask := uint64(len(t.cells) - 1)
	for i := homeOf(hash) & mask; ; i = (i + 1) & mask {
		var none N
		if n = t.cells[i]; n == none || x.idOf(n) == id {
			return n
		}
	}
}

// insert adds a user that is not there.
func (x *userIndex[N]) insert(hash uint64, n N) {
	t := x.tableOf(hash)
	if 4*(t.used+1) > 3*len(t.cells) {
		old := t.cells
		t.cells = make([]N, max(8, 2*len(old)))
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
	mask := uint64(len(t.cells) - 1)
	i := homeOf(hash) & mask
	var none N
	for t.cells[i] != none {
		i = (i + 1) & mask
	}
	t.cells[i] = n
}

// remove takes a user out, and moves those behind it that would not be found any more (Knuth, The
// Art of Computer Programming 3, 6.4, algorithm R).
func (x *userIndex[N]) remove(hash uint64, n N) {
	var none N
	t := x.tableOf(hash)
	mask := uint64(len(t.cells) - 1)
	hole := homeOf(hash) & mask
	for t.cells[hole] != n {
		hole = (hole + 1) & mask
	}
	x.users--
	if t.used--; t.used == 0 {
		t.cells = nil
		return
	}
	for i := (hole + 1) & mask; t.cells[i] != none; i = (i + 1) & mask {
		home := homeOf(hashOf(x.idOf(t.cells[i]))) & mask
		if (i-home)&mask >= (i-hole)&mask {
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
