package engine

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/broadcast"
	"rollcall/engine/table"
	"rollcall/engine/wheel"
	"rollcall/record"
)

// Engine holds every device, tells its streams and expires the silent. Make one with New, bring it to life with Start.
// Its methods may be called from any goroutine unless they say otherwise.
type Engine struct {
	opts    Options
	log     Log
	table   *table.Table
	sources *sources
	events  Events  // the streams, or what Options.Events says
	streams streams // the own broadcaster, or none
	expiry  expiry
	clock   Clock

	// phase guards what Ready answers: recovering, then serving, then closing.
	phase    atomic.Int32
	recovery recovery

	stop     chan struct{}
	stopOnce sync.Once
	loops    sync.WaitGroup

	counters  counters
	refusedAt atomic.Int64 // when a refused device was last logged: nanoseconds; 0: never

	logged atomic.Int64 // bytes of records since the last checkpoint
	// stored is the highest LSN in the store above the store's own; the log must reach it. Written by recovery.
	stored atomic.Uint64
	// rangeDevices is what a range of a checkpoint should hold at least: each costs some milliseconds however small it is.
	rangeDevices int
	// forgot is the LSN of the last device forgotten in each of the finest ranges: the table does not show that the range changed. Single
	// owner: Start, then the checkpoint loop.
	forgot [maxRanges]uint64
}

const (
	recovering int32 = iota
	serving
	draining
)

// Why the engine is not ready. The text is what /readyz answers.
var (
	ErrRecovering = errors.New("recovering")
	ErrDraining   = errors.New("draining: the server is about to stop")
	ErrNoSpace    = errors.New("no room for the next log segment: free disk space; heartbeats are refused until then")
)

// New makes an engine on an opened log. It reads nothing yet.
func New(log Log, o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e, err := newEngine(log, o)
	if err != nil {
		return nil, err
	}
	if err := e.openStreams(); err != nil {
		e.table.Close()
		return nil, err
	}
	e.expiry.wheel = wheel.New(tickOf(e.clock().Nanos))
	e.expiry.wake = make(chan struct{}, 1)
	e.counters.checkpointed.Store(time.Now().UnixNano())
	return e, nil
}

// openStreams decides where events go: to the streams of an own broadcaster, unless Options.Events
// takes them.
func (e *Engine) openStreams() error {
	if e.opts.Events != nil {
		e.events, e.streams = e.opts.Events, noStreams{}
		return nil
	}
	o := e.opts.Broadcast
	o.Codec = e.Codec()
	if observe := e.opts.ObserveDelivery; observe != nil {
		o.Delivered = func(received int64) {
			observe(time.Duration(e.clock.Nanos() - received).Seconds())
		}
	}
	b, err := broadcast.New(o)
	if err != nil {
		return err
	}
	e.events, e.streams = b, b
	return nil
}

// newEngine makes what recovery needs: a table, but no wheel and no streams.
func newEngine(log Log, o Options) (*Engine, error) {
	e := &Engine{
		opts:    o,
		log:     log,
		sources: newSources(),
		clock:   o.Clock,
		stop:    make(chan struct{}),

		recovery:     recovery{every: time.Second},
		rangeDevices: 16384,
	}
	key, err := e.hashKey()
	if err != nil {
		return nil, err
	}
	e.table = table.New(table.Options{Shards: o.Shards, MaxDevices: o.MaxDevices, Key: key})
	return e, nil
}

// Start replays the log and begins to serve. It is called once and returns when recovery is done.
func (e *Engine) Start() error {
	if err := e.open(); err != nil {
		return err
	}
	e.deaf(e.clock().Nanos) // the grace begins now, not before a long replay
	e.loops.Go(func() { e.expireLoop(e.stop) })
	e.loops.Go(func() { e.tickLoop(e.stop) })
	if e.opts.Store != nil {
		e.loops.Go(func() { e.checkpointLoop(e.stop) })
	}
	e.phase.Store(serving)
	return nil
}

// open does all of Start but the loops.
func (e *Engine) open() error {
	if err := e.recoverLog(e.clock()); err != nil {
		return err
	}
	if err := e.log.Start(e.committed); err != nil {
		return fmt.Errorf("engine: start the log: %w", err)
	}
	// Nothing is appended before Start returns, so committed has not run and this is the last LSN
	// that was replayed.
	through := e.log.Committed()
	e.events.Lose(e.opts.Source)
	e.events.Flush(e.opts.Source, through, 0)
	e.streams.Start(e.clock.Nanos())
	return nil
}

