package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// decode reads all frames of a stream.
func decode(r io.Reader, limit int) (frames []string, err error) {
	d := newDecoder(r, limit)
	for {
		f, err := d.next()
		if err != nil {
			return frames, err
		}
		frames = append(frames, fmt.Sprintf("%s|%s|%v", f.event, f.data, f.retry))
	}
}

func TestDecoder(t *testing.T) {
	for _, row := range []struct {
		text string
		want string // event|data|retry
	}{
		{"", ""},
		{"data: a\n\n", "|a|0s"},
		{"data:a\n\n", "|a|0s"},
		{"data:  a\n\n", "| a|0s"},
		{"data\n\n", "||0s"},
		{"data: a\r\n\r\n", "|a|0s"},
		{"data: a\r\rdata: b\r\r", "|a|0s |b|0s"},
		{"data: a\r\n\ndata: b\n\r\n", "|a|0s |b|0s"},
		{"data: a\ndata: b\ndata:\n\n", "|a\nb\n|0s"},
		{"data: a", ""},
		{"data: a\n", ""},
		{": keepalive\ndata: a\n\n", "|a|0s"},
		{": keepalive\n\ndata: a\n\n", "|a|0s"},
		{"data: a\n\n: keepalive\n: keepalive\nretry: 25\n\n", "|a|0s ||25ms"},
		{"data: a\n: within\ndata: b\n\n", "|a\nb|0s"},
		{"retry: 2500\n\n", "||2.5s"},
		{"retry: 2500\ndata: a\n\n", "|a|2.5s"},
		{"retry: 25 \n\nretry: x\n\nretry:\n\nretry: -1\n\nretry: +1\n\n", ""},
		{"retry: 99999999999999999999\n\n", "||" + time.Duration(math.MaxInt64).String()},
		{"event: x\ndata: a\n\ndata: b\n\n", "x|a|0s |b|0s"},
		{"event: x\n\ndata: b\n\n", "|b|0s"},
		{"id: 7\nfoo: bar\nfoo\ndata: a\n\n", "|a|0s"},
		{"\ufeffdata: a\n\n\ufeffdata: b\n\n", "|a|0s"},
		{"data: a:b\n\n", "|a:b|0s"},
		{"\n\n\r\n\rdata: a\n\n", "|a|0s"},
		{"Data: a\n\ndata : a\n\n", ""},
	} {
		for name, r := range map[string]io.Reader{
			"whole":    strings.NewReader(row.text),
			"by bytes": iotest.OneByteReader(strings.NewReader(row.text)),
		} {
			frames, err := decode(r, 1000)
			if got := strings.Join(frames, " "); got != row.want || err != io.EOF {
				t.Errorf("%q, %s: %q %v, want %q", row.text, name, got, err, row.want)
			}
		}
	}
}

// TestDecoderIDs: the id of an event is the last one of the stream, an empty one is one too, and
// one that the end of the stream cuts off never counts.
func TestDecoderIDs(t *testing.T) {
	for text, want := range map[string]string{
		"id: 7\ndata: a\n\ndata: b\n\n":            "a=7 b=7",
		"data: a\n\nid\ndata: b\n\n":               "a=none b=",
		"id: 7\n\ndata: a\nid: 8\n\n":              "a=8",
		"id: 7\n\ndata: a\n\n":                     "a=7",
		"id: 7\nid: \ndata: a\n\nid: 8\ndata: b\n": "a=",
		"id: a\x00b\ndata: a\n\n":                  "a=none",
	} {
		d, got := newDecoder(iotest.OneByteReader(strings.NewReader(text)), 1000), []string{}
		for f, err := d.next(); err == nil; f, err = d.next() {
			id := "none"
			if f.id != nil {
				id = string(f.id)
			}
			got = append(got, fmt.Sprintf("%s=%s", f.data, id))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestDecoderBounds: neither a line nor a frame takes more memory than the limit (K10).
func TestDecoderBounds(t *testing.T) {
	for name, text := range map[string]string{
		"a line":         "data: " + strings.Repeat("x", 200) + "\n\n",
		"an open line":   strings.Repeat("x", 200),
		"a comment":      ":" + strings.Repeat("x", 200) + "\n\n",
		"many lines":     strings.Repeat("data: x\n", 200),
		"many empty":     strings.Repeat("data\n", 200),
		"just too large": "data: " + strings.Repeat("x", 100) + "\n\n",
	} {
		if frames, err := decode(strings.NewReader(text), 100); !errors.Is(err, errFrameTooLarge) ||
			len(frames) > 0 {
			t.Errorf("%s: %q %v, want %v", name, frames, err, errFrameTooLarge)
		}
	}
	if frames, err := decode(strings.NewReader("data: "+strings.Repeat("x", 94)+"\n\n"),
		100); err != io.EOF || len(frames) != 1 {
		t.Errorf("at the limit: %q %v", frames, err)
	}
}

// FuzzDecoder compares with a reading of the whole text at once: normalise the line ends, cut at
// blank lines.
func FuzzDecoder(f *testing.F) {
	for _, seed := range []string{"data: a\n\n", "retry: 1\r\n\r\n", ": c\rdata: a\rdata\r\r",
		"\xef\xbb\xbfevent: x\ndata: y\n\n", "data: a\r\n\ndata:b\n\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := decode(bytes.NewReader(text), math.MaxInt)
		if err != io.EOF {
			t.Fatal(err)
		}
		byBytes, _ := decode(iotest.OneByteReader(bytes.NewReader(text)), math.MaxInt)
		want := decodeWhole(string(text))
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) ||
			fmt.Sprintf("%q", byBytes) != fmt.Sprintf("%q", want) {
			t.Fatalf("%q:\n got %q\n     %q by bytes\nwant %q", text, got, byBytes, want)
		}
	})
}

func decodeWhole(text string) (frames []string) {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	text = strings.TrimPrefix(text, "\ufeff")
	lines := strings.Split(text, "\n")
	event, data, retry, asked := "", []string(nil), time.Duration(0), false
	for _, line := range lines[:len(lines)-1] {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if data != nil || asked {
				frames = append(frames, fmt.Sprintf("%s|%s|%v", event, strings.Join(data, "\n"),
					retry))
			}
			event, data, retry, asked = "", nil, 0, false
		case name == "data":
			data = append(data, value)
		case name == "event":
			event = value
		case name == "retry":
			if d, ok := digits([]byte(value)); ok {
				retry, asked = d, true
			}
		}
	}
	return frames
}
