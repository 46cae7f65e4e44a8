package jslog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
)

// A message, numbers little-endian:
//
//	 0   4  CRC-32C of all that follows
//	 4   1  format
//	 5   1  kind
//	 6   8  epoch: the sequence of its writer's claim; 0 in a claim
//	14   8  LSN of its first record, or of the next one when it has none; 0 in a claim
//	22   4  count of records (batch) or values (bucket)
//	26      payload
//
//	batch       records: length (2), record
//	claim       wall clock of the claim in unix milliseconds (8), name of the node
//	noop        nothing
//	bucket      values of a checkpoint: length (2), LSN (8), rest of the value
//	checkpoint  as-of LSN (8), trusted clock in unix milliseconds (8), sequence of the first bucket
//	            (8; 0: there is none)
const (
	headerBytes     = 26
	checkpointBytes = 24

	// Format is the newest format of messages that this version reads, and the one it writes.
	Format = 1
)

// kind is what a message is.
type kind uint8

const (
	kindBatch kind = 1 + iota
	kindClaim
	kindNoop
	kindBucket
	kindCheckpoint
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what stands before a payload.
type header struct {
	kind  kind
	epoch uint64
	first uint64
	count uint32
}

// seal writes the header into the first headerBytes of a message whose payload is complete.
func (h header) seal(message []byte) {
	message[4], message[5] = Format, byte(h.kind)
	binary.LittleEndian.PutUint64(message[6:], h.epoch)
	binary.LittleEndian.PutUint64(message[14:], h.first)
	binary.LittleEndian.PutUint32(message[22:], h.count)
	binary.LittleEndian.PutUint32(message, crc32.Checksum(message[4:], castagnoli))
}

// parse takes a message apart.
func parse(seq uint64, message []byte) (h header, payload []byte, err error) {
	if len(message) < headerBytes {
		return h, nil, damaged(seq, "it has %d bytes", len(message))
	}
	if crc32.Checksum(message[4:], castagnoli) != binary.LittleEndian.Uint32(message) {
		return h, nil, damaged(seq, "its checksum is wrong")
	}
	h = header{
		kind:  kind(message[5]),
		epoch: binary.LittleEndian.Uint64(message[6:]),
		first: binary.LittleEndian.Uint64(message[14:]),
		count: binary.LittleEndian.Uint32(message[22:]),
	}
	if message[4] > Format || h.kind > kindCheckpoint {
		return h, nil, &FormatError{Seq: seq, Found: message[4], Kind: message[5]}
	}
	return h, message[headerBytes:], nil
}

// appendItem appends a record or a value with its length.
func appendItem(dst, item []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(item)))
	return append(dst, item...)
}

// itemOverhead is what appendItem takes beside the item.
const itemOverhead = 2

// items are the records or values of a payload. It ends early where the payload is not made of
// whole ones.
func items(payload []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := payload; len(rest) >= itemOverhead; {
			end := itemOverhead + int(binary.LittleEndian.Uint16(rest))
			if end > len(rest) || !yield(rest[itemOverhead:end:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// checkpoint is the payload of the message that ends a checkpoint.
type checkpoint struct {
	lsn         uint64 // what it is as of
	clockMS     uint64
	firstBucket uint64 // its sequence; 0: there is none
}

func (c checkpoint) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, c.lsn)
	dst = binary.LittleEndian.AppendUint64(dst, c.clockMS)
	return binary.LittleEndian.AppendUint64(dst, c.firstBucket)
}

func parseCheckpoint(seq uint64, payload []byte) (c checkpoint, err error) {
	if len(payload) != checkpointBytes {
		return c, damaged(seq, "a checkpoint of %d bytes", len(payload))
	}
	return checkpoint{
		lsn:         binary.LittleEndian.Uint64(payload),
		clockMS:     binary.LittleEndian.Uint64(payload[8:]),
		firstBucket: binary.LittleEndian.Uint64(payload[16:]),
	}, nil
}

// DamageError says that the stream does not hold what was acknowledged, or holds what no owner may
// have written. Nothing is served from it: restore the partition from a backup.
type DamageError struct {
	Seq  uint64 // of the message at which it shows
	What string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("jslog: the stream is damaged at message %d: %s", e.Seq, e.What)
}

func damaged(seq uint64, format string, args ...any) error {
	return &DamageError{Seq: seq, What: fmt.Sprintf(format, args...)}
}

// FormatError says that a newer version wrote a message.
type FormatError struct {
	Seq   uint64
	Found byte // its format
	Kind  byte
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("jslog: message %d has format %d and kind %d, but this version reads formats "+
		"up to %d: start the newer version that wrote it", e.Seq, e.Found, e.Kind, Format)
}
