package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
	"rollcall/record"
)

const (
	// maxRanges is the most parts that a checkpoint is written in: memory for one part is needed at
	// a time.
	maxRanges = 256
	// deviceBytes is about what a device takes in the store.
	deviceBytes = 160
	// keyBytes is the length of a device's key in the store.
	keyBytes = 2 + 16 + 16
)

// rangeOf is the finest range in which the devices of a user with this hash lie.
func rangeOf(userHash uint64) int { return int(userHash >> 56) }

// rangeBounds are the keys between which the r-th range lies; hi is nil for the last.
func rangeBounds(r, ranges int) (lo, hi []byte) {
	width := (1 << 16) / ranges
	lo = binary.BigEndian.AppendUint16(nil, uint16(r*width))
	if r+1 < ranges {
		hi = binary.BigEndian.AppendUint16(nil, uint16((r+1)*width))
	}
	return lo, hi
}

func appendKey(dst []byte, userHash uint64, user, device uuid.UUID) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(userHash>>48))
	dst = append(dst, user[:]...)
	return append(dst, device[:]...)
}

// rangeBuffer holds the devices of one range: keys and values in one piece of memory, used again
// from range to range. Single owner.
type rangeBuffer struct {
	bytes []byte
	items []rangeItem
	pace  pace
}

// rangeItem is where a device lies in bytes: its key, then its value.
type rangeItem struct{ at, end int }

func (b *rangeBuffer) key(it rangeItem) []byte   { return b.bytes[it.at : it.at+keyBytes] }
func (b *rangeBuffer) value(it rangeItem) []byte { return b.bytes[it.at+keyBytes : it.end] }

// lastTurn is what a device's value in the store says of its user, behind the record: of the last
// turn of any of the user's devices, when the value was made. TurnLSN 0: there was none. Every
// device of a user says it, so that it is not lost with those that recovery leaves to the log.
type lastTurn struct{ lsn, changedAtMS, seenAtMS uint64 }

// turnBytes is the size of a lastTurn in a value. Values of earlier versions have none.
const turnBytes = 24

// appendValue appends a device's value: LSN, record, lastTurn.
func appendValue(
	dst []byte, user, device uuid.UUID, s *table.State, source string, u *table.Aggregate,
) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, s.LSN)
	if s.Online {
		dst = record.Append(dst, user, device, &s.State, []byte(source))
	} else {
		dst = record.AppendUser(dst, user, device, &s.State, []byte(source), &record.User{
			SeenAtMS: u.SeenAtMS, Online: u.Online,
		})
	}
	dst = binary.LittleEndian.AppendUint64(dst, u.TurnLSN)
	dst = binary.LittleEndian.AppendUint64(dst, u.ChangedAtMS)
	return binary.LittleEndian.AppendUint64(dst, u.SeenAtMS)
}

// cutValue takes a value apart. A value of an earlier version knows of no turn: the device's last
// change stands for it, unless the device was never seen.
func cutValue(value []byte) (lsn uint64, rec record.View, turn lastTurn, err error) {
	if len(value) < 8 {
		return 0, nil, turn, fmt.Errorf("%w: a value of %d bytes", record.Err, len(value))
	}
	lsn = binary.LittleEndian.Uint64(value)
	rec, rest, err := record.Cut(value[8:])
	switch {
	case err != nil:
	case len(rest) == turnBytes:
		turn = parseTurn(rest)
	case len(rest) > 0:
		err = fmt.Errorf("%w: %d bytes behind it", record.Err, len(rest))
	case rec.Seen() > 0:
		turn = lastTurn{lsn: lsn, changedAtMS: rec.UpdatedAt(), seenAtMS: rec.Seen()}
	}
	if err != nil {
		err = fmt.Errorf("LSN %d: %w", lsn, err)
	}
	return lsn, rec, turn, err
}

func parseTurn(b []byte) lastTurn {
	return lastTurn{
		lsn:         binary.LittleEndian.Uint64(b),
		changedAtMS: binary.LittleEndian.Uint64(b[8:]),
		seenAtMS:    binary.LittleEndian.Uint64(b[16:]),
	}
}

// collect copies the devices of some shards, one shard after the other, and returns the newest LSN
// among them.
func (b *rangeBuffer) collect(d *devices, from, to int) (newest uint64) {
	b.bytes, b.items = b.bytes[:0], b.items[:0]
	d.table.RangeShards(from, to, func(_ table.Ref, entry *table.Entry) bool {
		user, device, s, source, ok := d.read(entry)
		if !ok {
			return true
		}
		at := len(b.bytes)
		b.bytes = appendKey(b.bytes, d.table.UserHash(user), user, device)
		// After the entry: it holds every turn of the device that the entry shows.
		u, _ := d.table.Aggregate(user)
		b.bytes = appendValue(b.bytes, user, device, &s, source, &u)
		b.items = append(b.items, rangeItem{at, len(b.bytes)})
		newest = max(newest, s.LSN, u.TurnLSN)
		if len(b.items)%paceItems == 0 {
			b.pace.step()
		}
		return true
	})
	return newest
}

// sortKeys brings the items into the order of their keys, a shard at a time: shards follow each
// other as keys do.
func (b *rangeBuffer) sortKeys(shards int) {
	shardOf := func(it rangeItem) int {
		return int(binary.BigEndian.Uint16(b.key(it))) * shards >> 16
	}
	for rest := b.items; len(rest) > 0; {
		n := 1
		for n < len(rest) && shardOf(rest[n]) == shardOf(rest[0]) {
			n++
		}
		compared := 0
		slices.SortFunc(rest[:n], func(x, y rangeItem) int {
			if compared++; compared%paceCompares == 0 { // a shard may be large
				b.pace.step()
			}
			return bytes.Compare(b.key(x), b.key(y))
		})
		rest = rest[n:]
	}
}

// each yields keys and values in order.
func (b *rangeBuffer) each(yield func(key, value []byte) bool) {
	for i, it := range b.items {
		if !yield(b.key(it), b.value(it)) {
			return
		}
		if i%paceItems == 0 {
			b.pace.step()
		}
	}
}

// pace leaves the processor and the disk to heartbeats for at least as long as they were taken, in
// slices that are short beside the latency of a heartbeat: work in one long piece would delay every
// heartbeat that arrives meanwhile. On a quiet machine the runtime's timers make a rest of a
// millisecond of any shorter one, so that a checkpoint takes a fifth of one processor; on a busy
// one it takes half, and is done sooner. Single owner.
type pace struct {
	began time.Time       // of the work since the last rest
	stop  <-chan struct{} // ends a rest; nil: nothing does
}

const (
	paceSlice = 250 * time.Microsecond
	// Between two looks at the clock, some 20 microseconds:
	paceItems    = 64
	paceCompares = 512
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
