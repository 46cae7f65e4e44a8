package wire

import (
	"strconv"

	"github.com/google/uuid"
)

// UserEvent is what a user's devices are together, as a stream of users gets it.
type UserEvent struct {
	User        uuid.UUID
	Online      int    // devices
	Lingers     bool   // it is shown as online, also without a device online
	SeenAtMS    uint64 // receipt of the last online heartbeat; 0: there was none
	ChangedAtMS uint64 // when Online last changed; 0: never
}

// AppendUserFrame appends the frame of ev to dst, as AppendFrame does for a device.
func AppendUserFrame(dst []byte, ev *UserEvent) []byte {
	dst = append(dst, `data: {"schema_version":1,"user_id":"`...)
	dst = AppendID(dst, ev.User)
	status := `","status":"offline","devices_online":`
	if ev.Online > 0 || ev.Lingers {
		status = `","status":"online","devices_online":`
	}
	dst = append(dst, status...)
	dst = strconv.AppendInt(dst, int64(ev.Online), 10)
	dst = append(dst, `,"last_seen_ms":`...)
	dst = AppendTime(dst, ev.SeenAtMS)
	dst = append(dst, `,"changed_at_ms":`...)
	return append(AppendTime(dst, ev.ChangedAtMS), "}\n\n"...)
}

// AppendTime appends a time in unix milliseconds, null for 0.
func AppendTime(dst []byte, ms uint64) []byte {
	if ms == 0 {
		return append(dst, "null"...)
	}
	return AppendUint(dst, ms)
}
