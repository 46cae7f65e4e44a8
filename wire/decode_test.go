package wire

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	goccy "github.com/goccy/go-json"
	"github.com/google/uuid"

	"rollcall/internal/testwire"
)

// FuzzHeartbeatBody compares the decoder with two others: the same verdict on the syntax as
// encoding/json, but for what this one bounds, and the same values as both.
func FuzzHeartbeatBody(f *testing.F) {
	for _, body := range []string{
		testwire.Body, "{}", "[]", "null", "", " { } ", `{"seq":-0,"seq":1e400}`,
		`{"s\u0065q":1,"ttl_ms":null}`,
		`{"source":"\ud83d\ude00\ud800\"\\\/\b\f\n\r\t"}`, "{\"source\":\"\xff\"}",
		`{"a":[1,{"b":[true,false,null,"x"]},-1.5e+3]}`,
		`{"user_id":{"x":1},"status":["online"],"source":true,"device_id":5}`, `{"a":1,}`,
		`{"a":01}`, `{"a" :1 , "b":2}`,
		`{"seq":9007199254740991,"sent_at_ms":9007199254740992,"ttl_ms":18446744073709551617}`,
		strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70),
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got members
		ok := got.parse(bytes.Clone(body)) // it changes what it reads
		want, wantOK := reference(body)
		if ok != wantOK && !(wantOK && tooDeep(body)) {
			t.Fatalf("parse(%q) = %v, encoding/json says %v", body, ok, wantOK)
		}
		if !ok {
			return
		}
		compare(t, body, "schema_version", want, got.schemaVersion)
		compare(t, body, "sent_at_ms", want, got.sentAtMS)
		compare(t, body, "seq", want, got.seq)
		compare(t, body, "ttl_ms", want, got.ttlMS)
		compareText(t, body, "user_id", want, got.userID)
		compareText(t, body, "device_id", want, got.deviceID)
		compareText(t, body, "status", want, got.status)
		compareText(t, body, "source", want, got.source)

		// goccy is not strict, so it only confirms: what passes here passes there, with the same
		// strings.
		var other map[string]any
		if err := goccy.Unmarshal(bytes.Clone(body), &other); err == nil && utf8.Valid(body) {
			if s, isText := other["source"].(string); isText && utf8.Valid(got.source) &&
				s != string(got.source) {
				t.Fatalf("parse(%q): source = %q, goccy says %q", body, got.source, s)
			}
		}
	})
}

// reference decodes with encoding/json. The numbers keep their text.
func reference(body []byte) (members map[string]json.RawMessage, ok bool) {
	if !json.Valid(body) || !strings.HasPrefix(strings.TrimLeft(string(body), " \t\r\n"), "{") {
		return nil, false
	}
	return members, json.Unmarshal(body, &members) == nil
}

