package table

import (
	"math"
	"testing"
	"unsafe"

	"rollcall/record"
)

// TestLayout fixes what docs and sizing count on. Change the constants with it, and the arithmetic
// of the cache lines in doc.go.
func TestLayout(t *testing.T) {
	var e Entry
	for name, c := range map[string]struct{ got, want uintptr }{
		"Entry":         {unsafe.Sizeof(e), entryBytes},
		"shard":         {unsafe.Sizeof(shard{}), 64},
		"user":          {unsafe.Offsetof(e.user), 0},
		"device":        {unsafe.Offsetof(e.device), 16},
		"head":          {unsafe.Offsetof(e.head), 32},
		"lsn":           {unsafe.Offsetof(e.lsn), 40},
		"deadline":      {unsafe.Offsetof(e.deadline), 48},
		"ttl":           {unsafe.Offsetof(e.ttl), 56},
		"sentAt":        {unsafe.Offsetof(e.sentAt), 64},
		"heartbeatAt":   {unsafe.Offsetof(e.heartbeatAt), 72},
		"updatedSource": {unsafe.Offsetof(e.updatedSource), 80},
		"armed":         {unsafe.Offsetof(e.armed), 88},
		"next":          {unsafe.Offsetof(e.next), 92},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
}

// TestExtentsAreAlignedToHugePages, behind the entries in small pages.
func TestExtentsAreAlignedToHugePages(t *testing.T) {
	for _, small := range []int{0, smallSlots} {
		c, err := newExtent(small)
		if err != nil {
			t.Fatal(err)
		}
		defer freeExtent(c, small)
		if unsafe.Sizeof(*c)%(2<<20) != 0 {
			t.Errorf("an extent has %d bytes, not a number of huge pages", unsafe.Sizeof(*c))
		}
		at := uintptr(unsafe.Pointer(&c[small]))
		if at%unsafe.Alignof(*c) != 0 || mapped && at%(2<<20) != 0 {
			t.Errorf("with %d entries in small pages, the others begin at %#x", small, at)
		}
		if first, last := &c[0], &c[extentSlots-1]; first.LSN() != 0 || last.LSN() != 0 {
			t.Error("a new extent is not zero")
		}
		c[0].lsn.Store(1)
		c[extentSlots-1].lsn.Store(1)
	}
}

// owned returns an entry of user 1, device 1 that the caller owns.
func owned() *Entry {
	e := new(Entry)
	e.acquire()
	u, d := user(1), device(1)
	e.own(wordsOf(&u), wordsOf(&d))
	e.acquire()
	return e
}

func TestCommittedStateComesBack(t *testing.T) {
	for name, s := range map[string]State{
		"smallest": {LSN: 1},
		"largest": {
			State: record.State{
				Seq: MaxInteger, SentAtMS: MaxInteger, HeartbeatAtMS: MaxInteger,
				UpdatedAtMS: maxUpdatedAt, TTLMS: MaxInteger, Online: true, Expired: true,
				SeenAtMS: maxUpdatedAt,
			},
			LSN: math.MaxUint64, DeadlineNanos: math.MaxInt64, Source: math.MaxUint32,
		},
		"online":    {State: record.State{Online: true}, LSN: 2},
		"expired":   {State: record.State{Expired: true, SeenAtMS: 1}, LSN: 3},
		"seen late": {State: record.State{SeenAtMS: maxUpdatedAt}, LSN: 3},
		"each own": {
			State: record.State{
				Seq: 1, SentAtMS: 2, HeartbeatAtMS: 3, UpdatedAtMS: 4, TTLMS: 5, Online: true,
				SeenAtMS: 4,
			},
			LSN: 6, DeadlineNanos: 7, Source: 8,
		},
		"each part of a source": {
			State: record.State{
				Seq: 1, SentAtMS: 2, HeartbeatAtMS: 3, UpdatedAtMS: 4, TTLMS: 5, SeenAtMS: 9,
			},
			LSN: 6, Source: 0x12345678,
		},
	} {
		e := owned()
		e.Commit(&s)
		if got, ok := e.Load(); !ok || got != s {
			t.Errorf("%s: got %+v, want %+v", name, got, s)
		}
		if seq, ok := e.LastSeq(); !ok || seq != s.Seq {
			t.Errorf("%s: LastSeq %d, %v", name, seq, ok)
		}
		deadline := s.DeadlineNanos
		if !s.Online {
			deadline = -1 - int64(s.SeenAtMS)
		}
		if e.LSN() != s.LSN || e.DeadlineNanos() != deadline {
			t.Errorf("%s: LSN %d, deadline %d", name, e.LSN(), e.DeadlineNanos())
		}
		u, d, got, ok := e.Read()
		if u != user(1) || d != device(1) || got != s || !ok {
			t.Errorf("%s: Read: %v %v %+v %v", name, u, d, got, ok)
		}
	}
}

func TestUpdatedAtSaturates(t *testing.T) {
	e := owned()
	e.Commit(&State{
		State: record.State{UpdatedAtMS: math.MaxUint64, SeenAtMS: math.MaxUint64},
		LSN:   1, Source: 3,
	})
	if s, _ := e.Load(); s.UpdatedAtMS != maxUpdatedAt || s.SeenAtMS != maxUpdatedAt ||
		s.Source != 3 {
		t.Errorf("%+v", s)
	}
}

func TestLastSeqHoldsWhileClaimed(t *testing.T) {
	e := owned()
	if _, ok := e.LastSeq(); ok {
		t.Error("a seq before the first")
	}
	e.Commit(&State{State: record.State{Seq: 41}, LSN: 1})
	e.Claim(user(1), device(1))
	if seq, ok := e.LastSeq(); seq != 41 || !ok {
		t.Errorf("LastSeq %d, %v while claimed", seq, ok)
	}
	e.Commit(&State{State: record.State{Seq: 42}, LSN: 2})
	if seq, _ := e.LastSeq(); seq != 42 {
		t.Errorf("LastSeq %d", seq)
	}
}

func TestVersionChangesWithEveryCommitAndNotWithUnclaim(t *testing.T) {
	e := owned()
	for lsn := range uint64(1100) {
		before := e.head.Load()
		e.Commit(&State{State: record.State{Seq: 7}, LSN: lsn + 1})
		if after := e.head.Load(); after == before || after&versionMask == before&versionMask {
			t.Fatalf("commit %d: head %x is followed by %x", lsn, before, after)
		}
		committed := e.head.Load()
		e.Claim(user(1), device(1))
		e.Unclaim()
		if e.head.Load() != committed {
			t.Fatal("an Unclaim changed head")
		}
		e.Claim(user(1), device(1))
	}
}

// TestPreemptedReaderStartsAgain lets as many commits go by between a reader's two looks at head as
// make version come round, with one seq, so that head is the same again (T3).
func TestPreemptedReaderStartsAgain(t *testing.T) {
	e := owned()
	e.Commit(&State{State: record.State{Seq: 7}, LSN: 1})
	g := e.glance()
	if !g.holds(e) {
		t.Fatal("nothing happened, but the reader starts again")
	}
	for lsn := range uint64(512) {
		e.Claim(user(1), device(1))
		if g.holds(e) {
			t.Fatalf("%d commits and a claim went by unnoticed", lsn)
		}
		e.Commit(&State{State: record.State{Seq: 7}, LSN: lsn + 2})
	}
	if e.head.Load() != g.head {
		t.Fatalf("head %x, want %x again", e.head.Load(), g.head)
	}
	if g.holds(e) {
		t.Error("512 commits went by unnoticed")
	}
}

// TestCommitThatKeepsItsLSNIsSeen changes a deadline only, as a restart does.
func TestCommitThatKeepsItsLSNIsSeen(t *testing.T) {
	e := owned()
	e.Commit(&State{State: record.State{Seq: 7}, LSN: 5, DeadlineNanos: 1})
	g := e.glance()
	e.Claim(user(1), device(1))
	e.Commit(&State{State: record.State{Seq: 7}, LSN: 5, DeadlineNanos: 2})
	if g.holds(e) {
		t.Error("the commit went by unnoticed")
	}
}

func TestMisuseIsABug(t *testing.T) {
	free := func() *Entry { e := owned(); e.Unclaim(); return e }
	old := func() *Entry { e := owned(); e.Commit(&State{LSN: 9}); e.acquire(); return e }
	for name, misuse := range map[string]func(){
		"commit without a claim":  func() { free().Commit(&State{LSN: 1}) },
		"unclaim without a claim": func() { free().Unclaim() },
		"commit without an LSN":   func() { owned().Commit(&State{}) },
		"commit of an older LSN":  func() { old().Commit(&State{LSN: 8}) },
		"commit of a seq too high": func() {
			owned().Commit(&State{State: record.State{Seq: MaxInteger + 1}, LSN: 1})
		},
		"commit of a TTL too high": func() {
			owned().Commit(&State{State: record.State{TTLMS: MaxInteger + 1}, LSN: 1})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			misuse()
		}()
	}
}
