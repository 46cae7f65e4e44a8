package loadgen

import (
	"fmt"
	"time"
)

// What the oracle knows of a user under view=users are bounds. The generator does not see when the
// server applied a heartbeat, only when it was written and by when it was answered. So a device was
// online for certain, or may have been, within the last MaxWait, and what a stream shows must lie
// between the two. A claim needs every heartbeat of that time to be remembered; without them, the
// oracle says nothing.

// lingerSlack is how much earlier than by its linger a user may be told offline: the server counts
// from a time in whole milliseconds.
const lingerSlack = int64(2 * time.Millisecond)

// listed judges the event of device d with heartbeat number n on list l, which last showed sh.
func (o *oracle) listed(l *list, d *device, sh *shown, n uint32, offline bool) {
	o.checked.Events++
	before := sh.flags&shownBefore != 0
	wasOffline := sh.flags&shownOffline != 0
	switch {
	case n < sh.number:
		o.found(backwards, "device %v: seq %d after %d on one client's lists", d.id, n, sh.number)
	case n == sh.number && wasOffline && !offline:
		o.found(backwards, "device %v: online again with seq %d, which had expired", d.id, n)
	case n == sh.number && before && wasOffline && offline:
		o.found(expiredTwice, "device %v: offline twice at seq %d on a list", d.id, n)
	case n == sh.number && before && wasOffline == offline:
		o.found(doubled, "device %v: seq %d twice on one connection of a list", d.id, n)
	case n == sh.number && sh.flags&shownHeld != 0 && wasOffline == offline:
		o.hadBefore(l, d.id)
	case n > sh.number && before:
		o.gap(&l.stream, d, sh, n, offline)
	}
	if offline {
		o.expiry(d, n)
	}
}

// hadBefore notes an event of what the cursor of a list had. Whether the cursor was honoured, the
// end of the snapshot tells; one that was not brings everything.
func (o *oracle) hadBefore(l *list, id uuid) {
	l.again++
	l.againID = id
	if l.synced {
		o.found(repeated, "%v: told again, after a resume, what the cursor had", id)
	}
}

// toldOf judges an event of the user in a place of list l, which was last told t.
func (o *oracle) toldOf(l *list, place int, t *told, e *userState) {
	o.checked.Events++
	u := &o.crowd.users[l.users[place]]
	before, ever := t.flags&toldBefore != 0, t.flags&toldEver != 0
	same := e.online == t.online && e.offline == (t.flags&toldOffline != 0)
	linger := l.linger()
	switch {
	case (e.seen == unheard) != (e.changed == unheard),
		e.online > 0 && (e.offline || e.seen == unheard),
		e.online == 0 && !e.offline && (linger == 0 || e.seen == unheard):
		o.found(miscounted, "user %s: offline is %t with %d devices online, last seen %d, "+
			"changed at %d", u.text, e.offline, e.online, e.seen, e.changed)
	case e.seen != unheard && !o.heardOf(u):
		o.found(invented, "user %s: seen, and no heartbeat was sent", u.text)
	case ever && e.changed < t.changed:
		o.found(backwards, "user %s: changed at %d after %d", u.text, e.changed, t.changed)
	case ever && e.online == 0 && e.seen < t.seen:
		o.found(backwards, "user %s: last seen at %d after %d", u.text, e.seen, t.seen)
	case before && same && e.changed == t.changed:
		o.found(doubled, "user %s: told twice that %d devices are online", u.text, e.online)
	case t.flags&toldHeld != 0 && same && e.changed == t.changed:
		// Whom a linger may have ended meanwhile, the server tells once more.
		if linger == 0 || e.online > 0 {
			o.hadBefore(l, u.id)
		}
	case before:
		o.leap(l, u, t, e, same)
	}
	if l.slow {
		return
	}
	o.within(l, u, e.online, "told")
	if e.offline && e.seen != unheard {
		o.tooEarly(u, linger)
	}
}

