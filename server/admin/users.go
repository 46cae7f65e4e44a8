package admin

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"rollcall/engine"
	"rollcall/server/reply"
	"rollcall/wire"
)

const (
	listUsers    = 50  // that an answer lists, when the request says nothing else
	maxListUsers = 200 // that a request may ask for
	// maxListSource is the length of the part of a source that a request may name, in bytes.
	maxListSource = 256
)

// debugUsers lists users by their last change. One list is made at a time: for most of them every
// user or every device is looked at, however many there are. One user alone is looked up.
type debugUsers struct {
	presence   Presence
	production bool
	now        func() time.Time
	making     chan struct{} // has room for the one that is being made
}

func newDebugUsers(c *Config) debugUsers {
	return debugUsers{c.Presence, c.Production, c.Now, make(chan struct{}, 1)}
}

// ServeHTTP answers GET /debug/users.
func (d debugUsers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.production {
		write(w, reply.DebugDisabled)
		return
	}
	query, ok := userQueryOf(r.URL.Query())
	if !ok {
		write(w, reply.InvalidUsersQuery)
		return
	}
	if _, one := query.ID.Whole(); !one {
		select {
		case d.making <- struct{}{}:
			defer func() { <-d.making }()
		case <-r.Context().Done():
			return
		}
	}
	began := d.now()
	listed, err := d.presence.Recent(r.Context(), query)
	switch {
	case r.Context().Err() != nil: // the asker has gone
	case err != nil:
		writeJSON(w, http.StatusServiceUnavailable,
			wire.AppendError(nil, wire.CodeUnavailable, err.Error()))
	default:
		writeJSON(w, http.StatusOK, appendUsers(nil, listed, d.now().Sub(began)))
	}
}

// userQueryOf reads which users are asked for.
func userQueryOf(query url.Values) (q engine.UserQuery, ok bool) {
	if q.ID, ok = engine.ParseIDPrefix(query.Get("q")); !ok {
		return q, false
	}
	switch status := query.Get("status"); status {
	case "":
	case engine.Online.String(), engine.Offline.String():
		q.HasStatus, q.Status = true, engine.Offline
		if status == engine.Online.String() {
			q.Status = engine.Online
		}
	default:
		return q, false
	}
	if q.Source = query.Get("source"); len(q.Source) > maxListSource {
		return q, false
	}
	q.Limit = listUsers
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxListUsers {
			return q, false
		}
		q.Limit = n
	}
	return q, true
}

// appendUsers appends the answer of /debug/users.
func appendUsers(dst []byte, listed []engine.ListedUser, took time.Duration) []byte {
	dst = append(dst, `{"users":[`...)
	for i := range listed {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendListedUser(dst, &listed[i])
	}
	dst = append(dst, `],"took_ms":`...)
	dst = strconv.AppendInt(dst, took.Milliseconds(), 10)
	return append(dst, '}')
}

func appendListedUser(dst []byte, u *engine.ListedUser) []byte {
	status := engine.Offline
	if u.Online > 0 {
		status = engine.Online
	}
	dst = append(dst, `{"user_id":"`...)
	dst = wire.AppendID(dst, u.ID)
	dst = append(dst, `","status":"`...)
	dst = append(dst, status.String()...)
	dst = append(dst, `","devices_online":`...)
	dst = strconv.AppendInt(dst, int64(u.Online), 10)
	dst = append(dst, `,"devices":`...)
	dst = strconv.AppendInt(dst, int64(u.Devices), 10)
	dst = append(dst, `,"last_seen_ms":`...)
	dst = wire.AppendTime(dst, u.SeenAtMS)
	dst = append(dst, `,"changed_at_ms":`...)
	dst = wire.AppendTime(dst, u.ChangedAtMS)
	dst = append(dst, `,"source":`...)
	dst = wire.AppendString(dst, u.Source)
	return append(dst, '}')
}
