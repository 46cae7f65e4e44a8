package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/cursor"
	"rollcall/engine/broadcast"
	"rollcall/record"
)

// Engine holds every device of a partition, gives its streams their events and expires silent
// devices. Make one with New, bring it to life with Start. Its methods may be called from any
// goroutine unless they say otherwise.
type Engine struct {
	*devices
	acceptor    *acceptor
	expiry      *expirer
	checkpoints *checkpointer
	recovery    *recoverer

	streams streams // the own broadcaster, or none
	events  Events  // the own broadcaster, or what Options.Events says
	forgets Forgets // events, if it is one; else nil
	source  broadcast.Source

	// phase decides what Ready answers: recovering, then serving, then draining.
	phase     atomic.Int32
	recovered bool // the owner's goroutine: Recover has run

	stop     chan struct{} // ends the loops
	stopOnce sync.Once
	loops    sync.WaitGroup
}

const (
	recovering int32 = iota
	serving
	draining
)

// Why the engine is not ready.
var (
	ErrRecovering = errors.New("recovering")
	ErrDraining   = errors.New("draining: the server is about to stop")
	ErrNoSpace    = errors.New("no room for the next log segment: free disk space; " +
		"heartbeats are refused when the current one is full")
	ErrStalled = errors.New("the disk has not finished a commit")
)

// New makes an engine on an opened log. It reads nothing yet.
func New(log Log, o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d, err := newDevices(log, &o)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		devices:     d,
		expiry:      newExpirer(d, &o),
		checkpoints: newCheckpointer(d, &o),
		source:      o.Source,
		stop:        make(chan struct{}),
	}
	e.acceptor = newAcceptor(d, e.expiry, &o)
	e.recovery = newRecoverer(d, e.expiry, e.checkpoints, &o)
	if e.streams, e.events, err = openStreams(d, &o); err != nil {
		d.table.Close()
		return nil, err
	}
	e.forgets, _ = e.events.(Forgets)
	return e, nil
}

// ReportProgress logs each second how far Recover and Start are, and what the caller does between
// them, until it is stopped. It may be called once, before Recover.
func (e *Engine) ReportProgress() (stop func()) {
	return e.recovery.progress.report(e.devices, e.recovery.logger)
}

// Recover fills the table from checkpoint and log. It only reads: a start that is refused for
// anything that it finds, or for anything that the caller looks at between Recover and Start, has
// changed nothing. It is called once, and not after an error.
func (e *Engine) Recover() error {
	e.recovered = true
	return e.recovery.recover(e.clock())
}

// Start begins to serve: from here on store and log are written. It recovers by itself when Recover
// was not called. It is called once.
func (e *Engine) Start() error {
	if err := e.open(); err != nil {
		return err
	}
	if e.checkpoints.store != nil {
		e.checkpoints.begin(e.stop)
	}
	e.expiry.postponeExpiry(e.clock.Nanos()) // the grace begins now, not before a long replay
	e.loops.Go(func() { e.expiry.run(e.stop) })
	e.loops.Go(func() { e.tick(e.stop) })
	if e.checkpoints.store != nil {
		e.loops.Go(func() { e.checkpoints.run(e.stop) })
	}
	e.phase.Store(serving)
	return nil
}

// open does all of Start but the loops.
//
// The store is started before the log, which begins to run. A crash between the two leaves the one
// started and the other not, and nothing is lost by it, since neither has taken up anything:
//
//	new directory   a store as of LSN 0 with an id, no log: the next start is one of an empty log,
//	                which takes the store's id
//	version 1       a store of this version, a log of version 1: the store's id is the one that is
//	                derived from its secret, before, in the middle and after; the log takes it
//	any other       both are what they were
//
// The other way around a crash would leave a log with an id and no store: as good, but a log that
// runs would have to be stopped when the store cannot be started.
func (e *Engine) open() error {
	if !e.recovered {
		if err := e.Recover(); err != nil {
			return err
		}
	}
	if store := e.checkpoints.store; store != nil {
		if err := store.Start(); err != nil {
			return fmt.Errorf("engine: start the store: %w", err)
		}
	}
	e.devices.logOver(e.recovery.logger)
	if err := e.log.Start(e.committed); err != nil {
		return fmt.Errorf("engine: start the log: %w", err)
	}
	// Nothing is appended before Start returns, so committed has not run and this is the last LSN
	// that was replayed.
	through := e.log.Committed()
	if err := e.checkpoints.beginEpoch(through + 1); err != nil {
		return err
	}
	e.events.Lose(e.source)
	e.events.Flush(e.source, through, 0)
	e.streams.Start(e.clock.Nanos())
	return nil
}

