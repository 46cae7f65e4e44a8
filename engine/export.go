package engine

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"rollcall/record"
)

// Export appends records from which a log without any makes the devices and users that this engine
// has (see Engine.Import): in the form that EachState reads, behind the place that after names, and
// some more than limit bytes at most. next names the place to go on from; nil: that was all. An
// export begins with after nil. Places are of this table: another claim of the same partition knows
// them, another partition does not.
//
// What is appended is committed, and the engine was vouched for (Log.Vouch). Each device is as it
// was at one moment, and the whole holds every heartbeat that was acknowledged before the export
// began. It costs heartbeats next to nothing, and takes its time. Any goroutine.
func (e *Engine) Export(dst, after []byte, limit int) (_ []byte, next []byte, err error) {
	dst, next, newest := e.export(dst, after, limit)
	return dst, next, e.log.Vouch(newest)
}

// EachExported calls fn for each record of an export of what was recovered, until it returns an
// error.
func (r *Recovered) EachExported(fn func(rec []byte) error) (err error) {
	const page = 256 << 10
	var buf, next []byte
	for {
		buf, next, _ = r.export(buf[:0], next, page)
		EachState(buf, func(rec []byte) bool {
			err = fn(rec)
			return err == nil
		})
		if err != nil || next == nil {
			return err
		}
	}
}

// exportRangeDevices is how many devices a range has at least that is copied for a page.
const exportRangeDevices = 4096

// export is Engine.Export but for the wait, for newest. Places are keys of the store: an export
// goes through the ranges of the table as a checkpoint does.
func (d *devices) export(dst, after []byte, limit int) (_, next []byte, newest uint64) {
	ranges := 1
	for most := min(maxRanges, d.table.Shards()); ranges < most &&
		ranges*exportRangeDevices < d.table.Len(); {
		ranges *= 2
	}
	per := d.table.Shards() / ranges
	r := 0
	if len(after) >= 2 {
		r = int(binary.BigEndian.Uint16(after)) * ranges >> 16
	}
	b := rangeBuffer{pace: pace{began: time.Now()}}
	for begin := len(dst); r < ranges; r++ {
		newest = max(newest, b.collect(d, r*per, (r+1)*per))
		b.sortKeys(d.table.Shards())
		x := exporting{dst: dst}
		for _, it := range b.items {
			if bytes.Compare(b.key(it), after) <= 0 {
				x.skip(b.key(it))
				continue
			}
			x.add(b.key(it), b.value(it))
			if len(x.dst)-begin >= limit {
				return x.dst, bytes.Clone(b.key(it)), newest
			}
		}
		dst = x.dst
	}
	return dst, nil, newest
}

// exporting makes records of the store's keys and values, a user's devices one after the other.
// Single owner.
type exporting struct {
	dst  []byte
	user uuid.UUID // of the last device, with begun
	// begun says that a device of the user was there before: the user's turn is told.
	begun bool
}

// skip goes past a device that an earlier page had.
func (x *exporting) skip(key []byte) { x.user, x.begun = uuid.UUID(key[2:18]), true }

// add appends the record of a device. Before the first of a user comes one that says what the last
// turn of the user was, which no record of a device may tell: a device that has turned may have
// changed since.
func (x *exporting) add(key, value []byte) {
	_, rec, turn, err := cutValue(value)
	if err != nil {
		panic("bug: " + err.Error())
	}
	if user := rec.User(); !x.begun || user != x.user {
		x.skip(key)
		if turn.lsn > 0 {
			x.appendTurn(rec, turn)
		}
	}
	at := x.open()
	x.dst = append(x.dst, rec...)
	x.close(at)
}

// appendTurn appends a record of a device that says the user's last turn: it is the device's, but
// for its times.
func (x *exporting) appendTurn(rec record.View, turn lastTurn) {
	s := rec.State()
	s.UpdatedAtMS = turn.changedAtMS
	s.SeenAtMS = min(s.SeenAtMS, turn.seenAtMS)
	u := record.User{SeenAtMS: turn.seenAtMS, Turn: true}
	if s.Online {
		u.Online = 1
	}
	at := x.open()
	x.dst = record.AppendUser(x.dst, rec.User(), rec.Device(), &s, rec.Source(), &u)
	x.close(at)
}

func (x *exporting) open() int {
	x.dst = append(x.dst, 0, 0)
	return len(x.dst)
}

func (x *exporting) close(at int) {
	binary.LittleEndian.PutUint16(x.dst[at-2:], uint16(len(x.dst)-at))
}
