package table

import (
	"testing"

	"rollcall/internal/testseed"
)

// TestFindAllIsFindOfEach: known, unknown and removed devices, whatever the hash.
func TestFindAllIsFindOfEach(t *testing.T) {
	eachHash(t, Options{Shards: 4}, func(t *testing.T, tab *Table) {
		rng := testseed.Rand(t)
		for n := range 200 {
			r, e, err := tab.FindOrInsert(user(n%20), device(n))
			if err != nil {
				t.Fatal(err)
			}
			if n%3 == 0 {
				if !e.Claim(user(n%20), device(n)) {
					t.Fatal("not claimed")
				}
				tab.Remove(r, e)
			}
		}
		for range 100 {
			ls := make([]Lookup, rng.IntN(40))
			for i := range ls {
				n := rng.IntN(250)
				ls[i] = Lookup{User: user(n % 20), Device: device(n)}
			}
			tab.FindAll(ls)
			for _, l := range ls {
				if r, e := tab.Find(l.User, l.Device); r != l.Ref || e != l.Entry {
					t.Fatalf("ref %d, Find says %d", l.Ref, r)
				}
			}
		}
	})
}
