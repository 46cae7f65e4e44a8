package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// format is the first byte of all messages. A node refuses another one, whole.
const format = 1

// ErrFormat says that bytes are no message of this format, or were damaged on their way.
var ErrFormat = errors.New("transfer: the bytes are no page, or of another version")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Page is some of a partition's devices.
//
//	format 1 | length of next 2 | next | length of states 4 | states | CRC-32C of all before 4
//
// Numbers are little endian.
type Page struct {
	States []byte // records as engine.Export appends them
	Next   []byte // the place to go on from; none: this is the last page
}

// Append appends the page's bytes.
func (p Page) Append(dst []byte) []byte {
	begin := len(dst)
	dst = binary.LittleEndian.AppendUint16(append(dst, format), uint16(len(p.Next)))
	dst = append(dst, p.Next...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(p.States)))
	dst = append(dst, p.States...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[begin:], castagnoli))
}

// ParsePage reads a page, whose bytes it keeps. One that was cut, or changed, is an error.
func ParsePage(b []byte) (p Page, err error) {
	if len(b) < 11 || b[0] != format {
		return p, ErrFormat
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return p, ErrFormat
	}
	next := int(binary.LittleEndian.Uint16(body[1:]))
	if len(body) < 7+next {
		return p, ErrFormat
	}
	p.Next, p.States = body[3:3+next], body[7+next:]
	if uint64(binary.LittleEndian.Uint32(body[3+next:])) != uint64(len(p.States)) ||
		len(p.States) > MaxPageBytes {
		return p, ErrFormat
	}
	return p, nil
}

// What a request asks for.
const (
	askExport  = 'E' // body: the place
	askImport  = 'I' // body: a page
	askDevices = 'D'
)

// request is what a node asks an owner.
//
//	format 1 | what 1 | partition 4 | body
type request struct {
	what      byte
	partition int
	body      []byte
}

func (r request) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(append(dst, format, r.what), uint32(r.partition))
	return append(dst, r.body...)
}

func parseRequest(b []byte) (r request, err error) {
	if len(b) < 6 || b[0] != format {
		return r, ErrFormat
	}
	r = request{b[1], int(binary.LittleEndian.Uint32(b[2:])), b[6:]}
	if r.what != askExport && r.what != askImport && r.what != askDevices {
		return r, fmt.Errorf("%w: request %q", ErrFormat, r.what)
	}
	return r, nil
}

// The first byte of an answer, before what was asked for, or the text of an error.
const (
	answered  = 0
	failed    = 1
	notTheOne = 2 // ErrNoOwner
)

func appendOK(dst []byte) []byte { return append(dst, answered) }

// maxErrorText bounds what is sent of an error.
const maxErrorText = 1024

func appendError(dst []byte, err error) []byte {
	if errors.Is(err, ErrNoOwner) {
		return append(dst, notTheOne)
	}
	text := err.Error()
	return append(append(dst, failed), text[:min(len(text), maxErrorText)]...)
}

func cutAnswer(b []byte) ([]byte, error) {
	switch {
	case len(b) == 0:
		return nil, ErrFormat
	case b[0] == answered:
		return b[1:], nil
	case b[0] == notTheOne:
		return nil, ErrNoOwner
	}
	return nil, errors.New(string(b[1:]))
}

func appendCount(dst []byte, n int) []byte {
	return binary.LittleEndian.AppendUint64(dst, uint64(n))
}

func parseCount(b []byte) (int, error) {
	if len(b) != 8 {
		return 0, ErrFormat
	}
	return int(binary.LittleEndian.Uint64(b)), nil
}