// leap judges a step forward of a user: each turn of a device is told, so that devices_online
// changes by one. Otherwise something was skipped.
func (o *oracle) leap(l *list, u *user, t *told, e *userState, same bool) {
	skips := max(int64(e.online)-int64(t.online), int64(t.online)-int64(e.online)) - 1
	if same {
		skips = 1
	}
	if skips <= 0 {
		return
	}
	l.skips += skips
	o.meter.count(skipped, skips)
	if o.turn.o.NoConflation && !l.slow {
		o.found(skippedFrame, "user %s: from %d devices online to %d, changed at %d and %d", u.text,
			t.online, e.online, t.changed, e.changed)
	}
}

// tooEarly judges that a user is told offline: each of its devices must have been silent for the
// TTL and the linger.
func (o *oracle) tooEarly(u *user, linger int64) {
	wait := int64(o.turn.o.TTL) + linger
	if linger > 0 {
		wait -= lingerSlack
	}
	for i := range u.count {
		d := &o.crowd.devices[u.first+i]
		if silent, ok := o.silence(d); ok && silent < wait {
			o.found(expiredEarly, "user %s: offline, and device %v was never silent for longer "+
				"than %v; the TTL is %v, the linger %v", u.text, d.id, time.Duration(silent),
				o.turn.o.TTL, time.Duration(linger))
			return
		}
	}
}

// within judges how many devices of a user are shown online by now.
func (o *oracle) within(l *list, u *user, online uint32, how string) {
	b := o.bounds(u)
	if online >= b.least && online <= b.most {
		return
	}
	o.found(miscounted, "user %s: %s with %d devices online, of %d; %d were for certain, %d may "+
		"have been", u.text, how, online, u.count, b.least, b.most)
}

// bound is how many devices of a user a stream may show online.
type bound struct{ least, most uint32 }

// bounds counts what may be shown of a user now, be it up to MaxWait late.
func (o *oracle) bounds(u *user) (b bound) {
	ttl := int64(o.turn.o.TTL)
	for i := range u.count {
		d := &o.crowd.devices[u.first+i]
		if silent, ok := o.silence(d); ok && silent < ttl {
			b.least++
		}
		if o.mayBeOnline(d) {
			b.most++
		}
	}
	return b
}

// mayBeOnline reports whether a stream may show d online.
func (o *oracle) mayBeOnline(d *device) bool {
	if d.sent == 0 {
		return false
	}
	m, ok := o.crowd.moment(d, d.sent)
	return !ok || d.busy || o.turn.now-m.written <= o.mustExpire()
}

// silence is for how long at most the server had not heard of d at any instant of the last MaxWait.
// ok is false when that is not remembered. The server got heartbeat j after it was written, and
// before heartbeat j+1 was: a device has one on its way at most (G3).
func (o *oracle) silence(d *device) (longest int64, ok bool) {
	now := o.turn.now
	horizon := now - int64(o.turn.o.MaxWait)
	until := now // when the server had heard of the next one at the latest
	for n := d.acked; ; n-- {
		if n == 0 {
			return never, true // it was not known at that time
		}
		m, ok := o.crowd.moment(d, n)
		if !ok {
			return 0, false
		}
		longest = max(longest, until-m.written)
		if until = now; n < d.sent {
			next, ok := o.crowd.moment(d, n+1)
			if !ok {
				return 0, false
			}
			until = next.written
		}
		// Heartbeat n was heard of between m.written and until.
		if until <= horizon {
			return longest, true
		}
	}
}

// heardOf reports whether any heartbeat of a user was sent.
func (o *oracle) heardOf(u *user) bool {
	for i := range u.count {
		if o.crowd.devices[u.first+i].sent > 0 {
			return true
		}
	}
	return false
}

