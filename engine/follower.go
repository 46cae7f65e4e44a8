package engine

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"rollcall/cursor"
	"rollcall/engine/broadcast"
	"rollcall/engine/table"
	"rollcall/record"
)

// Follower gives streams the devices of users whose engines are elsewhere: on other nodes, or of
// several partitions of this one. It is told what is committed there, in Updates, and keeps the
// users that it was told of until they are dropped. It accepts no heartbeat and expires nothing.
//
// Its LSNs are its own: they number what it was told, in the order in which it was told, of all
// owners together. So a stream may follow users of any owner and has one order of events (B10), and
// a cursor is one number. They mean nothing elsewhere: its history begins with the process, and
// cursors of another process are not honoured. What an owner tells twice, as it does after a doubt,
// is compared with what is held, and only a difference is an event: no stream is told a step back,
// as long as the owners tell none.
//
// Any goroutine may call its methods. Updates exclude each other; streams see an Update whole, at
// its end, since its events and the Flush behind them are of one source's commit loop, which is the
// holder of mu.
type Follower struct {
	*devices
	told    *toldLog // devices.log
	streams *broadcast.Broadcaster

	mu     sync.Mutex
	update Update // of the holder of mu

	phase    atomic.Int32
	stop     chan struct{}
	stopOnce sync.Once
	loops    sync.WaitGroup
}

// Told is what an owner tells of a user beside its devices.
type Told struct {
	SeenAtMS    uint64 // when a device was last known to be seen, in unix milliseconds; 0: never
	ChangedAtMS uint64 // of the last turn; 0: none, or one that may not be shown yet
}

// toldLog stands for the log of what a Follower is told: it gives LSNs, and keeps nothing but the
// record that was appended last. Single owner: the holder of Follower.mu, but for shown.
type toldLog struct {
	Log    // none: nothing else is called
	last   uint64
	record []byte
	shown  atomic.Uint64 // streams have been given everything up to it
}

func (l *toldLog) Append(rec []byte, _ int64) uint64 {
	l.record = append(l.record[:0], rec...)
	l.last++
	return l.last
}

func (l *toldLog) Committed() uint64 { return l.shown.Load() }

// NewFollower makes a follower without users. Of the options it uses Clock, Logger, Shards,
// MaxDevices and DeviceBudget, which bound nothing here but are shown, Broadcast and
// ObserveDelivery.
func NewFollower(o Options) (*Follower, error) {
	o.Store, o.Events, o.Source = nil, nil, 0
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	told := new(toldLog)
	d, err := newDevices(told, &o)
	if err != nil {
		return nil, err
	}
	f := &Follower{devices: d, told: told, stop: make(chan struct{})}
	f.update.f = f
	if f.streams, err = newBroadcaster(d, &o); err != nil {
		d.table.Close()
		return nil, err
	}
	return f, nil
}

// Start begins to answer streams. It is called once.
func (f *Follower) Start() {
	f.told.last = 1 // cursors are above 0
	err := f.history.Begin(rand.Uint64(), f.told.last, func([]byte) error { return nil })
	if err != nil {
		panic("bug: an epoch that is kept nowhere cannot fail: " + err.Error())
	}
	f.told.shown.Store(f.told.last)
	f.streams.Lose(0)
	f.streams.Flush(0, f.told.last, 0)
	f.streams.Start(f.clock.Nanos())
	f.loops.Go(f.tick)
	f.phase.Store(serving)
}

// compactTicks is how often a Follower makes room among what was dropped, in ticks.
const compactTicks = 64

// tick gives the streams the time until the end.
func (f *Follower) tick() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 1; ; n++ {
		now := f.clock.Nanos()
		timer.Reset(time.Duration(nextMultiple(now, streamTickNanos) - now))
		select {
		case <-f.stop:
			return
		case <-timer.C:
			f.streams.Tick(f.clock.Nanos())
		}
		if n%compactTicks == 0 {
			f.history.Compact()
		}
	}
}

// Update has fn tell what owners said, as one batch: streams are given it when fn has returned.
// receivedNanos is when the first heartbeat of it was received, on the Follower's clock; 0:
// unknown. fn must be short: other Updates wait.
func (f *Follower) Update(receivedNanos int64, fn func(u *Update)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.told.last
	fn(&f.update)
	if f.told.last == before {
		return
	}
	f.told.shown.Store(f.told.last)
	f.streams.Flush(0, f.told.last, receivedNanos)
}

// Update is what a Follower is told at once. Valid during the call that has it, and its owner's
// alone.
type Update struct {
	f    *Follower
	refs []table.Ref
	recs []record.View

	scratch [record.MaxBytes]byte // of the encoded record
}

// Change tells a committed change of a device: a record of its owner's log, which come in the order
// of that log. It keeps nothing of rec. An error says that rec is no record, or that there is no
// memory.
func (u *Update) Change(rec []byte) error {
	r, err := record.Parse(rec)
	if err != nil {
		return fmt.Errorf("engine: follower: %w", err)
	}
	if r.Forget() {
		u.forget(r.User(), r.Device(), u.f.clock().WallMS)
		return nil
	}
	return u.put(r, r.UpdatedAt())
}

