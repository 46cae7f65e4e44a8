package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/record"
)

// A checkpoint is the table as of an LSN, so that the log before it can go. It is fuzzy: heartbeats go on while it is taken,
// and what it holds may be newer than its LSN S, never older.
//
//	S = the last LSN given out ► each range of the table: copy, sync the log past what was copied, replace ► commit S ► truncate
//
// Why recovery from it is right: a change at or below S was appended, and so applied, before the walk began, or its claim was
// still held then and the walk waited for it; so the store has it or something newer. A change above S is in the log, which
// is synced past everything that the store holds (nothing in the store can be lost with the log's tail), and replay goes by
// LSN, so that an older record never takes the place of a newer state.
//
// Keys are 16 bits of the user's hash, user, device: a shard of the table is a range of keys. The hash's key is kept with
// the store, so that devices come back to their shards.

const (
	// maxRanges is the most parts that a checkpoint is written in: memory for one part is needed at a time.
	maxRanges = 256
	// checkpointCheck is how often the loop looks whether a checkpoint is due.
	checkpointCheck = 100 * time.Millisecond
	// deviceBytes is about what a device takes in the store.
	deviceBytes = 128
)

// keyBytes is the length of a device's key in the store.
const keyBytes = 2 + 16 + 16

// checkpointLoop takes a checkpoint when the log has grown by CheckpointBytes, or after CheckpointEvery.
func (e *Engine) checkpointLoop(stop <-chan struct{}) {
	ticker := time.NewTicker(checkpointCheck)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		due := time.Since(last) >= e.opts.CheckpointEvery && e.log.Appended() > e.opts.Store.LSN()
		if !due && e.logged.Load() < e.opts.CheckpointBytes {
			continue
		}
		began := time.Now()
		written, err := e.Checkpoint(stop)
		last = time.Now()
		if errors.Is(err, errStopped) {
			return
		}
		if err != nil {
			e.counters.checkpointFailures.Add(1)
			e.opts.Logger.Error("no checkpoint: the log keeps growing until one succeeds; it is tried again",
				"error", err, "log_bytes", e.logged.Load())
			last = last.Add(min(time.Minute, e.opts.CheckpointEvery) - e.opts.CheckpointEvery)
			e.logged.Store(0)
			continue
		}
		e.counters.checkpointed.Store(last.UnixNano())
		e.counters.checkpointTook.Store(int64(last.Sub(began)))
		e.opts.Logger.Info("checkpoint", "lsn", e.opts.Store.LSN(), "devices_written", written, "took", last.Sub(began).Round(time.Millisecond))
	}
}

// errStopped: a checkpoint ended early because it was asked to.
var errStopped = errors.New("engine: the checkpoint was stopped")

// Checkpoint writes what changed since the last checkpoint, forgets devices that were offline for too long and shortens the
// log. One goroutine at a time. A closed stop ends it early, between two ranges, as if it had not begun, with errStopped. It
// returns how many devices were written.
func (e *Engine) Checkpoint(stop <-chan struct{}) (written int, err error) {
	store := e.opts.Store
	before := e.logged.Load()
	through := e.log.Appended()
	ranges := e.ranges()
	buf := rangeBuffer{pace: pace{began: time.Now(), stop: stop}}
	for r := range ranges {
		select {
		case <-stop:
			return written, errStopped
		default:
		}
		n, err := e.writeRange(&buf, r, ranges, store.LSN())
		if err != nil {
			return written, err
		}
		written += n
		buf.pace.step()
	}
	if err := store.Room(0); err != nil {
		return written, err
	}
	// What the store is as of must never be ahead of the log after a crash.
	if err := e.log.Sync(through); err != nil {
		return written, err
	}
	if err := store.Commit(through); err != nil {
		return written, err
	}
	e.logged.Add(-before)
	return written, e.log.TruncateBefore(through + 1)
}

