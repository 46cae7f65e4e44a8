package loadgen

import (
	"bytes"
	"slices"
	"time"
)

// list is a stream of many users. It follows users of its worker alone, so that the oracle has the
// truth of all of them at hand. A followed user costs 4 bytes and, by the view, 8 for each of its
// devices or 24.
type list struct {
	stream
	subject  uuid // of its tokens: each list is an app of its own
	users    []uint32
	byUsers  bool    // view=users; else shown is used, and not told
	digest   bool    // its token names the list's digest; else it may read every user
	shown    []shown // view=devices: by place in users, then by the device's index
	told     []told  // view=users: by place in users
	cursor   []byte  // the last id that came; empty: none
	whole    bool    // it came when the list was synced, and not in the middle of a snapshot
	streamID []byte  // the server's name of the stream, for renewals
	expires  int64   // its token, on the run's clock
	renewed  int64   // when the token would have expired that was renewed last; 0: none was

	resuming  bool // the connection began with a cursor
	cameWhole bool // whole was true of it
	exact     bool // the cursor has everything that was shown, and nothing less
	synced    bool
	syncedAt  int64
	bytes     int64 // read on this connection until it is synced
	again     int   // events that the cursor had, until it is synced
	againID   uuid  // of one of them
}

// told is what a list last said of a user under view=users.
type told struct {
	changed int64 // milliseconds of the server's clock; unheard: null
	seen    int64
	online  uint32 // devices
	flags   toldFlags
}

// unheard stands for null.
const unheard = -1

type toldFlags uint8

const (
	toldOffline toldFlags = 1 << iota
	toldBefore            // on this connection
	toldHeld              // the cursor that this connection began with has it
	toldEver
)

// newList makes a list over users, which must be ascending. The caller opens it.
func (s *streams) newList(users []uint32, byUsers, digest bool) *list {
	l := &list{users: users, byUsers: byUsers, digest: digest, subject: newUUID(s.rng)}
	l.stream = stream{streams: s, reader: l, retryMS: -1}
	if byUsers {
		l.told = make([]told, len(users))
		l.moved()
	} else {
		l.shown = make([]shown, len(users)*s.o.DevicesPerUser)
	}
	return l
}

// devices returns the devices of the user in a place, and what was shown of them.
func (l *list) devices(place int) ([]device, []shown) {
	each := l.streams.o.DevicesPerUser
	return l.streams.crowd.devicesOf(l.users[place]), l.shown[place*each : (place+1)*each]
}

// ask asks for the stream and notes what its snapshot owes.
func (l *list) ask() ([]byte, error) {
	s := l.streams
	valid := s.o.wholeRun()
	if s.o.ListTokenTTL > 0 {
		valid = s.o.ListTokenTTL
	}
	token, err := s.mintList(l, valid)
	if err != nil {
		return nil, err
	}
	l.expires = s.now + int64(valid)
	l.resuming = len(l.cursor) > 0 && (s.stage != loading || s.rng.Float64() >= s.o.FreshShare)
	l.cameWhole = l.whole
	l.owe()
	return s.requestOfList(l, token), nil
}

// owe notes what the connection must show until it is synced.
func (l *list) owe() {
	held := l.resuming && l.exact && l.skips == 0 && !l.slow
	for place := range l.users {
		if l.byUsers {
			t := &l.told[place]
			t.flags &= toldOffline | toldEver
			if held && t.flags&toldEver != 0 {
				t.flags |= toldHeld
			}
			continue
		}
		devices, shown := l.devices(place)
		for i := range shown {
			d, sh := &devices[i], &shown[i]
			sh.flags &= shownOffline
			if held && sh.number > 0 {
				sh.flags |= shownHeld
			}
			if d.acked > 0 {
				sh.flags |= shownOwed
			}
			if sh.number < d.acked {
				sh.flags |= shownBehind
			}
			if d.sent == 0 {
				sh.flags |= shownBefore // no snapshot can have it, so its first event is a live one
			}
		}
	}
	l.synced, l.exact, l.bytes, l.again, l.renewed = false, false, 0, 0, 0
}

func (l *list) admitted(head []byte) {
	l.streamID = l.streamID[:0]
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Rollcall-Stream")) {
			l.streamID = append(l.streamID, bytes.TrimSpace(value)...)
		}
	}
}

// ended judges the end of a stream whose token was renewed: it must not be the old token's. A
// planned end says when to come back, which an expired token's does not. An outage explains it,
// too, and may be noticed later.
func (l *list) ended() {
	s := l.streams
	late := s.now - l.renewed
	if l.renewed == 0 || l.retryMS >= 0 || l.slow || s.stage != loading ||
		late < -int64(100*time.Millisecond) || late > int64(2*time.Second) {
		return
	}
	s.after(int64(s.o.MaxWait), func() {
		if !s.outage.near(s.now, 2*int64(s.o.MaxWait)) {
			s.oracle.found(notRenewed, "a list ended %v after the expiry of a token that had been "+
				"renewed", time.Duration(late))
		}
	})
}

