package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"rollcall/internal/dirsync"
)

// Log is a write-ahead log in a directory. Its life: Open, Replay, Start, then Reserve, Append and Wait from any number
// of goroutines, TruncateBefore from any one, and Close.
type Log struct {
	dir  string
	o    Options
	lock io.Closer

	// Written by every appender, each on cache lines of its own.
	_         [64]byte
	state     atomic.Uint64 // the filling batch, see batch.go
	_         [56]byte
	credit    atomic.Int64 // free bytes and biases, see takeCredit
	reservers atomic.Int64 // goroutines in the slow path of Reserve
	_         [48]byte

	// committed is the highest committed LSN: written, and synced in SyncAlways. The commit loop stores it after the
	// write (and sync) returned; Append rebuilds LSNs with it. Only grows.
	committed atomic.Uint64
	// durable is the highest synced LSN. The commit loop stores it after the sync returned; a waiter that sees
	// durable >= its LSN may acknowledge. Only grows (W3).
	durable atomic.Uint64
	// waiting publishes the channels of the two batches; pairs with Wait.
	waiting atomic.Pointer[waiting]
	// end is why nothing more will be committed: ErrClosed or the failure. Stored before the channels are closed.
	end atomic.Pointer[outcome]
	_   [32]byte // keeps the words that every waiter reads off the lines below

	batches [2]*batch
	sealed  uint64        // last LSN that is not in the filling batch. Single writer: commit loop
	wake    chan struct{} // one token: there is something for the commit loop

	committedFunc func(first, last uint64, records iter.Seq[[]byte], took time.Duration)
	writer        writer        // commit loop only
	failed        chan struct{} // closed at the first failure
	closing       chan struct{} // closed by Close
	loopDone      chan struct{} // closed when the commit loop is gone
	prepareStop   chan struct{} // closed when the commit loop is gone: no more segments needed
	prepareDone   chan struct{}
	spares        chan *segment // prepared segments, from the preparer to the commit loop

	mu         sync.Mutex
	life       life          // guarded by mu
	segments   []segmentName // guarded by mu: all with records, and the current one; ascending
	room       chan struct{} // guarded by mu: closed when credit came back; nil when nobody waits
	syncers    []chan error  // guarded by mu: who asked for a sync
	prepared   int           // guarded by mu: segments handed to the commit loop, or about to be
	used       int           // guarded by mu: of these, how many it took
	roomLeft   int64         // guarded by mu: bytes left in the current segment
	gated      bool          // guarded by mu: biasGated is in credit
	closeErr   error         // guarded by mu: set when life is closed
	closed     chan struct{} // closed when Close is through
	retired    []string      // guarded by mu: paths of files to use again, see retire.go
	truncateMu sync.Mutex    // held by TruncateBefore
	noSpace    atomic.Bool   // the last attempt to prepare a segment failed
	stats      counters
	epoch      time.Time    // the zero of committing
	committing atomic.Int64 // nanoseconds since epoch when the commit in flight began; 0: none

	// Before Start only, by its caller.
	unused   []uint64 // segments without a header
	replayed *tail    // what Replay found
	damage   error    // of a View's log: what findSegments met behind l.segments
	survey   survey
}

// life is how far a Log has come.
type life int

const (
	opened life = iota
	started
	closedLife
)

// outcome boxes an error for an atomic pointer.
type outcome struct{ err error }

// LockName is the name of the file in the log's directory that Open locks.
const LockName = "LOCK"

