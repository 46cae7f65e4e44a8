package table

import (
	"runtime"
	"testing"
	"unsafe"
	"weak"
)

// TestLargeIndexesShareBlocks: parts of a block follow each other and do not overlap, small indexes
// have memory of their own, and so has one that would fill a block.
func TestLargeIndexesShareBlocks(t *testing.T) {
	var b blocks
	if own := b.words(minBlockPart / 2); len(own) != minBlockPart/2 || b.rest != nil {
		t.Error("a small index made a block")
	}
	before := b.words(minBlockPart)
	for taken := minBlockPart; taken < blockWords; taken += minBlockPart {
		part := b.words(minBlockPart)
		if len(part) != minBlockPart || cap(part) != minBlockPart {
			t.Fatalf("%d words of %d", len(part), cap(part))
		}
		end := unsafe.Add(unsafe.Pointer(&before[0]), 8*minBlockPart)
		if end != unsafe.Pointer(&part[0]) {
			t.Fatal("a part does not follow the one before it")
		}
		before = part
	}
	if len(b.rest) != 0 {
		t.Errorf("%d words are left", len(b.rest))
	}
	if own := b.words(blockWords); len(own) != blockWords || len(b.rest) != 0 {
		t.Error("an index of the size of a block took part of one")
	}
}

// TestBlockLivesAsLongAsItsIndexes and no longer.
func TestBlockLivesAsLongAsItsIndexes(t *testing.T) {
	var b blocks
	first, second := b.words(minBlockPart), b.words(minBlockPart)
	block := weak.Make(&first[0])
	b = blocks{}
	first = nil
	runtime.GC()
	if block.Value() == nil {
		t.Error("the block went with the first of its indexes")
	}
	runtime.KeepAlive(&second[0])
	second = nil
	runtime.GC()
	if block.Value() != nil {
		t.Error("the block is still there without an index")
	}
}

// TestTableInBlocks: indexes that moved to blocks as the table grew lead to every device.
func TestTableInBlocks(t *testing.T) {
	const devices = 2 * minBlockPart
	tab := New(Options{Shards: 1})
	defer tab.Close()
	for n := range devices {
		if _, _, err := tab.FindOrInsert(user(n), device(n)); err != nil {
			t.Fatal(err)
		}
	}
	if tab.blocks.rest == nil {
		t.Error("the indexes are in no block")
	}
	found := 0
	for n := range devices {
		if _, e := tab.Find(user(n), device(n)); e != nil && e.Is(user(n), device(n)) {
			found++
		}
	}
	if found != devices || tab.Len() != devices || tab.Users() != devices {
		t.Errorf("%d devices are found, of %d", found, devices)
	}
}
