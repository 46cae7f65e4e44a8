package wal

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/dirlock"
)

// Log is a write-ahead log in a directory. Its life: Open, Replay, Start, then Reserve, Append,
// and Wait, Commit or Kick from any number of goroutines, TruncateBefore from any one, and Close.
//
// It joins its parts, each of which owns its state:
//
//	Reserve ► credits ◄ gate ◄ preparer ◄ recycler ◄ truncator ◄ TruncateBefore
//	Append  ► buffers ► committer ► writer ► segments
//	Wait    ► progress ◄──┘  ▲
//	Commit  ─────────────────┘ a turn of the committer's, on the caller's goroutine
//	Replay  ► recovery, only before Start
//	Reader  ► segments ► its segments are kept by the truncator; the committer signals it
type Log struct {
	dir directory
	o   Options

	buffers  buffers
	credits  credits
	progress progress

	recovery  recovery
	fresh     *segment // of Prepare, for Start; nil: none is made
	committer committer
	stall     stall
	preparer  preparer
	gate      gate
	segments  segments
	control   control
	truncator truncator
	recycler  recycler
	readers   readers
	stats     counters

	mu       sync.Mutex
	life     life          // guarded by mu
	closing  chan struct{} // closed by Close of a log that was started
	closed   chan struct{} // closed when Close is through
	closeErr error         // set before closed is closed
}

// Open locks the directory, creating it when needed, and looks at the segments' headers. It returns
// ErrLocked when another process or Log uses the directory, a *CorruptionError when segments are
// missing or their headers damaged, and a *VersionError when a later format wrote them.
func Open(dir string, o Options) (_ *Log, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	lock, err := dirlock.Take(o.FS, dir, LockName)
	if err != nil {
		return nil, lockError(dir, err)
	}
	l := newLog(dir, o)
	l.dir.guard.lock = lock
	if err := l.recovery.find(); err != nil {
		return nil, errors.Join(err, lock.Abandon())
	}
	return l, nil
}

// OpenReadOnly opens the log of a file system that only reads, without a lock. Only Replay, Survey,
// Replayed, First and Close may be called. Segments behind damage that is plain from their headers
// are left out; Replay comes to it last and returns it.
func OpenReadOnly(dir string, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	l := newLog(dir, o)
	var corrupt *CorruptionError
	if err := l.recovery.find(); errors.As(err, &corrupt) {
		l.recovery.damage = err
	} else if err != nil {
		return nil, err
	}
	return l, nil
}

