package loadgen

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// never is an instant that does not come.
const never = math.MaxInt64

// turn is what the parts of a worker share: the options, the instant, the stage, timers and chance.
// Single owner: the worker's goroutine.
type turn struct {
	o      *Options
	run    *orders
	rng    *rand.Rand
	timers timers
	now    int64 // of the run's clock; read once a turn and again after each read
	stage  stage
	since  int64 // when the stage began
}

func (t *turn) readClock() { t.now = t.run.clock() }

func (t *turn) enter(s stage) { t.stage, t.since = s, t.now }

// after runs do when so many nanoseconds have passed.
func (t *turn) after(delay int64, do func()) { t.timers.add(t.now+delay, do) }

// backoff is 20 ms doubling to half a second, with a random half.
func (t *turn) backoff(tries int) int64 {
	most := min(int64(20*time.Millisecond)<<min(tries, 10), int64(500*time.Millisecond))
	return most/2 + t.rng.Int64N(most/2)
}

// sentAtMS is the instant as heartbeats carry it.
func (t *turn) sentAtMS() int64 { return t.run.sentMS + t.now/1e6 }

type stage int

const (
	connecting stage = iota // until startAt
	loading                 // the schedule runs
	draining                // answers that are still owed; the backlog goes out
	settling                // nothing is sent; frames that are still owed
	verifying               // every user's snapshot against what was acknowledged
	finished
)

var stageNames = [...]string{
	"connecting", "loading", "draining", "settling", "verifying", "finished",
}

// orders is what the run and its workers share. Each field says which of them writes it.
type orders struct {
	epoch   time.Time    // of the run's clock
	startAt atomic.Int64 // the run: when the schedule begins; 0: not yet
	stopAt  atomic.Int64 // the run: when the load ends
	connect atomic.Int32 // workers: how many have all their connections
	failure atomic.Pointer[error]
	seconds chan handover
	seqBase int64 // seq of heartbeat number 0
	sentMS  int64 // unix milliseconds of the epoch
}

func (r *orders) clock() int64 { return int64(time.Since(r.epoch)) }

// fail ends the run. The first error is the one that Run returns.
func (r *orders) fail(err error) { r.failure.CompareAndSwap(nil, &err) }

// seq is the wire's number of a device's n-th heartbeat.
func (r *orders) seq(n uint32) int64 { return r.seqBase + int64(n) }

// handover is a worker's tally since its last one.
type handover struct {
	worker  int
	at      int64
	tally   *tally
	streams int
	backlog int
	stage   stage
}