// pace leaves the processor and the disk to heartbeats for as long as they were taken, in slices that are short beside the
// latency of a heartbeat: who works for a long time at once makes all that arrive meanwhile late.
type pace struct {
	began time.Time // of the work since the last rest
	stop  <-chan struct{}
}

const (
	paceSlice = time.Millisecond
	paceItems = 256 // between two looks at the clock
)

// step rests if a slice is over. It is called between small pieces of work.
func (p *pace) step() {
	worked := time.Since(p.began)
	if worked < paceSlice {
		return
	}
	select {
	case <-time.After(worked):
	case <-p.stop:
	}
	p.began = time.Now()
}

// rangeBuffer holds the devices of one range: keys and values in one piece of memory, reused from range to range.
type rangeBuffer struct {
	bytes []byte
	items []rangeItem
	pace  pace
}

// rangeItem is where a device lies in bytes: its key, then its value.
type rangeItem struct{ at, end int }

func (b *rangeBuffer) key(it rangeItem) []byte   { return b.bytes[it.at : it.at+keyBytes] }
func (b *rangeBuffer) value(it rangeItem) []byte { return b.bytes[it.at+keyBytes : it.end] }

// writeRange replaces the r-th of so many ranges in the store, unless nothing in it changed after since.
func (e *Engine) writeRange(b *rangeBuffer, r, ranges int, since uint64) (int, error) {
	per := e.table.Shards() / ranges
	newest := e.collect(b, r*per, (r+1)*per)
	if err := e.forgetOld(b); err != nil {
		return 0, err
	}
	fine := maxRanges / ranges
	if newest = max(newest, slices.Max(e.forgot[r*fine:(r+1)*fine])); newest <= since {
		return 0, nil
	}
	if err := e.opts.Store.Room(int64(len(b.items)) * deviceBytes); err != nil {
		return 0, err
	}
	e.sortKeys(b)
	if err := e.log.Sync(newest); err != nil {
		return 0, err
	}
	lo, hi := rangeBounds(r, ranges)
	return len(b.items), e.opts.Store.Replace(lo, hi, func(yield func(k, v []byte) bool) {
		for i, it := range b.items {
			if !yield(b.key(it), b.value(it)) {
				return
			}
			if i%paceItems == 0 {
				b.pace.step()
			}
		}
	})
}

// sortKeys brings the items into the order of their keys, a shard at a time: shards follow each other as keys do.
func (e *Engine) sortKeys(b *rangeBuffer) {
	shardOf := func(it rangeItem) int { return int(binary.BigEndian.Uint16(b.key(it))) * e.table.Shards() >> 16 }
	for rest := b.items; len(rest) > 0; {
		n := 1
		for n < len(rest) && shardOf(rest[n]) == shardOf(rest[0]) {
			n++
		}
		slices.SortFunc(rest[:n], func(x, y rangeItem) int { return bytes.Compare(b.key(x), b.key(y)) })
		rest = rest[n:]
		b.pace.step()
	}
}

// collect copies the devices of some shards, one shard after the other, and returns the newest LSN among them.
func (e *Engine) collect(b *rangeBuffer, from, to int) (newest uint64) {
	b.bytes, b.items = b.bytes[:0], b.items[:0]
	e.table.RangeShards(from, to, func(_ table.Ref, entry *table.Entry) bool {
		if user, device, s, source, ok := e.readWhole(entry); ok {
			at := len(b.bytes)
			b.bytes = appendKey(b.bytes, e.table.UserHash(user), user, device)
			b.bytes = binary.LittleEndian.AppendUint64(b.bytes, s.LSN)
			b.bytes = record.Append(b.bytes, user, device, &s.State, []byte(source))
			b.items = append(b.items, rangeItem{at, len(b.bytes)})
			newest = max(newest, s.LSN)
			if len(b.items)%paceItems == 0 {
				b.pace.step()
			}
		}
		return true
	})
	return newest
}

