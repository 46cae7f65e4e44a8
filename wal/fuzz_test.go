package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FuzzSegment reads a damaged last segment: never a panic, never a record that was not written, and
// what is read is a prefix. Each command overwrites some bytes of a log of known records: two bytes
// of offset, one of length, then the bytes.
func FuzzSegment(f *testing.F) {
	records := numbered(20, 20)
	whole := written(f, true, records...)[1]
	_, end := blocksIn(whole, 1)
	whole = whole[:end+256]
	f.Add([]byte{})
	f.Add([]byte{0, 70, 1, 255})
	f.Add([]byte{0, 64, 4, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 1, 1, 0, 8, 1, 2})
	f.Fuzz(func(t *testing.T, commands []byte) {
		b := damage(whole, commands)
		got, err := read(disk(t, map[uint64][]byte{1: b}), 0)
		if len(got) > len(records) || !slices.Equal(got, records[:len(got)]) {
			t.Fatalf("read %q, %v", got, err)
		}
	})
}

// damage applies the overwriting commands of a fuzzer to a copy.
func damage(whole, commands []byte) []byte {
	b := bytes.Clone(whole)
	for len(commands) >= 4 {
		at, n := int(commands[0])<<8|int(commands[1]), int(commands[2])
		commands = commands[3:]
		n = min(n, len(commands))
		copy(b[min(at, len(b)):], commands[:n])
		commands = commands[n:]
	}
	return b
}

// FuzzRaw reads arbitrary bytes as a segment behind a good one: never a panic or an endless loop,
// never an LSN twice or left out, and a log that can be read can be started.
func FuzzRaw(f *testing.F) {
	good := written(f, true, "a", "b")[1]
	for _, segment := range written(f, true, numbered(5, 3)...) {
		_, end := blocksIn(segment, 1)
		f.Add(segment[:end])
	}
	f.Add(segmentHeader{number: 2, first: 3, size: 64, id: testID}.encode())
	f.Add([]byte("rollcWAL\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		if err := fs.MkdirAll("data", 0o755); err != nil {
			t.Fatal(err)
		}
		store(t, fs, segmentFile(1), good)
		store(t, fs, segmentFile(2), b)
		before, err := read(fs, 0)
		if err != nil {
			return
		}
		l := start(t, small(fs))
		commit(t, l, "more")
		closeLog(t, l)
		after, err := read(fs, 0)
		if err != nil || !slices.Equal(after, append(before, "more")) {
			t.Fatalf("read %q, went on, then read %q, %v", before, after, err)
		}
	})
}

// FuzzForged damages a log like FuzzSegment and then makes the checksums right again, as a bug of
// ours would: never a panic, never an LSN twice or left out.
func FuzzForged(f *testing.F) {
	whole := written(f, true, numbered(5, 20)...)[1]
	offsets, end := blocksIn(whole, 1)
	whole = whole[:end+256]
	f.Add([]byte{0, 76, 4, 255, 255, 255, 255})    // payload bytes
	f.Add([]byte{0, 80, 4, 255, 255, 255, 255})    // records
	f.Add([]byte{0, 96, 8, 255, 0, 0, 0, 0, 0, 0}) // durable
	f.Add([]byte{0, 104, 2, 255, 255})             // a record's length
	f.Fuzz(func(t *testing.T, commands []byte) {
		b := damage(whole, commands)
		copy(b, whole[:16])
		binary.LittleEndian.PutUint32(b[12:], segmentSum(b))
		for _, at := range offsets {
			forge(b, at)
		}
		if _, err := read(disk(t, map[uint64][]byte{1: b}), 0); err != nil && !isCorruption(err) {
			t.Fatal(err)
		}
	})
}

// forge makes the checksums of the block header at an offset fit.
func forge(b []byte, at int64) {
	var s headerSums
	header := b[at:]
	binary.LittleEndian.PutUint32(header, blockMagic)
	n := int64(binary.LittleEndian.Uint32(header[12:]))
	if blockHeaderBytes+n <= int64(len(header)) {
		binary.LittleEndian.PutUint32(header[8:],
			crc32.Checksum(header[blockHeaderBytes:blockHeaderBytes+n], castagnoli))
	}
	binary.LittleEndian.PutUint32(header[4:], s.sum(header, 1, at))
}
