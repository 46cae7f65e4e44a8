package engine

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"rollcall/engine/broadcast"
)

// TestDevicesOfSeveralEngines are bounded together.
func TestDevicesOfSeveralEngines(t *testing.T) {
	o := Options{DeviceBudget: NewDeviceBudget(2)}
	a, b := startRig(t, newMemLog(), o), startRig(t, newMemLog(), o)
	a.mustAccept(newHeartbeat(1, 60_000))
	b.mustAccept(newHeartbeat(1, 60_000))
	for _, r := range []*rig{a, b} {
		if res := r.Heartbeat(newHeartbeat(1, 60_000)); !errors.Is(res.Err, ErrTooManyDevices) {
			t.Errorf("a third device: %+v", res)
		}
	}
}

// TestOptionsAreCheckedTogether: every problem is reported at once.
func TestOptionsAreCheckedTogether(t *testing.T) {
	bad := Options{
		RecoveryGrace: -1, MaxWait: -1, MaxDevices: -1, ForgetAfter: -1, CheckpointBytes: -1,
		CheckpointEvery: -1, Shards: 3, Broadcast: broadcast.Options{Workers: -1},
		Logger: slog.New(slog.DiscardHandler),
	}
	err := bad.Check()
	if err == nil {
		t.Fatal("no problem")
	}
	for _, name := range []string{
		"RecoveryGrace", "MaxWait", "MaxDevices", "ForgetAfter", "CheckpointBytes",
		"CheckpointEvery",
		"Shards", "Workers",
	} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not among the problems:\n%v", name, err)
		}
	}
	if _, err := New(newMemLog(), bad); err == nil {
		t.Error("New takes them")
	}
	if err := (Options{}).Check(); err != nil {
		t.Error(err)
	}
}