// Open locks the directory, creating it when needed, and looks at the segments' headers. It returns ErrLocked when
// somebody else uses the directory, a *CorruptionError when segments are missing or their headers damaged, and a
// *VersionError when a later format wrote them.
func Open(dir string, o Options) (_ *Log, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := dirsync.Create(o.FS, dir); err != nil {
		return nil, fmt.Errorf("wal: create %s: %w", dir, err)
	}
	lock, err := o.FS.Lock(o.FS.PathJoin(dir, LockName))
	if err != nil {
		return nil, lockError(dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	l := newLog(dir, o, lock)
	if err := l.findSegments(); err != nil {
		return nil, err
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
	l := newLog(dir, o, noLock{})
	var corrupt *CorruptionError
	if err := l.findSegments(); errors.As(err, &corrupt) {
		l.damage = err
	} else if err != nil {
		return nil, err
	}
	return l, nil
}

// noLock is the lock of a directory that is only read.
type noLock struct{}

func (noLock) Close() error { return nil }

func newLog(dir string, o Options, lock io.Closer) *Log {
	l := &Log{dir: dir, o: o, lock: lock,
		epoch:       time.Now(),
		wake:        make(chan struct{}, 1),
		failed:      make(chan struct{}),
		closing:     make(chan struct{}),
		loopDone:    make(chan struct{}),
		prepareStop: make(chan struct{}),
		prepareDone: make(chan struct{}),
		spares:      make(chan *segment),
		closed:      make(chan struct{}),
	}
	l.credit.Store(int64(o.BufferBytes) - biasClosed)
	l.waiting.Store(&waiting{inFlight: make(chan struct{}), filling: make(chan struct{})})
	return l
}

// lockError tells a directory in use from one that cannot be locked at all.
func lockError(dir string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("wal: lock %s: %w", dir, err)
	}
	return fmt.Errorf("%w: another process has locked %s: %w", ErrLocked, dir, err)
}

// Reserve takes the credit for one record of n bytes: after it, Append of a record of exactly n bytes cannot fail or
// block. Where there is room it takes no lock and allocates nothing. Otherwise it waits for at most patience and
// returns ErrFull, or ErrNoSpace when the disk is the reason; ErrTooLarge, ErrClosed and the failure (ErrFailed) at
// once. A credit must be used by Append or given back by Release soon: Close waits for it. Any goroutine.
func (l *Log) Reserve(n int, patience time.Duration) error {
	if n < 0 || n > MaxRecord || recordOverhead+n > l.o.BufferBytes {
		return ErrTooLarge
	}
	if l.takeCredit(recordOverhead + n) {
		return nil
	}
	return l.reserveSlow(recordOverhead+n, patience)
}

func (l *Log) reserveSlow(size int, patience time.Duration) error {
	l.reservers.Add(1) // before the tries below: giveCredit looks after it gave
	defer l.reservers.Add(-1)
	var timeout <-chan time.Time
	for {
		room := l.roomChannel()
		if l.takeCredit(size) {
			return nil
		}
		if err := l.refusal(); err != nil {
			return err
		}
		if patience > 0 && timeout == nil {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			timeout = timer.C
		}
		if timeout == nil {
			return l.fullError()
		}
		select {
		case <-room:
		case <-timeout:
			if l.takeCredit(size) {
				return nil
			}
			return l.fullError()
		}
	}
}

// refusal returns why no credit will ever be given again, nil when it may be.
func (l *Log) refusal() error {
	if err := l.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.life != started {
		return ErrClosed
	}
	return nil
}

func (l *Log) fullError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gated && l.noSpace.Load() {
		return ErrNoSpace
	}
	return ErrFull
}

// roomChannel returns a channel that is closed when credit comes back or the answer to Reserve changes.
func (l *Log) roomChannel() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room == nil {
		l.room = make(chan struct{})
	}
	return l.room
}

func (l *Log) wakeReservers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wakeReserversLocked()
}

func (l *Log) wakeReserversLocked() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// Release gives back the credit for one record of n bytes that was not appended. Any goroutine.
func (l *Log) Release(n int) {
	l.giveCredit(recordOverhead + n)
	if l.credit.Load() < 0 {
		l.wakeLoop() // Close may be waiting for this very credit
	}
}

// Wait returns nil when the record with this LSN may be acknowledged: in SyncAlways when it is synced, in the other
// modes at once. It returns the failure (ErrFailed) when the record was not durable before the log failed, or, in the
// other modes, whenever the log has failed; then nothing may be acknowledged. lsn was returned by Append or is below
// one that was. Any goroutine.
func (l *Log) Wait(lsn uint64) error {
	if l.o.Sync != SyncAlways {
		return l.Err()
	}
	return l.waitDurable(lsn)
}

