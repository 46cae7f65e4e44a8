package admin

import (
	"net/http"
	"strconv"

	"rollcall/engine"
	"rollcall/server/reply"
	"rollcall/wire"
)

// debugPresence shows what is known of one user's devices.
type debugPresence struct {
	presence   Presence
	production bool
}

// ServeHTTP answers GET /debug/presence.
func (d debugPresence) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.production {
		write(w, reply.DebugDisabled)
		return
	}
	user, refusal := userOf(r)
	if refusal == reply.InvalidUserID { // no user's: as the original, an empty answer
		writeJSON(w, http.StatusOK, appendPresence(nil, 0, nil))
		return
	}
	if refusal != reply.None {
		write(w, refusal)
		return
	}
	records, err := d.presence.Devices(user)
	if err != nil {
		writeJSON(w, http.StatusServiceUnavailable,
			wire.AppendError(nil, wire.CodeUnavailable, err.Error()))
		return
	}
	writeJSON(w, http.StatusOK, appendPresence(nil, d.presence.Streams(user), records))
}

// appendPresence appends the answer of /debug/presence.
func appendPresence(dst []byte, streams int, records []engine.Device) []byte {
	dst = append(dst, `{"active_streams":`...)
	dst = strconv.AppendInt(dst, int64(streams), 10)
	dst = append(dst, `,"records":{`...)
	for i := range records {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendDevice(dst, &records[i])
	}
	return append(dst, "}}"...)
}

func appendDevice(dst []byte, r *engine.Device) []byte {
	dst = append(dst, `"device:`...)
	dst = wire.AppendID(dst, r.Device)
	dst = append(dst, `":`...)
	dst = wire.AppendEvent(dst, &r.Event)
	dst = append(dst, `,"last_heartbeat_ms":`...)
	dst = strconv.AppendUint(dst, r.HeartbeatAtMS, 10)
	dst = append(dst, `,"last_offline_ms":`...)
	if r.OfflineAtMS == 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendUint(dst, r.OfflineAtMS, 10)
	}
	dst = append(dst, `,"updated_at_ms":`...)
	dst = strconv.AppendUint(dst, r.UpdatedAtMS, 10)
	return append(dst, '}')
}
