package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What can be wrong with a block.
var (
	errNoBlock    = errors.New("no valid block header")
	errPayload    = errors.New("the block's payload does not match its checksum")
	errTruncated  = errors.New("the block is longer than the file")
	errRecords    = errors.New("the block's records do not fill its payload")
	errPromise    = errors.New("the block calls its own records durable already")
	errPromised   = errors.New("records that a later block calls durable cannot be read")
	errLostHeader = errors.New("the segment has blocks but no valid header")
)

const windowBytes = 1 << 20

// segmentReader reads the blocks of one segment in order. Not for concurrent use.
type segmentReader struct {
	file   vfs.File
	number uint64
	size   int64
	sums   headerSums

	window int64  // how much is read at a time
	bytes  []byte // bytes of the file from start on
	start  int64
	buffer []byte // memory of bytes
}

// block is one block as it was read. payload is valid until the next read.
type block struct {
	blockHeader
	offset  int64
	payload []byte
}

// open opens a segment for reading.
func (d *directory) open(number uint64) (*segmentReader, error) {
	path := d.segment(number)
	f, err := d.fs.Open(path, vfs.SequentialReadsOption)
	if err != nil {
		return nil, fmt.Errorf("wal: open segment %d: %w", number, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("wal: stat segment %d: %w", number, err), f.Close())
	}
	return &segmentReader{file: f, number: number, size: info.Size(), window: windowBytes}, nil
}

func (r *segmentReader) close() error { return r.file.Close() }

// reread forgets what was read of the file, so that the next look is a new one.
func (r *segmentReader) reread() { r.bytes = nil }

// at returns n bytes at an offset, fewer at the end of the file. They are valid until the next
// call.
func (r *segmentReader) at(offset, n int64) ([]byte, error) {
	if n = min(n, r.size-offset); n <= 0 {
		return nil, nil
	}
	if offset < r.start || offset+n > r.start+int64(len(r.bytes)) {
		want := min(max(n, r.window), r.size-offset)
		if int64(cap(r.buffer)) < want {
			r.buffer = make([]byte, want)
		}
		got, err := r.file.ReadAt(r.buffer[:want], offset)
		if int64(got) < want {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF // the file shrank
			}
			return nil, fmt.Errorf("wal: read segment %d at offset %d: %w", r.number, offset, err)
		}
		r.bytes, r.start = r.buffer[:got], offset
	}
	return r.bytes[offset-r.start:][:n], nil
}

// header reads the segment's header.
func (r *segmentReader) header(path string) (segmentHeader, error) {
	b, err := r.at(0, segmentHeaderBytes)
	if err != nil {
		return segmentHeader{}, err
	}
	return decodeSegmentHeader(b, path, r.number)
}

// block reads the block at an offset. What is wrong with it comes as the second result, a failure
// to read as the third.
func (r *segmentReader) block(offset int64) (_ block, wrong, err error) {
	b, err := r.at(offset, blockHeaderBytes)
	if err != nil {
		return block{}, nil, err
	}
	if len(b) < blockHeaderBytes {
		return block{}, errNoBlock, nil
	}
	h, ok := r.sums.decode(b, r.number, offset)
	if !ok {
		return block{}, errNoBlock, nil
	}
	b, err = r.at(offset, blockHeaderBytes+int64(h.payloadBytes))
	if err != nil {
		return block{}, nil, err
	}
	if int64(len(b)) < blockHeaderBytes+int64(h.payloadBytes) {
		return block{}, errTruncated, nil
	}
	payload := b[blockHeaderBytes:]
	if crc32.Checksum(payload, castagnoli) != h.payloadSum {
		return block{}, errPayload, nil
	}
	if n, ok := countRecords(payload); !ok || n != h.records {
		return block{}, errRecords, nil
	}
	if h.durable >= h.first {
		return block{}, errPromise, nil
	}
	return block{blockHeader: h, offset: offset, payload: payload}, nil, nil
}

// remains is what lies behind the last readable block of a segment.
type remains struct {
	promised uint64 // highest durable LSN that a block header states; 0: there is no block header
	count    int    // valid block headers
	end      int64  // behind the last byte that is not zero
	blockEnd int64  // behind the last block by its header, which may be behind the file's end
}

var blockMagicBytes = binary.LittleEndian.AppendUint32(nil, blockMagic)

// scan looks at everything from an offset to the end of the file. It believes a block header by its
// own checksum, whatever became of the payload: the promise was true when the header was written.
// And it stays linear in the file's size, whatever headers a sender put into records.
func (r *segmentReader) scan(offset int64) (remains, error) {
	found := remains{end: offset}
	for at := (offset + blockAlign - 1) &^ (blockAlign - 1); at < r.size; at += windowBytes {
		// Read a header's length over the window's end, for the header that begins at its last 8
		// bytes.
		b, err := r.at(at, windowBytes+blockHeaderBytes)
		if err != nil {
			return remains{}, err
		}
		if i := lastNonZero(b); i >= 0 {
			found.end = max(found.end, at+int64(i)+1)
		} else {
			continue
		}
		for i := 0; i < windowBytes && i+blockHeaderBytes <= len(b); i += blockAlign {
			if !bytes.Equal(b[i:i+4], blockMagicBytes) {
				continue
			}
			if h, ok := r.sums.decode(b[i:], r.number, at+int64(i)); ok {
				found.count++
				found.promised = max(found.promised, h.durable)
				found.blockEnd = max(found.blockEnd, at+int64(i)+h.bytes())
			}
		}
	}
	return found, nil
}

func lastNonZero(b []byte) int {
	if allZero(b) { // eight bytes at a time: nearly always the whole answer
		return -1
	}
	i := len(b) - 1
	for b[i] == 0 {
		i--
	}
	return i
}