func (l *Log) waitDurable(lsn uint64) error {
	for l.durable.Load() < lsn {
		if end := l.end.Load(); end != nil {
			// The commit loop stores durable for the last time before end.
			if l.durable.Load() >= lsn {
				return nil
			}
			return end.err
		}
		<-l.waiting.Load().channel(lsn)
	}
	return nil
}

// Sync returns nil when every record up to lsn is on stable storage, whatever the mode: a checkpoint calls it before it
// stores what those records say. ErrClosed or the failure otherwise. Any goroutine.
func (l *Log) Sync(lsn uint64) error {
	if l.durable.Load() >= lsn {
		return nil
	}
	if l.o.Sync == SyncAlways {
		return l.waitDurable(lsn)
	}
	done := make(chan error, 1)
	l.mu.Lock()
	l.syncers = append(l.syncers, done)
	l.mu.Unlock()
	l.wakeLoop()
	select {
	case err := <-done:
		return err
	case <-l.loopDone:
	}
	if l.durable.Load() >= lsn {
		return nil
	}
	return l.end.Load().err
}

// Durable returns the highest LSN that is on stable storage. Any goroutine.
func (l *Log) Durable() uint64 { return l.durable.Load() }

// Committed returns the highest LSN that is written and, in SyncAlways, synced. Any goroutine.
func (l *Log) Committed() uint64 { return l.committed.Load() }

// Appended returns the highest LSN that Append has given out. Any goroutine.
func (l *Log) Appended() uint64 {
	near := l.committed.Load()
	return extend(near, l.state.Load())
}

// First returns the LSN of the oldest record that the directory's segments hold or would hold; 0 when there is no
// segment. Any goroutine.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segments) == 0 {
		return 0
	}
	return l.segments[0].first
}

// Failed returns a channel that is closed at the first failed write or sync: the process should stop (I6).
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Err returns the first failure of a write or sync, wrapped in ErrFailed, nil while there is none. Any goroutine.
func (l *Log) Err() error {
	if end := l.end.Load(); end != nil && end.err != ErrClosed {
		return end.err
	}
	return nil
}

// Committing returns how long the write and sync in flight have lasted, 0 when there is none. A stalled disk shows here
// while it stalls. Any goroutine.
func (l *Log) Committing() time.Duration {
	if began := l.committing.Load(); began != 0 {
		return time.Since(l.epoch) - time.Duration(began)
	}
	return 0
}

// NoSpace says that the next segment cannot be prepared now. Appends go on as long as the current segment lasts;
// afterwards Reserve refuses with ErrNoSpace until it clears. Any goroutine.
func (l *Log) NoSpace() bool { return l.noSpace.Load() }

// wakeLoop leaves a token for the commit loop. It never blocks.
func (l *Log) wakeLoop() {
	select {
	case l.wake <- struct{}{}:
	default: // there is a token already
	}
}

// Close refuses new credits, waits for those that are out to be used or released, commits what there is, states the
// durable LSN in an empty last block, syncs and unlocks the directory. It returns the failure if the log has failed,
// and may be called more than once. Any goroutine.
func (l *Log) Close() error {
	l.mu.Lock()
	was := l.life
	l.life = closedLife
	if was == started {
		l.credit.Add(-biasClosed)
		l.wakeReserversLocked()
	}
	l.mu.Unlock()
	if was == closedLife {
		<-l.closed
		return l.closeErr
	}
	var err error
	if was == started {
		close(l.closing)
		<-l.loopDone
		close(l.prepareStop)
		<-l.prepareDone
		err = errors.Join(l.Err(), l.writer.close())
		l.truncateMu.Lock() // whoever is in TruncateBefore keeps no more files when it is through
		if removeErr := l.removeAllRetired(); removeErr != nil {
			l.o.Logger.Debug("retired segments stay behind", "err", removeErr)
		}
		l.truncateMu.Unlock()
	} else {
		l.endWith(ErrClosed)
		close(l.loopDone)
	}
	l.closeErr = errors.Join(err, l.lock.Close())
	close(l.closed)
	return l.closeErr
}