// Replace tells all that the owner knows of a user: a record of each device, as AppendStates makes
// them. A device that is held and not named is gone. It keeps nothing of the records.
func (u *Update) Replace(user uuid.UUID, told Told, recs iter.Seq[[]byte]) error {
	u.recs = u.recs[:0]
	for rec := range recs {
		r, err := record.Parse(rec)
		if err != nil {
			return fmt.Errorf("engine: follower: %w", err)
		}
		if r.User() != user || r.Forget() {
			return fmt.Errorf("engine: follower: a record of another user in the states of %v", user)
		}
		u.recs = append(u.recs, r)
	}
	// As they happened.
	slices.SortStableFunc(u.recs, func(a, b record.View) int {
		return cmp.Compare(a.UpdatedAt(), b.UpdatedAt())
	})
	u.forgetOthers(user, cmp.Or(told.ChangedAtMS, u.f.clock().WallMS))
	for _, r := range u.recs {
		// A device that is online has been heard of since it turned: its record does not say when
		// that was. The user's last turn was no earlier.
		if err := u.put(r, cmp.Or(told.ChangedAtMS, r.UpdatedAt())); err != nil {
			return err
		}
	}
	if len(u.recs) > 0 {
		u.aggregate(user, told)
	}
	clear(u.recs)
	return nil
}

// Drop lets go of a user whom no stream follows. Cursors that followed it get it whole again.
func (u *Update) Drop(user uuid.UUID) {
	d := u.f.devices
	u.refs = d.table.Devices(user, u.refs[:0])
	for _, ref := range u.refs {
		entry := d.table.Entry(ref)
		if owner, device := entry.IDs(); owner == user && entry.Claim(user, device) {
			u.remove(ref, entry)
		}
	}
	if len(u.refs) > 0 {
		u.noteForgotten(user)
	}
}

// put makes a device what its record says, and publishes that if it is news. If it is a turn, its
// user changed at an instant.
func (u *Update) put(r record.View, changedAtMS uint64) error {
	d := u.f.devices
	user, device := r.User(), r.Device()
	_, entry, err := d.table.Restore(user, device)
	if err != nil {
		return fmt.Errorf("engine: follower: %w", err)
	}
	if !entry.Claim(user, device) {
		panic("bug: a device was removed beside an Update")
	}
	held := entry.Held()
	next := table.State{State: r.State(), Source: held.Source}
	if held.LSN != 0 && held.State == next.State && d.sources.holds(held.Source, r.Source()) {
		entry.Unclaim()
		return nil
	}
	if held.Source == 0 || !d.sources.holds(held.Source, r.Source()) {
		next.Source = d.sources.take(r.Source(), 1) // no heartbeat waits for this claim
	}
	u.commit(entry, &held, &next, r, changedAtMS)
	if next.Source != held.Source {
		d.sources.release(held.Source, 1)
	}
	return nil
}

// commit gives a change its LSN and its place in the table, and publishes it. The caller owns the
// claim, which it gives back. The record of a turn, from which frames are made, says when the user
// changed; the entry says what the owner does.
func (u *Update) commit(
	entry *table.Entry, held, next *table.State, r record.View, changedAtMS uint64,
) {
	d, user := u.f.devices, r.User()
	if next.Online {
		next.DeadlineNanos = math.MaxInt64 // silence is the owner's
	}
	if held.Online && next.Online {
		next.LSN = d.log.Append(
			record.Append(u.scratch[:0], user, r.Device(), &next.State, r.Source()), 0)
	} else {
		turn := *next
		if turn.Online != held.Online {
			turn.UpdatedAtMS = changedAtMS
		}
		next.LSN = d.logTurn(user, r.Device(), held, &turn, r.Source(), u.scratch[:0],
			Instant{WallMS: d.clock().WallMS})
	}
	entry.Commit(next)
	d.counters.loops().moved(held, next)
	u.f.streams.Publish(0, user, next.LSN, u.f.told.record)
}

// aggregate takes up what the owner says of a user with devices.
func (u *Update) aggregate(user uuid.UUID, told Told) {
	held := u.f.table.Hold(user)
	was := held.Aggregate
	now := u.f.clock().WallMS
	held.SeenAtMS = max(table.NotAhead(held.SeenAtMS, now), told.SeenAtMS)
	held.ChangedAtMS = max(table.NotAhead(held.ChangedAtMS, now), told.ChangedAtMS)
	if held.Aggregate == was {
		held.Release()
		return
	}
	if held.TurnLSN == 0 {
		held.TurnLSN = u.f.told.last
	}
	held.Store()
}

// forgetOthers removes the devices of a user that u.recs do not name. The user changed at an
// instant.
func (u *Update) forgetOthers(user uuid.UUID, changedAtMS uint64) {
	d := u.f.devices
	u.refs = d.table.Devices(user, u.refs[:0])
	if len(u.refs) == 0 {
		return
	}
	named := make(map[uuid.UUID]bool, len(u.recs))
	for _, r := range u.recs {
		named[r.Device()] = true
	}
	for _, ref := range u.refs {
		owner, device := d.table.Entry(ref).IDs()
		if owner == user && !named[device] {
			u.forget(user, device, changedAtMS)
		}
	}
}

