package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"rollcall/internal/option"
)

// Log is one reader's side of a log; package wal's Reader satisfies it. One goroutine calls it.
type Log interface {
	// First is the lowest LSN that can be read.
	First() uint64
	// Committed is the highest LSN that can be read.
	Committed() uint64
	// Wait returns nil when the record with this LSN is committed. Otherwise it returns ctx's
	// error, or why the record never will be committed.
	Wait(ctx context.Context, lsn uint64) error
	// Read calls fn with the committed records from LSN from on, in order, and returns when there
	// are no more for now, or at fn's first error. LSNs are dense, but for the beginning: when the
	// record from is gone, the first one is the oldest that is there. A record is valid during the
	// call.
	Read(from uint64, fn func(lsn uint64, record []byte) error) error
	// Sync returns when everything up to lsn is on stable storage, whatever the sync mode.
	Sync(lsn uint64) error
	// Retain says that no record below an LSN is wanted any more.
	Retain(from uint64) error
}

// Store keeps cursors by name; package checkpoint's Store satisfies it.
type Store interface {
	Cursor(name string) (lsn uint64, found bool, err error)
	// SetCursor is durable when it returns.
	SetCursor(name string, lsn uint64) error
}

// GapError says that the log no longer has the records From to To. It lost them because the feed
// was further behind than its bound of bytes permits. Read goes on with To+1.
type GapError struct{ From, To uint64 }

func (e *GapError) Error() string {
	return fmt.Sprintf("feed: records %d to %d are gone", e.From, e.To)
}

// Options of Open.
type Options struct {
	// Name of the cursor. Two feeds of one store have different names. Required.
	Name string
	// Log is read. Required.
	Log Log
	// Store keeps the cursor. Required.
	Store Store
	// SaveEvery is how often the cursor is saved while it moves: a restart delivers again about
	// what was delivered for so long. Default: 1s.
	SaveEvery time.Duration
	// BatchBytes is how much one Read delivers at most, but for its first record. Default: 1 MiB.
	BatchBytes int
	// Logger gets failures to save the cursor. Default: slog.Default().
	Logger *slog.Logger
}

// Check reports every problem of the options at once, as Open does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	option.Default(&o.SaveEvery, time.Second)
	option.Default(&o.BatchBytes, 1<<20)
	option.Default(&o.Logger, slog.Default())
	problems := option.Problems{Package: "feed"}
	problems.When(o.Name == "", "Name is missing")
	problems.When(o.Log == nil, "Log is missing")
	problems.When(o.Store == nil, "Store is missing")
	option.NotNegative(&problems, "SaveEvery", o.SaveEvery)
	option.NotNegative(&problems, "BatchBytes", o.BatchBytes)
	return o, problems.Err()
}

// Feed hands committed records to a consumer. One goroutine calls Read and then Close; any
// goroutine calls Done and Stats.
type Feed struct {
	o Options

	next atomic.Uint64 // LSN that Read delivers next; 0: the oldest there is. Single writer: Read
	// given is the LSN of the last record that the consumer was called with. Stored before the
	// call, since the consumer may be done before the call returns. Single writer: Read
	given atomic.Uint64
	done  atomic.Uint64 // highest LSN given to Done; the consumer's side of the cursor. Only grows
	// saved is the durable cursor. Single writer: Read and Close. Only grows (F3).
	saved atomic.Uint64
	gaps  atomic.Uint64 // records that were in a gap. Single writer: Read

	// Single owner: the goroutine that calls Read.
	tried   time.Time // when the cursor was saved, or that failed
	failing bool      // the last attempt failed
}

// Open continues behind the cursor of that name, or with the oldest record of the log when there is
// none. Call it before the log may be truncated: after its Open and before its Start (F4).
func Open(o Options) (*Feed, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &Feed{o: o, tried: time.Now()}
	cursor, found, err := o.Store.Cursor(o.Name)
	if err != nil {
		return nil, fmt.Errorf("feed: read cursor %q: %w", o.Name, err)
	}
	if found {
		f.next.Store(cursor + 1)
		f.done.Store(cursor)
		f.saved.Store(cursor)
		if err := o.Log.Retain(cursor + 1); err != nil {
			return nil, fmt.Errorf("feed: retain the log for %q: %w", o.Name, err)
		}
	}
	return f, nil
}

// Read waits until there is a record, and calls fn with it and with those that follow, as far as
// they are there, in order (F1). A record is valid during the call. When fn returns an error, Read
// returns it, and the next Read begins with the same record. A *GapError says that records are
// gone; the next Read goes on behind them (F2). The log must have been started.
func (f *Feed) Read(ctx context.Context, fn func(lsn uint64, record []byte) error) error {
	for {
		if err := f.place(); err != nil {
			return err
		}
		if err := f.await(ctx); err != nil {
			return err
		}
		before := f.next.Load()
		err := f.deliver(fn)
		if f.next.Load() != before || err != nil {
			return err
		}
		// The record went away before it could be read: place finds the gap.
	}
}

