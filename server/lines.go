package server

import (
	"bytes"
	"io"
)

const (
	// windowBytes is how much of a batch's body is in memory at a time. It holds a line of maxBodyBytes several times over.
	windowBytes = 64 << 10
)

// lines cuts the body of a batch, while it arrives, into the texts of its heartbeats: lines of newline-delimited JSON, or the
// elements of a JSON array. It judges the framing, not what is framed. A text lies in the window until the next fill (S1).
//
//	window  [ .. returned .. | at: the unfinished text | scanned: not looked at yet | end: free ]
//
// Single owner.
type lines struct {
	body   io.Reader
	window []byte
	array  bool // what the body is

	at, scanned, end int
	ended            bool // the body has no more bytes
	skipping         bool // the unfinished text is too long, and what came of it was thrown away
	number           int  // of the last text: of its line, or of its element, from 1

	// Of an array, where scanned is.
	place    place
	depth    int // brackets of the element that are open
	inString bool
	escaped  bool // the byte before was a backslash of the string
}

// place is how far an array has come.
type place uint8

const (
	beforeArray place = iota
	inElement
	behindArray
)

// cut is what next found.
type cut uint8

const (
	cutText    cut = iota // a whole text
	cutTooLong            // the end of a text that was over maxBodyBytes and is not kept
	cutMore               // fill, and ask again
	cutEnd                // the body ended as it should
	cutBroken             // the framing is broken at number+1
)

func (l *lines) reset(body io.Reader, array bool) {
	*l = lines{body: body, window: l.window, array: array}
}

// fill reads more of the body; what is not finished moves to the front of the window. io.EOF is none of its errors.
func (l *lines) fill() error {
	if l.end-l.at > maxBodyBytes {
		l.skipping = true
	}
	if l.skipping {
		l.at = l.scanned
	}
	copy(l.window, l.window[l.at:l.end])
	l.at, l.scanned, l.end = 0, l.scanned-l.at, l.end-l.at
	n, err := l.body.Read(l.window[l.end:])
	l.end += n
	if err == io.EOF {
		l.ended, err = true, nil
	}
	return err
}

// next finds the next text.
func (l *lines) next() ([]byte, cut) {
	if l.array {
		return l.nextElement()
	}
	for {
		end := l.end // of the last line, which needs no line end
		if n := bytes.IndexByte(l.window[l.scanned:l.end], '\n'); n >= 0 {
			end = l.scanned + n
		} else if l.scanned = l.end; !l.ended {
			return nil, cutMore
		} else if l.at == l.end && !l.skipping {
			return nil, cutEnd
		}
		if text, c := l.take(end, min(end+1, l.end)); c == cutTooLong || !blank(text) {
			return text, c
		}
	}
}

// take returns the text up to end and goes on at next.
func (l *lines) take(end, next int) ([]byte, cut) {
	text := l.window[l.at:end:end]
	tooLong := l.skipping || len(text) > maxBodyBytes
	l.at, l.scanned, l.skipping = next, next, false
	l.number++
	if tooLong {
		return nil, cutTooLong
	}
	return text, cutText
}

// nextElement looks at every byte once. Which kind of bracket closes which is the decoder's business: here an element ends at
// a comma or a bracket that is in no string and in no other bracket.
func (l *lines) nextElement() ([]byte, cut) {
	for ; l.scanned < l.end; l.scanned++ {
		switch c := l.window[l.scanned]; {
		case l.inString:
			l.scanString()
		case l.place == inElement && l.depth == 0 && (c == ',' || c == ']'):
			return l.endElement(c)
		case l.place == inElement:
			l.scanElement(c)
		case l.place == beforeArray && c == '[':
			l.place, l.at = inElement, l.scanned+1
		case jsonSpace(c):
			l.at = l.scanned + 1
		default:
			return nil, cutBroken
		}
	}
	switch {
	case !l.ended:
		return nil, cutMore
	case l.place == behindArray:
		return nil, cutEnd
	}
	return nil, cutBroken
}

// endElement returns the element that ends at c. Nothing at all is no element, unless it is all of the array.
func (l *lines) endElement(c byte) ([]byte, cut) {
	empty := !l.skipping && l.scanned-l.at <= maxBodyBytes && blank(l.window[l.at:l.scanned])
	if empty && (c == ',' || l.number > 0) {
		return nil, cutBroken
	}
	if c == ']' {
		l.place = behindArray
	}
	if empty {
		l.scanned++
		l.at = l.scanned
		return l.nextElement()
	}
	return l.take(l.scanned, l.scanned+1)
}

// scanElement looks at a byte of an element outside its strings.
func (l *lines) scanElement(c byte) {
	switch c {
	case '"':
		l.inString = true
	case '{', '[':
		l.depth++
	case '}', ']':
		l.depth = max(l.depth-1, 0)
	}
}

// scanString moves to the last byte that it understands of a string.
func (l *lines) scanString() {
	if l.escaped {
		l.escaped = false
		return
	}
	l.scanned += plainBytes(l.window[l.scanned:l.end])
	if l.scanned == l.end {
		l.scanned--
		return
	}
	switch l.window[l.scanned] {
	case '"':
		l.inString = false
	case '\\':
		l.escaped = true
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
