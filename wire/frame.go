package wire

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/google/uuid"

	"rollcall/record"
)

// Event is one device's state as a stream gets it: the fields of one frame.
type Event struct {
	User, Device uuid.UUID
	Status       record.Status
	Source       string // valid UTF-8
	SentAtMS     uint64
	Seq          uint64
	TTLMS        uint64
}

// AppendFrame appends the frame of ev to dst: one data line with the eight fields of the wire
// contract in their order, and a blank line. It takes no lock and allocates only to grow dst. Any
// goroutine.
func AppendFrame(dst []byte, ev *Event) []byte {
	dst = append(dst, "data: "...)
	dst = AppendEvent(dst, ev)
	return append(dst, "}\n\n"...)
}

// AppendEvent appends the JSON object of ev without its closing brace, so that the caller can add
// members to it. Any goroutine.
func AppendEvent(dst []byte, ev *Event) []byte {
	return AppendEventRest(AppendEventUser(dst, ev.User), ev)
}

// AppendEventUser appends the first part of the object: the same for all devices of a user.
func AppendEventUser(dst []byte, user uuid.UUID) []byte {
	dst = append(dst, `{"schema_version":1,"user_id":"`...)
	return AppendID(dst, user)
}

// AppendEventRest appends what AppendEvent has behind AppendEventUser.
func AppendEventRest(dst []byte, ev *Event) []byte {
	dst = append(dst, `","device_id":"`...)
	dst = AppendID(dst, ev.Device)
	dst = append(dst, `","status":"`...)
	dst = append(dst, ev.Status.String()...)
	dst = append(dst, `","source":`...)
	dst = AppendString(dst, ev.Source)
	dst = append(dst, `,"sent_at_ms":`...)
	dst = AppendUint(dst, ev.SentAtMS)
	dst = append(dst, `,"seq":`...)
	dst = AppendUint(dst, ev.Seq)
	dst = append(dst, `,"ttl_ms":`...)
	return AppendUint(dst, ev.TTLMS)
}

// AppendID appends the canonical lowercase text of id.
func AppendID(dst []byte, id uuid.UUID) []byte {
	dst = append(dst, "........-....-....-....-............"...)
	text := dst[len(dst)-idBytes:]
	for i, at := range hexPairs {
		binary.LittleEndian.PutUint16(text[at:], hexText[id[i]])
	}
	return dst
}

// hexText is the text of a byte, two hexadecimal digits, the first in the lower byte.
var hexText = func() (texts [256]uint16) {
	for b := range texts {
		texts[b] = binary.LittleEndian.Uint16(hex.AppendEncode(nil, []byte{byte(b)}))
	}
	return texts
}()

// AppendString appends s, which must be valid UTF-8, as JSON.stringify writes it: only the quote,
// the backslash and control characters are escaped.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	plain := 0 // from here to i, s needs no escape
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = appendEscape(append(dst, s[plain:i]...), c)
		plain = i + 1
	}
	return append(append(dst, s[plain:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\t':
		return append(dst, `\t`...)
	case '\n':
		return append(dst, `\n`...)
	case '\f':
		return append(dst, `\f`...)
	case '\r':
		return append(dst, `\r`...)
	}
	return hex.AppendEncode(append(dst, `\u00`...), []byte{c})
}
