package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"iter"

	"github.com/google/uuid"
)

// The bytes of format version 2, all little endian. docs/wal-format.md draws them; TestGolden keeps
// both true. Version 1 is read: its segments state neither a size nor an id.
const (
	formatVersion = 2

	segmentHeaderBytes = 64
	blockHeaderBytes   = 40
	blockAlign         = 8
	recordOverhead     = 2 // the u16 length in front of each record

	blockMagic = 0x4b4c4257 // "WBLK"
)

var segmentMagic = [8]byte{'r', 'o', 'l', 'l', 'c', 'W', 'A', 'L'}

// MaxRecord is the longest record in bytes: its length is stored in 16 bits.
const MaxRecord = 1<<16 - 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentHeader is what the first 64 bytes of a segment say.
type segmentHeader struct {
	version  uint32 // of the format; encode writes the newest
	number   uint64
	first    uint64    // LSN of the first record that the segment holds or will hold
	size     int64     // with which the file was made; 0: version 1
	recycled bool      // the file was another segment before: not zero behind the blocks
	id       uuid.UUID // of the directory; Nil: version 1
}

// What can be wrong with a segment header.
var (
	errHeaderBlank = errors.New("the segment header is all zero")
	errHeaderMagic = errors.New("the segment header has no magic: this is not a log segment")
	errHeaderSum   = errors.New("the segment header's checksum does not match")
	errHeaderPlace = errors.New("the segment header names another segment than the file name")
)

func (h segmentHeader) encode() []byte {
	b := make([]byte, segmentHeaderBytes)
	copy(b, segmentMagic[:])
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint64(b[16:], h.number)
	binary.LittleEndian.PutUint64(b[24:], h.first)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.size))
	if h.recycled {
		b[40] = 1
	}
	copy(b[48:], h.id[:])
	binary.LittleEndian.PutUint32(b[12:], segmentSum(b))
	return b
}

// decodeSegmentHeader reads the header of the segment with the given number. The version is looked
// at before the checksum: a later format may well compute another one, and must still be refused by
// its name.
func decodeSegmentHeader(b []byte, path string, number uint64) (segmentHeader, error) {
	if allZero(b) {
		return segmentHeader{}, errHeaderBlank
	}
	if len(b) < segmentHeaderBytes || [8]byte(b[:8]) != segmentMagic {
		return segmentHeader{}, errHeaderMagic
	}
	version := binary.LittleEndian.Uint32(b[8:])
	if version > formatVersion {
		return segmentHeader{}, &VersionError{Path: path, Found: version, Reads: formatVersion}
	}
	if binary.LittleEndian.Uint32(b[12:]) != segmentSum(b) {
		return segmentHeader{}, errHeaderSum
	}
	h := segmentHeader{
		version:  version,
		number:   binary.LittleEndian.Uint64(b[16:]),
		first:    binary.LittleEndian.Uint64(b[24:]),
		recycled: b[40] == 1,
	}
	if version > 1 {
		h.size, h.id = int64(binary.LittleEndian.Uint64(b[32:])), uuid.UUID(b[48:64])
	}
	if h.number != number {
		return segmentHeader{}, errHeaderPlace
	}
	return h, nil
}

// segmentSum covers every byte of the header but the sum itself.
func segmentSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[16:segmentHeaderBytes])
}

// blockHeader is what the 40 bytes before a block's payload say.
type blockHeader struct {
	payloadSum   uint32 // crc32c of the payload
	payloadBytes uint32
	records      uint32
	first        uint64 // LSN of the first record, in an empty block of the next one to come
	durable      uint64 // highest LSN that was durable when the block was written
}

// last returns the LSN of the block's last record, first-1 if it has none.
func (h blockHeader) last() uint64 { return h.first + uint64(h.records) - 1 }

// bytes returns the size of the whole block with its padding.
func (h blockHeader) bytes() int64 { return blockBytes(int64(h.payloadBytes)) }

func blockBytes(payload int64) int64 {
	return (blockHeaderBytes + payload + blockAlign - 1) &^ (blockAlign - 1)
}

// headerSums computes header checksums in its own memory, so that neither the commit loop nor a
// scan allocates. Not for concurrent use.
type headerSums struct {
	scratch [16 + blockHeaderBytes]byte // segment number, offset, header
}

// sum is the checksum of a block header at its place. Segment number and offset are covered but not
// stored, so that a block that was left over in a recycled segment, or was written to a wrong
// place, is no block there (W6).
func (s *headerSums) sum(header []byte, segment uint64, offset int64) uint32 {
	binary.LittleEndian.PutUint64(s.scratch[0:], segment)
	binary.LittleEndian.PutUint64(s.scratch[8:], uint64(offset))
	copy(s.scratch[16:], header[:blockHeaderBytes])
	binary.LittleEndian.PutUint32(s.scratch[20:], 0) // the sum's own field
	return crc32.Checksum(s.scratch[:], castagnoli)
}

func (s *headerSums) encode(dst []byte, h blockHeader, segment uint64, offset int64) {
	binary.LittleEndian.PutUint32(dst[0:], blockMagic)
	binary.LittleEndian.PutUint32(dst[8:], h.payloadSum)
	binary.LittleEndian.PutUint32(dst[12:], h.payloadBytes)
	binary.LittleEndian.PutUint32(dst[16:], h.records)
	binary.LittleEndian.PutUint32(dst[20:], 0)
	binary.LittleEndian.PutUint64(dst[24:], h.first)
	binary.LittleEndian.PutUint64(dst[32:], h.durable)
	binary.LittleEndian.PutUint32(dst[4:], s.sum(dst, segment, offset))
}

// decode reads the block header at a place; false when there is none.
func (s *headerSums) decode(src []byte, segment uint64, offset int64) (blockHeader, bool) {
	if binary.LittleEndian.Uint32(src) != blockMagic ||
		binary.LittleEndian.Uint32(src[4:]) != s.sum(src, segment, offset) {
		return blockHeader{}, false
	}
	return blockHeader{
		payloadSum:   binary.LittleEndian.Uint32(src[8:]),
		payloadBytes: binary.LittleEndian.Uint32(src[12:]),
		records:      binary.LittleEndian.Uint32(src[16:]),
		first:        binary.LittleEndian.Uint64(src[24:]),
		durable:      binary.LittleEndian.Uint64(src[32:]),
	}, true
}

// putRecord stores a record at the start of dst, which has room for it.
func putRecord(dst, record []byte) {
	binary.LittleEndian.PutUint16(dst, uint16(len(record)))
	copy(dst[recordOverhead:recordOverhead+len(record)], record)
}

// recordsIn yields the records of a payload in order. The payload has been validated.
func recordsIn(payload []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := payload; len(rest) > 0; {
			end := recordOverhead + int(binary.LittleEndian.Uint16(rest))
			if !yield(rest[recordOverhead:end:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}

// countRecords returns how many records a payload holds; false when it does not end with the end of
// a record.
func countRecords(payload []byte) (uint32, bool) {
	var n uint32
	for len(payload) > 0 {
		if len(payload) < recordOverhead {
			return 0, false
		}
		end := recordOverhead + int(binary.LittleEndian.Uint16(payload))
		if end > len(payload) {
			return 0, false
		}
		payload = payload[end:]
		n++
	}
	return n, true
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
