package cluster

import (
	"testing"

	"rollcall/internal/testwait"
)

// TestHoldDoesNotWait: while a partition is resigned, and a long question still holds it, the
// partition is not this node's any more, and nothing waits to learn that.
func TestHoldDoesNotWait(t *testing.T) {
	s := newHoldings(holdingsConfig{count: 2})
	pt := &s.parts[1]
	pt.owned = &owned{partition: 1}
	o, release := s.hold(1)
	if o == nil || len(s.all()) != 1 {
		t.Fatal("the partition is this node's")
	}
	resigned := make(chan struct{})
	go func() {
		defer close(resigned)
		pt.mu.Lock()
		defer pt.mu.Unlock()
		pt.owned = nil
	}()
	testwait.Until(t, "the partition is being resigned", func() bool {
		if o, release := s.hold(1); o != nil {
			release()
			return false
		}
		return true
	})
	if len(s.all()) != 0 {
		t.Error("it is still named")
	}
	release()
	<-resigned
}
