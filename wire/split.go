package wire

import (
	"bytes"
	"io"
)

// windowBytes is how much of a batch's body is in memory at a time. It holds a text of MaxBodyBytes
// several times over.
const windowBytes = 64 << 10

// Splitter cuts the body of a batch, while it arrives, into the texts of its heartbeats: lines of
// newline-delimited JSON, or the elements of a JSON array. It judges the framing, not what is
// framed. A text lies in the window until the next Fill. Single owner.
//
//	window  [ .. returned .. | at: the unfinished text | scanned: not looked at yet | end: free ]
type Splitter struct {
	window []byte
	array  bool // what the body is

	at, scanned, end int
	ended            bool // the body has no more bytes
	skipping         bool // the unfinished text is too long, and its bytes are dropped
	number           int  // of the last text

	// Of an array, where scanned is.
	place    place
	progress progress
	brackets brackets // of the element, those that are open
	inString bool
	escaped  bool // the byte before was a backslash of the string
}

// NewSplitter makes a splitter. Reset comes before its first use.
func NewSplitter() *Splitter { return &Splitter{window: make([]byte, windowBytes)} }

// place is how far an array has come.
type place uint8

const (
	beforeArray place = iota
	inElement
	behindArray
)

// progress is how far an element has come outside its brackets and strings.
type progress uint8

const (
	noValue    progress = iota
	inLiteral           // a number or a word
	afterValue          // only a comma or the array's end may follow
)

// brackets are those that are open, outermost first. Of more than maxNesting only the count is
// kept: their element is longer than MaxBodyBytes, and nothing of it is looked at.
type brackets struct {
	depth  int
	square [maxNesting / 64]uint64 // a bit for each: it is a square one
}

const maxNesting = MaxBodyBytes

func (b *brackets) open(square bool) {
	if b.depth < maxNesting {
		word, bit := &b.square[b.depth/64], uint64(1)<<(b.depth%64)
		*word &^= bit
		if square {
			*word |= bit
		}
	}
	b.depth++
}

// close reports whether the innermost open bracket is of that kind.
func (b *brackets) close(square bool) bool {
	if b.depth == 0 {
		return false
	}
	b.depth--
	return b.depth >= maxNesting || square == (b.square[b.depth/64]>>(b.depth%64)&1 == 1)
}

// Cut is what Next found.
type Cut uint8

// What there may be to find.
const (
	CutText    Cut = iota // a whole text
	CutBlank              // a line with nothing on it
	CutTooLong            // the end of a text that was over MaxBodyBytes and is not kept
	CutMore               // nothing yet: Fill, and ask again
	CutEnd                // the body ended as it should
	CutBroken             // the framing is broken behind text Number
)

// Reset begins with a new body, which is a JSON array or lines.
func (s *Splitter) Reset(array bool) {
	s.at, s.scanned, s.end, s.number = 0, 0, 0, 0
	s.array, s.ended, s.skipping, s.inString, s.escaped = array, false, false, false, false
	s.place, s.progress, s.brackets.depth = beforeArray, noValue, 0
}

// Number is the place of the last text in the body, from 1: its line, or its element of the array.
func (s *Splitter) Number() int { return s.number }

// Fill reads more of the body; what is not finished moves to the front of the window. io.EOF is
// none of its errors.
func (s *Splitter) Fill(body io.Reader) error {
	if s.end-s.at > MaxBodyBytes+1 { // a line may end with CR and LF
		s.skipping = true
	}
	if s.skipping {
		s.at = s.scanned
	}
	copy(s.window, s.window[s.at:s.end])
	s.at, s.scanned, s.end = 0, s.scanned-s.at, s.end-s.at
	n, err := body.Read(s.window[s.end:])
	s.end += n
	if err == io.EOF {
		s.ended, err = true, nil
	}
	return err
}

