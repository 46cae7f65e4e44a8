package watch

import "testing"

// TestManyDevicesHoldNoLock: a commit loop does not wait while the states of a user with many
// devices are read, and what it commits meanwhile is in them (E2).
func TestManyDevicesHoldNoLock(t *testing.T) {
	const devices = 20
	for _, few := range []int{0, 1 << 20} {
		w, _, n := calm(t, 1)
		o, user := w.parts[0].owner, userOf(0, 0)
		for device := range byte(devices) {
			o.beat(user, device)
		}
		o.hub.many, o.hub.few = devices/2, few
		besides := byte(0)
		o.beside = func() {
			besides++
			o.beat(user, 5)
			o.beat(user, 15)
			o.beat(user, 100+besides)
		}
		s := n.subscribe(user)
		n.edge.ask()
		w.run()
		if besides != devices {
			t.Errorf("%d of %d devices were read without the lock", besides, devices)
		}
		has := o.user(user).devices
		if !s.begun || len(s.told) != len(has) {
			t.Errorf("a stream was told of %d of %d devices", len(s.told), len(has))
		}
		for device, c := range has {
			if got := s.told[deviceKey{user, device}].seq; got != c.lsn {
				t.Errorf("device %v is told seq %d, not %d", device, got, c.lsn)
			}
		}
	}
}