// committed hands a batch's events to the streams. The log's commit loop calls it; nothing in it blocks.
func (e *Engine) committed(first, last uint64, records iter.Seq[[]byte], took time.Duration) {
	lsn := first
	bytes := 0
	received := int64(0)
	for rec := range records {
		bytes += len(rec)
		if r := record.View(rec); !r.Forget() { // a stream was told offline before
			if received == 0 && e.opts.ObserveDelivery != nil {
				received = e.received(r, lsn)
			}
			e.events.Publish(e.opts.Source, r.User(), lsn, rec)
		}
		lsn++
	}
	e.logged.Add(int64(bytes))
	e.events.Flush(e.opts.Source, last, received)
	if int64(took) > stallNanos {
		e.opts.Logger.Warn("the disk stalled; silence meanwhile does not count", "commit", took)
		e.deaf(e.clock().Nanos)
	}
}

// tickLoop tells the streams the time (I7).
func (e *Engine) tickLoop(stop <-chan struct{}) {
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			e.events.Tick(e.clock.Nanos())
		}
	}
}

// StopExpiry ends the loops. It is called before the server stops listening: silence from then on is not the devices' (I8).
func (e *Engine) StopExpiry() {
	e.stopOnce.Do(func() { close(e.stop) })
	e.loops.Wait()
}

// Close ends every stream now and stops the loops. The log stays open: it belongs to whoever opened it, and heartbeats in
// flight still wait for it.
func (e *Engine) Close() {
	e.phase.Store(draining)
	e.StopExpiry()
	e.streams.Close()
}

// Release gives the table's memory back. No method may be called afterwards, and none may be in flight.
func (e *Engine) Release() { e.table.Close() }

// Drain refuses new streams and ends the open ones, spread over the given time. The channel closes when all have ended.
func (e *Engine) Drain(over time.Duration) <-chan struct{} {
	e.phase.Store(draining)
	return e.streams.Drain(over)
}

// Ready returns nil when the engine serves, or why it does not.
func (e *Engine) Ready() error {
	switch e.phase.Load() {
	case recovering:
		return fmt.Errorf("%w: %s", ErrRecovering, e.progress())
	case draining:
		return ErrDraining
	}
	if err := e.log.Err(); err != nil {
		return err
	}
	if e.log.NoSpace() {
		return ErrNoSpace
	}
	return nil
}

// Take makes a connection ready for Subscribe; it takes the socket out of the net.Conn, which is closed.
func (e *Engine) Take(c net.Conn) (broadcast.Conn, error) { return e.streams.Take(c) }

// Subscribe starts a stream. On an error the connection still belongs to the caller.
func (e *Engine) Subscribe(s broadcast.Subscription) error { return e.streams.Subscribe(s) }

// OpenStreams is how many streams there are now, of all users.
func (e *Engine) OpenStreams() int { return e.streams.Open() }

// Streams is how many streams follow the user now.
func (e *Engine) Streams(user uuid.UUID) int { return e.streams.Streams(user) }

// Records returns the user's devices in the order of first sight, once all of it may be told (I2).
func (e *Engine) Records(user uuid.UUID) ([]Record, error) {
	var records []Record
	newest := uint64(0)
	e.table.Devices(user, func(_ table.Ref, entry *table.Entry) bool {
		if r, ok := e.shown(entry); ok {
			records = append(records, r)
			newest = max(newest, r.LSN)
		}
		return true
	})
	return records, e.log.Wait(newest)
}

// shown is a device as it is shown; false when it is gone.
func (e *Engine) shown(entry *table.Entry) (Record, bool) {
	user, device, s, source, ok := e.readWhole(entry)
	if !ok {
		return Record{}, false
	}
	r := Record{Event: event(user, device, &s.State, source), HeartbeatAtMS: s.HeartbeatAtMS, UpdatedAtMS: s.UpdatedAtMS, LSN: s.LSN}
	if !s.Online {
		r.OfflineAtMS = s.SentAtMS
	}
	return r, true
}
