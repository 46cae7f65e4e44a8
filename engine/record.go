package engine

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"rollcall/engine/table"
)

// A record is the whole state of one device after a change, so that replaying it needs nothing else and twice is as good
// as once. Little endian; docs/wal-format.md draws it and TestRecordGolden holds both true.
//
//	offset  0   1      2           3  4     20      36   44       52             60      68            76
//	        kind flags  source len  0  user  device  seq  sent_at  heartbeat_at   ttl     updated_at    source
const (
	recordKindState  = 1
	recordKindForget = 2 // the device is no longer known; the rest is its last state

	recordFlagOnline  = 1 << 0
	recordFlagExpired = 1 << 1 // offline because of silence: sent_at is the server's time

	recordFixedBytes = 76
	// maxSourceBytes is the longest source that a record can carry in its one-byte length and that the contract allows.
	maxSourceBytes = 128
	maxRecordBytes = recordFixedBytes + maxSourceBytes
)

var errRecord = errors.New("engine: a record of the log cannot be read")

func recordBytes(source int) int { return recordFixedBytes + source }

// appendRecord encodes s. LSN, deadline and source id are not part of it: the log gives the first, receipt the second,
// and the source travels as its text.
func appendRecord(dst []byte, user, device uuid.UUID, s *table.State, source []byte) []byte {
	var flags byte
	if s.Online {
		flags |= recordFlagOnline
	}
	if s.Expired {
		flags |= recordFlagExpired
	}
	dst = append(dst, recordKindState, flags, byte(len(source)), 0)
	dst = append(dst, user[:]...)
	dst = append(dst, device[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, s.Seq)
	dst = binary.LittleEndian.AppendUint64(dst, s.SentAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.HeartbeatAtMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.TTLMS)
	dst = binary.LittleEndian.AppendUint64(dst, s.UpdatedAtMS)
	return append(dst, source...)
}

// recordView reads the fields of a record in place. It is valid as long as the bytes are.
type recordView []byte

// viewRecord checks the shape of a record. A kind that it does not know was written by a newer version.
func viewRecord(b []byte) (recordView, error) {
	if len(b) < recordFixedBytes || len(b) != recordFixedBytes+int(b[2]) || int(b[2]) > maxSourceBytes {
		return nil, fmt.Errorf("%w: %d bytes do not make a record", errRecord, len(b))
	}
	if b[0] != recordKindState && b[0] != recordKindForget {
		return nil, fmt.Errorf("%w: kind %d is unknown, so a newer version of rollcall wrote it; start that version", errRecord, b[0])
	}
	return recordView(b), nil
}

func (r recordView) forget() bool       { return r[0] == recordKindForget }
func (r recordView) user() uuid.UUID    { return uuid.UUID(r[4:20]) }
func (r recordView) device() uuid.UUID  { return uuid.UUID(r[20:36]) }
func (r recordView) source() []byte     { return r[recordFixedBytes:] }
func (r recordView) word(at int) uint64 { return binary.LittleEndian.Uint64(r[at:]) }

// state returns what the record says of the device. Source, LSN and deadline are the caller's.
func (r recordView) state() table.State {
	return table.State{
		Online:        r[1]&recordFlagOnline != 0,
		Expired:       r[1]&recordFlagExpired != 0,
		Seq:           r.word(36),
		SentAtMS:      r.word(44),
		HeartbeatAtMS: r.word(52),
		TTLMS:         r.word(60),
		UpdatedAtMS:   r.word(68),
	}
}
