package wal

import (
	"sync"
	"sync/atomic"
	"time"
)

// stall watches the commit in flight from a goroutine of its own, since the one in the turn can
// hang in the kernel for as long as the disk does: a volume that is being snapshotted is frozen,
// and a write or a sync returns when it is thawed. After warnAfter it is logged. After stallAfter
// the log is stalled: waiters and new credits are refused with ErrStalled, so that no answer takes
// as long as the disk. When the commit ends its turn ends the stall, and all goes on by itself.
//
// What was appended before stays in the buffers and is committed then: after ErrStalled a record
// may be stored or not.
//
// Only time in which the watcher ran counts: a process, or a machine, that was paused finds its
// commit done, or in flight for a moment, whatever the clock says.
type stall struct {
	progress  *progress
	credits   *credits
	committer *committer
	dir       *directory

	warnAfter, stallAfter time.Duration
	period                time.Duration // between two looks

	count atomic.Uint64 // commits that were logged. Single writer: the watcher
	done  chan struct{} // closed when the watcher is gone
}

const (
	defaultWarnAfter  = time.Second
	defaultStallAfter = 2 * time.Second
	watchPeriod       = 250 * time.Millisecond
)

// watched is what the watcher knows of one commit. Single owner: the watcher.
type watched struct {
	turn   int64 // of committer.inFlight; 0: none is in flight
	seen   time.Duration
	logged bool
}

// watch runs from Start until ended is closed.
func (s *stall) watch(ended <-chan struct{}) {
	defer close(s.done)
	// The lines are written by another goroutine, since they may go to the very disk that hangs.
	lines := make(chan func(), 2)
	var writing sync.WaitGroup
	writing.Go(func() {
		for line := range lines {
			line()
		}
	})
	defer writing.Wait()
	defer close(lines)

	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
	var w watched
	for last := time.Now(); ; {
		select {
		case <-ended:
			s.look(&w, 0, lines)
			return
		case <-ticker.C:
		}
		now := time.Now()
		s.look(&w, min(now.Sub(last), 2*s.period), lines)
		last = now
	}
}

// look takes a look at the commit in flight, passed after the last one. It hands on the lines that
// are to be logged; one for which there is no room is dropped.
func (s *stall) look(w *watched, passed time.Duration, lines chan<- func()) {
	turn := s.committer.inFlight.Load()
	if turn != w.turn {
		if w.logged {
			lasted := time.Since(s.committer.epoch) - time.Duration(w.turn)
			s.log(lines, "the disk goes on: the commit has ended", "lasted", lasted)
		}
		*w = watched{turn: turn}
		return
	}
	if turn == 0 {
		return
	}
	w.seen += passed
	if w.seen > s.warnAfter && !w.logged {
		w.logged = true
		s.count.Add(1)
		s.log(lines, "the disk has not finished a commit; records are refused if it takes longer",
			"in_flight", s.committer.lasts())
	}
	if w.seen > s.stallAfter && !s.progress.stalled.Load() {
		s.begin(turn)
	}
}

func (s *stall) log(lines chan<- func(), text, name string, d time.Duration) {
	line := func() {
		s.dir.logger.Warn(text, "dir", s.dir.path, name, d.Round(time.Millisecond))
	}
	select {
	case lines <- line:
	default:
	}
}

// begin stalls the log, unless the turn has ended: either begin sees that inFlight is another, or
// end, which comes after that, sees that the log is stalled.
func (s *stall) begin(turn int64) {
	p := s.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.committer.inFlight.Load() != turn || p.end.Load() != nil {
		return
	}
	s.credits.refuse(biasStalled) // first: a waiter that is refused gets no credit either
	p.stalled.Store(true)
	s.credits.wake()
	p.freshLocked(p.waiting.Load().sealed)
}

// end lets waiters and credits in again, and has the commit loop commit what is in the buffers:
// those who appended it were told that the log is stalled, and may not ask again. The holder of
// turns calls it at the end of each turn, when inFlight is 0.
func (s *stall) end() {
	p := s.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stalled.Load() {
		return
	}
	p.stalled.Store(false)
	s.credits.allow(biasStalled)
	s.credits.wake()
	s.committer.want()
}
