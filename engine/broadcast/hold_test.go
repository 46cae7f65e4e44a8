package broadcast

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestHeldStreamGetsItsHeadAtOnce, keepalives while it waits, and from Begin on what every other
// stream gets; what happened meanwhile is in its snapshot.
func TestHeldStreamGetsItsHeadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel()
		o := testOptions(m)
		o.Keepalive = time.Second
		b := mustNew(t, o)
		defer b.Close()
		b.Start(second)
		c, hold := newFakeConn(t), &Hold{UntilNanos: 11 * second}
		mustSubscribe(t, b, Subscription{
			User: userOf(1), Conn: c, Head: []byte(testHead), Chunked: true, Hold: hold,
		})
		m.change(userOf(1), 1)
		m.flushAll(b)
		synctest.Wait()
		if got := string(c.seen().received); got != testHead {
			t.Fatalf("a held stream has %q", got)
		}
		b.Tick(3 * second)
		synctest.Wait()
		if got := string(c.seen().received); !strings.Contains(got, ": keepalive") {
			t.Fatalf("after a silence it has %q", got)
		}
		b.Begin(hold)
		synctest.Wait()
		m.change(userOf(1), 1)
		m.flushAll(b)
		b.Tick(12 * second)
		synctest.Wait()
		if c.seen().fin {
			t.Error("a stream that has begun ends when its hold would have")
		}
		m.checkLast(t, userOf(1), readTold(t, []byte(strings.ReplaceAll(
			string(c.seen().received), "c\r\n: keepalive\n\r\n", "")), testHead, true))
	})
}

// TestHoldThatNoneBegins ends with the time to come back, its caller is told, and its user has room
// for another stream.
func TestHoldThatNoneBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel()
		o := testOptions(m)
		o.MaxStreamsPerUser = 1
		b := mustNew(t, o)
		defer b.Close()
		b.Start(second)
		ended := 0
		for round := range 3 {
			c := newFakeConn(t)
			hold := &Hold{UntilNanos: second * int64(3+4*round)}
			mustSubscribe(t, b, Subscription{
				User: userOf(1), Conn: c, Head: []byte(testHead), Chunked: true, Hold: hold,
				Done: func() { ended++ },
			})
			b.Tick(second * int64(4+4*round))
			synctest.Wait()
			if got := string(c.seen().received); !strings.Contains(got, "retry: ") || !c.seen().fin {
				t.Fatalf("it ends with %q", got)
			}
			b.Begin(hold) // too late: nothing happens
			c.hangUp()
			synctest.Wait()
			if ended != round+1 {
				t.Fatalf("%d streams of %d said that they have ended", ended, round+1)
			}
		}
	})
}

// TestShed ends what is open, and lets others in.
func TestShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel()
		b := mustNew(t, testOptions(m))
		defer b.Close()
		b.Start(second)
		open := subscribe(t, b, userOf(1))
		synctest.Wait()
		b.Shed(2 * time.Second)
		synctest.Wait()
		later := subscribe(t, b, userOf(1))
		for now := second; now <= 4*second; now += second / 4 {
			b.Tick(now)
			synctest.Wait()
		}
		if got := string(open.seen().received); !strings.Contains(got, "retry: ") || !open.seen().fin {
			t.Errorf("a stream that was shed has %q", got)
		}
		if later.seen().fin {
			t.Error("a stream that came later was shed, too")
		}
	})
}
