package loadgen

import (
	"bytes"
	"errors"
	"strconv"
)

// chunked takes the framing off a chunked body, in pieces of any size.
type chunked struct {
	left  int // bytes of the current chunk's data still to come
	state chunkState
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkData
	chunkEnd // the line end after the data
	chunkTrailer
)

var errMalformedChunk = errors.New("loadgen: malformed chunk")

// decode moves the data of buf to its front and returns it; end is true when the last chunk was in
// it.
func (c *chunked) decode(buf []byte) (data []byte, end bool, err error) {
	n := 0
	for i := 0; i < len(buf); {
		if c.state == chunkData {
			m := copy(buf[n:], buf[i:min(len(buf), i+c.left)])
			n, i, c.left = n+m, i+m, c.left-m
			if c.left == 0 {
				c.state = chunkEnd
			}
			continue
		}
		b := buf[i]
		i++
		switch c.state {
		case chunkSize:
			digit, ok := hexDigit(b)
			switch {
			case ok && c.left < 1<<26:
				c.left = c.left<<4 | digit
			case b == ';' || b == '\r':
				c.state = chunkExtension
			default:
				return nil, false, errMalformedChunk
			}
		case chunkExtension:
			if b == '\n' {
				c.state = chunkData
				if c.left == 0 {
					c.state = chunkTrailer
					return buf[:n], true, nil
				}
			}
		case chunkEnd:
			if b == '\n' {
				c.state = chunkSize
			} else if b != '\r' {
				return nil, false, errMalformedChunk
			}
		case chunkTrailer:
			return buf[:n], true, nil
		}
	}
	return buf[:n], false, nil
}

// frame is one data frame of a stream, as far as it varies.
type frame struct {
	device  []byte // text of its id
	offline bool
	sentMS  int64
	seq     int64
}

// The constant parts of a frame, in order. The wire contract fixes the fields, their order and the
// absence of white space, so a frame is read by position, and one that differs is a finding (G5).
const (
	frameHead   = `data: {"schema_version":1,"user_id":"`
	frameDevice = `","device_id":"`
	frameStatus = `","status":"`
	frameSource = `","source":"` + source + `","sent_at_ms":`
	frameSeq    = `,"seq":`
	frameTTL    = `,"ttl_ms":`
)

// framePrefix is how every frame of a user begins.
func framePrefix(user string) []byte { return []byte(frameHead + user + frameDevice) }

// frameSuffix is how every frame of a run ends, without the blank line.
func frameSuffix(ttlMS int64) []byte {
	return []byte(frameTTL + strconv.FormatInt(ttlMS, 10) +
		"}")
}

// parseFrame reads a frame without its line ends; ok is false when it is not one of this user and
// run.
func parseFrame(text, prefix, suffix []byte) (f frame, ok bool) {
	rest, ok := bytes.CutPrefix(text, prefix)
	if !ok {
		return f, false
	}
	return parseDevice(rest, suffix)
}

// parseDevice reads a frame from the device's id on.
func parseDevice(rest, suffix []byte) (f frame, ok bool) {
	if f.device, rest, ok = cutID(rest); !ok {
		return f, false
	}
	if rest, ok = cut(rest, frameStatus); !ok {
		return f, false
	}
	if f.offline, rest, ok = cutStatus(rest); !ok {
		return f, false
	}
	if rest, ok = cut(rest, frameSource); !ok {
		return f, false
	}
	if f.sentMS, rest, ok = cutInt(rest); !ok {
		return f, false
	}
	if rest, ok = cut(rest, frameSeq); !ok {
		return f, false
	}
	if f.seq, rest, ok = cutInt(rest); !ok {
		return f, false
	}
	return f, bytes.Equal(rest, suffix)
}

func cutID(text []byte) (id, rest []byte, ok bool) {
	if len(text) < 36 {
		return nil, text, false
	}
	return text[:36], text[36:], true
}

func cutStatus(text []byte) (offline bool, rest []byte, ok bool) {
	if rest, ok = cut(text, "online"); ok {
		return false, rest, true
	}
	rest, ok = cut(text, "offline")
	return true, rest, ok
}

func cut(text []byte, prefix string) (rest []byte, ok bool) {
	if len(text) < len(prefix) || string(text[:len(prefix)]) != prefix {
		return text, false
	}
	return text[len(prefix):], true
}

func cutInt(text []byte) (v int64, rest []byte, ok bool) {
	i := 0
	for i < len(text) && i < 16 && text[i] >= '0' && text[i] <= '9' {
		v = v*10 + int64(text[i]-'0')
		i++
	}
	return v, text[i:], i > 0
}
