package server

import (
	"io"
	"math"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/server/conns"
)

const (
	// maxBodies is how many bodies of batches are read at a time: each has a window of 64 KiB, and
	// one that is packed as much again.
	maxBodies = 512
	// maxWindows is how many zstd bodies are unpacked at a time: each may have zstdWindowBytes.
	maxWindows = 8
	// leastRate is how fast a body has to come, on average and in bytes per second, when others
	// need its place, and bodyGrace is from when on. No byte for as long is too slow, too.
	leastRate = 64 << 10
	bodyGrace = 250 * time.Millisecond

	// windowWait is how often a body that needs a window looks for a slow one that has it, and
	// windowTries how many times.
	windowWait  = 50 * time.Millisecond
	windowTries = 20

	// kickAfter is how long a batch waits for bytes before it has what it applied committed.
	kickAfter = 5 * time.Millisecond
)

// places bounds the batches that are read, and paces those that are worked on. Any goroutine may
// use it.
//
//	take ► bytes come ► turn: unpack, split, decode, apply ► bytes come ► turn ► ... ► leave
//
// A batch has a place while its body is read, and a turn on a processor only between its bytes and
// its next wait, for more of them or for room in the log. One processor is left to everything else.
// Turns go in the order of asking. What was applied is committed at the end of the batch, or while
// its body keeps it waiting, since streams are to see it. A body that comes slowly loses its place
// when another batch needs one, so that bodies that do not come at all cost others nothing.
type places struct {
	limit   int
	grace   time.Duration
	turns   chan struct{} // holds one for each turn
	windows chan struct{} // holds one for each zstd body that is unpacked
	kick    func()        // has what was applied committed, and does not wait for it

	mu    sync.Mutex
	taken []*place // guarded by mu
}

func newPlaces(limit int, grace time.Duration, kick func()) *places {
	return &places{
		limit:   limit,
		grace:   grace,
		turns:   make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)),
		windows: make(chan struct{}, maxWindows),
		kick:    kick,
	}
}

// place is one batch's. Its methods but for those of places are for the goroutine of the batch.
type place struct {
	of    *places
	conn  net.Conn
	began time.Time
	index int // in taken; -1: not there, or lost; guarded by of.mu

	got     atomic.Int64 // bytes of the body
	waits   atomic.Int64 // for more of them, since when: nanoseconds from began, from 1 on; 0: not
	cut     atomic.Bool  // it was too slow; stored under of.mu
	unpacks atomic.Bool  // it has a window
	turn    bool         // it has a turn

	// late calls kickLate when a wait for bytes becomes long, perhaps just after it. pending is
	// whose kick that is; nil: the wait is over.
	late    *time.Timer
	pending atomic.Pointer[places]
}

// take gives p a place, that of the slowest body if none is free. False: all are taken by bodies
// that come fast enough.
func (s *places) take(p *place, conn net.Conn) bool {
	p.of, p.conn, p.began = s, conn, time.Now()
	if p.late == nil {
		p.late = time.AfterFunc(time.Hour, p.kickLate)
		p.late.Stop()
	}
	p.got.Store(0)
	p.waits.Store(0)
	p.cut.Store(false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.taken) >= s.limit {
		slow := s.cutSlowestLocked(p.began, false)
		if slow == nil {
			return false
		}
		s.removeLocked(slow)
	}
	p.index = len(s.taken)
	s.taken = append(s.taken, p)
	return true
}

// cutSlowestLocked ends the wait of the slowest body, of those with a window if need be. It returns
// nil if none is slow enough.
func (s *places) cutSlowestLocked(now time.Time, unpacks bool) (slowest *place) {
	least := float64(leastRate)
	for _, p := range s.taken {
		if p.cut.Load() || unpacks && !p.unpacks.Load() {
			continue
		}
		if pace := p.pace(now, s.grace); pace < least {
			slowest, least = p, pace
		}
	}
	if slowest != nil {
		slowest.cut.Store(true)
		conns.Interrupt(slowest.conn) // under mu: the connection is still this batch's
	}
	return slowest
}

// pace is how fast the body comes: bytes per second, or how long it has not come, negative.
func (p *place) pace(now time.Time, grace time.Duration) float64 {
	since, age := p.waits.Load(), now.Sub(p.began)
	if since == 0 || age < grace {
		return math.Inf(1)
	}
	if silent := age - time.Duration(since); silent >= grace {
		return -silent.Seconds()
	}
	return float64(p.got.Load()) / age.Seconds()
}

func (s *places) removeLocked(p *place) {
	last := len(s.taken) - 1
	s.taken[p.index] = s.taken[last]
	s.taken[p.index].index = p.index
	s.taken[last] = nil
	s.taken = s.taken[:last]
	p.index = -1
}

// count is how many places are taken.
func (s *places) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.taken)
}

// leave gives back place, turn and window. It reports whether the body was cut, so that its
// connection is of no more use.
func (p *place) leave() (cut bool) {
	p.endTurn()
	p.giveWindow()
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.index >= 0 {
		p.of.removeLocked(p)
	}
	p.conn = nil
	return p.cut.Load()
}

// takeTurn waits for a turn, unless the batch has it.
func (p *place) takeTurn() {
	if !p.turn {
		p.of.turns <- struct{}{}
		p.turn = true
	}
}

// endTurn gives the turn back, if the batch has one.
func (p *place) endTurn() {
	if p.turn {
		p.turn = false
		<-p.of.turns
	}
}

// takeWindow waits for a window, and for a while only.
func (p *place) takeWindow() bool {
	for range windowTries {
		select {
		case p.of.windows <- struct{}{}:
			p.unpacks.Store(true)
			return true
		default:
		}
		p.of.mu.Lock()
		p.of.cutSlowestLocked(time.Now(), true)
		p.of.mu.Unlock()
		retry := time.NewTimer(windowWait)
		select {
		case p.of.windows <- struct{}{}:
			retry.Stop()
			p.unpacks.Store(true)
			return true
		case <-retry.C:
		}
	}
	return false
}

func (p *place) giveWindow() {
	if p.unpacks.Swap(false) {
		<-p.of.windows
	}
}

// read reads from the body's connection, without a turn.
func (p *place) read(body io.Reader, dst []byte) (int, error) {
	had := p.turn
	p.endTurn()
	p.waits.Store(max(1, int64(time.Since(p.began))))
	p.pending.Store(p.of)
	p.late.Reset(kickAfter)
	n, err := body.Read(dst)
	p.late.Stop()
	p.pending.Store(nil)
	p.waits.Store(0)
	p.got.Add(int64(n))
	if had {
		p.takeTurn()
	}
	return n, err
}

// kickLate has the batch's heartbeats committed while it waits. The timer calls it: the place may
// be another batch's by then, and what it has applied is committed early.
func (p *place) kickLate() {
	if s := p.pending.Load(); s != nil {
		s.kick()
	}
}