// newLog joins the parts.
func newLog(path string, o Options) *Log {
	l := &Log{
		dir: directory{fs: o.FS, path: path, logger: o.Logger}, o: o,
		closing: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	l.credits.capacity = int64(o.BufferBytes)
	l.credits.word.Store(l.credits.capacity - biasClosed)
	l.progress.init()
	l.gate.credits = &l.credits
	l.control.dir = &l.dir
	l.recovery = recovery{dir: &l.dir, segments: &l.segments, control: &l.control}
	l.recycler = recycler{dir: &l.dir, size: o.SegmentBytes}
	l.truncator = truncator{
		dir: &l.dir, segments: &l.segments, control: &l.control, recycler: &l.recycler,
		readers: &l.readers,
	}
	l.preparer = preparer{
		dir: &l.dir, gate: &l.gate, recycler: &l.recycler,
		largest: o.SegmentBytes, retry: o.prepareRetry, closing: l.closing,
		spares: make(chan *segment),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	l.stall = stall{
		progress: &l.progress, credits: &l.credits, committer: &l.committer, dir: &l.dir,
		warnAfter: o.warnAfter, stallAfter: o.stallAfter,
		period: min(watchPeriod, o.warnAfter/4),
		done:   make(chan struct{}),
	}
	l.committer = committer{
		mode: o.Sync, buffers: &l.buffers, credits: &l.credits, progress: &l.progress,
		readers: &l.readers, stats: &l.stats, stall: &l.stall, dir: &l.dir,
		observe: o.ObserveCommit,
		closing: l.closing,
		epoch:   time.Now(),
		turns:   make(turnLock, 1),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		writer: writer{
			dir: &l.dir, segments: &l.segments, control: &l.control, gate: &l.gate,
			spares:  l.preparer.spares,
			closing: l.closing, retry: o.prepareRetry, mode: o.Sync, interval: o.SyncInterval,
			progress: &l.progress, stats: &l.stats, writeBack: writeBack,
		},
	}
	l.dir.guard.wake = l.committer.wakeUp
	return l
}

// lockError tells a directory in use from one that cannot be locked at all.
func lockError(dir string, err error) error {
	var held *dirlock.HeldError
	if errors.As(err, &held) {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return fmt.Errorf("wal: lock %s: %w", dir, err)
}

// Damage returns what OpenReadOnly found wrong with the control file and the segments' headers, for
// which Open would have failed. Nil: nothing. Replay comes to it last.
func (l *Log) Damage() error { return l.recovery.damage }

// Replay calls apply with every record whose LSN is above after, in order, and stops at its first
// error. The record is valid during the call only. Damage is a *CorruptionError, a log that is gone
// a *MissingError; the unfinished end that a crash leaves is cut and logged. What apply sees may
// still be only in the operating system's cache: serve nothing from it before Start returned. Call
// it before Start, after Open, from one goroutine.
func (l *Log) Replay(after uint64, apply func(lsn uint64, record []byte) error) error {
	return l.recovery.replay(after, apply)
}

// Begin takes the place of Replay in a directory without a segment, for a copy: its log goes on
// behind an LSN up to which everything is in the checkpoint beside it. The directory is marked as
// incomplete, with ErrIncomplete for every later Open, until Complete and an orderly Close.
func (l *Log) Begin(after uint64) error {
	if err := l.recovery.begin(after); err != nil {
		return err
	}
	return l.control.beginCopy()
}

// Complete says that all of a copy is appended: Close takes the mark of Begin away.
func (l *Log) Complete() { l.control.completeCopy() }

// Replayed is how far Replay is: the LSN of the next record, and the bytes of segments that were
// read, of how many. Any goroutine.
func (l *Log) Replayed() (next uint64, done, total int64) {
	s := &l.recovery.survey
	return s.next.Load(), s.done.Load(), s.total.Load()
}

// Survey returns what Replay found. After Replay, before Start.
func (l *Log) Survey() Survey { return l.recovery.surveyed() }

// Reserve takes the credit for one record of n bytes: after it, Append of a record of exactly n
// bytes cannot fail or block. Where there is room it takes no lock and allocates nothing. Otherwise
// it waits for at most maxWait and returns ErrFull, or ErrNoSpace when the disk is the reason;
// ErrTooLarge, ErrClosed and the failure (ErrFailed) at once. A credit must be used by Append or
// given back by Release soon: Close waits for it. Where there is no room it wakes the commit loop
// for what was appended and holds the room. Any goroutine.
func (l *Log) Reserve(n int, maxWait time.Duration) error {
	if n < 0 || n > MaxRecord || recordOverhead+n > l.o.BufferBytes {
		return ErrTooLarge
	}
	if l.credits.take(recordOverhead + n) {
		return nil
	}
	return l.credits.reserve(
		recordOverhead+n, maxWait, l.committer.want, l.refusal, l.gate.fullError)
}

// refusal returns why no credit will be given now or ever again, nil when it may be soon.
func (l *Log) refusal() error {
	if err := l.Err(); err != nil {
		return err
	}
	if l.lifeNow() != started {
		return ErrClosed
	}
	if l.progress.stalled.Load() {
		return l.stalledError()
	}
	return nil
}

// Release gives back the credit for one record of n bytes that was not appended. Any goroutine.
func (l *Log) Release(n int) {
	l.credits.give(recordOverhead + n)
	if l.credits.closed() {
		l.committer.wakeUp() // Close may be waiting for this very credit
	}
}

// Kick has what was appended committed soon, by the commit loop: for a caller that does not wait.
// It does not block, and costs a load or two unless the loop has to be woken. Any goroutine.
func (l *Log) Kick() { l.committer.want() }

// Wait returns nil when the record with this LSN may be acknowledged: in SyncAlways when it is
// synced, in the other modes when it is written. It returns the failure (ErrFailed) when the record
// was not committed before the log failed, or, in the other modes, whenever the log has failed;
// then nothing may be acknowledged. While the log is stalled it returns ErrStalled: the record may
// be stored or not, and a later Wait says which. So it takes some seconds at most. lsn was returned
// by Append or is below one that was. Any goroutine.
func (l *Log) Wait(lsn uint64) error {
	if l.progress.committed.Load() < lsn {
		l.committer.want()
	}
	return l.acknowledge(l.progress.wait(lsn))
}

// Vouch is Wait: the directory's lock keeps other writers away. Any goroutine.
func (l *Log) Vouch(lsn uint64) error { return l.Wait(lsn) }

// Commit is Wait, except that the write and the sync run on the calling goroutine when no other one
// is at them: for a caller with a thread of its own, which would otherwise sleep until the commit
// loop has run and woken it. It commits at once what there is, and does not wait for more to come.
// Callers that come meanwhile follow it: the first of those that are left takes the next turn.
//
// It takes as long as the disk does when the caller is the one that writes: that one gets no
// ErrStalled, but what the disk says when it goes on. So a caller whose answers must not depend on
// the disk has another goroutine that watches Stalled and Committing. A caller that follows, or
// that comes while the log is stalled, gets ErrStalled as from Wait. The functions given to Start
// and to Options.ObserveCommit may run on the calling goroutine. Any goroutine.
func (l *Log) Commit(lsn uint64) error {
	return l.acknowledge(l.committer.commit(lsn))
}

// acknowledge returns what Wait and Commit say of a record of which progress says err.
func (l *Log) acknowledge(err error) error {
	if err == nil && l.o.Sync != SyncAlways {
		return l.Err() // what was written may not have become durable
	}
	return err
}

// stalledError says why a stalled log gives no credit: a disk that is full stalls, too.
func (l *Log) stalledError() error {
	if err := l.gate.fullError(); errors.Is(err, ErrNoSpace) {
		return err
	}
	return ErrStalled
}

// Sync returns nil when every record up to lsn is on stable storage, whatever the mode: a
// checkpoint calls it before it stores what those records say, and stores nothing where the
// directory is another one by now. ErrClosed, ErrStalled or the failure otherwise. Any goroutine.
func (l *Log) Sync(lsn uint64) error {
	if err := l.dir.guard.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrFailed, err)
	}
	if l.progress.durable.Load() >= lsn {
		return nil
	}
	if l.o.Sync == SyncAlways {
		l.committer.want()
		return l.progress.wait(lsn)
	}
	done := l.committer.syncs.add()
	l.committer.wakeUp()
	for waiting := true; waiting; {
		w := l.progress.waiting.Load() // before stalled, as progress.wait
		if l.progress.stalled.Load() {
			return ErrStalled
		}
		select {
		case err := <-done:
			return err
		case <-l.committer.done:
			waiting = false
		case <-w.filling: // the next batch, or a stall: look again
		}
	}
	if l.progress.durable.Load() >= lsn {
		return nil
	}
	return l.progress.end.Load().err
}

// Durable returns the highest LSN that is on stable storage. Any goroutine.
func (l *Log) Durable() uint64 { return l.progress.durable.Load() }

// Committed returns the highest LSN that is written and, in SyncAlways, synced. Any goroutine.
func (l *Log) Committed() uint64 { return l.progress.committed.Load() }

// Appended returns the highest LSN that Append has given out. Any goroutine.
func (l *Log) Appended() uint64 {
	near := l.progress.committed.Load()
	return extend(near, l.buffers.state.Load())
}

// ID returns the directory's id, which every segment repeats, and the checkpoint beside the log.
// Nil: the directory is new or of format version 1, and Start will make one. Any goroutine.
func (l *Log) ID() uuid.UUID { return l.control.known().id }

// SetID gives the directory its id. It is an error when it has another. After Open, before Start.
func (l *Log) SetID(id uuid.UUID) error { return l.control.setID(id) }

// Cut returns the LSN through which the log was told, by TruncateBefore, that a checkpoint holds
// everything; 0: none does. It survives a restart. Any goroutine.
func (l *Log) Cut() uint64 { return l.control.known().cut }

// Size returns how many segments hold records or would, and the size of their files. Any goroutine.
func (l *Log) Size() (segments int, bytes int64) {
	all := l.segments.list()
	for _, s := range all {
		bytes += s.size
	}
	return len(all), bytes
}

// First returns the LSN of the oldest record that the directory's segments hold or would hold; 0
// when there is no segment. Any goroutine.
func (l *Log) First() uint64 { return l.segments.first() }

// Failed returns a channel that is closed at the first failed write or sync, and when the directory
// was removed or replaced: the process should stop (I6).
func (l *Log) Failed() <-chan struct{} { return l.progress.failed }

// Err returns why the log failed, wrapped in ErrFailed: a write or a sync, or ErrMoved; nil while
// it has not. Any goroutine.
func (l *Log) Err() error { return l.progress.failure() }

// Committing returns how long the write and sync in flight have lasted, 0 when there is none. A
// stalled disk shows here while it stalls. Any goroutine.
func (l *Log) Committing() time.Duration { return l.committer.lasts() }

// Stalled reports that the commit in flight has taken so long that waiters and new credits get
// ErrStalled, until it ends. Any goroutine.
func (l *Log) Stalled() bool { return l.progress.stalled.Load() }

// NoSpace reports that the next segment cannot be prepared now. Appends go on as long as the
// current segment lasts; afterwards Reserve refuses with ErrNoSpace until it clears. Any goroutine.
func (l *Log) NoSpace() bool { return l.gate.noSpace.Load() }
