package jslog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Replay calls apply for every record of the stream with an LSN above after, up to the claim, in
// order; and, in between, for the values of checkpoints, cut behind their LSN: what a value tells
// of stands before it, or was purged.
//
// It refuses with a *DamageError what owners that keep to C1 to C4 cannot have left: a missing
// message, one of an older epoch behind a newer claim, a gap of LSNs, a wrong checksum, a front
// that was purged although no whole checkpoint stands for it; and with a *FormatError what a newer
// version wrote. It gives up with ErrUnread when nothing comes for Options.AckTimeout, and with
// ErrPurged. Call it once, before Start, from one goroutine.
func (l *Log) Replay(after uint64, apply func(lsn uint64, record []byte) error) error {
	r := &l.replay
	r.log, r.after, r.apply = l, after, apply
	if err := r.read(); err != nil {
		return err
	}
	if err := r.whole(); err != nil {
		return err
	}
	r.next = max(r.next, 1)
	r.reached.Store(r.next)
	l.store.found(r.newest)
	r.done = true
	return nil
}

// Begin takes the place of Replay where the stream holds nothing but claims, for a copy: the log
// goes on behind an LSN up to which everything is in the checkpoint that is written next. Without
// one no later Replay takes the stream.
func (l *Log) Begin(after uint64) error {
	if err := l.Replay(0, func(uint64, []byte) error { return errNotEmpty }); err != nil {
		return err
	}
	if l.replay.first != 0 {
		return errNotEmpty
	}
	l.replay.next = after + 1
	return nil
}

var errNotEmpty = errors.New("jslog: the stream is not empty")

// Replayed is how far Replay is: the LSN of the next record, and bytes read, of about how many. Any
// goroutine.
func (l *Log) Replayed() (next uint64, done, total int64) {
	r := &l.replay
	done, read := r.bytes.Load(), r.messages.Load()
	if all := r.all.Load(); read > 0 && all > read {
		return max(r.reached.Load(), 1), done, int64(float64(done) / float64(read) * float64(all))
	}
	return max(r.reached.Load(), 1), done, done
}

// replay reads a stream from its front to the claim. One goroutine, but for the figures.
type replay struct {
	log   *Log
	after uint64
	apply func(lsn uint64, record []byte) error
	done  bool

	front  uint64     // sequence of the first message of the stream; 0: not known
	at     uint64     // sequence of the next message; 0: not known
	epoch  uint64     // of the newest claim; 0: not known
	first  uint64     // LSN with which the first message begins that is no claim; 0: there was none
	next   uint64     // LSN of the next record; 0: not known
	newest checkpoint // the last one that has an end; firstBucket 0: there was none, or it is empty
	ended  bool       // there was one

	reached              atomic.Uint64
	bytes, messages, all atomic.Int64
}

// errMissing says that a message did not come. It may have been lost on its way: it is asked for
// again.
var errMissing = errors.New("jslog: a message is missing")

// againAfter is the pause before a stream is asked again for what it did not have: a replica may be
// behind for a moment.
const againAfter = 10 * time.Millisecond

// minMissed is how often a message may be missing, for however long, and be no damage: a process
// that is paused finds that much time has passed, and has asked once.
const minMissed = 10

// read reads until the claim is reached.
func (r *replay) read() error {
	l := r.log
	came, missed := time.Now(), 0 // when the last message came; how often the next one did not
	for {
		before := r.at
		reached, err := r.readOn()
		switch {
		case reached:
			return nil
		case l.ctx.Err() != nil:
			return ErrClosed
		case r.refused(err):
			return err
		case r.at > before:
			came, missed = time.Now(), 0
			continue
		case errors.Is(err, errMissing):
			if missed++; missed > minMissed && time.Since(came) >= l.o.AckTimeout {
				return damaged(r.at, "it is missing")
			}
		case time.Since(came) >= l.o.AckTimeout:
			return fmt.Errorf("%w: replay stands at message %d of %d: %w", ErrUnread, r.at, l.epoch,
				err)
		}
		select {
		case <-l.ctx.Done():
		case <-time.After(againAfter):
		}
	}
}

// refusal is an error that another attempt would meet again.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func (r *replay) refused(err error) bool {
	var no refusal
	return errors.As(err, &no)
}

// errNoMore says that the copy that was read does not have the claim.
var errNoMore = errors.New("the copy ends here")

