package conns

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestDeadlineIsSetSeldom: as long as the one that is set does, and never for a wait of another
// kind.
func TestDeadlineIsSetSeldom(t *testing.T) {
	began := time.Now()
	var d deadline
	rest := func(ms time.Duration) bool {
		return d.dueEarly(began.Add(ms*time.Millisecond), 100*time.Millisecond)
	}
	read := func(ms time.Duration) bool {
		d.asked = began.Add(ms * time.Millisecond)
		return d.due()
	}
	for n, step := range []struct {
		due  func(ms time.Duration) bool
		ms   time.Duration
		want bool
	}{
		{rest, 200, true}, {rest, 299, false}, {rest, 300, true}, {rest, 300, false},
		{rest, 299, true},
		{read, 300, true}, {read, 1299, false}, {read, 1300, true}, {read, 1300, false},
		{rest, 1300, true}, {rest, 1301, false}, {read, 1301, true}, {read, 1302, false},
	} {
		if got := step.due(step.ms); got != step.want {
			t.Errorf("step %d: due is %v", n, got)
		}
	}
}

// A stream's connection must not keep fasthttp's reader, nor ours; what it leaves behind is not
// closed twice.
func TestReleaseUnwraps(t *testing.T) {
	inner, _ := net.Pipe()
	own := &conn{Conn: inner, counts: &counts{}}
	if got, _, ok := Release(own, netip.Addr{}); got != inner || !ok {
		t.Errorf("Release returns %T", got)
	}
	if got := own.counts.open.Load(); got != -1 {
		t.Errorf("the connection is counted %d times", got+1)
	}
	if err := own.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Close of a released connection: %v", err)
	}
}