// tooDeep counts brackets outside strings.
func tooDeep(body []byte) bool {
	depth, deepest := 0, 0
	for d := json.NewDecoder(bytes.NewReader(body)); ; {
		token, err := d.Token()
		if err != nil {
			return deepest > maxDepth
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
			deepest = max(deepest, depth)
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

func compare(t *testing.T, body []byte, field string, want map[string]json.RawMessage, got uint64) {
	t.Helper()
	var n uint64
	raw := want[field]
	integer := len(raw) > 0 && json.Unmarshal(raw, &n) == nil && string(raw) != "null" &&
		n <= MaxInteger
	if string(raw) == "-0" {
		integer, n = true, 0
	}
	if integer != (got <= MaxInteger) || integer && got != n {
		t.Fatalf("parse(%q): %s = %d, want %s", body, field, got, raw)
	}
}

func compareText(t *testing.T, body []byte, field string, want map[string]json.RawMessage,
	got []byte) {
	t.Helper()
	raw := want[field]
	switch {
	case raw == nil || string(raw) == "null":
		if got != nil {
			t.Fatalf("parse(%q): %s = %q, want none", body, field, got)
		}
	case raw[0] != '"':
		if !bytes.Equal(got, notText) {
			t.Fatalf("parse(%q): %s = %q, want notText", body, field, got)
		}
	default:
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		if replaced := replaceInvalid(got); replaced != s {
			t.Fatalf("parse(%q): %s = %q, want %q", body, field, replaced, s)
		}
		if lossless := !strings.ContainsRune(s, utf8.RuneError); lossless && !utf8.Valid(got) {
			t.Fatalf("parse(%q): %s = %q is not valid, but nothing in it is amiss", body, field,
				got)
		}
	}
}

// replaceInvalid does to raw bytes what encoding/json does: U+FFFD for each invalid byte, and one
// for a lone surrogate.
func replaceInvalid(s []byte) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRune(s)
		if len(s) >= 3 && s[0] == 0xed && s[1] >= 0xa0 && s[1] <= 0xbf && s[2]&0xc0 == 0x80 {
			size = 3 // a surrogate
		}
		b.WriteRune(r)
		s = s[size:]
	}
	return b.String()
}

// TestCanonicalID puts every byte at every place of an id, and compares with google/uuid.
func TestCanonicalID(t *testing.T) {
	for at := range len(testUser) {
		for c := range 256 {
			text := []byte(testUser)
			text[at] = byte(c)
			var got uuid.UUID
			ok := parseCanonicalID(&got, text)
			want, err := uuid.Parse(string(text))
			if wantOK := err == nil && want.String() == string(text) &&
				hasVersion(&want); ok != wantOK || ok && got != want {
				t.Errorf("%q: %v, %v, want %v, %v", text, got, ok, want, wantOK)
			}
		}
	}
}

// TestDigits puts every byte at every place of numbers around the lengths that are read at once.
func TestDigits(t *testing.T) {
	for _, text := range []string{"7", "1357924", "13579246", "90909090", "135792468",
		"123456789012345", "1234567890123456",
		"12345678901234567", "99999999999999999999999", "999999999999999999999999",
		"9999999999999999999999999"} {
		for at := range len(text) {
			for c := range 256 {
				b := []byte(text)
				b[at] = byte(c)
				checkPlainInteger(t, b)
				p := parser{json: b}
				got, ok := p.digits()
				end := len(b)
				if c < '0' || c > '9' {
					end = at
				}
				want, err := strconv.ParseUint(string(b[:end]), 10, 64)
				if err != nil || want > MaxInteger { // over it, whichever
					got, want = max(got, MaxInteger), MaxInteger
					if end > 0 && got == MaxInteger {
						t.Errorf("%q is not over the range", b)
					}
					got = want
				}
				if wantOK := end == 1 || end > 1 && b[0] != '0'; ok != wantOK || ok &&
					got != want || p.at != end {
					t.Errorf("%q: %d, %v and %d bytes, want %d, %v and %d", b, got, ok, p.at, want,
						wantOK, end)
				}
			}
		}
	}
}

// checkPlainInteger compares plainInteger with digits, for a text that ends here and for one that
// goes on.
func checkPlainInteger(t *testing.T, text []byte) {
	t.Helper()
	for _, behind := range []string{"", ",", "}, \"ttl_ms\":12", "/:;?@ABCDEFGHIJKLMNOPQRST"} {
		whole := append(slices.Clone(text), behind...)
		p, q := parser{json: whole}, parser{json: whole}
		got, ok := p.plainInteger()
		want, wantOK := q.digits()
		if wantOK = wantOK && want <= MaxInteger; ok != wantOK || ok &&
			(got != want || p.at != q.at) {
			t.Errorf("%q: %d, %v and %d bytes, want %d, %v and %d", whole, got, ok, p.at, want,
				wantOK, q.at)
		}
	}
}

func FuzzID(f *testing.F) {
	for _, id := range []string{testUser, testDevice, strings.ToUpper(testDevice), " " + testUser,
		"{" + testUser + "}"} {
		f.Add([]byte(id))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		id, form := ParseID(text)
		if got := string(AppendID(nil, id)); form == IDCanonical && got != string(text) {
			t.Fatalf("ParseID(%q) is written as %q", text, got)
		}
		if got := string(AppendID(nil, id)); form == IDOtherForm &&
			!strings.EqualFold(got, string(TrimSpace(text))) {
			t.Fatalf("ParseID(%q) is written as %q", text, got)
		}
		if version := id.Version(); form != IDInvalid && (version < 1 || version > 8) {
			t.Fatalf("ParseID(%q) has version %d", text, version)
		}
	})
}

// TestContract: each body of the table gets the first problem that the contract's order gives it,
// by a decoder that has learned a shape, too.
func TestContract(t *testing.T) {
	var learned Decoder
	for _, test := range testwire.Cases {
		for name, d := range map[string]*Decoder{"fresh": {}, "learned": &learned} {
			var hb Heartbeat
			problem := d.Decode([]byte(test.Body), &hb)
			if problem.Details() != test.Refusal {
				t.Errorf("%s, %s: %q, want %q", test.Name, name, problem.Details(), test.Refusal)
			}
			if known := hb.User != uuid.Nil && hb.Device != uuid.Nil; problem > UpperCaseIDs &&
				!known {
				t.Errorf("%s, %s: %q, and the ids are not set", test.Name, name, problem.Details())
			}
		}
	}
}

func BenchmarkHeartbeat(b *testing.B) {
	b.Run("decode", func(b *testing.B) {
		var m members
		body := []byte(testwire.Body)
		b.ReportAllocs()
		for b.Loop() {
			if !m.parse(body) {
				b.Fatal("refused")
			}
		}
	})
	b.Run("decode+check", func(b *testing.B) {
		var d Decoder
		var hb Heartbeat
		body := []byte(testwire.Body)
		b.ReportAllocs()
		for b.Loop() {
			if d.Decode(body, &hb) != Valid {
				b.Fatal("refused")
			}
		}
	})
}
