package record

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// Status is whether a device is here now.
type Status uint8

// The two statuses of the wire contract.
const (
	Offline Status = iota
	Online
)

// String returns the status as the wire contract writes it.
func (s Status) String() string {
	if s == Online {
		return "online"
	}
	return "offline"
}

// State is what a record says of its device. All times are wall time in unix milliseconds.
type State struct {
	Seq           uint64 // last accepted seq
	SentAtMS      uint64 // of the last event: by the device's clock; of an expiry, by the server's
	HeartbeatAtMS uint64 // sent-at of the last online heartbeat
	UpdatedAtMS   uint64 // receipt of the last change, by the server's clock
	// SeenAtMS is the receipt of the last online heartbeat, by the server's clock; 0: there was
	// none. While the device is online it is UpdatedAtMS.
	SeenAtMS uint64
	TTLMS    uint64
	Online   bool
	Expired  bool // went offline by silence, not by a heartbeat that said so
}

// Status returns whether the device is online.
func (s *State) Status() Status {
	if s.Online {
		return Online
	}
	return Offline
}

// User is what a record says of the user, after the change.
type User struct {
	SeenAtMS uint64 // when a device of the user was last known to be seen; 0: never
	Online   uint32 // devices online
	Turn     bool   // the change moved the device between offline, or unknown, and online
}

// The layout of a record, little endian:
//
//	offset  0    1     2          3     4    20     36  44      52           60  68         76
//	        kind flags source len tells user device seq sent_at heartbeat_at ttl updated_at
//
// Behind it comes the source; in a record of kind 3 before that:
//
//	offset  76   84        92          96
//	        seen user_seen user_online source
const (
	kindState  = 1 // an online heartbeat of a device that was online: seen is updated_at
	kindForget = 2 // the device is no longer known; the rest is its last state
	kindUser   = 3 // any other change: it says what is known of the user, too

	flagOnline  = 1 << 0
	flagExpired = 1 << 1
	flagTurn    = 1 << 2

	// tellsTurns is byte 3 of records of a version that has kind 3. A record of kind 1 in which it
	// is 0 may be any change.
	tellsTurns = 1

	fixedBytes = 76
	userBytes  = 20 // of kind 3
)

// MaxSourceBytes is the longest source: the contract's limit, and within the one-byte length.
const MaxSourceBytes = 128

// MaxBytes is the size of the longest record.
const MaxBytes = fixedBytes + userBytes + MaxSourceBytes

// Err says that bytes are no record. Test with errors.Is.
var Err = errors.New("record: cannot be read")

// Bytes returns the size of a record whose source has so many bytes.
func Bytes(source int) int { return fixedBytes + source }

// UserBytes is Bytes of a record that says what is known of the user.
func UserBytes(source int) int { return fixedBytes + userBytes + source }

// Append appends the record of a device to dst that was online and is: SeenAtMS is UpdatedAtMS, and
// is not written. source has at most MaxSourceBytes bytes.
func Append(dst []byte, user, device uuid.UUID, s *State, source []byte) []byte {
	return append(appendFixed(dst, kindState, 0, user, device, s, source), source...)
}

// AppendUser appends the record of any change to dst, with what is known of the user after it.
// source has at most MaxSourceBytes bytes.
func AppendUser(
	dst []byte, user, device uuid.UUID, s *State, source []byte, u *User,
) []byte {
	var flags byte
	if u.Turn {
		flags = flagTurn
	}
	dst = appendFixed(dst, kindUser, flags, user, device, s, source)
	dst = binary.LittleEndian.AppendUint64(dst, s.SeenAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, u.SeenAtMS)
	dst = binary.LittleEndian.AppendUint32(dst, u.Online)
	return append(dst, source...)
}

