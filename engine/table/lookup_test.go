package table

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
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

// TestFindDevicesIsDevicesOfEach: users with a ring, a roster and nothing, whatever the hash.
func TestFindDevicesIsDevicesOfEach(t *testing.T) {
	eachHash(t, Options{Shards: 4}, func(t *testing.T, tab *Table) {
		rng := testseed.Rand(t)
		for n := range 400 {
			put(t, tab, user(n%(1+n/20)), device(n), 1, 1)
		}
		for range 50 {
			us := make([]UserLookup, rng.IntN(40))
			for i := range us {
				us[i].User = user(rng.IntN(30))
			}
			all := tab.FindDevices(us, nil)
			n := 0
			for _, u := range us {
				if want := tab.Devices(u.User, nil); !slices.Equal(u.Devices, want) {
					t.Fatalf("refs %d, Devices says %d", u.Devices, want)
				}
				n += len(u.Devices)
			}
			if len(all) != n {
				t.Fatalf("%d refs of %d", len(all), n)
			}
		}
	})
}

// TestFindDevicesWhileDevicesComeAndGo: what FindDevices looks at without the mutex may be wrong,
// and misleads nothing: a device that stays is found, and one of another user is not.
func TestFindDevicesWhileDevicesComeAndGo(t *testing.T) {
	tab := New(Options{Shards: 2})
	defer tab.Close()
	const users = 8
	for n := range users {
		put(t, tab, user(n), device(n), 1, 1)
	}
	var done atomic.Int32
	s := testseed.Of(t)
	together(3, func(g int) {
		rng := rand.New(rand.NewPCG(s, uint64(g)))
		if g < 2 {
			defer done.Add(1)
			for i := range rounds(20_000) {
				// rings of more than rosterMin devices become rosters
				u, d := user(rng.IntN(users)), device(1000*(g+1)+rng.IntN(100))
				r, e := put(t, tab, u, d, 1, uint64(i)+1)
				if rng.IntN(3) > 0 && e.Claim(u, d) {
					tab.Remove(r, e)
				}
			}
			return
		}
		us := make([]UserLookup, users)
		var refs []Ref
		for done.Load() < 2 {
			for n := range us {
				us[n].User = user(n)
			}
			refs = tab.FindDevices(us, refs[:0])
			for n, u := range us {
				stays, _ := tab.Find(user(n), device(n))
				if !slices.Contains(u.Devices, stays) {
					t.Errorf("user %d: device %d is missing of %d", n, stays, u.Devices)
					return
				}
			}
		}
	})
	checkTable(t, tab)
}
