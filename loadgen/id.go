package loadgen

import (
	"encoding/binary"
	"math/rand/v2"
)

// uuid is an id in binary. Users and devices are random version 4 ones, but the last four bytes are
// an index, of a device among its user's, of a user among its worker's: a stream finds both of a
// frame without a map.
type uuid [16]byte

func newUUID(rng *rand.Rand) (id uuid) {
	for i := 0; i < 16; i += 8 {
		bits := rng.Uint64()
		for j := range 8 {
			id[i+j] = byte(bits >> (8 * j))
		}
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// setIndex writes the index into an id.
func (id *uuid) setIndex(i uint32) { binary.BigEndian.PutUint32(id[12:], i) }

// indexIn reads the index from an id in text.
func indexIn(id []byte) (index uint32, ok bool) {
	for _, b := range id[28:36] {
		digit, hex := hexDigit(b)
		if !hex {
			return 0, false
		}
		index = index<<4 | uint32(digit)
	}
	return index, true
}

// put writes the canonical text into dst[:36].
func (id *uuid) put(dst []byte) {
	dst = dst[:36]
	le := binary.LittleEndian
	a, b := hexDigits(le.Uint32(id[:])), hexDigits(le.Uint32(id[4:]))
	c, d := hexDigits(le.Uint32(id[8:])), hexDigits(le.Uint32(id[12:]))
	dst[8], dst[13], dst[18], dst[23] = '-', '-', '-', '-'
	le.PutUint64(dst, a)
	le.PutUint32(dst[9:], uint32(b))
	le.PutUint32(dst[14:], uint32(b>>32))
	le.PutUint32(dst[19:], uint32(c))
	le.PutUint32(dst[24:], uint32(c>>32))
	le.PutUint64(dst[28:], d)
}

// hexDigits is the eight digits of four bytes, both as they lie in memory. All at once: a generator
// at a million heartbeats per second writes 64 million digits.
func hexDigits(four uint32) uint64 {
	const each = 0x0101010101010101
	x := uint64(four)
	x = (x | x<<16) & 0x0000ffff0000ffff
	x = (x | x<<8) & 0x00ff00ff00ff00ff // a byte in every two
	x = (x>>4 | x<<8) & (each * 0x0f)   // its upper half, its lower half
	letters := (x + each*6) >> 4 & each // 1 where a digit is over 9
	return x + each*'0' + letters*('a'-10-'0')
}

func (id uuid) String() string {
	var text [36]byte
	id.put(text[:])
	return string(text[:])
}

func hexDigit(b byte) (v int, ok bool) {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0'), true
	case b >= 'a' && b <= 'f':
		return int(b-'a') + 10, true
	case b >= 'A' && b <= 'F':
		return int(b-'A') + 10, true
	}
	return 0, false
}
