package loadgen

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"rollcall/wire"
)

// listFault is what to do wrong on streams of many users.
type listFault struct {
	resumeAll     bool // a resume brings everything
	resumeNothing bool
	refuseCursors bool
	miscount      bool // synced counts a user more
	neverSynced   bool
	syncedTwice   bool
	leaveOut      bool // snapshots leave out a user
	badID         bool // a cursor with a space in it
	noID          bool // events without id after the snapshot
	stranger      bool // events of a user who is not followed
	otherView     bool // events of the other view

	userRepeat   bool // user events for heartbeats that change nothing
	userDrift    bool // one device online too many, from the second turn on
	userMute     bool // no user event from the third turn on
	userSkip     bool // no event for every third turn
	userBack     bool // the event before is told again
	wrongStatus  bool // offline with devices online
	lingerEarly  bool // after a tenth of the linger
	lingerHides  bool // no event for a user who comes back during the linger
	lingerNever  bool // nor one at its end
	otherChanged bool // fresh snapshots have another changed_at_ms

	renewForbidden bool
	renewIgnored   bool // 204, and the stream ends with its old token
}

// fakeUser is the aggregate of a user.
type fakeUser struct {
	online        int
	seen, changed int64
	lsn           int64 // of the last change that was told
	lingering     bool
	until         *time.Timer
	turns         int
	last          string // the last event, for userBack
}

// fakeList is an open stream of many users.
type fakeList struct {
	id      string
	users   []string
	byUsers bool
	linger  time.Duration
	key     string // what its cursors are good for
	events  chan string
	end     chan struct{}
	expiry  *time.Timer
}

// testListToken mints the tokens that the fake server takes: their expiry, and what they are for.
func testListToken(subject string, users [][16]byte, valid time.Duration) (string, error) {
	what := "any"
	if users != nil {
		sorted := slices.Clone(users)
		slices.SortFunc(sorted, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
		sum := sha256.New()
		for _, id := range sorted {
			sum.Write(id[:])
		}
		what = hex.EncodeToString(sum.Sum(nil))
	}
	return fmt.Sprintf("%d.%s.%s", time.Now().Add(valid).UnixNano(), subject, what), nil
}

// admits reports whether a token is for a list, and until when.
func (l *fakeList) admits(header string) (until time.Time, ok bool) {
	token, _ := strings.CutPrefix(header, "Bearer ")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return until, false
	}
	nanos, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return until, false
	}
	until = time.Unix(0, nanos)
	var ids [][16]byte
	for _, user := range l.users {
		raw, _ := hex.DecodeString(strings.ReplaceAll(user, "-", ""))
		ids = append(ids, [16]byte(raw))
	}
	want, _ := testListToken(parts[1], ids, 0)
	return until, parts[2] == "any" || strings.HasSuffix(want, "."+parts[2])
}

