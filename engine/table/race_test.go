package table

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"rollcall/internal/testseed"
)

// together runs n goroutines and waits for them.
func together(n int, run func(g int)) {
	var wg sync.WaitGroup
	for g := range n {
		wg.Go(func() { run(g) })
	}
	wg.Wait()
}

// rounds is how often a stress test repeats: less when it is one of many or runs under the race
// detector's weight.
func rounds(n int) int {
	if testing.Short() || !mapped {
		return n / 10
	}
	return n
}

// TestLookupsWhileTheIndexGrows: a device that is there is found at every moment of a growth (T1).
func TestLookupsWhileTheIndexGrows(t *testing.T) {
	for _, name := range []string{"keyed", "last"} {
		t.Run("hash="+name, func(t *testing.T) {
			devices := rounds(200_000)
			if name == "last" {
				devices = rounds(2000) // every probe passes them all
			}
			tab := New(Options{Shards: 2, Hash: hashes[name]})
			defer tab.Close()
			s, inserted := testseed.Of(t), atomic.Int64{}
			together(3, func(g int) {
				if g == 0 {
					for n := range devices {
						put(t, tab, user(n%10), device(n), 1, 1)
						inserted.Store(int64(n + 1))
					}
					return
				}
				rng := rand.New(rand.NewPCG(s, uint64(g)))
				for have := 0; have < devices; {
					have = int(inserted.Load())
					if have == 0 {
						runtime.Gosched()
						continue
					}
					n := have - 1 - rng.IntN(min(have, 100))
					if _, e := tab.Find(user(n%10), device(n)); e == nil ||
						!e.Is(user(n%10), device(n)) {
						t.Errorf("device %d of %d is missing", n, have)
						return
					}
				}
			})
			checkTable(t, tab)
		})
	}
}

func TestOneWinnerOfManyFirstSights(t *testing.T) {
	tab := New(Options{Shards: 1})
	defer tab.Close()
	devices, refs := rounds(5000), [4][]Ref{}
	together(len(refs), func(g int) {
		for n := range devices {
			r, e, err := tab.FindOrInsert(user(n%3), device(n))
			if err != nil || e != tab.Entry(r) {
				t.Error(err)
			}
			refs[g] = append(refs[g], r)
		}
	})
	for n := range devices {
		if refs[0][n] != refs[1][n] || refs[0][n] != refs[2][n] || refs[0][n] != refs[3][n] {
			t.Fatalf("device %d has slots %d, %d, %d, %d", n, refs[0][n], refs[1][n], refs[2][n],
				refs[3][n])
		}
	}
	checkTable(t, tab)
}

// checkTorn says whether s is a state that some commit of the device stored as a whole.
func checkTorn(d uuid.UUID, s State) error {
	if want := stateOf(d, s.Seq, s.LSN); s != *want {
		return fmt.Errorf("torn read of %v: %+v, want %+v", d, s, want)
	}
	return nil
}

// TestClaimsExclude lets goroutines accept seqs of one device, as heartbeats do, while others read
// (T2).
func TestClaimsExclude(t *testing.T) {
	tab := New(Options{})
	defer tab.Close()
	u, d := user(1), device(1)
	_, e := put(t, tab, u, d, 1, 1)
	last := uint64(1) // guarded by the claim, which the race detector checks
	var done atomic.Bool
	var readers sync.WaitGroup
	readers.Go(func() {
		for seq, lsn := uint64(0), uint64(0); !done.Load(); {
			now, _ := e.LastSeq()
			s, ok := e.Load()
			if err := checkTorn(d, s); !ok || err != nil || now < seq || s.Seq < now ||
				s.LSN < lsn || e.LSN() < s.LSN {
				t.Errorf("reader: LastSeq %d after %d, then %+v (%v, %v)", now, seq, s, ok, err)
				return
			}
			seq, lsn = s.Seq, s.LSN
		}
	})
	together(4, func(g int) {
		for n := range rounds(100_000) {
			if !e.Claim(u, d) {
				t.Error("Claim: false")
				return
			}
			held := e.Held()
			if held.LSN != last || held.Seq != last {
				t.Errorf("held %+v, want seq %d", held, last)
			}
			switch {
			case n%4 == 0:
				e.Unclaim()
				continue
			case n%64 == 1:
				runtime.Gosched() // an owner that is preempted
			}
			last++
			e.Commit(stateOf(d, last, last))
		}
	})
	done.Store(true)
	readers.Wait()
}

