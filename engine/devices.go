package engine

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"rollcall/cursor"
	"rollcall/engine/table"
	"rollcall/record"
	"rollcall/wire"
)

// devices is what every part of an engine works on: the table, the texts of its sources, the log
// that changes go to, its history, the clock, and the counts. Any goroutine may use it.
type devices struct {
	table    *table.Table
	sources  *sources
	log      Log
	history  *cursor.History
	clock    Clock
	counters counters
}

func newDevices(log Log, o *Options) (*devices, error) {
	key, err := hashKey(o.Store)
	if err != nil {
		return nil, err
	}
	t := table.New(table.Options{
		Shards: o.Shards, MaxDevices: o.MaxDevices, MaxDevicesPerUser: o.MaxDevicesPerUser,
		Budget: o.DeviceBudget, Key: key,
	})
	return &devices{
		table:   t,
		sources: newSources(),
		log:     log,
		history: newHistory(key, t, log),
		clock:   o.Clock,
	}, nil
}

// hashKey returns the key of the table's hash, which the store keeps, so that a device comes back
// to the range of keys under which it was stored.
func hashKey(store Store) (key [4]uint64, err error) {
	if store == nil {
		return table.RandomKey(), nil
	}
	secret, err := store.Secret(func() []byte {
		var b []byte
		for _, w := range table.RandomKey() {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		return b
	})
	if err != nil {
		return key, err
	}
	if len(secret) != 8*len(key) {
		return key, fmt.Errorf("engine: the store's secret has %d bytes, not %d",
			len(secret), 8*len(key))
	}
	for i := range key {
		key[i] = binary.LittleEndian.Uint64(secret[8*i:])
	}
	return key, nil
}

// read returns ids, state and source of one moment; false: the entry has no state. See sources for
// why the LSN vouches for the text.
func (d *devices) read(entry *table.Entry) (
	user, device uuid.UUID, s table.State, source string, ok bool,
) {
	for {
		user, device, s, ok = entry.Read()
		if !ok {
			return user, device, s, "", false
		}
		if source = d.sources.name(s.Source); entry.LSN() == s.LSN {
			return user, device, s, source, true
		}
	}
}

// logTurn appends the record of a change of a device from was to is that turns it, or says offline,
// and moves the aggregate of its user with it. The caller owns the claim and has a credit; it
// commits is with the LSN. A turn says no earlier time than the user's last one (I9). What was
// received is a heartbeat if received has Nanos. The aggregates of package table say why the one is
// inside of the other.
func (d *devices) logTurn(
	user, device uuid.UUID, was, is *table.State, source, scratch []byte, received Instant,
) (lsn uint64) {
	held := d.table.Hold(user)
	turn := was.Online != is.Online
	if turn {
		before := table.NotAhead(held.ChangedAtMS, received.WallMS)
		if is.UpdatedAtMS = max(is.UpdatedAtMS, before); is.Online {
			is.SeenAtMS = max(is.SeenAtMS, is.UpdatedAtMS)
		}
		held.SeenAtMS = table.NotAhead(held.SeenAtMS, received.WallMS)
		held.Turn(is.Online, is.SeenAtMS)
		held.ChangedAtMS = is.UpdatedAtMS
	}
	lsn = d.log.Append(record.AppendUser(scratch, user, device, &is.State, source, &record.User{
		SeenAtMS: held.SeenAtMS, Online: held.Online, Turn: turn,
	}), received.Nanos)
	if !turn {
		held.Release()
		return lsn
	}
	held.TurnLSN = lsn
	held.StoreTurn(d.log.Committed())
	return lsn
}

// remove forgets the device of an entry whose claim the caller owns, and gives back its source.
func (d *devices) remove(ref table.Ref, entry *table.Entry) {
	source := entry.Held().Source
	d.table.Remove(ref, entry)
	d.sources.release(source, 1)
}

// record returns a device as it is shown; false: it is gone.
func (d *devices) record(entry *table.Entry) (r Device, ok bool) {
	ok = d.show(&r, entry)
	return r, ok
}

// show makes r the device of an entry as it is shown; false: it is gone.
func (d *devices) show(r *Device, entry *table.Entry) bool {
	user, device, s, source, ok := d.read(entry)
	if !ok {
		return false
	}
	r.User, r.Device, r.Status, r.Source = user, device, s.Status(), source
	r.SentAtMS, r.Seq, r.TTLMS = s.SentAtMS, s.Seq, s.TTLMS
	r.HeartbeatAtMS, r.UpdatedAtMS, r.SeenAtMS = s.HeartbeatAtMS, s.UpdatedAtMS, s.SeenAtMS
	r.OfflineAtMS, r.LSN = 0, s.LSN
	if !s.Online {
		r.OfflineAtMS = s.SentAtMS
	}
	return true
}

// recordOf returns the device of a ref that Devices named for the user; false: it has no state, or
// is gone.
func (d *devices) recordOf(user uuid.UUID, ref table.Ref) (Device, bool) {
	r, ok := d.record(d.table.Entry(ref))
	return r, ok && r.User == user
}

// eachDevice calls fn for each device of the user until it returns false.
func (d *devices) eachDevice(user uuid.UUID, fn func(Device) bool) {
	for _, ref := range d.table.Devices(user, nil) {
		if r, ok := d.recordOf(user, ref); ok && !fn(r) {
			return
		}
	}
}

func event(user, device uuid.UUID, s *record.State, source string) wire.Event {
	return wire.Event{
		User: user, Device: device, Status: s.Status(), Source: source,
		SentAtMS: s.SentAtMS, Seq: s.Seq, TTLMS: s.TTLMS,
	}
}
