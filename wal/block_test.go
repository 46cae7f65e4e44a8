package wal

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden pins every byte of format version 2. If it fails, old logs can no longer be read:
// raise formatVersion instead. The page that documents the format shows the same bytes.
func TestGolden(t *testing.T) {
	const golden, page = "testdata/segment.hex", "../docs/wal-format.md"
	fs := vfs.NewMem()
	l := open(t, small(fs))
	if err := errors.Join(l.SetID(testID), l.Start(nil)); err != nil {
		t.Fatal(err)
	}
	commit(t, l, "hello")
	commit(t, l, "")
	commit(t, l, "rollcall")
	closeLog(t, l)
	b := load(t, fs, segmentFile(1))
	_, end := blocksIn(b, 1)
	if !allZero(b[end:]) {
		t.Error("bytes behind the last block")
	}
	got := hex.Dump(b[:end])
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the format changed: got\n%swant\n%s", got, want)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), string(want)) {
		t.Errorf("%s does not show the bytes of %s: paste them into its last section", page, golden)
	}
}

func TestSegmentHeader(t *testing.T) {
	want := segmentHeader{
		version: formatVersion, number: 7, first: 1 << 40, size: 1 << 26,
		recycled: true, id: testID,
	}
	good := want.encode()
	if got, err := decodeSegmentHeader(good, "x", 7); err != nil || got != want {
		t.Errorf("decode = %+v, %v", got, err)
	}
	if _, err := decodeSegmentHeader(good, "x", 8); err != errHeaderPlace {
		t.Errorf("under another name: %v", err)
	}
	if _, err := decodeSegmentHeader(make([]byte, segmentHeaderBytes), "x", 7); err != errHeaderBlank {
		t.Errorf("all zero: %v", err)
	}
	for bit := range segmentHeaderBytes * 8 {
		b := append([]byte(nil), good...)
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeSegmentHeader(b, "x", 7); err == nil {
			t.Errorf("bit %d flipped and not noticed", bit)
		}
	}
}

// A later version must be refused by its name even though its checksum is computed in a way we do
// not know.
func TestWrongVersion(t *testing.T) {
	fs := vfs.NewMem()
	l := start(t, small(fs))
	commit(t, l, "x")
	closeLog(t, l)
	b := load(t, fs, segmentFile(1))
	binary.LittleEndian.PutUint32(b[8:], 3)
	_, err := Open(dir, small(disk(t, map[uint64][]byte{1: b})))
	var version *VersionError
	if !errors.As(err, &version) || version.Found != 3 || version.Reads != 2 ||
		version.Path != segmentFile(1) {
		t.Fatalf("Open = %v", err)
	}
	if !strings.Contains(err.Error(), "reads up to version 2") {
		t.Errorf("the text does not say what this binary reads: %v", err)
	}
}

func TestBlockHeaderBoundToPlace(t *testing.T) {
	var s headerSums
	b := make([]byte, blockHeaderBytes)
	want := blockHeader{payloadSum: 1, payloadBytes: 2, records: 3, first: 4, durable: 3}
	s.encode(b, want, 5, 64)
	if got, ok := s.decode(b, 5, 64); !ok || got != want {
		t.Errorf("decode = %+v, %v", got, ok)
	}
	if _, ok := s.decode(b, 6, 64); ok {
		t.Error("valid in another segment")
	}
	if _, ok := s.decode(b, 5, 72); ok {
		t.Error("valid at another offset")
	}
	for bit := range len(b) * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		if _, ok := s.decode(b, 5, 64); ok {
			t.Errorf("bit %d flipped and not noticed", bit)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

func TestRecords(t *testing.T) {
	for _, test := range []struct {
		payload string
		want    uint32
		ok      bool
	}{
		{"", 0, true},
		{"\x00\x00", 1, true},
		{"\x01\x00a\x02\x00bc", 2, true},
		{"\x01", 0, false},
		{"\x02\x00a", 0, false},
		{"\x00\x00\xff", 0, false},
	} {
		if n, ok := countRecords([]byte(test.payload)); ok != test.ok || ok && n != test.want {
			t.Errorf("countRecords(%q) = %d, %v", test.payload, n, ok)
		}
	}
}

func TestOptions(t *testing.T) {
	if o, err := (Options{}).withDefaults(); err != nil || o.BufferBytes != 2<<20 ||
		o.SegmentBytes != 64<<20 || o.Sync != SyncAlways {
		t.Errorf("defaults: %+v, %v", o, err)
	}
	_, err := Options{Sync: 9, SyncInterval: -1, BufferBytes: 1}.withDefaults()
	for _, want := range []string{"sync mode 9", "SyncInterval", "buffer of 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s: %v", want, err)
		}
	}
	if _, err := (Options{SegmentBytes: 1 << 20}).withDefaults(); err == nil {
		t.Error("a segment smaller than its buffers is accepted")
	}
	for _, m := range []SyncMode{SyncAlways, SyncInterval, SyncNever} {
		if got, err := ParseSyncMode(m.String()); err != nil || got != m {
			t.Errorf("ParseSyncMode(%q) = %v, %v", m, got, err)
		}
	}
	if _, err := ParseSyncMode("sometimes"); err == nil {
		t.Error("ParseSyncMode accepts nonsense")
	}
}
