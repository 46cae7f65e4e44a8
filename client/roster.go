package client

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// State of the connection behind a Roster.
type State string

// The states. A watch is Connecting until it is Synced, Interrupted from a failure until it is
// Synced again, and Interrupted when its loop has ended.
const (
	Connecting  State = "connecting"
	Synced      State = "synced"
	Interrupted State = "interrupted"
)

// User is the presence of a user over all devices.
type User struct {
	UserID string `json:"user_id"`
	Status Status `json:"status"`
	// DevicesOnline is 0 while Status is Online when the last device has just left (Linger).
	DevicesOnline int `json:"devices_online"`
	// LastSeenMS is the server's time of the last heartbeat that said online, in unix milliseconds;
	// 0: never, or not known (ViewDevices).
	LastSeenMS int64 `json:"last_seen_ms"`
	// ChangedAtMS is the server's time of the last change of Status or DevicesOnline, in unix
	// milliseconds; 0: never, or not known (ViewDevices, Query).
	ChangedAtMS int64 `json:"changed_at_ms"`
}

// Roster is what a WatchMany knows of its users. The zero value is an empty one; give it to
// WatchManyOptions. Any goroutine may call its methods. It serves one watch at a time. A later one,
// with other users too, goes on where the last one stopped: the server sends only what changed.
type Roster struct {
	mu     sync.Mutex
	state  State            // guarded by mu; "": Connecting
	users  map[string]*seat // guarded by mu
	held   int              // guarded by mu; users and devices, at most maxKnown (K10)
	cursor string           // guarded by mu; "": none
	asked  question         // guarded by mu; what cursor and users are answers to

	inUse bool   // guarded by mu
	round uint64 // guarded by mu; the connection's number: what it confirmed has it
}

// question is what a stream was asked for, but for its users.
type question struct {
	url      string
	view     View
	lingerMS int64
}

// seat is a user of a roster.
type seat struct {
	user    User
	told    bool // ViewUsers: user is what the server said
	round   uint64
	devices map[string]*place // ViewDevices
}

// place is a device of a user.
type place struct {
	event Event
	round uint64
}

// State of the connection. The users are those of its last Synced moment, and what came since.
func (r *Roster) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == "" {
		return Connecting
	}
	return r.state
}

// User returns what is known of a user. With ViewDevices a user of whom no device is known is not
// there.
func (r *Roster) User(id string) (u User, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.users[id]
	if s == nil {
		return User{}, false
	}
	return s.user, true
}

// Users returns all users, ordered by id.
func (r *Roster) Users() []User {
	r.mu.Lock()
	defer r.mu.Unlock()
	users := make([]User, 0, len(r.users))
	for _, s := range r.users {
		users = append(users, s.user)
	}
	slices.SortFunc(users, func(a, b User) int { return strings.Compare(a.UserID, b.UserID) })
	return users
}

// Devices returns the last event of each device of a user, ordered by id: with ViewDevices only.
func (r *Roster) Devices(user string) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.users[user]
	if s == nil {
		return nil
	}
	events := make([]Event, 0, len(s.devices))
	for _, id := range slices.Sorted(maps.Keys(s.devices)) {
		events = append(events, s.devices[id].event)
	}
	return events
}

// begin makes the roster one watch's. What it holds is forgotten when it answers another question.
func (r *Roster) begin(q question) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inUse {
		return false
	}
	if r.asked != q || r.users == nil {
		r.users, r.held, r.cursor = map[string]*seat{}, 0, ""
	}
	r.inUse, r.asked, r.state = true, q, Connecting
	return true
}

// end gives the roster back.
func (r *Roster) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inUse, r.state = false, Interrupted
}

// keepOnly removes the users that are not followed any more.
func (r *Roster) keepOnly(followed map[string]bool) (gone []Update) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removeUsers(func(s *seat) bool { return !followed[s.user.UserID] })
}

func (r *Roster) setState(s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = s
}

// resumeFrom is the cursor for the next connection, "" for none.
func (r *Roster) resumeFrom() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cursor
}

// setCursor notes the id of the last event. One that no header can carry is none (K10).
func (r *Roster) setCursor(id []byte) {
	bad := func(c rune) bool { return c <= ' ' || c >= 0x7f }
	r.mu.Lock()
	defer r.mu.Unlock()
	switch text := string(id); {
	case len(text) > maxCursor, strings.ContainsFunc(text, bad):
		r.cursor = ""
	case text != r.cursor:
		r.cursor = text
	}
}

// opened begins a connection's round.
func (r *Roster) opened() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round++
}

// setUser notes a user event. It reports whether it says anything new.
func (r *Roster) setUser(u User) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.seatOf(u.UserID)
	if s == nil {
		return true
	}
	news := s.user != u || !s.told // who was never heard of is like a new seat
	s.user, s.told = u, true
	return news
}

// setDevice notes a presence event, and sets its Transition. It reports whether it says anything
// new.
func (r *Roster) setDevice(ev *Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	ev.Transition = true
	s := r.seatOf(ev.UserID)
	if s == nil {
		return true
	}
	p := s.devices[ev.DeviceID]
	if p == nil {
		if r.held >= maxKnown {
			return true
		}
		if s.devices == nil {
			s.devices = map[string]*place{}
		}
		p = &place{}
		s.devices[ev.DeviceID] = p
		r.held++
	}
	p.round = r.round
	before := p.event
	ev.Transition = before.Status != ev.Status
	p.event = *ev
	p.event.Transition = false
	news := before != p.event
	if ev.Transition {
		s.count()
	}
	return news
}

// seatOf returns a user's seat, a new one if need be; nil when there is no room. r.mu is held.
func (r *Roster) seatOf(user string) *seat {
	s := r.users[user]
	if s == nil && r.held < maxKnown {
		s = &seat{user: User{UserID: user, Status: Offline}}
		r.users[user] = s
		r.held++
	}
	if s != nil {
		s.round = r.round
	}
	return s
}

// count makes the user's state from the devices.
func (s *seat) count() {
	s.user.DevicesOnline, s.user.Status = 0, Offline
	for _, p := range s.devices {
		if p.event.Status == Online {
			s.user.DevicesOnline++
			s.user.Status = Online
		}
	}
}

// replace removes what this connection, which told everything, did not tell.
func (r *Roster) replace() (gone []Update) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone = r.removeUsers(func(s *seat) bool { return s.round != r.round })
	for _, s := range r.users {
		for id, p := range s.devices {
			if p.round != r.round {
				gone = append(gone, deviceGone(p.event))
				delete(s.devices, id)
				r.held--
			}
		}
		if s.devices != nil {
			s.count()
		}
	}
	return gone
}

// removeUsers removes the users for whom unwanted is true. r.mu is held.
func (r *Roster) removeUsers(unwanted func(*seat) bool) (gone []Update) {
	for id, s := range r.users {
		if !unwanted(s) {
			continue
		}
		for _, p := range s.devices {
			gone = append(gone, deviceGone(p.event))
		}
		if s.devices == nil {
			u := s.user
			u.Status, u.DevicesOnline = Offline, 0
			gone = append(gone, Update{User: &u, Gone: true})
		}
		r.held -= 1 + len(s.devices)
		delete(r.users, id)
	}
	return gone
}

func deviceGone(ev Event) Update {
	ev.Transition = ev.Status == Online
	ev.Status = Offline
	return Update{Device: &ev, Gone: true}
}