// syncedOf judges the event that ends the snapshot of list l.
func (o *oracle) syncedOf(l *list, resumed bool, users int64) {
	switch {
	case l.synced:
		o.found(doubled, "synced twice on one connection of a list")
		return
	case users != int64(len(l.users)):
		o.found(brokenProtocol, "synced with %d users on a list of %d", users, len(l.users))
	case resumed && !l.resuming:
		o.found(brokenProtocol, "resumed without a cursor")
	case !resumed && l.resuming && l.cameWhole:
		o.found(notResumed, "the cursor %.100q, which the server gave, was not honoured", l.cursor)
	}
	if resumed && l.again > 0 {
		o.found(repeated, "a resume brought %d events that its cursor had, one of %v", l.again,
			l.againID)
	}
	missing, example := 0, ""
	for place := range l.users {
		u := &o.crowd.users[l.users[place]]
		if l.byUsers {
			if !resumed && l.told[place].flags&toldBefore == 0 {
				missing++
				example = "user " + u.text
			}
			continue
		}
		devices, shown := l.devices(place)
		for i := range shown {
			owed := shownBehind
			if !resumed {
				owed |= shownOwed
			}
			if shown[i].flags&owed != 0 && shown[i].flags&shownBefore == 0 {
				missing++
				example = "device " + devices[i].id.String()
			}
		}
	}
	if missing > 0 {
		o.found(lost, "synced (resumed %t) without %d that were acknowledged before it was asked "+
			"for, or followed; one is %s", resumed, missing, example)
	}
}

// sweep judges a few places of the lists: what they show must not stay behind the truth for longer
// than MaxWait, also when no event comes that could be judged.
func (s *streams) sweep() {
	const atOnce = 4000
	if len(s.lists) == 0 || s.stage != loading && s.stage != draining {
		return
	}
	for looked := 0; looked < atOnce; {
		s.swept.list %= len(s.lists)
		l := s.lists[s.swept.list]
		fit := l.steady() && !l.slow && s.now-l.syncedAt > int64(s.o.MaxWait)
		for ; fit && s.swept.place < len(l.users) && looked < atOnce; s.swept.place++ {
			looked++
			s.oracle.checked.Swept++
			s.oracle.behind(l, s.swept.place)
		}
		if !fit || s.swept.place >= len(l.users) {
			s.swept.list, s.swept.place = s.swept.list+1, 0
			looked++
		}
	}
}

// swept is where sweep goes on.
type swept struct{ list, place int }

// behind judges what a list shows of the user in a place, be it MaxWait late.
func (o *oracle) behind(l *list, place int) {
	u := &o.crowd.users[l.users[place]]
	if l.byUsers {
		o.within(l, u, l.told[place].online, "shown")
		o.lingering(l, u, &l.told[place])
		return
	}
	devices, shown := l.devices(place)
	for i := range shown {
		d, sh := &devices[i], &shown[i]
		if n := o.overdue(d); sh.number < n {
			o.found(lost, "device %v: a list shows seq %d and owes %d for longer than %v (counted "+
				"from the first heartbeat)", d.id, sh.number, n, o.turn.o.MaxWait)
		} else if r, text := o.truth(d, sh); text != "" && r == notExpired {
			o.found(r, "a list: %s", text)
		}
	}
}

// lingering judges a user who is online by its linger alone.
func (o *oracle) lingering(l *list, u *user, t *told) {
	if t.online > 0 || t.flags&toldOffline != 0 {
		return
	}
	wait := o.mustExpire() + l.linger()
	for i := range u.count {
		d := &o.crowd.devices[u.first+i]
		if d.sent == 0 {
			continue
		}
		m, ok := o.crowd.moment(d, d.sent)
		if !ok || d.busy || o.turn.now-m.written <= wait {
			return
		}
	}
	o.found(notExpired, "user %s: no device since more than %v, and online", u.text,
		time.Duration(wait))
}