// place finds the record to go on with, and returns a *GapError when it is gone. A feed without a
// cursor gets one here, so that its beginning is durable before anything is delivered (F2).
func (f *Feed) place() error {
	next, first := f.next.Load(), f.o.Log.First()
	if last := f.o.Log.Committed(); next > last+1 {
		return fmt.Errorf("feed: cursor %q is at record %d, but the log ends at record %d",
			f.o.Name, next-1, last)
	}
	if next >= first {
		return nil
	}
	if next == 0 {
		if err := f.saveAt(first - 1); err != nil {
			return err
		}
		f.done.Store(first - 1)
		f.next.Store(first)
		return nil
	}
	f.next.Store(first)
	f.gaps.Add(first - next)
	return &GapError{From: next, To: first - 1}
}

// await waits for the record next, and saves the cursor meanwhile. Where the consumer still owes a
// Done it wakes up for that.
func (f *Feed) await(ctx context.Context) error {
	for {
		f.saveWhenDue()
		next := f.next.Load()
		if f.saved.Load()+1 >= next {
			return f.o.Log.Wait(ctx, next)
		}
		due, cancel := context.WithTimeout(ctx, f.o.SaveEvery)
		err := f.o.Log.Wait(due, next)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// The reasons for which deliver ends a Read of the log.
var (
	errEnough = errors.New("feed: enough")
	errMoved  = errors.New("feed: the record is gone")
)

// deliver hands out what is there.
func (f *Feed) deliver(fn func(lsn uint64, record []byte) error) error {
	bytes := 0
	err := f.o.Log.Read(f.next.Load(), func(lsn uint64, record []byte) error {
		if lsn != f.next.Load() {
			return errMoved
		}
		f.given.Store(lsn)
		if err := fn(lsn, record); err != nil {
			return err
		}
		f.next.Store(lsn + 1)
		if bytes += len(record); bytes >= f.o.BatchBytes {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) || errors.Is(err, errMoved) {
		return nil
	}
	return err
}

// Done says that the consumer has dealt with every record up to an LSN, those of a gap included:
// none of them is needed again. Any goroutine, also during the delivery of the record.
func (f *Feed) Done(lsn uint64) {
	if lsn >= f.next.Load() && lsn > f.given.Load() {
		panic(fmt.Sprintf("bug: feed: record %d is done before it was delivered", lsn))
	}
	for {
		done := f.done.Load()
		if lsn <= done || f.done.CompareAndSwap(done, lsn) {
			return
		}
	}
}

// saveWhenDue saves the cursor each SaveEvery. A failure is no failure of the feed: it is logged
// once and tried again.
func (f *Feed) saveWhenDue() {
	if f.done.Load() == f.saved.Load() || time.Since(f.tried) < f.o.SaveEvery {
		return
	}
	err := f.save()
	f.tried = time.Now()
	if failing := err != nil; failing != f.failing {
		f.failing = failing
		if failing {
			f.o.Logger.Warn("a feed cannot move its cursor; a restart delivers records again",
				"feed", f.o.Name, "cursor", f.saved.Load(), "err", err)
		} else {
			f.o.Logger.Info("a feed moves its cursor again", "feed", f.o.Name)
		}
	}
}

// save makes the cursor durable, and then lets go of what is before it.
func (f *Feed) save() error {
	if done := f.done.Load(); done != f.saved.Load() {
		return f.saveAt(done)
	}
	return nil
}

func (f *Feed) saveAt(cursor uint64) error {
	if err := f.o.Log.Sync(cursor); err != nil { // F3
		return fmt.Errorf("feed: sync the log up to cursor %q: %w", f.o.Name, err)
	}
	if err := f.o.Store.SetCursor(f.o.Name, cursor); err != nil {
		return fmt.Errorf("feed: save cursor %q: %w", f.o.Name, err)
	}
	f.saved.Store(cursor)
	if err := f.o.Log.Retain(cursor + 1); err != nil { // not before: F4
		return fmt.Errorf("feed: retain the log for %q: %w", f.o.Name, err)
	}
	return nil
}

// Close saves the cursor. After the last Read has returned, and before the log and the store are
// closed.
func (f *Feed) Close() error { return f.save() }

// Stats is how a feed stands. The fields are read one after the other, not at one instant.
type Stats struct {
	Cursor uint64 // durable: a restart begins behind it
	Done   uint64 // highest LSN given to Done
	Next   uint64 // LSN that is delivered next; 0: nothing was read yet
	Gaps   uint64 // records since Open that were gone before they could be delivered
}

// Stats returns the feed's figures. Any goroutine.
func (f *Feed) Stats() Stats {
	return Stats{
		Cursor: f.saved.Load(), Done: f.done.Load(), Next: f.next.Load(), Gaps: f.gaps.Load(),
	}
}