// committed passes a batch on, with the instant at which the first of its heartbeats was received.
// The goroutine that committed it calls it, one at a time; nothing in it blocks.
func (e *Engine) committed(
	first, last uint64, records iter.Seq[[]byte], received int64, took time.Duration,
) {
	lsn := first
	bytes := 0
	for rec := range records {
		bytes += len(rec)
		switch r := record.View(rec); {
		case !r.Forget():
			e.events.Publish(e.source, r.User(), lsn, rec)
		case e.forgets != nil:
			e.forgets.Forget(e.source, r.User(), lsn, rec)
		}
		lsn++
	}
	e.events.Flush(e.source, last, received)
	e.checkpoints.noteLogged(int64(bytes))
	e.expiry.noteCommit(took)
}

// streamTickNanos is how often the streams get the time (I7).
const streamTickNanos = int64(250 * time.Millisecond)

// tick gives the streams the time, and watches the wall clock, until stop is closed. Several
// engines tick at the same instants of their common clock.
func (e *Engine) tick(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var wall jumps
	for {
		instant := e.clock()
		wall.look(instant, e.recovery.logger)
		now := instant.Nanos
		timer.Reset(time.Duration(nextMultiple(now, streamTickNanos) - now))
		select {
		case <-stop:
			return
		case <-timer.C:
			e.events.Tick(e.clock.Nanos())
		}
	}
}

// stopLoops ends expiry, checkpoints and ticks.
func (e *Engine) stopLoops() {
	e.stopOnce.Do(func() { close(e.stop) })
	e.loops.Wait()
}

// Drain prepares for a planned end. It refuses new streams and ends the open ones, spread over the
// given time, until all have ended or ctx is done; with a ctx that is done it waits for none. Then
// it ends expiry: silence from here on is not the devices' (I8), since the server is about to stop
// listening. Heartbeats are still answered. An error is ctx's: streams were left.
func (e *Engine) Drain(ctx context.Context, over time.Duration) error {
	e.phase.Store(draining)
	ended := e.streams.Drain(over)
	defer e.stopLoops()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends expiry and every stream now, and gives the memory back. The log stays open: it belongs
// to the caller of New, and heartbeats in flight wait for it. With a ctx that is done some may
// still be in flight, so the table's memory stays; that is the error. Otherwise no method may be
// called any more, and none may be in flight.
func (e *Engine) Close(ctx context.Context) error {
	e.phase.Store(draining)
	e.stopLoops()
	e.streams.Close()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("engine: close: %w", err)
	}
	e.table.Close()
	return nil
}

// Ready returns nil when the engine serves, or why it does not.
func (e *Engine) Ready() error {
	phase := e.phase.Load()
	if phase == recovering {
		return fmt.Errorf("%w: %s", ErrRecovering, e.recovery.progress.describe(e.devices))
	}
	if err := e.log.Err(); err != nil {
		return err
	}
	if phase == draining {
		return ErrDraining
	}
	if e.log.NoSpace() {
		return ErrNoSpace
	}
	if e.log.Stalled() {
		return fmt.Errorf("%w for %v: heartbeats are refused until it does", ErrStalled,
			e.log.Committing().Round(time.Second))
	}
	return nil
}

// Heartbeat applies one heartbeat and returns once its outcome is as durable as the log promises.
func (e *Engine) Heartbeat(hb *Heartbeat) Result { return e.acceptor.heartbeat(hb) }