func appendFixed(
	dst []byte, kind, flags byte, user, device uuid.UUID, s *State, source []byte,
) []byte {
	if s.Online {
		flags |= flagOnline
	}
	if s.Expired {
		flags |= flagExpired
	}
	dst = append(dst, kind, flags, byte(len(source)), tellsTurns)
	dst = append(dst, user[:]...)
	dst = append(dst, device[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, s.Seq)
	dst = binary.LittleEndian.AppendUint64(dst, s.SentAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.HeartbeatAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.TTLMS)
	return binary.LittleEndian.AppendUint64(dst, s.UpdatedAtMS)
}

// ForgetBytes is Bytes of what AppendForget appends.
func ForgetBytes(last View) int { return Bytes(len(last.Source())) }

// AppendForget appends a record to dst that says that the device of last is no longer known. It
// keeps the last state, and nothing of the user.
func AppendForget(dst []byte, last View) []byte {
	at := len(dst)
	dst = append(dst, last[:fixedBytes]...)
	dst[at] = kindForget
	dst[at+1] &^= flagTurn
	return append(dst, last.Source()...)
}

// View reads the fields of a record in place. It is valid as long as its bytes are.
type View []byte

// Parse checks the shape of a record. A kind that it does not know was written by a newer version.
func Parse(b []byte) (View, error) {
	r, rest, err := Cut(b)
	if err == nil && len(rest) > 0 {
		return nil, errShape(b)
	}
	return r, err
}

// Cut is Parse of a record that b begins with, and returns what is behind it.
func Cut(b []byte) (r View, rest []byte, err error) {
	if len(b) < fixedBytes || int(b[2]) > MaxSourceBytes {
		return nil, nil, errShape(b)
	}
	n := 0
	switch b[0] {
	case kindState, kindForget:
		n = Bytes(int(b[2]))
	case kindUser:
		n = UserBytes(int(b[2]))
	default:
		return nil, nil, fmt.Errorf("%w: kind %d is unknown, so a newer version of rollcall wrote "+
			"it; start that version", Err, b[0])
	}
	if len(b) < n {
		return nil, nil, errShape(b)
	}
	return View(b[:n:n]), b[n:], nil
}

func errShape(b []byte) error {
	return fmt.Errorf("%w: %d bytes do not make a record", Err, len(b))
}

// Forget reports whether the record says that its device is no longer known.
func (r View) Forget() bool { return r[0] == kindForget }

// User returns the id of the user.
func (r View) User() uuid.UUID { return uuid.UUID(r[4:20]) }

// Device returns the id of the device.
func (r View) Device() uuid.UUID { return uuid.UUID(r[20:36]) }

// Source returns the text of the source, which points into the record.
func (r View) Source() []byte {
	if r.ofUser() {
		return r[fixedBytes+userBytes:]
	}
	return r[fixedBytes:]
}

// Online reports whether the device is online after the change.
func (r View) Online() bool { return r[1]&flagOnline != 0 }

// Turn reports whether the change moved the device between offline, or unknown, and online: nothing
// else changes UserOnline. Records of versions that did not tell turns say no: see Tells.
func (r View) Turn() bool { return r[1]&flagTurn != 0 }

// Tells reports whether the record would say that it is a turn: those of earlier versions do not.
func (r View) Tells() bool { return r[3] >= tellsTurns }

// UpdatedAt returns the receipt of the change, by the server's clock, in unix milliseconds.
func (r View) UpdatedAt() uint64 { return r.word(68) }

// Seen returns the receipt of the device's last online heartbeat, by the server's clock, in unix
// milliseconds; 0: there was none. From an offline record of an earlier version it is estimated.
func (r View) Seen() uint64 {
	switch {
	case r.ofUser():
		return r.word(76)
	case r.Online():
		return r.UpdatedAt()
	}
	return r.estimate()
}

// estimate is Seen of an offline record of a version that did not keep it. Where the first
// heartbeat of a device said offline, its sent-at stands as heartbeat-at.
func (r View) estimate() uint64 {
	updated, heartbeat := r.UpdatedAt(), r.word(52)
	switch {
	case r[1]&flagExpired != 0:
		return updated - min(updated, r.word(60))
	case heartbeat == r.word(44):
		return 0
	}
	return min(heartbeat, updated)
}

// UserSeen returns when a device of the user was last known to be seen, in unix milliseconds; 0:
// never, or the record does not say. It is exact while no device of the user is online: what
// devices that are online have sent since their turn is not in it.
func (r View) UserSeen() uint64 {
	if r.ofUser() {
		return r.word(84)
	}
	return 0
}

// UserOnline returns how many devices of the user are online after the change; 0 when the record
// does not say: it is one of an online heartbeat that was no turn.
func (r View) UserOnline() int {
	if r.ofUser() {
		return int(binary.LittleEndian.Uint32(r[92:]))
	}
	return 0
}

// ofUser reports whether the record says what is known of the user.
func (r View) ofUser() bool { return r[0] == kindUser }

func (r View) word(at int) uint64 { return binary.LittleEndian.Uint64(r[at:]) }

// State returns what the record says of the device.
func (r View) State() State {
	return State{
		Online:        r.Online(),
		Expired:       r[1]&flagExpired != 0,
		Seq:           r.word(36),
		SentAtMS:      r.word(44),
		HeartbeatAtMS: r.word(52),
		TTLMS:         r.word(60),
		UpdatedAtMS:   r.UpdatedAt(),
		SeenAtMS:      r.Seen(),
	}
}