// TestNoTornReadWhenVersionComesRound commits with one seq, so that the head words of two commits
// 512 apart are equal, while a reader of every word is preempted as the scheduler likes. Only the
// LSN tells such commits apart (T3).
func TestNoTornReadWhenVersionComesRound(t *testing.T) {
	tab := New(Options{})
	defer tab.Close()
	u, d := user(1), device(1)
	_, e := put(t, tab, u, d, 7, 1)
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for !done.Load() {
				if s, _ := e.Load(); checkTorn(d, s) != nil {
					t.Error(checkTorn(d, s))
					return
				}
			}
		})
	}
	for lsn := uint64(2); lsn < uint64(rounds(1_000_000)); lsn++ {
		e.Claim(u, d)
		e.Commit(stateOf(d, 7, lsn))
	}
	done.Store(true)
	readers.Wait()
}

// TestRemovalAndReuse lets a few devices come and go in a few slots of one shard while others look
// at them. No goroutine ever sees a state under another device's ids, and the claim excludes by
// device whatever slot it is in.
func TestRemovalAndReuse(t *testing.T) {
	for _, name := range []string{"keyed", "constant", "last"} {
		t.Run("hash="+name, func(t *testing.T) {
			tab := New(Options{Shards: 1, Hash: hashes[name]})
			defer tab.Close()
			const users, devices = 3, 12
			var lsn atomic.Uint64
			var held [devices]int // guarded by the device's claim
			var done atomic.Bool
			s := testseed.Of(t)
			var readers sync.WaitGroup
			readers.Go(func() { readAll(t, tab, s, users, devices, &done) })
			readers.Go(func() { readUsers(t, tab, users, devices, &done) })
			together(3, func(g int) {
				rng := rand.New(rand.NewPCG(s, uint64(g)))
				for range rounds(60_000) {
					n := rng.IntN(devices)
					u, d := user(n%users), device(n)
					r, e, err := tab.FindOrInsert(u, d)
					if err != nil {
						t.Error(err)
						return
					}
					if !e.Claim(u, d) {
						continue // removed in between
					}
					held[n]++
					switch {
					case e.Held() != (State{}) && checkTorn(d, e.Held()) != nil:
						t.Error(checkTorn(d, e.Held()))
						return
					case rng.IntN(3) == 0:
						tab.Remove(r, e)
					default:
						next := lsn.Add(1)
						e.Commit(stateOf(d, next, next))
					}
				}
			})
			done.Store(true)
			readers.Wait()
			checkTable(t, tab)
		})
	}
}

// readAll looks devices up without a lock.
func readAll(t *testing.T, tab *Table, s uint64, users, devices int, done *atomic.Bool) {
	rng := rand.New(rand.NewPCG(s, 99))
	for !done.Load() {
		n := rng.IntN(devices)
		_, e := tab.Find(user(n%users), device(n))
		if e == nil {
			continue
		}
		u, d, state, ok := e.Read()
		if !ok {
			continue
		}
		if err := checkTorn(d, state); err != nil || u != user((int(d[15])-1)%users) {
			t.Errorf("slot of %v of %v: %v", d, u, err)
			return
		}
	}
}

// readUsers looks at users' devices: each at most once, none torn. A slot that was another device's
// by the time it was looked at is told by its ids.
func readUsers(t *testing.T, tab *Table, users, devices int, done *atomic.Bool) {
	var refs []Ref
	for n := 0; !done.Load(); n++ {
		want, seen := user(n%users), map[Ref]bool{}
		refs = tab.Devices(want, refs[:0])
		if len(refs) > devices {
			t.Errorf("%d devices of %v", len(refs), want)
			return
		}
		for _, r := range refs {
			_, d, state, ok := tab.Entry(r).Read()
			if seen[r] || ok && checkTorn(d, state) != nil {
				t.Errorf("devices of %v: %v, %+v, seen before: %v", want, d, state, seen[r])
				return
			}
			seen[r] = true
		}
		runtime.Gosched()
	}
}
