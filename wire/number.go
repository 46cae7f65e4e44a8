package wire

import (
	"encoding/binary"
	"math/bits"
	"strconv"
)

// AppendUint appends n as strconv.AppendUint does in base 10, in half the time: a frame has four
// numbers and a device of a query six. It may use some bytes of dst's room behind the number.
func AppendUint(dst []byte, n uint64) []byte {
	if n >= 1e16 {
		return strconv.AppendUint(dst, n, 10)
	}
	if n < 10 {
		return append(dst, '0'+byte(n))
	}
	at := len(dst)
	dst = append(dst, "0000000000000000"...)
	if n < 1e8 {
		digits := eightDigits(n)
		zeros := leadingZeros(digits)
		binary.LittleEndian.PutUint64(dst[at:], digits>>(8*zeros))
		return dst[:at+8-zeros]
	}
	upper, lower := n/1e8, eightDigits(n%1e8)
	digits := eightDigits(upper)
	zeros := leadingZeros(digits)
	binary.LittleEndian.PutUint64(dst[at:], digits>>(8*zeros))
	at += 8 - zeros
	binary.LittleEndian.PutUint64(dst[at:], lower)
	return dst[:at+8]
}

// Times appends times of one day or so, in unix milliseconds, faster than AppendUint does: their
// upper digits are the same. The zero value is ready. Single owner.
type Times struct {
	upper  uint64 // of the last time, over 1e8; 0: none
	digits uint64 // its text
	size   int
}

// Append is AppendUint.
func (t *Times) Append(dst []byte, ms uint64) []byte {
	if upper := ms / 1e8; upper != t.upper || upper == 0 {
		if upper == 0 || upper >= 1e8 {
			return AppendUint(dst, ms)
		}
		digits := eightDigits(upper)
		zeros := leadingZeros(digits)
		t.upper, t.digits, t.size = upper, digits>>(8*zeros), 8-zeros
	}
	at := len(dst)
	dst = append(dst, "0000000000000000"...)
	binary.LittleEndian.PutUint64(dst[at:], t.digits)
	at += t.size
	binary.LittleEndian.PutUint64(dst[at:], eightDigits(ms%1e8))
	return dst[:at+8]
}

// eightDigits is the text of n, under 1e8, with leading zeros, the first digit in the lowest byte:
// the inverse of leadingDigits. Each step halves numbers into quotient and remainder, side by side;
// the divisions are multiplications that are exact for numbers this small.
func eightDigits(n uint64) uint64 {
	n = n/1e4 | n%1e4<<32                                // two of four digits
	hundreds := n * 10486 >> 20 & 0x0000007f_0000007f    // 10486/2^20 is 1/100
	n = hundreds | (n-hundreds*100)<<16                  // four of two
	tens := n * 103 >> 10 & 0x000f_000f_000f_000f        // 103/2^10 is 1/10
	return (tens | (n-tens*10)<<8) + 0x30303030_30303030 // eight, as text
}

// leadingZeros counts the digits 0 with which eight begin.
func leadingZeros(digits uint64) int {
	return bits.TrailingZeros64(digits&0x0f0f0f0f_0f0f0f0f) / 8
}
