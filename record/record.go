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
	TTLMS         uint64
	Online        bool
	Expired       bool // went offline by silence, not by a heartbeat that said so
}

// Status returns whether the device is online.
func (s *State) Status() Status {
	if s.Online {
		return Online
	}
	return Offline
}

// The layout of a record, little endian:
//
//	offset  0    1     2          3 4    20     36  44      52           60  68         76
//	        kind flags source len 0 user device seq sent_at heartbeat_at ttl updated_at source
const (
	kindState  = 1
	kindForget = 2 // the device is no longer known; the rest is its last state

	flagOnline  = 1 << 0
	flagExpired = 1 << 1

	fixedBytes = 76
)

// MaxSourceBytes is the longest source: the contract's limit, and within the one-byte length.
const MaxSourceBytes = 128

// MaxBytes is the size of the longest record.
const MaxBytes = fixedBytes + MaxSourceBytes

// Err says that bytes are no record. Test with errors.Is.
var Err = errors.New("record: cannot be read")

// Bytes returns the size of a record whose source has so many bytes.
func Bytes(source int) int { return fixedBytes + source }

// Append appends the record of a device's state to dst. source has at most MaxSourceBytes bytes.
func Append(dst []byte, user, device uuid.UUID, s *State, source []byte) []byte {
	var flags byte
	if s.Online {
		flags |= flagOnline
	}
	if s.Expired {
		flags |= flagExpired
	}
	dst = append(dst, kindState, flags, byte(len(source)), 0)
	dst = append(dst, user[:]...)
	dst = append(dst, device[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, s.Seq)
	dst = binary.LittleEndian.AppendUint64(dst, s.SentAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.HeartbeatAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.TTLMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.UpdatedAtMS)
	return append(dst, source...)
}

// AppendForget appends a record to dst that says that the device of last is no longer known. It
// keeps the last state.
func AppendForget(dst []byte, last View) []byte {
	at := len(dst)
	dst = append(dst, last...)
	dst[at] = kindForget
	return dst
}

// View reads the fields of a record in place. It is valid as long as its bytes are.
type View []byte

// Parse checks the shape of a record. A kind that it does not know was written by a newer version.
func Parse(b []byte) (View, error) {
	if len(b) < fixedBytes || len(b) != fixedBytes+int(b[2]) || int(b[2]) > MaxSourceBytes {
		return nil, fmt.Errorf("%w: %d bytes do not make a record", Err, len(b))
	}
	if b[0] != kindState && b[0] != kindForget {
		return nil, fmt.Errorf("%w: kind %d is unknown, so a newer version of rollcall wrote it; "+
			"start that version", Err, b[0])
	}
	return View(b), nil
}

// Forget reports whether the record says that its device is no longer known.
func (r View) Forget() bool { return r[0] == kindForget }

// User returns the id of the user.
func (r View) User() uuid.UUID { return uuid.UUID(r[4:20]) }

// Device returns the id of the device.
func (r View) Device() uuid.UUID { return uuid.UUID(r[20:36]) }

// Source returns the text of the source, which points into the record.
func (r View) Source() []byte { return r[fixedBytes:] }

func (r View) word(at int) uint64 { return binary.LittleEndian.Uint64(r[at:]) }

// State returns what the record says of the device.
func (r View) State() State {
	return State{
		Online:        r[1]&flagOnline != 0,
		Expired:       r[1]&flagExpired != 0,
		Seq:           r.word(36),
		SentAtMS:      r.word(44),
		HeartbeatAtMS: r.word(52),
		TTLMS:         r.word(60),
		UpdatedAtMS:   r.word(68),
	}
}
