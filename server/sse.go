package server

import (
	"encoding/hex"
	"strconv"

	"github.com/google/uuid"

	"rollcall/engine"
)

// AppendFrame appends the frame of ev to dst: one data line with the eight fields of the wire contract in their order,
// and a blank line. It takes no lock and may be called from anywhere; it allocates only to grow dst.
func AppendFrame(dst []byte, ev *engine.Event) []byte {
	dst = append(dst, "data: "...)
	dst = appendEvent(dst, ev)
	return append(dst, "}\n\n"...)
}

// appendEvent appends the JSON object of ev without its closing brace, so that /debug/presence can go on.
func appendEvent(dst []byte, ev *engine.Event) []byte {
	dst = append(dst, `{"schema_version":1,"user_id":"`...)
	dst = appendID(dst, ev.User)
	dst = append(dst, `","device_id":"`...)
	dst = appendID(dst, ev.Device)
	dst = append(dst, `","status":"`...)
	dst = append(dst, statusText(ev.Status)...)
	dst = append(dst, `","source":`...)
	dst = appendString(dst, ev.Source)
	dst = append(dst, `,"sent_at_ms":`...)
	dst = strconv.AppendUint(dst, ev.SentAtMS, 10)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, ev.Seq, 10)
	dst = append(dst, `,"ttl_ms":`...)
	return strconv.AppendUint(dst, ev.TTLMS, 10)
}

func statusText(s engine.Status) string {
	if s == engine.Online {
		return "online"
	}
	return "offline"
}

// appendID appends the canonical lowercase text of id.
func appendID(dst []byte, id uuid.UUID) []byte {
	dst = hex.AppendEncode(dst, id[:4])
	dst = hex.AppendEncode(append(dst, '-'), id[4:6])
	dst = hex.AppendEncode(append(dst, '-'), id[6:8])
	dst = hex.AppendEncode(append(dst, '-'), id[8:10])
	return hex.AppendEncode(append(dst, '-'), id[10:])
}

// appendString appends s, which must be valid UTF-8, as JSON.stringify writes it: only the quote, the backslash and
// control characters are escaped.
func appendString(dst []byte, s string) []byte {
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
