package engine

import "time"

const (
	// punctualNanos is how late the expire loop may wake without a doubt that the process ran. The
	// runtime's timers round up to a millisecond, and on a busy machine a goroutine waits for its
	// turn on a processor: with 2 ms a tenth of the expiries were 20 ms late there, with 5 ms 9 ms.
	// A stop that is shorter does not show, and devices whose heartbeats come in the last few
	// milliseconds of their TTLs are at the mercy of the scheduler anyway.
	punctualNanos = int64(5 * time.Millisecond)
	// shortSleepNanos: shorter sleeps are not divided.
	shortSleepNanos = int64(4 * time.Millisecond)
	// slowCommitNanos: a daemon whose heartbeat waits for a commit that is shorter has time enough
	// to send the next one, unless its TTL is well under 200 ms.
	slowCommitNanos = int64(50 * time.Millisecond)
	// turnNanos is what a late wake counts as listened: the process had a turn on a processor, and
	// schedulers do not give much less than a millisecond. It is also the shortest step.
	turnNanos = int64(time.Millisecond)
	// itemNanos is what the loop takes for an item, at most, unless the process is stopped.
	itemNanos = int64(5 * time.Microsecond)
	// stepNanos is how long the loop sleeps at most while it watches that the process listens: what
	// a starved process gets of the processor shows only in sleeps that are shorter.
	stepNanos = int64(5 * time.Millisecond)
)

// listening measures how long the process has listened to its sockets, as far as the expire loop
// can see it (I8). A process that was stopped, or starved, sees nothing of it but that the loop
// wakes late; meanwhile heartbeats lie in the sockets, and no TTL may end before they were read:
//
//	devices            process                       expire loop
//	                                                 looks, means to look again at W
//	beat, in time      stopped
//	                   runs again, reads it: when?   looks, later than W: how long was it?
//
// The pause can have been as long as the gap since the last look, no longer. So what was sent
// before a late look counts as read when the process has listened for as long again as the gap
// (stallNanos at most): a server that keeps up reads faster than its devices send. Gaps do not add
// up. Time that was itself in a gap counts for turnNanos, however pauses follow each other: where
// the loop is late at every wake, since processors are taken all the time, what is due waits for as
// many wakes as the gap has milliseconds, and not for as long as that lasts.
//
// A slow commit is a gap, too: a daemon with one connection sends its next heartbeat when it has
// the answer to the last. What waits for the end of an earlier gap waits no longer for it: the
// process listens while it commits.
//
// A pause that begins and ends within one sleep is not seen. halfway bounds it: the loop sleeps for
// half of the time to the next deadline at most, so that the process has listened for as long again
// when that has come. For the same reason a long sleep counts for no more than a short one, and the
// loop sleeps shortly for as long before a deadline as there is left to be caught up with.
//
// Single owner: the expire loop.
type listening struct {
	last  int64 // the last look at the clock
	heard int64 // how long the process has listened
	// caughtUp is what heard must reach until all that was sent before the last look has been read.
	// Only grows.
	caughtUp int64
	// step is how long the loop sleeps at most while it watches: short after a late wake, to see as
	// much as it can of what a process runs that gets little of a processor.
	step int64
	// commit is how long a slow commit in flight had lasted at the last look; 0: none was.
	commit int64
}

// look is the loop's look at the clock, which it meant to take at an instant, and at the commit in
// flight. It returns how long the process may not have run.
func (l *listening) look(now, meant int64, commit time.Duration) (gap int64) {
	since := now - l.last
	if now-meant > punctualNanos {
		gap = since
		l.step = turnNanos
		l.heard += turnNanos
	} else {
		l.heard += min(since, stepNanos)
		if since >= l.step {
			l.step = min(2*l.step, stepNanos)
		}
	}
	if gap > 0 || l.commit > 0 {
		l.owe(l.commit + since)
	}
	if l.commit = 0; int64(commit) > slowCommitNanos {
		l.commit = int64(commit)
		l.owe(l.commit)
	}
	l.last = now
	return gap
}

// owe says that the process has to listen for so long before all was read.
func (l *listening) owe(nanos int64) {
	l.caughtUp = max(l.caughtUp, l.heard+min(nanos, stallNanos))
}

// behind is for how long the process has to listen until all was read.
func (l *listening) behind() int64 { return max(0, l.caughtUp-l.heard) }

// watchFrom is from when on the loop must watch that the process listens, so that it has caught up
// by a deadline. Sleeps last somewhat longer than they should.
func (l *listening) watchFrom(deadline int64) int64 {
	return deadline - l.behind() - l.behind()/4
}

// wakeAt is the earliest deadline for which a sleep that lasts until an instant is not too long.
func (l *listening) wakeAt(now, until int64) int64 {
	return until + max(until-now, until-l.watchFrom(until))
}

// halfway is until when the loop may sleep that has to look at a deadline.
func halfway(now, deadline int64) int64 {
	return now + max((deadline-now)/2, shortSleepNanos)
}