// moved forgets what was shown, and the cursor: a node does not know those of another, and may be a
// little behind it.
func (l *list) moved() {
	clear(l.shown)
	for i := range l.told {
		l.told[i] = told{seen: unheard, changed: unheard}
	}
	l.cursor, l.whole, l.exact = l.cursor[:0], false, false
}

func (l *list) read(n int) {
	l.streams.meter.count(listBytes, int64(n))
	l.bytes += int64(n)
}

// frames cuts the body into events. The id of the last one is kept.
func (l *list) frames(data []byte) (rest []byte) {
	var id []byte
	seen := false
	for len(data) > 0 {
		if data[0] == '\n' {
			data = data[1:]
			continue
		}
		if data[0] == ':' { // a comment ends with its line
			end := bytes.IndexByte(data, '\n')
			if end < 0 {
				break
			}
			l.aside(data[:end])
			data = data[end+1:]
			continue
		}
		end := bytes.Index(data, blankLine)
		if end < 0 {
			break
		}
		if of, ok := l.event(data[:end]); ok {
			id, seen = of, true
		}
		data = data[end+2:]
	}
	if seen {
		l.cursor, l.whole = append(l.cursor[:0], id...), l.synced
	}
	return data
}

var blankLine = []byte("\n\n")

// event takes one event, without its blank line, and returns its id.
func (l *list) event(text []byte) (id []byte, ok bool) {
	s := l.streams
	e, ok := parseEvent(text)
	if !ok {
		if !l.aside(text) {
			s.oracle.protocol("not an event of a list: %.300q", text)
		}
		return nil, false
	}
	if !goodID(e.id) || len(e.id) == 0 && (l.synced || e.kind == syncedEvent) {
		s.oracle.protocol("an event's id that is no cursor: %.200q", e.id)
		return nil, false
	}
	switch e.kind {
	case syncedEvent:
		ok = l.sync(e.data)
	case presenceEvent:
		ok = !l.byUsers && l.presence(e.data)
	case userEvent:
		ok = l.byUsers && l.user(e.data)
	}
	if !ok {
		s.oracle.protocol("not an event of this list: %.300q", text)
	}
	return e.id, true
}

// place finds a user of the list by the text of its id.
func (l *list) place(id []byte) (place int, ok bool) {
	index, ok := indexIn(id)
	if !ok {
		return 0, false
	}
	place, ok = slices.BinarySearch(l.users, index)
	return place, ok && string(id) == l.streams.crowd.users[index].text
}

// presence takes the event of a device. False: it is none of the list's.
func (l *list) presence(data []byte) bool {
	s := l.streams
	s.meter.count(listEvents, 1)
	rest, ok := cut(data, userHead)
	if !ok {
		return false
	}
	user, rest, ok := cutID(rest)
	if !ok {
		return false
	}
	if rest, ok = cut(rest, frameDevice); !ok {
		return false
	}
	f, ok := parseDevice(rest, s.suffix)
	if !ok {
		return false
	}
	place, ok := l.place(user)
	if !ok {
		return false
	}
	devices, shown := l.devices(place)
	index, ok := indexIn(f.device)
	if !ok || int(index) >= len(devices) {
		return false
	}
	var own [36]byte
	d, sh := &devices[index], &shown[index]
	d.id.put(own[:])
	if !bytes.Equal(own[:], f.device) {
		return false
	}
	l.show(d, sh, &f)
	return true
}

// show takes what an event says of a device: the oracle judges it, then it is measured.
func (l *list) show(d *device, sh *shown, f *frame) {
	s := l.streams
	number := f.seq - s.run.seqBase
	if number < 1 || number > int64(d.sent) {
		s.oracle.found(invented, "device %v: an event with seq %d, which was not sent", d.id, f.seq)
		return
	}
	n := uint32(number)
	s.oracle.listed(l, d, sh, n, f.offline)
	if l.synced && !f.offline && !l.slow {
		s.meter.record(toListEvent, s.crowd.oldest(d, n).due)
	}
	if n >= sh.number {
		sh.number = n
		sh.flags &^= shownOffline
		if f.offline {
			sh.flags |= shownOffline
		}
	}
	sh.flags |= shownBefore
}

// user takes the event of a user. False: it is none of the list's.
func (l *list) user(data []byte) bool {
	s := l.streams
	s.meter.count(listEvents, 1)
	e, ok := parseUser(data)
	if !ok {
		return false
	}
	place, ok := l.place(e.user)
	if !ok {
		return false
	}
	t := &l.told[place]
	s.oracle.toldOf(l, place, t, &e)
	t.changed, t.seen, t.online = e.changed, max(e.seen, t.seen), e.online
	t.flags |= toldBefore | toldEver
	t.flags &^= toldOffline
	if e.offline {
		t.flags |= toldOffline
	}
	return true
}