// forget removes a device. One that was online is told offline first, at the present time; its user
// changed at an instant.
func (u *Update) forget(user, device uuid.UUID, changedAtMS uint64) {
	d := u.f.devices
	ref, entry := d.table.Find(user, device)
	if entry == nil || !entry.Claim(user, device) {
		return
	}
	held := entry.Held()
	if held.Online {
		next := held
		now := d.clock().WallMS
		next.Online, next.SentAtMS, next.UpdatedAtMS = false, now, now
		source := []byte(d.sources.name(held.Source))
		rec := record.AppendUser(nil, user, device, &next.State, source, &record.User{})
		u.commit(entry, &held, &next, record.View(rec), changedAtMS)
		if !entry.Claim(user, device) {
			panic("bug: a device was removed beside an Update")
		}
	}
	u.remove(ref, entry)
	u.noteForgotten(user)
}

// remove takes a device out of the table. The caller owns the claim, and gives it away.
func (u *Update) remove(ref table.Ref, entry *table.Entry) {
	held := entry.Held()
	u.f.devices.remove(ref, entry)
	if held.LSN != 0 {
		u.f.counters.loops().devices[held.Status()].Add(-1)
	}
}

// noteForgotten says that a cursor from before does not bring the user up to date.
func (u *Update) noteForgotten(user uuid.UUID) {
	u.f.told.last++
	u.f.history.Forget(u.f.table.UserHash(user), u.f.told.last)
}

// Users is Engine.Users, of what the Follower was told: it knows users that were told and not
// dropped.
func (f *Follower) Users(ids []uuid.UUID, limit int, fn func(u *User)) error {
	_, err := f.users(ids, limit, fn)
	return err
}

// Devices is Engine.Devices, of what the Follower was told.
func (f *Follower) Devices(user, after uuid.UUID, limit int) (page []Device, more bool) {
	return f.page(user, after, limit)
}

// Turned is Engine.Turned, of what the Follower was told.
func (f *Follower) Turned(user uuid.UUID) (atMS uint64, online bool) {
	held, _ := f.table.Aggregate(user)
	return held.ChangedAtMS, held.Online > 0
}

// History makes and reads the ids of a stream's events. It honours none before Start.
func (f *Follower) History() *cursor.History { return f.history }

// Take makes a connection ready for Subscribe; it takes the socket out of the net.Conn, which is
// closed.
func (f *Follower) Take(c net.Conn) (broadcast.Conn, error) { return f.streams.Take(c) }

// Subscribe starts a stream. On an error the connection still belongs to the caller. The stream
// sees of its users what the Follower is told: one whose users it was not told of wants a Hold.
func (f *Follower) Subscribe(s broadcast.Subscription) error { return f.streams.Subscribe(s) }

// Begin lets a stream begin that waits, see Broadcaster.Begin.
func (f *Follower) Begin(h *broadcast.Hold) { f.streams.Begin(h) }

// Shed ends all streams, see Broadcaster.Shed.
func (f *Follower) Shed(over time.Duration) { f.streams.Shed(over) }

// Renew moves the end of a stream, see Engine.Renew.
func (f *Follower) Renew(name string, expiresNanos int64, fits broadcast.Fits) error {
	return renew(f.streams, name, expiresNanos, fits)
}

// SetRestart says how long a restart of this node takes, see Broadcaster.SetRestart.
func (f *Follower) SetRestart(d time.Duration) { f.streams.SetRestart(d) }

// Retry is when a client whose stream was refused should come back.
func (f *Follower) Retry() time.Duration { return f.streams.Retry() }

// OpenStreams is how many streams there are now, of all users.
func (f *Follower) OpenStreams() int { return f.streams.Open() }

// Streams is how many streams follow the user now.
func (f *Follower) Streams(user uuid.UUID) int { return f.streams.Streams(user) }

// Stats reads the counters of what is held, and of the streams.
func (f *Follower) Stats() Stats {
	s := Stats{
		Devices: f.table.Len(), Users: f.table.Users(), UsersOnline: f.table.UsersOnline(),
		Streams: f.streams.Stats(),
	}
	s.Sources, s.SourceBytes = f.sources.size()
	f.counters.sum(&s)
	return s
}

// Drain refuses new streams and ends the open ones, spread over the given time, until all have
// ended or ctx is done, whose error it returns then.
func (f *Follower) Drain(ctx context.Context, over time.Duration) error {
	f.phase.Store(draining)
	select {
	case <-f.streams.Drain(over):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends every stream now, and gives the memory back. With a ctx that is done calls may still
// be in flight, so the table's memory stays; that is the error. Otherwise no method may be called
// any more.
func (f *Follower) Close(ctx context.Context) error {
	f.phase.Store(draining)
	f.stopOnce.Do(func() { close(f.stop) })
	f.loops.Wait()
	f.streams.Close()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("engine: close: %w", err)
	}
	f.table.Close()
	return nil
}
