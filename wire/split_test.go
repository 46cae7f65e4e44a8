package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"rollcall/internal/testwire"
)

// framed is what cutting a body into lines should give.
type framed struct {
	texts  []string // "\x00": a text that is too long
	lines  []int
	broken int // the line at which the framing is broken; 0: it is not
}

const tooLongText = "\x00"

func (f *framed) add(line int, text string) {
	if len(text) > MaxBodyBytes {
		text = tooLongText
	}
	f.texts, f.lines = append(f.texts, text), append(f.lines, line)
}

// referenceLines has all of the body in memory.
func referenceLines(body []byte) (f framed) {
	for i, line := range strings.Split(string(body), "\n") {
		if line = strings.TrimSuffix(line, "\r"); len(line) > MaxBodyBytes || strings.Trim(line, " \t\r\n") != "" {
			f.add(i+1, line)
		}
	}
	return f
}

// referenceElements goes byte by byte and never back.
func referenceElements(body []byte) (f framed) {
	text := strings.TrimLeft(string(body), " \t\r\n")
	if !strings.HasPrefix(text, "[") {
		return framed{broken: 1}
	}
	text = text[1:]
	for {
		end := elementEnd(text)
		if end < 0 || !oneValue(text[:end]) {
			f.broken = len(f.texts) + 1
			return f
		}
		element, closing := text[:end], text[end]
		text = text[end+1:]
		switch {
		case strings.Trim(element, " \t\r\n") != "" || len(element) > MaxBodyBytes:
			f.add(len(f.texts)+1, element)
		case closing == ',' || len(f.texts) > 0:
			f.broken = len(f.texts) + 1
			return f
		}
		if closing == ']' {
			if strings.Trim(text, " \t\r\n") != "" {
				f.broken = len(f.texts) + 1
			}
			return f
		}
	}
}

// elementEnd is where the element ends that text begins with; -1: it does not.
func elementEnd(text string) int {
	var open []byte // the brackets that would close those that are open
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			open = append(open, '}')
		case c == '[':
			open = append(open, ']')
		case len(open) == 0 && (c == ',' || c == ']'):
			return i
		case c == '}' || c == ']':
			if len(open) == 0 || open[len(open)-1] != c {
				return -1
			}
			open = open[:len(open)-1]
		}
	}
	return -1
}

