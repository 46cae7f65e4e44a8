package jslog

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"math"
	"sync"
	"time"
)

// Log is one owner's log on a stream, from its claim on; Store is its checkpoint. Its life:
// Claim, Replay or Begin, Start, then everything else from any number of goroutines, and Close.
//
//	Reserve, Append ► intake ─┐
//	Store           ► parcels ┼► appender ► fence ► stream
//	Vouch           ► no-op ──┘     └► progress ► Wait, Commit, Vouch
//	Replay          ► replay, only before Start
//
// One append is in flight. What comes meanwhile goes into the next message (group commit).
type Log struct {
	o      Options
	stream Stream
	fence  *fence // the appender's after Start
	epoch  uint64 // immutable: sequence of the claim

	intake   intake
	progress progress
	appender appender
	store    Store
	marks    marks

	replay replay // the owner's goroutine, before Start

	ctx    context.Context // done when Close was called
	cancel context.CancelFunc

	mu      sync.Mutex
	started bool // guarded by mu
}

// Claim makes this process the owner of a stream, in place of any other (C1), and returns the log
// as of its claim. An error is ctx's or the stream's, after which there may be a claim that is not
// used, which does no harm.
func Claim(ctx context.Context, s Stream, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.AckTimeout)
	defer cancel()
	message := make([]byte, headerBytes, headerBytes+8+len(o.Node))
	message = binary.LittleEndian.AppendUint64(message, uint64(time.Now().UnixMilli()))
	message = append(message, o.Node...)
	header{kind: kindClaim}.seal(message)
	began := time.Now()
	f, err := claim(ctx, s, message)
	if err != nil {
		return nil, err
	}
	return newLog(s, o, f, began), nil
}

// newLog joins the parts.
func newLog(s Stream, o Options, f *fence, claimed time.Time) *Log {
	l := &Log{o: o, stream: s, fence: f, epoch: f.last}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.progress.init(claimed)
	l.intake.init(o.BufferBytes)
	l.appender = appender{log: l, wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.store.log = l
	return l
}

// Epoch is the sequence of the claim: of two owners the one with the higher epoch is the later.
func (l *Log) Epoch() uint64 { return l.epoch }

// SinceAck is how long ago the last append began that was acknowledged, the claim the first: then
// this process was the owner. It grows while nothing is appended; Committing tells of an append
// that waits for its acknowledgement. Any goroutine.
func (l *Log) SinceAck() time.Duration { return l.progress.sinceAck() }

// Start lets records in. It calls committed for each batch, in LSN order, one call at a time, once
// the stream has acknowledged it; see engine.Log. After Replay or Begin.
func (l *Log) Start(
	committed func(first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration),
) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ctx.Err() != nil:
		return ErrClosed
	case l.started || !l.replay.done:
		return errors.New("jslog: Start comes once, after Replay or Begin")
	}
	l.started = true
	l.appender.committed = committed
	l.progress.begin(l.replay.next - 1)
	l.intake.open(l.replay.next)
	go l.appender.run()
	return nil
}

// Reserve takes the credit for one record of n bytes and waits up to maxWait for it: ErrFull when
// none came free, ErrTooLarge, ErrStalled, ErrLost and ErrClosed at once. Any goroutine.
func (l *Log) Reserve(n int, maxWait time.Duration) error {
	if n < 0 || n > math.MaxUint16 || n+itemOverhead > l.intake.capacity {
		return ErrTooLarge
	}
	var timeout <-chan time.Time
	for {
		if l.progress.stalled.Load() {
			return ErrStalled
		}
		more, err := l.intake.take(n + itemOverhead)
		if more == nil {
			return err
		}
		if l.progress.stalled.Load() { // again: the channel may be one of after the stall's wake
			return ErrStalled
		}
		if maxWait <= 0 {
			return ErrFull
		}
		if timeout == nil {
			timer := time.NewTimer(maxWait)
			defer timer.Stop()
			timeout = timer.C
		}
		l.Kick() // to have sent what was appended, which gives credit back
		select {
		case <-more:
		case <-timeout:
			if more, err = l.intake.take(n + itemOverhead); more == nil {
				return err
			}
			return ErrFull
		}
	}
}

// Release gives the credit for one record of n bytes back. Any goroutine.
func (l *Log) Release(n int) { l.intake.give(n + itemOverhead) }

// Append uses a credit for exactly so many bytes. It neither blocks nor fails. What is appended
// after the log has failed is never committed. Any goroutine.
func (l *Log) Append(record []byte, stamp int64) uint64 { return l.intake.add(record, stamp) }

// Kick has what was appended sent, and returns at once. Any goroutine.
func (l *Log) Kick() { l.appender.want() }

// Wait returns nil when the stream has acknowledged the record (C2), ErrStalled, or why it never
// will: then the record may be stored or not. It takes some seconds at most. Any goroutine.
func (l *Log) Wait(lsn uint64) error {
	return l.progress.wait(lsn, l.appender.want)
}

// Commit is Wait. Any goroutine.
func (l *Log) Commit(lsn uint64) error { return l.Wait(lsn) }

// Sync is Wait. Any goroutine.
func (l *Log) Sync(lsn uint64) error { return l.Wait(lsn) }

// Vouch is Wait, and waits for the acknowledgement of an append that begins after the call: until
// then another owner may have appended what the caller does not know of (C5). It is the next batch
// or part of a checkpoint, or else a no-op. Many callers share one. Any goroutine.
func (l *Log) Vouch(lsn uint64) error {
	n := l.progress.nextAppend()
	l.appender.vouch()
	if err := l.Wait(lsn); err != nil {
		return err
	}
	return l.progress.waitAppend(n)
}

// Committed is the highest LSN that was acknowledged. Any goroutine.
func (l *Log) Committed() uint64 { return l.progress.committed.Load() }

// Appended is the highest LSN given out. Any goroutine.
func (l *Log) Appended() uint64 { return l.intake.last() }

// Committing is how long the append in flight has lasted; 0: none is. Any goroutine.
func (l *Log) Committing() time.Duration { return l.progress.lasts() }

// Stalled reports that the append in flight takes so long that waiters and new credits get
// ErrStalled, until it ends. Any goroutine.
func (l *Log) Stalled() bool { return l.progress.stalled.Load() }

// Size is one segment, and about how many bytes the messages have that are still there. Any
// goroutine.
func (l *Log) Size() (segments int, bytes int64) { return 1, l.marks.size() }

// NoSpace is false: a stream without room does not acknowledge. Any goroutine.
func (l *Log) NoSpace() bool { return false }

// Failed is closed when the log fails (C3). Any goroutine.
func (l *Log) Failed() <-chan struct{} { return l.progress.failed }

// Err is why the log has failed, wrapped in ErrLost; nil while it has not. Any goroutine.
func (l *Log) Err() error { return l.progress.failure() }

// Close ends the log at once: an append in flight is in doubt, and what waits gets ErrClosed. No
// call of committed is left when it returns. Any goroutine, any number of times.
func (l *Log) Close() {
	l.cancel()
	l.mu.Lock()
	started := l.started
	l.mu.Unlock()
	if started {
		<-l.appender.done
		return
	}
	l.end(ErrClosed)
}

// end refuses all that waits and that comes. The first reason counts.
func (l *Log) end(err error) {
	l.intake.refuse(err)
	l.progress.end(err)
}
