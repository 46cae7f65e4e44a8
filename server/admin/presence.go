package admin

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/server/reply"
	"rollcall/wire"
)

const (
	pageDevices    = 200  // that an answer shows, when the request says nothing else
	maxPageDevices = 1000 // that a request may ask for
)

// debugPresence shows what is known of one user's devices, a page at a time. One page is made at a
// time: all devices of the user are looked at for it, however many there are.
type debugPresence struct {
	presence   Presence
	production bool
	making     chan struct{} // has room for the one that is being made
}

func newDebugPresence(p Presence, production bool) debugPresence {
	return debugPresence{p, production, make(chan struct{}, 1)}
}

// ServeHTTP answers GET /debug/presence.
func (d debugPresence) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.production {
		write(w, reply.DebugDisabled)
		return
	}
	user, refusal := userOf(r)
	if refusal == reply.InvalidUserID { // no user's: as the original, an empty answer
		writeJSON(w, http.StatusOK, appendPresence(nil, 0, nil, false))
		return
	}
	after, limit, ok := pageOf(r.URL.Query())
	if refusal == reply.None && !ok {
		refusal = reply.InvalidPage
	}
	if refusal != reply.None {
		write(w, refusal)
		return
	}
	select {
	case d.making <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	body, err := func() ([]byte, error) {
		defer func() { <-d.making }()
		return d.page(user, after, limit)
	}()
	if err != nil {
		writeJSON(w, http.StatusServiceUnavailable,
			wire.AppendError(nil, wire.CodeUnavailable, err.Error()))
		return
	}
	writeJSON(w, http.StatusOK, body)
}

func (d debugPresence) page(user, after uuid.UUID, limit int) ([]byte, error) {
	records, more, err := d.presence.Devices(user, after, limit)
	if err != nil {
		return nil, err
	}
	return appendPresence(nil, d.presence.Streams(user), records, more), nil
}

// pageOf reads which page is asked for: limit devices above the device after.
func pageOf(query url.Values) (after uuid.UUID, limit int, ok bool) {
	limit = pageDevices
	if text := query.Get("after"); text != "" {
		id, form := wire.ParseID([]byte(text))
		if form == wire.IDInvalid {
			return after, limit, false
		}
		after = id
	}
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPageDevices {
			return after, limit, false
		}
		limit = n
	}
	return after, limit, true
}

// appendPresence appends the answer of /debug/presence. When there are more devices, next is what
// the next request says as after.
func appendPresence(dst []byte, streams int, records []engine.Device, more bool) []byte {
	dst = append(dst, `{"active_streams":`...)
	dst = strconv.AppendInt(dst, int64(streams), 10)
	dst = append(dst, `,"records":{`...)
	for i := range records {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendDevice(dst, &records[i])
	}
	dst = append(dst, '}')
	if more {
		dst = append(dst, `,"next":"`...)
		dst = wire.AppendID(dst, records[len(records)-1].Device)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

func appendDevice(dst []byte, r *engine.Device) []byte {
	dst = append(dst, `"device:`...)
	dst = wire.AppendID(dst, r.Device)
	dst = append(dst, `":`...)
	dst = wire.AppendEvent(dst, &r.Event)
	dst = append(dst, `,"last_heartbeat_ms":`...)
	dst = strconv.AppendUint(dst, r.HeartbeatAtMS, 10)
	dst = append(dst, `,"last_offline_ms":`...)
	dst = wire.AppendTime(dst, r.OfflineAtMS)
	dst = append(dst, `,"updated_at_ms":`...)
	dst = strconv.AppendUint(dst, r.UpdatedAtMS, 10)
	return append(dst, '}')
}