func (s *fakeServer) list(w http.ResponseWriter, r *http.Request) {
	if id, ok := strings.CutPrefix(r.URL.Path, wire.ListStreamPath+"/"); ok {
		s.renew(w, r, strings.TrimSuffix(id, "/token"))
		return
	}
	var body struct {
		Users []string `json:"user_ids"`
	}
	text, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(text, &body) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	q := r.URL.Query()
	ms, _ := strconv.Atoi(q.Get("linger_ms"))
	l := &fakeList{users: body.Users, byUsers: q.Get("view") == "users",
		linger: time.Duration(ms) * time.Millisecond, events: make(chan string, 1<<16),
		end: make(chan struct{}, 1)}
	slices.Sort(l.users)
	l.key = fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, l.users, l.byUsers, ms)))[:8]
	until, ok := l.admits(r.Header.Get("Authorization"))
	if !ok {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	cursor := q.Get("resume")
	if cursor == "" {
		cursor = r.Header.Get("Last-Event-ID")
	}
	s.mu.Lock()
	s.served++
	l.id = fmt.Sprint("stream-", s.served)
	l.expiry = time.AfterFunc(time.Until(until), func() {
		select {
		case l.end <- struct{}{}:
		default: // a renewal came as it ended, and it ends again
		}
	})
	s.snapshot(l, cursor)
	s.lists[l.id] = l
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.lists, l.id)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Rollcall-Stream", l.id)
	w.WriteHeader(http.StatusOK)
	flush := w.(http.Flusher)
	flush.Flush()
	for {
		select {
		case text := <-l.events:
			if _, err := io.WriteString(w, ": keepalive\n"+text); err != nil {
				return
			}
			for n := len(l.events); n > 0; n-- {
				io.WriteString(w, <-l.events)
			}
			flush.Flush()
		case <-l.end:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *fakeServer) renew(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lists[id]
	if l == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	until, ok := l.admits(r.Header.Get("Authorization"))
	if !ok || s.fault.list.renewForbidden {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if !s.fault.list.renewIgnored {
		l.expiry.Reset(time.Until(until))
	}
	w.WriteHeader(http.StatusNoContent)
}

// cursor is the text behind an id of a list. Called with mu held.
func (s *fakeServer) cursor(l *fakeList) string {
	if s.fault.list.badID {
		return fmt.Sprintf("%s %d", l.key, s.lsn)
	}
	return fmt.Sprintf("%s/%d", l.key, s.lsn)
}

// snapshot queues the start of a list: called with mu held.
func (s *fakeServer) snapshot(l *fakeList, cursor string) {
	f := s.fault.list
	after, resumed := int64(-1), false
	if key, lsn, ok := strings.Cut(cursor, "/"); ok && key == l.key && !f.refuseCursors {
		after, _ = strconv.ParseInt(lsn, 10, 64)
		resumed = true
	}
	if f.resumeAll {
		after = -1
	}
	if resumed && f.resumeNothing {
		after = s.lsn
	}
	out := func(kind, data string) {
		id := cursor
		if !resumed {
			id = ""
		}
		l.events <- "id: " + id + "\nevent: " + kind + "\n" + data
	}
	users := l.users
	if f.leaveOut {
		users = users[1:]
	}
	for _, user := range users {
		if l.byUsers {
			u := s.users[user]
			if u == nil && after < 0 || u != nil && u.lsn > after {
				out("user", s.userData(user, l, after < 0 && f.otherChanged))
			}
			continue
		}
		for _, d := range s.devices[user] {
			if d.lsn > after {
				out("presence", d.beat.frame())
			}
		}
	}
	count := len(l.users)
	if f.miscount {
		count++
	}
	synced := fmt.Sprintf("id: %s\nevent: synced\ndata: {\"resumed\":%t,\"users\":%d}\n\n",
		s.cursor(l), resumed, count)
	if f.syncedTwice {
		l.events <- synced
	}
	if !f.neverSynced {
		l.events <- synced
	}
}

// userData is the data of a user event. Called with mu held.
func (s *fakeServer) userData(user string, l *fakeList, otherChanged bool) string {
	u := s.users[user]
	if u == nil {
		return `data: {"schema_version":1,"user_id":"` + user + `","status":"offline",` +
			`"devices_online":0,"last_seen_ms":null,"changed_at_ms":null}` + "\n\n"
	}
	status, online, changed := "offline", u.online, u.changed
	if online > 0 || u.lingering && l.linger > 0 {
		status = "online"
	}
	if s.fault.list.userDrift && u.turns > 1 {
		online, status = online+1, "online"
	}
	if s.fault.list.wrongStatus && online > 0 {
		status = "offline"
	}
	if otherChanged {
		changed += 1
	}
	return fmt.Sprintf(`data: {"schema_version":1,"user_id":"%s","status":"%s",`+
		`"devices_online":%d,"last_seen_ms":%d,"changed_at_ms":%d}`+"\n\n", user, status, online,
		u.seen, changed)
}

// tellLists tells the lists of a device's event. Called with mu held.
func (s *fakeServer) tellLists(user, text string) {
	f := s.fault.list
	for _, l := range s.lists {
		if l.byUsers || !slices.Contains(l.users, user) {
			continue
		}
		kind := "presence"
		if f.otherView {
			kind, text = "user", s.userData(user, l, false)
		}
		if f.stranger {
			text = strings.Replace(text, user, user[:35]+"f", 1)
		}
		if f.noID {
			l.events <- "event: " + kind + "\n" + text
			continue
		}
		l.events <- "id: " + s.cursor(l) + "\nevent: " + kind + "\n" + text
	}
}

// beaten notes an accepted heartbeat for the aggregates; turned, that its device was offline.
// Called with mu held.
func (s *fakeServer) beaten(user string, turned bool) {
	u := s.users[user]
	if u == nil {
		u = &fakeUser{}
		s.users[user] = u
	}
	u.seen = time.Now().UnixMilli()
	if !turned {
		if s.fault.list.userRepeat {
			s.tellUsers(user, u)
		}
		return
	}
	back := u.lingering
	u.lingering = false
	if u.until != nil {
		u.until.Stop()
	}
	u.online++
	u.changed = time.Now().UnixMilli()
	u.turns++
	if s.fault.list.lingerHides && back {
		return
	}
	s.tellUsers(user, u)
}

// lapsed notes that a device went offline. Called with mu held.
func (s *fakeServer) lapsed(user string) {
	u := s.users[user]
	u.online--
	u.changed = time.Now().UnixMilli()
	u.turns++
	if u.online > 0 || s.linger == 0 {
		s.tellUsers(user, u)
		return
	}
	u.lingering = true
	s.tellUsers(user, u)
	wait := s.linger
	if s.fault.list.lingerEarly {
		wait /= 10
	}
	u.until = time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if u.lingering && !s.fault.list.lingerNever {
			u.lingering = false
			s.tellUsers(user, u)
		}
	})
}

// tellUsers tells the lists of a user. Called with mu held.
func (s *fakeServer) tellUsers(user string, u *fakeUser) {
	f := s.fault.list
	s.lsn++
	u.lsn = s.lsn
	if f.userMute && u.turns >= 3 || f.userSkip && u.turns%3 == 0 {
		return
	}
	for _, l := range s.lists {
		if !l.byUsers || !slices.Contains(l.users, user) {
			continue
		}
		kind, data := "user", s.userData(user, l, false)
		if f.otherView {
			kind, data = "presence", (&fakeBeat{User: user}).frame()
		}
		if f.stranger {
			data = strings.Replace(data, user, user[:35]+"f", 1)
		}
		head := "id: " + s.cursor(l) + "\nevent: " + kind + "\n"
		l.events <- head + data
		if f.userBack && u.last != "" {
			l.events <- head + u.last
		}
	}
	u.last = s.userData(user, &fakeList{}, false)
}