// begin finds out where the stream begins. What is missing there was purged, and is no damage.
func (r *replay) begin() error {
	l := r.log
	ctx, cancel := context.WithTimeout(l.ctx, l.o.AckTimeout)
	defer cancel()
	front, _, err := l.stream.Info(ctx)
	switch {
	case err != nil:
		return err
	case front > l.epoch, r.at != 0 && front > r.at:
		return refusal{ErrPurged}
	case r.at == 0:
		r.front, r.at = front, front
		r.all.Store(int64(l.epoch - front))
	}
	return nil
}

// readOn reads on as long as messages come one after the other. It reports whether that was up to
// the claim.
func (r *replay) readOn() (reached bool, err error) {
	if err := r.begin(); err != nil {
		return false, err
	}
	epoch := r.log.epoch
	err = r.log.stream.Read(r.log.ctx, r.at, func(seq uint64, data []byte) error {
		switch {
		case seq < r.at:
			return nil
		case seq > r.at:
			return errMissing
		}
		if seq >= epoch {
			reached = true
			return errReached
		}
		if err := r.message(seq, data); err != nil {
			return refusal{err}
		}
		r.at = seq + 1
		r.bytes.Add(int64(len(data)))
		r.messages.Add(1)
		return nil
	})
	switch {
	case err == nil:
		err = errNoMore
	case errors.Is(err, errMissing): // or purged, since begin has asked?
		err = cmp.Or(r.begin(), err)
	}
	return reached, err
}

// errReached ends the reading.
var errReached = errors.New("jslog: the claim is reached")

// message takes up one message (C1, C4).
func (r *replay) message(seq uint64, data []byte) error {
	h, payload, err := parse(seq, data)
	if err != nil {
		return err
	}
	if h.kind == kindClaim {
		r.epoch = seq
		return nil
	}
	if r.epoch == 0 { // its claim was purged
		r.epoch = h.epoch
	}
	if r.next == 0 {
		r.first, r.next = h.first, h.first
	}
	switch {
	case h.epoch != r.epoch || h.epoch >= seq:
		return damaged(seq, "its writer's claim is message %d, but %d is the newest one before it",
			h.epoch, r.epoch)
	case h.first != r.next || h.first == 0:
		return damaged(seq, "it begins at LSN %d, not %d", h.first, r.next)
	}
	r.log.marks.add(seq, h.first, len(data))
	switch h.kind {
	case kindBatch:
		err = r.batch(seq, h, payload)
	case kindBucket:
		err = r.bucket(seq, h, payload)
	case kindCheckpoint:
		r.newest, err = parseCheckpoint(seq, payload)
		r.ended = true
	}
	return err
}

func (r *replay) batch(seq uint64, h header, payload []byte) error {
	for record := range items(payload) {
		if r.next > r.after {
			if err := r.apply(r.next, record); err != nil {
				return err
			}
		}
		r.next++
	}
	if r.next != h.first+uint64(h.count) {
		return damaged(seq, "it has %d records, but says %d", r.next-h.first, h.count)
	}
	r.reached.Store(r.next)
	return nil
}

func (r *replay) bucket(seq uint64, h header, payload []byte) error {
	values := uint32(0)
	for value := range items(payload) {
		values++
		if len(value) < 8 {
			return damaged(seq, "a value of %d bytes", len(value))
		}
		lsn := binary.LittleEndian.Uint64(value)
		if lsn >= h.first {
			return damaged(seq, "a value of LSN %d stands before its record", lsn)
		}
		if err := r.apply(lsn, value[8:]); err != nil {
			return err
		}
	}
	if values != h.count {
		return damaged(seq, "it has %d values, but says %d", values, h.count)
	}
	return nil
}

// whole returns an error unless everything from LSN 1 on was there, as records or as a checkpoint.
func (r *replay) whole() error {
	c := r.newest
	switch {
	case r.first == 0 && r.front <= 1, r.first == 1: // empty, or never purged
	case !r.ended:
		return damaged(r.front, "the stream begins here, at LSN %d, without a checkpoint", r.first)
	case r.first > c.lsn+1:
		return damaged(r.front, "the stream begins here, at LSN %d, but its checkpoint is as of %d",
			r.first, c.lsn)
	case c.firstBucket != 0 && r.front > c.firstBucket:
		return damaged(r.front, "the stream begins here, but its checkpoint at message %d",
			c.firstBucket)
	}
	return nil
}
