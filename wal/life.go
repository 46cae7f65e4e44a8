package wal

import (
	"errors"
	"iter"
	"time"
)

// life is how far a Log has come.
type life int

const (
	opened life = iota
	started
	closedLife
)

// Prepare makes the file of the segment with which Start begins, before anything else is written:
// it finds out whether the directory, and the files that Start writes to, can be written to, and
// whether there is room. When it fails nothing has changed. After Replay or Begin, else it panics:
// they find out which segment comes next. Start calls it where its caller did not. ErrClosed behind
// Start and Close.
func (l *Log) Prepare() (err error) {
	switch {
	case l.lifeNow() != opened:
		return ErrClosed
	case l.recovery.tail == nil:
		panic("bug: wal: Prepare before Replay")
	case l.fresh != nil:
		return nil
	}
	if err := l.dir.guard.check(); err != nil { // all before only read
		return err
	}
	if err := errors.Join(l.recovery.tryTail(), l.control.try()); err != nil {
		return err
	}
	size := segmentBuffers * int64(l.o.BufferBytes)
	path, number := l.dir.join(freshName), l.recovery.tail.number+1
	l.fresh, err = l.dir.create(path, number, size, func(int64, time.Duration) {})
	return err
}

// discardFresh removes what Prepare made for a start that did not come to it.
func (l *Log) discardFresh() error {
	if l.fresh == nil {
		return nil
	}
	return errors.Join(l.fresh.file.Close(), l.dir.fs.Remove(l.dir.join(freshName)))
}

// Start makes what was replayed durable, begins a new segment and starts the commit loop; it
// replays by itself what was not. The goroutine that committed a batch, the commit loop or a caller
// of Commit, calls committed, which may be nil, with its LSNs, its records, valid during the call
// only, its stamp (see Append), and the time that sealing, writing and syncing took: one call at a
// time, in LSN order, after waiters were woken. It must not block: the next batch waits for it.
// After an error only Close may be called. Not concurrently with Close.
func (l *Log) Start(
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration),
) error {
	if l.lifeNow() != opened {
		return ErrClosed
	}
	if l.recovery.tail == nil {
		err := l.Replay(max(l.First(), 1)-1, func(uint64, []byte) error { return nil })
		if err != nil {
			return err
		}
	}
	if err := l.Prepare(); err != nil {
		return err
	}
	number, next, err := l.recovery.settle()
	if err != nil {
		return err
	}
	if err := l.recycler.removeAll(); err != nil {
		return err
	}
	if err := l.control.open(number); err != nil {
		return err
	}
	first := l.fresh
	first.number, l.fresh = number, nil
	if err := l.committer.writer.beginFirst(first, next); err != nil {
		return err
	}
	l.committer.committed = committed
	l.buffers.begin(next-1, l.o.BufferBytes)
	l.progress.begin(next - 1)
	l.truncator.open.Store(true)
	l.committer.turns.lock()
	l.committer.open = true
	l.committer.turns.unlock()
	l.setLife(started)
	l.control.start(l.progress.durable.Load)
	l.dir.guard.start()
	go l.preparer.run(number+1, first.size)
	go l.committer.run()
	go l.stall.watch(l.committer.done)
	l.credits.allow(biasClosed)
	return nil
}

// Close refuses new credits, waits for those that are out to be used or released, commits what
// there is, states the durable LSN in an empty last block, syncs and unlocks the directory. It
// returns the failure if the log has failed, and may be called more than once. Any goroutine.
func (l *Log) Close() error {
	was := l.setLife(closedLife)
	if was == closedLife {
		<-l.closed
		return l.closeErr
	}
	var err error
	if was == started {
		err = l.stop()
	} else {
		l.committer.end(ErrClosed)
		close(l.committer.done)
	}
	l.dir.guard.close()
	l.closeErr = errors.Join(err, l.control.close(), l.discardFresh(), l.unlock(was))
	close(l.closed)
	return l.closeErr
}

// unlock gives the directory back. A log that was never started leaves nothing behind.
func (l *Log) unlock(was life) error {
	switch lock := l.dir.guard.lock; {
	case lock == nil:
		return nil
	case was == opened:
		return lock.Abandon()
	default:
		return lock.Close()
	}
}

// stop ends the goroutines that Start started, and what they own.
func (l *Log) stop() error {
	l.credits.refuse(biasClosed)
	l.credits.wake()
	close(l.closing)
	<-l.committer.done
	<-l.stall.done
	close(l.preparer.stop)
	<-l.preparer.done
	err := errors.Join(l.Err(), l.committer.writer.close())
	l.truncator.close()
	return err
}

func (l *Log) lifeNow() life {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.life
}

// setLife returns what it was before.
func (l *Log) setLife(to life) life {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.life
	l.life = to
	return was
}