// NewBatch returns an empty batch of heartbeats.
func (e *Engine) NewBatch() Batch { return newBatch(e.acceptor) }

// NewResultBatch returns an empty batch that tells what came of each heartbeat.
func (e *Engine) NewResultBatch() ResultBatch { return newBatch(e.acceptor) }

// Kick has what was applied so far committed, and shown by streams, without waiting for it: for
// batches that are settled some time later.
func (e *Engine) Kick() { e.log.Kick() }

// NewGroup returns a Group.
func (e *Engine) NewGroup() Group { return newGroup(e.acceptor) }

// NewLater returns nil: an engine knows at once what comes of a heartbeat.
func (e *Engine) NewLater() Later { return nil }

// Stale reports whether the heartbeat would be refused as stale now. Nothing is applied, and the
// answer may be old when it arrives: it serves checks that come after the seq's and before the
// apply.
func (e *Engine) Stale(hb *Heartbeat) bool { return e.acceptor.stale(hb) }

// Checkpoint takes a checkpoint now, until stop is closed, and returns how many devices were
// written. One goroutine at a time, and none while the engine takes its own.
func (e *Engine) Checkpoint(stop <-chan struct{}) (written int, err error) {
	return e.checkpoints.checkpoint(stop)
}

// CheckpointSoon has the engine take a checkpoint now, as when the log has grown by
// Options.CheckpointBytes. Any goroutine.
func (e *Engine) CheckpointSoon() { e.checkpoints.noteLogged(e.checkpoints.limit) }

// Take makes a connection ready for Subscribe; it takes the socket out of the net.Conn, which is
// closed.
func (e *Engine) Take(c net.Conn) (broadcast.Conn, error) { return e.streams.Take(c) }

// Subscribe starts a stream. On an error the connection still belongs to the caller.
func (e *Engine) Subscribe(s broadcast.Subscription) error { return e.streams.Subscribe(s) }

// Renew moves the end of a stream, whose id is as its response head has it, see Broadcaster.Renew;
// one of another process is broadcast.ErrNoStream.
func (e *Engine) Renew(name string, expiresNanos int64, fits broadcast.Fits) error {
	return renew(e.streams, name, expiresNanos, fits)
}

// renewer is what has streams.
type renewer interface {
	ParseStreamID(text string) (broadcast.StreamID, bool)
	Renew(id broadcast.StreamID, expiresNanos int64, fits broadcast.Fits) error
}

func renew(streams renewer, name string, expiresNanos int64, fits broadcast.Fits) error {
	id, ok := streams.ParseStreamID(name)
	if !ok {
		return broadcast.ErrNoStream
	}
	return streams.Renew(id, expiresNanos, fits)
}

// SetRestart says how long a restart of the server takes: streams that a drain ends are told to
// come back later than that.
func (e *Engine) SetRestart(d time.Duration) { e.streams.SetRestart(d) }

// Retry is when a client whose stream was refused should come back.
func (e *Engine) Retry() time.Duration { return e.streams.Retry() }

// History makes and reads the ids of a stream's events. It honours none before Start.
func (e *Engine) History() *cursor.History { return e.history }

// OpenStreams is how many streams there are now, of all users.
func (e *Engine) OpenStreams() int { return e.streams.Open() }

// Streams is how many streams follow the user now.
func (e *Engine) Streams(user uuid.UUID) int { return e.streams.Streams(user) }

// Devices returns a page of the user's devices in the order of their ids: the first limit above
// after, once all of it may be shown (I2). more says that there are others behind it. It takes its
// time where a user has very many devices, and costs heartbeats next to nothing.
func (e *Engine) Devices(
	user, after uuid.UUID, limit int,
) (page []Device, more bool, err error) {
	page, more = e.page(user, after, limit)
	newest := uint64(0)
	for i := range page {
		newest = max(newest, page[i].LSN)
	}
	return page, more, e.log.Vouch(newest)
}
