package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
)

// errFrameTooLarge is a stream that would need more memory than is allowed (K10).
var errFrameTooLarge = errors.New("client: a frame of the stream is larger than MaxFrameBytes")

// frame is one dispatched event of a stream, or a retry: line on its own.
type frame struct {
	event string // "": message
	data  []byte // valid until the next call of next
	retry time.Duration
	asked bool // retry was given
	// id is the last event id of the stream so far; valid until the next call of next. Nil: the
	// stream has said nothing of it.
	id []byte
}

// decoder reads server-sent events as the HTML standard defines them: lines end in LF, CR or CRLF,
// a blank line dispatches what was gathered, several data lines are joined with LF, a line that
// begins with a colon is a comment, unknown fields are ignored, and what the end of the stream cuts
// off is dropped.
type decoder struct {
	r     *bufio.Reader
	limit int // of one frame, in bytes
	line  []byte
	data  []byte
	id    []byte // the last event id: of the last whole event that had one; nil: none had
	newID []byte // of the event that is being read; nil: it has none yet
	begun bool   // the byte order mark, if any, is behind us
	cr    bool   // the last line ended in CR: a LF that follows belongs to it
}

func newDecoder(r io.Reader, limit int) *decoder {
	return &decoder{r: bufio.NewReaderSize(r, 4<<10), limit: limit}
}

// next returns the next frame that has data, or the next retry: line, whichever comes first. The
// error is io.EOF at the end of the stream.
func (d *decoder) next() (frame, error) {
	var f frame
	d.data, d.newID = d.data[:0], nil
	hasData := false
	for {
		line, err := d.readLine()
		if err != nil {
			return frame{}, err
		}
		if len(line) == 0 {
			if d.newID != nil {
				d.id, d.newID = d.newID, nil
			}
			f.id = d.id
			if hasData {
				f.data = bytes.TrimSuffix(d.data, []byte("\n"))
				return f, nil
			}
			if f.asked {
				return f, nil
			}
			f = frame{}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "data":
			if len(d.data)+len(value) >= d.limit {
				return frame{}, errFrameTooLarge
			}
			d.data = append(append(d.data, value...), '\n')
			hasData = true
		case "event":
			f.event = string(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				d.newID = append([]byte{}, value...)
			}
		case "retry":
			if ms, ok := digits(value); ok {
				f.retry, f.asked = ms, true
			}
		}
	}
}

// digits reads a retry: value, which is ASCII digits and nothing else; one too large to count
// saturates.
func digits(value []byte) (time.Duration, bool) {
	if len(value) == 0 ||
		bytes.ContainsFunc(value, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	ms, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64, true
	}
	return time.Duration(ms) * time.Millisecond, true
}

// readLine returns the next line without its end; it is valid until the next call. A line that the
// end of the stream cuts off is none.
func (d *decoder) readLine() ([]byte, error) {
	d.line = d.line[:0]
	for {
		c, err := d.r.ReadByte()
		if err != nil {
			return nil, err
		}
		afterCR := d.cr
		d.cr = c == '\r'
		if c == '\n' && afterCR {
			continue
		}
		if c == '\n' || c == '\r' {
			return d.withoutMark(), nil
		}
		if len(d.line) >= d.limit {
			return nil, fmt.Errorf("%w: a line without an end", errFrameTooLarge)
		}
		d.line = append(d.line, c)
	}
}

// withoutMark is the line just read; the first of a stream may begin with a byte order mark.
func (d *decoder) withoutMark() []byte {
	if !d.begun {
		d.begun = true
		return bytes.TrimPrefix(d.line, []byte("\xef\xbb\xbf"))
	}
	return d.line
}
