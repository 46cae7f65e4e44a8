package engine

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/google/uuid"
)

// allDevices is everything that Devices shows of a user.
func allDevices(e interface {
	Devices(user, after uuid.UUID, limit int) ([]Device, bool, error)
}, user uuid.UUID) ([]Device, error) {
	all, _, err := e.Devices(user, uuid.Nil, math.MaxInt-1)
	return all, err
}

// TestPagesOfDevices: whatever their size, the pages of a user's devices are all of them in order,
// each once, and the last one says that it is.
func TestPagesOfDevices(t *testing.T) {
	const devices = 700
	r := startRig(t, newMemLog(), Options{})
	user := uuid.New()
	var want []uuid.UUID
	for range devices {
		hb := newHeartbeat(1, 60_000)
		hb.User = user
		r.mustAccept(hb)
		r.mustAccept(newHeartbeat(1, 60_000)) // another user's
		want = append(want, hb.Device)
	}
	slices.SortFunc(want, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	for _, limit := range []int{1, 7, 100, devices - 1, devices, devices + 1} {
		var got []uuid.UUID
		var after uuid.UUID
		for more := true; more; {
			var page []Device
			var err error
			if page, more, err = r.Devices(user, after, limit); err != nil {
				t.Fatal(err)
			}
			if len(page) > limit || more && len(page) < limit {
				t.Fatalf("a page of %d has %d devices, more: %v", limit, len(page), more)
			}
			for _, d := range page {
				got = append(got, d.Device)
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d have %d devices, or not in order, of %d", limit, len(got), devices)
		}
	}
}
