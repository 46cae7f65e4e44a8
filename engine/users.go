package engine

import (
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"

	"rollcall/engine/table"
)

// User is a user as a query shows it: what its devices say together.
type User struct {
	ID       uuid.UUID
	Online   int    // devices that are online
	SeenAtMS uint64 // receipt of the last heartbeat that said online; 0: none
	Devices  []Device
}

// ErrTooManyDevicesAsked is returned by Users when the users have more devices than asked for.
var ErrTooManyDevicesAsked = errors.New("engine: the users have too many devices")

// Users calls fn for each of the users, in their order, with what is known of it: a user that is
// not known has no devices. Nothing may be shown before Users returns nil (I2). The users may have
// limit devices together. fn must not keep u, which is used again for the next user. Online and
// SeenAtMS are counted from the devices that are shown.
func (e *Engine) Users(ids []uuid.UUID, limit int, fn func(u *User)) error {
	newest, err := e.users(ids, limit, fn)
	if err != nil {
		return err
	}
	return e.log.Vouch(newest)
}

// users is Users but for the wait, for the LSN that it returns.
func (d *devices) users(ids []uuid.UUID, limit int, fn func(u *User)) (newest uint64, err error) {
	a := askings.Get().(*asking)
	defer a.release()
	for len(ids) > 0 {
		n := min(len(ids), len(a.finds))
		if limit = a.group(d, ids[:n], limit, fn); limit < 0 {
			return 0, ErrTooManyDevicesAsked
		}
		ids = ids[n:]
	}
	return a.newest, nil
}

// Turned returns when the number of the user's devices that are online changed last, by the
// server's clock in unix milliseconds, 0 for never, and whether one is now. It may be ahead of what
// may be shown.
func (e *Engine) Turned(user uuid.UUID) (atMS uint64, online bool) {
	held, _ := e.devices.table.Aggregate(user)
	return held.ChangedAtMS, held.Online > 0
}

// asking is the scratch of a call of Users, which goes a group of users at a time, so that the
// cache misses of a group overlap. Single owner.
type asking struct {
	finds  [GroupSize]table.UserLookup
	refs   []table.Ref
	user   User
	newest uint64 // LSN of what was shown
}

var askings = sync.Pool{New: func() any { return new(asking) }}

// manyAsked is how many devices of a group, and of a user, a pooled asking has room for.
const manyAsked = 4096

func (a *asking) release() {
	if a.newest = 0; cap(a.refs) > manyAsked {
		a.refs = nil
	}
	if cap(a.user.Devices) > manyAsked {
		a.user.Devices = nil
	}
	a.user.Devices = a.user.Devices[:0]
	clear(a.user.Devices[:cap(a.user.Devices)]) // their sources
	for i := range a.finds {
		a.finds[i] = table.UserLookup{}
	}
	askings.Put(a)
}

// group shows the next users, and returns how many devices may still be shown; negative: there are
// too many.
func (a *asking) group(d *devices, ids []uuid.UUID, limit int, fn func(u *User)) int {
	finds := a.finds[:len(ids)]
	for i := range finds {
		finds[i].User = ids[i]
	}
	a.refs = d.table.FindDevices(finds, a.refs[:0])
	if len(a.refs) > limit {
		return -1
	}
	for _, ref := range a.refs[:min(len(a.refs), 2*GroupSize)] {
		touch(d.table.Entry(ref))
	}
	for i := range finds {
		a.one(d, &finds[i])
		limit -= len(a.user.Devices)
		fn(&a.user)
	}
	return limit
}

// one fills in the user of a look-up.
func (a *asking) one(d *devices, find *table.UserLookup) {
	u := &a.user
	u.ID, u.Online, u.SeenAtMS, u.Devices = find.User, 0, 0, u.Devices[:0]
	shown := slices.Grow(u.Devices, len(find.Devices))
	for _, ref := range find.Devices {
		r := &shown[:len(shown)+1][len(shown)]
		if !d.show(r, d.table.Entry(ref)) || r.User != u.ID {
			continue
		}
		shown = shown[:len(shown)+1]
		if r.Status == Online {
			u.Online++
		}
		u.SeenAtMS = max(u.SeenAtMS, r.SeenAtMS)
		a.newest = max(a.newest, r.LSN)
	}
	u.Devices = shown
}
