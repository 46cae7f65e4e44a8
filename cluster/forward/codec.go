package forward

import (
	"encoding/binary"
	"errors"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/record"
	"rollcall/wire"
)

// The layout of a message, little endian:
//
//	offset  0      1 2       10     18    20
//	        format 0 session number count heartbeats
//
// and of each of its heartbeats:
//
//	offset  0         2     3          4    20     36  44      52  60
//	        partition flags source len user device seq sent_at ttl source
//
// Session and number come back in the answers:
//
//	offset  0      1 2       10
//	        format 0 session parts
//
// each of which answers some heartbeats of a message: number (8), count (2), and for each its
// place in the message (2), a code (1), and with codeStale the last seq (8). TestGolden keeps both
// true.
const (
	// Format is the first byte of every message. A node that does not know it drops the message.
	Format = 1
	// MaxBeats is how many heartbeats a message has at most.
	MaxBeats = 512

	headBytes   = 20
	beatBytes   = 60 // of a heartbeat, without its source
	maxBeat     = beatBytes + record.MaxSourceBytes
	answerHead  = 10
	partHead    = 10
	answerBytes = 3 // of one, without a seq

	flagOnline = 1 << 0
	flagAsks   = 1 << 1 // the device must not be a new one: the entry node asks its sender first
)

// code says what came of a heartbeat.
type code byte

const (
	codeAccepted code = iota
	codeStale
	codeNotMine        // engine.ErrNotMine
	codeTooManyDevices // engine.ErrTooManyDevices
	codeTooManyOfUser  // engine.ErrTooManyDevicesOfUser
	codeNew            // engine.ErrTooManyNew: of a heartbeat that asks
	codeNoRoom         // ErrNoRoom
	codeNotStored      // ErrNotStored
	codes
)

// errMessage says that bytes are no message.
var errMessage = errors.New("forward: a message cannot be read")

// codeOf is how a result travels.
func codeOf(r *engine.Result) code {
	switch r.Outcome {
	case engine.Accepted:
		return codeAccepted
	case engine.Stale:
		return codeStale
	}
	switch {
	case r.LogFull:
		return codeNoRoom
	case errors.Is(r.Err, engine.ErrNotMine):
		return codeNotMine
	case errors.Is(r.Err, engine.ErrTooManyDevices):
		return codeTooManyDevices
	case errors.Is(r.Err, engine.ErrTooManyDevicesOfUser):
		return codeTooManyOfUser
	case errors.Is(r.Err, engine.ErrTooManyNew):
		return codeNew
	}
	return codeNotStored
}

// results are what the codes say, but for the last seq.
var results = [codes]engine.Result{
	codeAccepted:       {Outcome: engine.Accepted},
	codeStale:          {Outcome: engine.Stale},
	codeNotMine:        {Outcome: engine.Unavailable, Err: engine.ErrNotMine},
	codeTooManyDevices: {Outcome: engine.Unavailable, Err: engine.ErrTooManyDevices},
	codeTooManyOfUser:  {Outcome: engine.Unavailable, Err: engine.ErrTooManyDevicesOfUser},
	codeNew:            {Outcome: engine.Unavailable, Err: engine.ErrTooManyNew},
	codeNoRoom:         {Outcome: engine.Unavailable, Err: ErrNoRoom, LogFull: true},
	codeNotStored:      {Outcome: engine.Unavailable, Err: ErrNotStored},
}

