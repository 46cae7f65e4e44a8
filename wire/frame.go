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
	return append(AppendID(dst, user), `","device_id":"`...)
}

// AppendEventRest appends what AppendEvent has behind AppendEventUser.
func AppendEventRest(dst []byte, ev *Event) []byte {
	dst = appendEventTo(dst, ev)
	return appendEventFrom(AppendUint(dst, ev.SentAtMS), ev)
}

// AppendEventTimes is AppendEventRest for events of about the same time.
func AppendEventTimes(dst []byte, ev *Event, times *Times) []byte {
	return appendEventFrom(times.Append(appendEventTo(dst, ev), ev.SentAtMS), ev)
}

// appendEventTo appends the members up to the time, and appendEventFrom those behind it.
func appendEventTo(dst []byte, ev *Event) []byte {
	dst = AppendID(dst, ev.Device)
	if ev.Status == record.Online {
		dst = append(dst, `","status":"online","source":"`...)
	} else {
		dst = append(dst, `","status":"offline","source":"`...)
	}
	return append(appendEscaped(dst, ev.Source), `","sent_at_ms":`...)
}

func appendEventFrom(dst []byte, ev *Event) []byte {
	dst = append(dst, `,"seq":`...)
	dst = AppendUint(dst, ev.Seq)
	dst = append(dst, `,"ttl_ms":`...)
	return AppendUint(dst, ev.TTLMS)
}

// AppendID appends the canonical lowercase text of id.
func AppendID(dst []byte, id uuid.UUID) []byte {
	dst = append(dst, "........-....-....-....-............"...)
	text := (*[idBytes]byte)(dst[len(dst)-idBytes:])
	le := binary.LittleEndian
	le.PutUint64(text[0:], hexDigits(le.Uint32(id[0:])))
	middle := hexDigits(le.Uint32(id[4:]))
	le.PutUint32(text[9:], uint32(middle))
	le.PutUint32(text[14:], uint32(middle>>32))
	middle = hexDigits(le.Uint32(id[8:]))
	le.PutUint32(text[19:], uint32(middle))
	le.PutUint32(text[24:], uint32(middle>>32))
	le.PutUint64(text[28:], hexDigits(le.Uint32(id[12:])))
	return dst
}

// hexDigits is the text of four bytes, the first in the lowest byte: the inverse of fromHex.
func hexDigits(four uint32) uint64 {
	const each = 0x0101010101010101
	n := uint64(four)
	n = (n | n<<16) & 0x0000ffff0000ffff
	n = (n | n<<8) & 0x00ff00ff00ff00ff
	n = (n>>4 | n<<8) & (each * 0x0f) // a digit in each byte, the upper one of two first
	letter := (n + each*6) >> 4 & each
	return n + each*'0' + letter*('a'-'0'-10)
}

// AppendString appends s, which must be valid UTF-8, as JSON.stringify writes it: only the quote,
// the backslash and control characters are escaped.
func AppendString(dst []byte, s string) []byte {
	return append(appendEscaped(append(dst, '"'), s), '"')
}

// appendEscaped is AppendString without the quotes around it.
func appendEscaped(dst []byte, s string) []byte {
	plain := 0 // from here to i, s needs no escape
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = appendEscape(append(dst, s[plain:i]...), c)
		plain = i + 1
	}
	return append(dst, s[plain:]...)
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