// sync takes the event that ends the snapshot. False: it cannot be read.
func (l *list) sync(data []byte) bool {
	s := l.streams
	resumed, users, ok := parseSynced(data)
	if !ok {
		return false
	}
	s.oracle.syncedOf(l, resumed, users)
	if l.synced {
		return true
	}
	l.synced, l.exact, l.syncedAt = true, true, s.now
	if resumed {
		l.keep()
	}
	kind, size := listSnapshots, listSnapshotBytes
	if resumed {
		kind, size = listResumes, listResumeBytes
	}
	s.meter.count(kind, 1)
	s.meter.count(size, l.bytes)
	if !l.check {
		s.meter.record(toSynced, l.due)
		// one that is refused with 200 and a time to come back is not renewed
		s.renewals[l.node].plan(l)
	}
	return true
}

// keep notes, after a resume, that what the cursor had still holds: what did not come has not
// changed, so that the next event is a step from it.
func (l *list) keep() {
	for i := range l.told {
		if t := &l.told[i]; t.flags&toldHeld != 0 {
			t.flags |= toldBefore
		}
	}
	for i := range l.shown {
		if sh := &l.shown[i]; sh.flags&shownHeld != 0 {
			sh.flags |= shownBefore
		}
	}
}

// steady reports whether the list is up and has its snapshot.
func (l *list) steady() bool { return l.state == watchLive && l.synced }

// listEvent is one event of a list stream.
type listEvent struct {
	id, data []byte
	kind     eventKind
}

type eventKind uint8

const (
	presenceEvent eventKind = iota
	userEvent
	syncedEvent
)

var eventHeads = [...][]byte{
	presenceEvent: []byte("presence\ndata: "),
	userEvent:     []byte("user\ndata: "),
	syncedEvent:   []byte("synced\ndata: "),
}

// parseEvent reads an event by position, like a frame (G5).
func parseEvent(text []byte) (e listEvent, ok bool) {
	rest, ok := cut(text, "id:")
	if !ok {
		return e, false
	}
	end := bytes.IndexByte(rest, '\n')
	if end < 0 {
		return e, false
	}
	e.id, rest = bytes.TrimPrefix(rest[:end], []byte(" ")), rest[end+1:]
	if rest, ok = cut(rest, "event: "); !ok {
		return e, false
	}
	for kind, head := range eventHeads {
		if e.data, ok = bytes.CutPrefix(rest, head); ok {
			e.kind = eventKind(kind)
			return e, bytes.IndexByte(e.data, '\n') < 0
		}
	}
	return e, false
}

// goodID reports whether a cursor can stand in a header and in a query as it is: one line of plain
// characters, and not for ever long.
func goodID(id []byte) bool {
	const most = 256
	for _, b := range id {
		if b <= ' ' || b >= 0x7f {
			return false
		}
	}
	return len(id) <= most
}

const userHead = `{"schema_version":1,"user_id":"`

// userState is one user event, as far as it varies.
type userState struct {
	user          []byte // text of its id
	offline       bool
	online        uint32
	seen, changed int64 // unheard: null
}

func parseUser(data []byte) (e userState, ok bool) {
	rest, ok := cut(data, userHead)
	if !ok {
		return e, false
	}
	if e.user, rest, ok = cutID(rest); !ok {
		return e, false
	}
	if rest, ok = cut(rest, `","status":"`); !ok {
		return e, false
	}
	if e.offline, rest, ok = cutStatus(rest); !ok {
		return e, false
	}
	if rest, ok = cut(rest, `","devices_online":`); !ok {
		return e, false
	}
	online, rest, ok := cutInt(rest)
	if !ok || online >= 1<<32 {
		return e, false
	}
	e.online = uint32(online)
	if rest, ok = cut(rest, `,"last_seen_ms":`); !ok {
		return e, false
	}
	if e.seen, rest, ok = cutTime(rest); !ok {
		return e, false
	}
	if rest, ok = cut(rest, `,"changed_at_ms":`); !ok {
		return e, false
	}
	if e.changed, rest, ok = cutTime(rest); !ok {
		return e, false
	}
	return e, string(rest) == "}"
}

func cutTime(text []byte) (ms int64, rest []byte, ok bool) {
	if rest, ok = cut(text, "null"); ok {
		return unheard, rest, true
	}
	return cutInt(text)
}

func parseSynced(data []byte) (resumed bool, users int64, ok bool) {
	rest, ok := cut(data, `{"resumed":`)
	if !ok {
		return false, 0, false
	}
	if rest, resumed = cut(rest, "true"); !resumed {
		if rest, ok = cut(rest, "false"); !ok {
			return false, 0, false
		}
	}
	if rest, ok = cut(rest, `,"users":`); !ok {
		return false, 0, false
	}
	users, rest, ok = cutInt(rest)
	return resumed, users, ok && string(rest) == "}"
}