// Next finds the next text.
func (s *Splitter) Next() ([]byte, Cut) {
	if s.array {
		return s.nextElement()
	}
	end, next := s.end, s.end // of the last line, which needs no line end
	if n := bytes.IndexByte(s.window[s.scanned:s.end], '\n'); n >= 0 {
		end = s.scanned + n
		next = end + 1
	} else if s.scanned = s.end; !s.ended {
		return nil, CutMore
	} else if s.at == s.end && !s.skipping {
		return nil, CutEnd
	}
	if end > s.at && s.window[end-1] == '\r' {
		end--
	}
	text, c := s.take(end, next)
	if c == CutText && blank(text) {
		return nil, CutBlank
	}
	return text, c
}

// take returns the text up to end and goes on at next.
func (s *Splitter) take(end, next int) ([]byte, Cut) {
	text := s.window[s.at:end:end]
	tooLong := s.skipping || len(text) > MaxBodyBytes
	s.at, s.scanned, s.skipping = next, next, false
	s.number++
	if tooLong {
		return nil, CutTooLong
	}
	return text, CutText
}

// nextElement looks at every byte once. Here an element ends at a comma or a bracket that is in no
// string and in no other bracket.
func (s *Splitter) nextElement() ([]byte, Cut) {
	for ; s.scanned < s.end; s.scanned++ {
		switch c := s.window[s.scanned]; {
		case s.inString:
			s.scanString()
		case s.place == inElement && s.brackets.depth == 0 && (c == ',' || c == ']'):
			return s.endElement(c)
		case s.place == inElement:
			if !s.scanElement(c) {
				return nil, CutBroken
			}
		case s.place == beforeArray && c == '[':
			s.place, s.at = inElement, s.scanned+1
		case jsonSpace(c):
			s.at = s.scanned + 1
		default:
			return nil, CutBroken
		}
	}
	switch {
	case !s.ended:
		return nil, CutMore
	case s.place == behindArray:
		return nil, CutEnd
	}
	return nil, CutBroken
}

// endElement returns the element that ends at c. An empty element is an error, but in an array that
// has no other.
func (s *Splitter) endElement(c byte) ([]byte, Cut) {
	empty := !s.skipping && s.scanned-s.at <= MaxBodyBytes && blank(s.window[s.at:s.scanned])
	if empty && (c == ',' || s.number > 0) {
		return nil, CutBroken
	}
	s.progress = noValue
	if c == ']' {
		s.place = behindArray
	}
	if empty {
		s.scanned++
		s.at = s.scanned
		return s.nextElement()
	}
	return s.take(s.scanned, s.scanned+1)
}

// scanElement looks at a byte of an element outside its strings, and reports false when it cannot
// stand there: a second value without a comma before it, or a bracket that closes another kind.
func (s *Splitter) scanElement(c byte) bool {
	if s.brackets.depth == 0 && !s.scanOutside(c) {
		return false
	}
	switch c {
	case '"':
		s.inString = true
	case '{', '[':
		s.brackets.open(c == '[')
	case '}', ']':
		return s.brackets.close(c == ']')
	}
	return true
}

// scanOutside looks at a byte of an element outside its brackets, or at the first one.
func (s *Splitter) scanOutside(c byte) bool {
	switch {
	case jsonSpace(c):
		if s.progress == inLiteral {
			s.progress = afterValue
		}
	case s.progress == afterValue:
		return false
	case c == '"' || c == '{' || c == '[':
		if s.progress == inLiteral {
			return false
		}
		s.progress = afterValue // once it is closed, which ends before anything else is looked at
	default:
		s.progress = inLiteral
	}
	return true
}

// scanString moves over plain bytes of a string and looks at the byte behind them, if the window
// has it.
func (s *Splitter) scanString() {
	if s.escaped {
		s.escaped = false
		return
	}
	s.scanned += plainBytes(s.window[s.scanned:s.end])
	if s.scanned == s.end {
		s.scanned--
		return
	}
	switch s.window[s.scanned] {
	case '"':
		s.inString = false
	case '\\':
		s.escaped = true
	}
}

func blank(text []byte) bool {
	for _, c := range text {
		if !jsonSpace(c) {
			return false
		}
	}
	return true
}

func jsonSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