// oneValue reports whether an element is no more than one value: a text or brackets with nothing
// before or behind, or a word.
func oneValue(element string) bool {
	element = strings.Trim(element, " \t\r\n")
	if !strings.ContainsAny(element[:min(1, len(element))], `"[{`) {
		return !strings.ContainsAny(element, "\"[{ \t\r\n")
	}
	depth, quoted := 0, false
	for i := 0; i < len(element); i++ {
		switch c := element[i]; {
		case quoted && c == '\\':
			i++
			continue
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth == 0 && !quoted && i < len(element)-1 {
			return false
		}
	}
	return true
}

// pieces is a body that arrives in reads of random sizes.
type pieces struct {
	rest []byte
	rng  *rand.Rand
	err  error // at the end; nil: io.EOF
}

func (p *pieces) Read(dst []byte) (int, error) {
	most := 1 << p.rng.IntN(17)
	n := copy(dst[:min(len(dst), most)], p.rest)
	p.rest = p.rest[n:]
	if len(p.rest) == 0 && (n == 0 || p.rng.IntN(2) == 0) {
		if p.err != nil {
			return n, p.err
		}
		return n, io.EOF
	}
	return n, nil
}

// cutAll runs a splitter to the end of its body.
func cutAll(t *testing.T, s *Splitter, body io.Reader, array bool) (f framed, err error) {
	s.Reset(array)
	for {
		text, c := s.Next()
		switch c {
		case CutText:
			f.add(s.Number(), string(text))
		case CutBlank:
		case CutTooLong:
			f.texts, f.lines = append(f.texts, tooLongText), append(f.lines, s.Number())
		case CutMore:
			if err := s.Fill(body); err != nil {
				return f, err
			}
			if s.end > len(s.window) || s.at > s.scanned || s.scanned > s.end {
				t.Fatalf("at %d, scanned %d, end %d", s.at, s.scanned, s.end)
			}
		case CutEnd:
			return f, nil
		case CutBroken:
			f.broken = s.Number() + 1
			return f, nil
		}
	}
}

func checkFraming(t *testing.T, body []byte, array bool, seed uint64) {
	t.Helper()
	s := NewSplitter()
	got, err := cutAll(t, s, &pieces{rest: body, rng: rand.New(rand.NewPCG(seed, 1))}, array)
	want := referenceLines(body)
	if array {
		want = referenceElements(body)
	}
	if err != nil || got.broken != want.broken || !slices.Equal(got.texts, want.texts) ||
		!slices.Equal(got.lines, want.lines) {
		t.Fatalf("array %v, %.200q:\ngot  %.300q %v broken %d, %v\nwant %.300q %v broken %d", array,
			body, got.texts, got.lines, got.broken, err,
			want.texts, want.lines, want.broken)
	}
	if array && json.Valid(body) && !slices.Contains(got.texts, tooLongText) {
		var elements []json.RawMessage
		if json.Unmarshal(body, &elements) == nil && elements != nil &&
			len(elements) != len(got.texts) {
			t.Fatalf("%.200q: %d elements, encoding/json finds %d", body, len(got.texts),
				len(elements))
		}
	}
}

// FuzzSplitter compares with cutters that have the whole body, whatever the reads that bring it.
func FuzzSplitter(f *testing.F) {
	for _, body := range []string{"", "\n", "a\nb", "a\r\n\n \nb\n", "[]", "[ ]", " [1,2] ", "[1,]",
		"[,1]", "[1", "[1]x", "[[1,2],{\"a\":[1,\"]\"]}]",
		`["\"],[", "\\"]`, `["\`, "{}", "[1]\n[2]", "[}]", "[1,,2]", "[1 2]", "[{}{}]",
		"[{]]", "[{]", "[[}]", "[1{}]", `["a""b"]`, `["a":1]`, "[[] ,{} ]", "a\r\r\nb\r", "[\"\x00\"]",
		testwire.Body + "\n" + testwire.Body, "[" + testwire.Body + "," + testwire.Body + "]"} {
		f.Add([]byte(body), false, uint16(0), uint64(1))
		f.Add([]byte(body), true, uint16(16<<10-3), uint64(2))
	}
	f.Fuzz(func(t *testing.T, body []byte, array bool, stretch uint16, seed uint64) {
		// A long run of one byte in the middle reaches the bounds of lines and window.
		if len(body) > 0 {
			middle := len(body) / 2
			body = slices.Concat(body[:middle], bytes.Repeat(body[middle:middle+1], 2*int(stretch)),
				body[middle:])
		}
		checkFraming(t, body, array, seed)
	})
}

// TestArrayFraming: a comma that is missing and a bracket of the wrong kind break the framing, and
// the element that they stand in does not count.
func TestArrayFraming(t *testing.T) {
	for body, elements := range map[string]int{
		"[{} {}]": 0, "[{}{}]": 0, "[{},{} {}]": 1, "[{}\n{},{}]": 0, "[1 2]": 0, "[1{}]": 0,
		`["a" "b"]`: 0, `["a":1]`: 0, "[{]]": 0, `[{"a":[1}]`: 0, `[{"a":[1]]`: 0, "[}]": 0,
		"[{}]]": 1, "[]]": 0, "[{}}]": 0, "[{}]}": 1, "[{}": 0, "[{},": 1, "[{},]": 1,
	} {
		for split := range len(body) {
			s := NewSplitter()
			f, err := cutAll(t, s, io.MultiReader(strings.NewReader(body[:split]),
				strings.NewReader(body[split:])), true)
			if err != nil || f.broken != elements+1 || len(f.texts) != elements {
				t.Errorf("%s: %q, broken %d, %v; want %d elements", body, f.texts, f.broken, err,
					elements)
			}
		}
	}
}

// TestLineOf16KiBWithCRLF: the line end is not part of the line.
func TestLineOf16KiBWithCRLF(t *testing.T) {
	long := strings.Repeat("x", MaxBodyBytes)
	for seed := range uint64(20) {
		checkFraming(t, []byte(long+"\r\n"+long+"\r\n"+long+"\r"), false, seed)
		checkFraming(t, []byte(long+"x\r\n"+long+"\r\r\n"+long), false, seed)
	}
}

// TestSplitterAtTheBounds: a text of 16 KiB is whole, one byte more is too long, and what follows
// is not disturbed.
func TestSplitterAtTheBounds(t *testing.T) {
	for seed := range uint64(20) {
		for _, n := range []int{MaxBodyBytes - 1, MaxBodyBytes, MaxBodyBytes + 1, windowBytes - 1,
			windowBytes, 3*windowBytes + 7} {
			long := strings.Repeat("x", n)
			checkFraming(t, []byte("a\n"+long+"\nb\n"+long), false, seed)
			checkFraming(t, []byte(`[1,"`+long[2:]+`",2,`+long+`]`), true, seed)
			checkFraming(t, []byte(strings.Repeat(" ", n)+`[1`+strings.Repeat(" ",
				n)+`]`+strings.Repeat(" ", n)), true, seed)
			checkFraming(t, []byte(`["`+strings.Repeat(`\"`, n/2)+`",1]`), true, seed)
		}
	}
}

func TestSplitterGivesUpWithTheBody(t *testing.T) {
	broken := errors.New("broken")
	s := NewSplitter()
	f, err := cutAll(t, s, &pieces{rest: []byte("a\nb\nc"), rng: rand.New(rand.NewPCG(1, 1)),
		err: broken}, false)
	if !errors.Is(err, broken) || fmt.Sprint(f.texts) != "[a b]" {
		t.Errorf("%q, %v: the last line may have been cut and must not count", f.texts, err)
	}
}
