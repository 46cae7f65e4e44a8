package watch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/record"
)

// The subjects of the messages: to a Hub, and to an Edge.
const (
	HubSubject  bus.Subject = "watch"
	EdgeSubject bus.Subject = "edge"
)

// A message begins with these bytes, little endian:
//
//	offset  0      1    2         4     12
//	        format kind partition epoch ...
//
//	WATCH     12 question(8) user(16)...
//	UNWATCH   12 user(16)...
//	SNAPSHOT  12 number(8) through(8) question(8) part...
//	  part:   user(16) flags(1) seen(8) changed(8) until(8) size(4) states[size]
//	DELTA     12 number(8) through(8) age(8) states
//	states:   (length(2) record[length])...
//
// The states of a user may be in several parts, one behind the other, of messages that follow each
// other: each but the last has flagMore, each but the first flagRest.
const (
	format = 1

	kindWatch    = 1
	kindUnwatch  = 2
	kindSnapshot = 3
	kindDelta    = 4

	headBytes     = 12
	numberedBytes = headBytes + 8 + 8 + 8
	partBytes     = 16 + 1 + 8 + 8 + 8 + 4
	idBytes       = 16

	flagMore = 1 << 0
	flagRest = 1 << 1

	// chunkBytes is about how much states a message has.
	chunkBytes = 128 << 10
	// maxMessage bounds what is read: two chunks, and what the last record is longer.
	maxMessage = 2*chunkBytes + 4096
	// usersPerWatch bounds the users that a message asks for, and partsPerSnapshot those that one
	// tells of, so that no message is much work.
	usersPerWatch    = 2048
	partsPerSnapshot = 512

	// noAge says that the age of a batch is not known.
	noAge = 1<<64 - 1
)

// errMessage says that a message cannot be read.
var errMessage = errors.New("watch: the message cannot be read")

// errFormat is errMessage of a message that a newer version has written.
var errFormat = fmt.Errorf("%w: a newer version of rollcall has written it", errMessage)

// Ours reports whether a message is for Edge.Receive or Hub.Receive, and of which partition: others
// begin with a byte that is no format.
func Ours(data []byte) (partition int, ok bool) {
	if len(data) < headBytes || data[0] == 0 || data[0] >= ' ' {
		return 0, false
	}
	return int(binary.LittleEndian.Uint16(data[2:])), true
}

// head is what every message begins with.
type head struct {
	kind      byte
	partition int
	epoch     uint64
}

func appendHead(dst []byte, h head) []byte {
	dst = append(dst, format, h.kind)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(h.partition))
	return binary.LittleEndian.AppendUint64(dst, h.epoch)
}

// cutHead reads the head of a message.
func cutHead(data []byte) (h head, rest []byte, err error) {
	switch {
	case len(data) < headBytes || len(data) > maxMessage || data[0] == 0:
		return h, nil, errMessage
	case data[0] != format || data[1] < kindWatch || data[1] > kindDelta:
		return h, nil, errFormat
	}
	h.kind = data[1]
	h.partition = int(binary.LittleEndian.Uint16(data[2:]))
	h.epoch = binary.LittleEndian.Uint64(data[4:])
	return h, data[headBytes:], nil
}

// userList is the users of a message, as it has them.
type userList []byte

func cutUsers(rest []byte) (userList, error) {
	if len(rest)%idBytes != 0 || len(rest) > usersPerWatch*idBytes {
		return nil, errMessage
	}
	return userList(rest), nil
}

func (l userList) len() int { return len(l) / idBytes }

func (l userList) at(i int) uuid.UUID { return uuid.UUID(l[i*idBytes:][:idBytes]) }

func (l userList) from(i int) userList { return l[i*idBytes:] }

// cutWatch reads what is behind the head of a WATCH.
func cutWatch(rest []byte) (question uint64, users userList, err error) {
	if len(rest) < 8 {
		return 0, nil, errMessage
	}
	users, err = cutUsers(rest[8:])
	return binary.LittleEndian.Uint64(rest), users, err
}

// numbered is what SNAPSHOT and DELTA have behind the head.
type numbered struct {
	number, through uint64
	word            uint64 // the question, or the age
}

func cutNumbered(rest []byte) (m numbered, more []byte, err error) {
	if len(rest) < numberedBytes-headBytes {
		return m, nil, errMessage
	}
	m.number = binary.LittleEndian.Uint64(rest)
	m.through = binary.LittleEndian.Uint64(rest[8:])
	m.word = binary.LittleEndian.Uint64(rest[16:])
	return m, rest[24:], nil
}

// put writes what cutNumbered reads into a message that has room for it.
func (m numbered) put(message []byte) {
	binary.LittleEndian.PutUint64(message[headBytes:], m.number)
	binary.LittleEndian.PutUint64(message[headBytes+8:], m.through)
	binary.LittleEndian.PutUint64(message[headBytes+16:], m.word)
}

// part is what a SNAPSHOT says of a user, or a part of that.
type part struct {
	user   uuid.UUID
	flags  byte
	told   engine.Told
	until  uint64 // the highest LSN that was left out; 0: none was
	states []byte
}

func appendPart(dst []byte, p *part) []byte {
	return append(appendPartHead(dst, p, len(p.states)), p.states...)
}

// appendPartHead appends what a part has before its states, which have so many bytes.
func appendPartHead(dst []byte, p *part, size int) []byte {
	dst = append(dst, p.user[:]...)
	dst = append(dst, p.flags)
	dst = binary.LittleEndian.AppendUint64(dst, p.told.SeenAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, p.told.ChangedAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, p.until)
	return binary.LittleEndian.AppendUint32(dst, uint32(size))
}

// cutParts appends the parts of a SNAPSHOT to dst. They point into rest.
func cutParts(dst []part, rest []byte) ([]part, error) {
	for n := 0; len(rest) > 0; n++ {
		if len(rest) < partBytes || n == partsPerSnapshot {
			return dst, errMessage
		}
		p := part{
			user:  uuid.UUID(rest[:16]),
			flags: rest[16],
			told: engine.Told{
				SeenAtMS:    binary.LittleEndian.Uint64(rest[17:]),
				ChangedAtMS: binary.LittleEndian.Uint64(rest[25:]),
			},
			until: binary.LittleEndian.Uint64(rest[33:]),
		}
		size := binary.LittleEndian.Uint32(rest[41:])
		rest = rest[partBytes:]
		if uint64(size) > uint64(len(rest)) || p.flags&^(flagMore|flagRest) != 0 {
			return dst, errMessage
		}
		p.states, rest = rest[:size], rest[size:]
		fits := true
		ok := engine.EachState(p.states, func(rec []byte) bool {
			r, err := record.Parse(rec)
			fits = err == nil && r.User() == p.user && !r.Forget()
			return fits
		})
		if !ok || !fits {
			return dst, errMessage
		}
		dst = append(dst, p)
	}
	return dst, nil
}

// cutStates appends the records of states to dst. They point into states.
func cutStates(dst []record.View, states []byte) ([]record.View, error) {
	var err error
	ok := engine.EachState(states, func(rec []byte) bool {
		var r record.View
		if r, err = record.Parse(rec); err != nil {
			return false
		}
		dst = append(dst, r)
		return true
	})
	if err != nil {
		return dst, fmt.Errorf("%w: %w", errMessage, err)
	}
	if !ok {
		return dst, errMessage
	}
	return dst, nil
}

func appendState(dst, rec []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(rec)))
	return append(dst, rec...)
}
