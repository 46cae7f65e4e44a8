package engine

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestSkewOfClocks (C8): an engine that takes a log over with a clock that is ahead, by as much as
// is allowed, takes no device offline before its TTL is over; and none is late by more than twice
// that.
func TestSkewOfClocks(t *testing.T) {
	const skew = 2 * time.Second
	for name, c := range map[string]struct {
		maxSkew time.Duration
		ahead   time.Duration // the second clock
		online  time.Duration // how long the device stays at least, after the heartbeat
		offline time.Duration // and at most
	}{
		"not allowed for": {0, skew, 27 * time.Second, 29 * time.Second},
		"ahead":           {skew, skew, 30*time.Second - time.Millisecond, 31 * time.Second},
		"the same":        {skew, 0, 30*time.Second - time.Millisecond, 33 * time.Second},
		"behind":          {skew, -skew, 30*time.Second - time.Millisecond, 35 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			log := newMemLog()
			first := newRig(t, log, Options{})
			if err := first.open(); err != nil {
				t.Fatal(err)
			}
			first.advance(time.Minute)
			hb := newHeartbeat(1, 30_000)
			hb.User = uuid.New()
			first.mustAccept(hb)
			first.shut()
			log.closed, log.done = false, make(chan struct{})

			second := newRig(t, log, Options{MaxSkew: c.maxSkew, RecoveryGrace: time.Second})
			const between = 10 * time.Second // from the heartbeat until the log is taken over
			second.now.Store(int64(time.Minute + between + c.ahead))
			if err := second.open(); err != nil {
				t.Fatal(err)
			}
			second.phase.Store(serving)
			defer second.shut()
			second.advance(c.online - between)
			second.wantStatus(hb, Online)
			second.advance(c.offline - c.online)
			second.wantStatus(hb, Offline)
		})
	}
}