// appendBeat appends a heartbeat.
func appendBeat(dst []byte, partition int, hb *engine.Heartbeat) []byte {
	var flags byte
	if hb.Status == engine.Online {
		flags |= flagOnline
	}
	if hb.Sender != nil {
		flags |= flagAsks
	}
	dst = binary.LittleEndian.AppendUint16(dst, uint16(partition))
	dst = append(dst, flags, byte(len(hb.Source)))
	dst = append(dst, hb.User[:]...)
	dst = append(dst, hb.Device[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, hb.Seq)
	dst = binary.LittleEndian.AppendUint64(dst, hb.SentAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, hb.TTLMS)
	return append(dst, hb.Source...)
}

// Beat is a heartbeat as it travels.
type Beat []byte

// beatAt returns the heartbeat that text begins with.
func beatAt(text []byte) (Beat, error) {
	if len(text) < beatBytes {
		return nil, errMessage
	}
	size := beatBytes + int(text[3])
	b := Beat(text)
	if len(text) < size || text[3] == 0 || text[3] > record.MaxSourceBytes ||
		text[2]&^(flagOnline|flagAsks) != 0 || b.seq() > wire.MaxInteger ||
		b.sentAt() > wire.MaxInteger || b.ttl() > wire.MaxInteger || b.ttl() == 0 {
		return nil, errMessage
	}
	return b[:size], nil
}

func (b Beat) partition() int { return int(binary.LittleEndian.Uint16(b)) }
func (b Beat) seq() uint64    { return binary.LittleEndian.Uint64(b[36:]) }
func (b Beat) sentAt() uint64 { return binary.LittleEndian.Uint64(b[44:]) }
func (b Beat) ttl() uint64    { return binary.LittleEndian.Uint64(b[52:]) }

// Names returns the user and the device.
func (b Beat) Names() (user, device uuid.UUID) { return uuid.UUID(b[4:20]), uuid.UUID(b[20:36]) }

// Asks says that the heartbeat was sent with a Sender, who has not admitted its device yet.
func (b Beat) Asks() bool { return b[2]&flagAsks != 0 }

// fill makes hb the heartbeat, whose source stays in b.
func (b Beat) fill(hb *engine.Heartbeat) {
	hb.User, hb.Device = b.Names()
	hb.Status = engine.Offline
	if b[2]&flagOnline != 0 {
		hb.Status = engine.Online
	}
	hb.Seq, hb.SentAtMS, hb.TTLMS = b.seq(), b.sentAt(), b.ttl()
	hb.Source = b[beatBytes:]
	if hb.Sender = nil; b.Asks() {
		hb.Sender = unknown{}
	}
}

// unknown is the Sender of a heartbeat that asks: the entry node knows it.
type unknown struct{}

func (unknown) AdmitsNew() bool { return false }

// putHead fills in the head of a message.
func putHead(text []byte, session, number uint64, count int) {
	text[0], text[1] = Format, 0
	binary.LittleEndian.PutUint64(text[2:], session)
	binary.LittleEndian.PutUint64(text[10:], number)
	binary.LittleEndian.PutUint16(text[18:], uint16(count))
}

// head is the head of a message.
type head struct {
	session, number uint64
	count           int
}

// readHead reads the head of a message.
func readHead(text []byte) (h head, err error) {
	if len(text) < headBytes || text[0] != Format || text[1] != 0 {
		return h, errMessage
	}
	h = head{
		session: binary.LittleEndian.Uint64(text[2:]),
		number:  binary.LittleEndian.Uint64(text[10:]),
		count:   int(binary.LittleEndian.Uint16(text[18:])),
	}
	if h.count == 0 || h.count > MaxBeats || len(text) < headBytes+h.count*beatBytes {
		return h, errMessage
	}
	return h, nil
}

// beginAnswers begins a message of answers to what a session sent.
func beginAnswers(dst []byte, session uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(dst, Format, 0), session)
}

// appendPart begins the answers to so many heartbeats of a message.
func appendPart(dst []byte, number uint64, count int) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, number)
	return binary.LittleEndian.AppendUint16(dst, uint16(count))
}

// appendAnswer appends what came of a heartbeat.
func appendAnswer(dst []byte, place uint16, c code, lastSeq uint64) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, place)
	dst = append(dst, byte(c))
	if c == codeStale {
		dst = binary.LittleEndian.AppendUint64(dst, lastSeq)
	}
	return dst
}

// readAnswers calls part for each part of answers to a session's messages, and answer for each
// answer of it. What comes before an error has been told.
func readAnswers(
	text []byte, session uint64, part func(number uint64),
	answer func(place int, c code, lastSeq uint64),
) error {
	if len(text) < answerHead || text[0] != Format || text[1] != 0 {
		return errMessage
	}
	if binary.LittleEndian.Uint64(text[2:]) != session {
		return nil // of the process that was here before
	}
	for text = text[answerHead:]; len(text) > 0; {
		if len(text) < partHead {
			return errMessage
		}
		count := int(binary.LittleEndian.Uint16(text[8:]))
		part(binary.LittleEndian.Uint64(text))
		text = text[partHead:]
		for range count {
			if len(text) < answerBytes || text[2] >= byte(codes) {
				return errMessage
			}
			place, c := int(binary.LittleEndian.Uint16(text)), code(text[2])
			text = text[answerBytes:]
			var lastSeq uint64
			if c == codeStale {
				if len(text) < 8 {
					return errMessage
				}
				lastSeq, text = binary.LittleEndian.Uint64(text), text[8:]
			}
			answer(place, c, lastSeq)
		}
	}
	return nil
}
