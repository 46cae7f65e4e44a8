package engine

import (
	"errors"

	"github.com/google/uuid"
)

// User is a user as a query shows it: what its devices say together.
type User struct {
	ID          uuid.UUID
	Online      int    // devices that are online
	SeenAtMS    uint64 // receipt of the last heartbeat that said online; 0: none
	ChangedAtMS uint64 // of the last change of Online, by the server's clock; 0: never
	Devices     []Device
}

// ErrTooManyDevicesAsked is returned by Users when the users have more devices than asked for.
var ErrTooManyDevicesAsked = errors.New("engine: the users have too many devices")

// Users calls fn for each of the users, in their order, with what is known of it; nothing may be
// shown before Users returns nil (I2). The users may have limit devices together. u is used again
// for the next user.
func (e *Engine) Users(ids []uuid.UUID, limit int, fn func(u *User)) error {
	var u User
	newest := uint64(0)
	for _, id := range ids {
		u = User{ID: id, Devices: u.Devices[:0]}
		e.eachDevice(id, func(d Device) bool {
			newest = max(newest, d.LSN)
			if d.Status == Online {
				u.Online++
				d.SeenAtMS = d.UpdatedAtMS
			}
			u.SeenAtMS = max(u.SeenAtMS, d.SeenAtMS)
			u.Devices = append(u.Devices, d)
			return len(u.Devices) <= limit
		})
		if limit -= len(u.Devices); limit < 0 {
			return ErrTooManyDevicesAsked
		}
		fn(&u)
	}
	return e.log.Wait(newest)
}