// overdue is the last heartbeat of d that was acknowledged longer than MaxWait ago; 0: none that is
// remembered.
func (o *oracle) overdue(d *device) uint32 {
	horizon := o.turn.now - int64(o.turn.o.MaxWait)
	for n := d.acked; n > 1; n-- { // n-1 was acknowledged when n was written
		m, ok := o.crowd.moment(d, n)
		if !ok {
			return 0
		}
		if m.written <= horizon {
			return n - 1
		}
	}
	return 0
}

// listsComplete reports whether every list is up and shows the truth.
func (s *streams) listsComplete() bool {
	if len(s.lists) == 0 {
		return true
	}
	bounds := s.oracle.settledBounds()
	for _, l := range s.lists {
		if !l.steady() {
			return false
		}
		for place, user := range l.users {
			if l.byUsers {
				t, b := &l.told[place], bounds[user]
				if t.online < b.least || t.online > b.most {
					return false
				}
				continue
			}
			devices, shown := l.devices(place)
			for i := range shown {
				d, sh := &devices[i], &shown[i]
				if sh.number < d.acked || d.silent != never && d.acked > 0 &&
					sh.flags&shownOffline == 0 {
					return false
				}
			}
		}
	}
	return true
}

// settledBounds are the bounds of every user when nothing is on its way.
func (o *oracle) settledBounds() []bound {
	all := make([]bound, len(o.crowd.users))
	for i := range all {
		u := &o.crowd.users[i]
		for j := range u.count {
			d := &o.crowd.devices[u.first+j]
			if m, ok := o.crowd.moment(d, d.acked); ok &&
				o.turn.now-m.written < int64(o.turn.o.TTL) {
				all[i].least++
			}
			if o.mayBeOnline(d) {
				all[i].most++
			}
		}
	}
	return all
}

// judgeLists compares what every list ended with to the truth.
func (s *streams) judgeLists() {
	for _, l := range s.lists {
		if l.state == watchLive && !l.synced && s.now-l.since > int64(s.o.MaxWait) {
			s.oracle.found(lost, "a list was not synced within %v", s.o.MaxWait)
		}
		if !l.steady() {
			s.down++
			continue
		}
		s.oracle.checked.Lists++
		for place := range l.users {
			s.oracle.behindNow(l, place)
		}
	}
}

// behindNow judges what a list shows of a user when everything must have been shown.
func (o *oracle) behindNow(l *list, place int) {
	u := &o.crowd.users[l.users[place]]
	if l.byUsers {
		o.within(l, u, l.told[place].online, "at the end")
		o.lingering(l, u, &l.told[place])
		return
	}
	devices, shown := l.devices(place)
	for i := range shown {
		if r, text := o.truth(&devices[i], &shown[i]); text != "" {
			o.found(r, "a list, user %s: %s", u.text, text)
		}
	}
}

// differ says where two lists of the same users differ; empty: nowhere.
func (l *list) differ(fresh *list) string {
	for place, user := range l.users {
		u := &l.streams.crowd.users[user]
		if l.byUsers {
			a, b := &l.told[place], &fresh.told[place]
			if a.online != b.online || a.flags&toldOffline != b.flags&toldOffline ||
				a.changed != b.changed || a.online == 0 && a.seen != b.seen {
				return fmt.Sprintf("user %s: %s, and %s", u.text, a, b)
			}
			continue
		}
		devices, mine := l.devices(place)
		_, theirs := fresh.devices(place)
		for i := range mine {
			a, b := mine[i], theirs[i]
			if a.number != b.number || a.flags&shownOffline != b.flags&shownOffline {
				return fmt.Sprintf("device %v: seq %d, offline %t, and seq %d, offline %t",
					devices[i].id, a.number, a.flags&shownOffline != 0, b.number,
					b.flags&shownOffline != 0)
			}
		}
	}
	return ""
}

func (t *told) String() string {
	return fmt.Sprintf("offline %t with %d devices, changed at %d, seen at %d",
		t.flags&toldOffline != 0, t.online, t.changed, t.seen)
}