// readWhole is read for an entry that may change hands meanwhile.
func (e *Engine) readWhole(entry *table.Entry) (user, device uuid.UUID, s table.State, source string, ok bool) {
	for {
		user, device, s, ok = entry.Read()
		if !ok {
			return user, device, s, "", false
		}
		if source = e.sources.name(s.Source); entry.LSN() == s.LSN {
			return user, device, s, source, true
		}
	}
}

func appendKey(dst []byte, userHash uint64, user, device uuid.UUID) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(userHash>>48))
	dst = append(dst, user[:]...)
	return append(dst, device[:]...)
}

// rangeBounds are the keys between which the r-th range lies; hi is nil for the last.
func rangeBounds(r, ranges int) (lo, hi []byte) {
	width := (1 << 16) / ranges
	lo = binary.BigEndian.AppendUint16(nil, uint16(r*width))
	if r+1 < ranges {
		hi = binary.BigEndian.AppendUint16(nil, uint16((r+1)*width))
	}
	return lo, hi
}

// forgetOld forgets the devices in b that have been offline for longer than ForgetAfter, and takes them out of b.
func (e *Engine) forgetOld(b *rangeBuffer) error {
	horizon := uint64(max(0, int64(e.clock().WallMS)-e.opts.ForgetAfter.Milliseconds()))
	kept := b.items[:0]
	for _, it := range b.items {
		rec := record.View(b.value(it)[8:])
		if s := rec.State(); s.Online || s.UpdatedAtMS >= horizon {
			kept = append(kept, it)
			continue
		}
		lsn, err := e.forget(rec, binary.LittleEndian.Uint64(b.value(it)))
		if err != nil && e.log.Err() != nil {
			return err
		}
		if lsn == 0 { // it came back meanwhile, or the log has no room: the checkpoint that makes room must go on
			kept = append(kept, it)
			continue
		}
		e.forgot[e.rangeOf(rec.User())] = lsn
	}
	b.items = kept
	return nil
}

// forget removes a device that still stands at an LSN, as a logged change like any other. It returns 0 when the device has
// moved on. Streams are not told: it was offline, and it stays so.
func (e *Engine) forget(r record.View, at uint64) (lsn uint64, err error) {
	user, device := r.User(), r.Device()
	if err := e.log.Reserve(len(r), e.opts.MaxWait); err != nil {
		return 0, err
	}
	ref, entry := e.table.Find(user, device)
	if entry == nil || !entry.Claim(user, device) {
		e.log.Release(len(r))
		return 0, nil
	}
	if entry.LSN() != at {
		entry.Unclaim()
		e.log.Release(len(r))
		return 0, nil
	}
	lsn = e.log.Append(record.AppendForget(nil, r))
	e.table.Remove(ref, entry)
	e.counters.forgotten.Add(1)
	e.counters.lanes[0].devices[Offline].Add(-1)
	return lsn, nil
}

// ranges is in how many parts the next checkpoint is written, a power of two. It may differ from one to the next: each covers
// all keys.
func (e *Engine) ranges() int {
	n := 1
	for most := min(maxRanges, e.table.Shards()); n < most && n*e.rangeDevices < e.table.Len(); {
		n *= 2
	}
	return n
}

// rangeOf is the finest range in which a user's devices lie.
func (e *Engine) rangeOf(user uuid.UUID) int { return int(e.table.UserHash(user) >> 56) }

// hashKey returns the key of the table's hash, which the store keeps.
func (e *Engine) hashKey() (key [4]uint64, err error) {
	if e.opts.Store == nil {
		return table.RandomKey(), nil
	}
	secret, err := e.opts.Store.Secret(func() []byte {
		var b []byte
		for _, w := range table.RandomKey() {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		return b
	})
	if err != nil {
		return key, err
	}
	if len(secret) != 32 {
		return key, fmt.Errorf("engine: the store's secret has %d bytes, not 32", len(secret))
	}
	for i := range key {
		key[i] = binary.LittleEndian.Uint64(secret[8*i:])
	}
	return key, nil
}
