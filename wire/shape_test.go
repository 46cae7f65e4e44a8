package wire

import (
	"fmt"
	"strings"
	"testing"

	"rollcall/internal/testwire"
)

// byDecoder is what the decoder makes of a line: the reference for shape.
func byDecoder(line string) (hb Heartbeat, problem Problem, m members, text []byte) {
	text = []byte(line)
	text = text[:len(text):len(text)]
	problem = InvalidJSON
	if m.parse(text) {
		problem = m.check(&hb)
	}
	return hb, problem, m, text
}

func sameHeartbeat(a, b *Heartbeat) bool {
	return a.User == b.User && a.Device == b.Device && a.Status == b.Status &&
		string(a.Source) == string(b.Source) &&
		a.SentAtMS == b.SentAtMS && a.Seq == b.Seq && a.TTLMS == b.TTLMS
}

// checkShape learns from one line and reads another: what the shape takes, the decoder must take,
// with the same result.
func checkShape(t *testing.T, first, second string) (taken bool) {
	t.Helper()
	learned, problem, m, text := byDecoder(first)
	if problem != Valid {
		return false
	}
	var s shape
	s.learn(text, &m, &learned)
	var got Heartbeat
	line := []byte(second)
	taken = s.match(line[:len(line):len(line)], &got)
	if string(line) != second {
		t.Errorf("after %q the shape changed %q to %q", first, second, line)
	}
	want, problem, _, _ := byDecoder(second)
	if taken && (problem != Valid || !sameHeartbeat(&got, &want)) {
		t.Errorf("after %q the shape read %q as %+v; the decoder answers %d, %+v", first, second,
			got, problem, want)
	}
	return taken
}

const otherUser, otherDevice = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
	"ffffffff-ffff-4fff-bfff-ffffffffffff"

// line writes a heartbeat with some of its values changed; the fields stand in an order of their
// own.
func line(change ...string) string {
	values := map[string]string{"user": `"0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4e"`,
		"device": `"0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4f"`,
		"status": `"online"`, "source": `" daemon "`, "sent": "1700000000000", "seq": "7",
		"ttl": "30000", "end": "}"}
	for i := 0; i < len(change); i += 2 {
		values[change[i]] = change[i+1]
	}
	return fmt.Sprintf(`{"seq": %s, "schema_version":1,"version":{"a":[1,"}"]},"device_id":%s,"user_id":%s,"ttl_ms":%s,"status":%s,"source":%s,"sent_at_ms":%s%s`,
		values["seq"], values["device"], values["user"], values["ttl"], values["status"],
		values["source"], values["sent"], values["end"])
}

// TestShape: lines that differ in their values only are taken, any other is left to the decoder.
func TestShape(t *testing.T) {
	for second, want := range map[string]bool{
		line(): true,
		line("user", `"`+otherUser+`"`, "device", `"`+otherDevice+`"`): true,
		line("seq", "0"): true,
		line("seq", "9007199254740991", "sent", "0", "ttl", "1"): true,
		line("seq", "9007199254740992"):                          false,
		line("seq", "18446744073709551617"):                      false,
		line("seq", "07"):                                        false,
		line("seq", "-0"):                                        false,
		line("seq", "7.0"):                                       false,
		line("seq", "7e0"):                                       false,
		line("seq", ""):                                          false,
		line("seq", " 7"):                                        false,
		line("ttl", "0"):                                         false,
		line("user", `"`+strings.ToUpper(otherUser)+`"`):         false,
		line("user", `"`+otherUser+` "`):                         false,
		line("user", `"`+strings.Replace(otherUser, "-4a", "-9a", 1)+`"`): false,
		line("user", `"`+strings.Replace(otherUser, "-", `\`, 1)+`"`):     false,
		line("user", "null"):        false,
		line("status", `"offline"`): false,
		line("source", `"another"`): true,
		line("source", `"\t"`):      false,
		line("source", `"   "`):     false,
		line("source", `"a\"b"`):    false,
		line("source", `"\u0041"`):  false,
		line("source", `"é"`):       false,
		line("source", "null"):      false,
		line("source", `"`+strings.Repeat("s", MaxSourceBytes)+`"`):   true,
		line("source", `"`+strings.Repeat("s", MaxSourceBytes+1)+`"`): false,
		line("end", "} "):      false,
		line("end", ""):        false,
		line("end", "}}"):      false,
		"":                     false,
		line()[:len(line())/2]: false,
	} {
		if got := checkShape(t, line(), second); got != want {
			t.Errorf("%q: taken %v, want %v", second, got, want)
		}
	}
	if checkShape(t, line("source", `"\u0064aemon"`), line("source", `"\u0064aemon"`)) {
		t.Error("learned from a line that unescaping has changed")
	}
	if long := line("source", `"d"`, "end", strings.Repeat(" ", maxShapeBytes)+"}"); checkShape(t,
		long, long) {
		t.Error("learned from a line that is too long")
	}
	if new(shape).match([]byte(line()), &Heartbeat{}) {
		t.Error("a shape that learned nothing took a line")
	}
}

// TestShapeHoldsValues: a source or a ttl that differs is read, one that is repeated is the learned
// one, whatever of JSON it is, and the ones that last came are learned after some time.
func TestShapeHoldsValues(t *testing.T) {
	accented := line("source", "\"\u00a0caf\u00e9 \ufeff\"", "ttl", "5")
	for second, want := range map[string]bool{
		accented:                             true,
		line("source", `"cafe"`, "ttl", "5"): true,
		line("source", "\"caf\u00e9\"", "ttl", "5"):               false,
		line("source", "\"\u00a0caf\u00e9 \ufeff\"", "ttl", "55"): false,
		line("source", "\"\u00a0caf\u00e9 \"", "ttl", "5"):        false,
	} {
		if got := checkShape(t, accented, second); got != want {
			t.Errorf("%q: taken %v, want %v", second, got, want)
		}
	}
	var d Decoder
	for i := range 2 * relearnEvery {
		text := line("source", `"other"`, "ttl", "6")
		if i == 0 {
			text = line()
		}
		var hb Heartbeat
		if p := d.Decode([]byte(text), &hb); p != Valid {
			t.Fatal(p.Details())
		}
		if i > 0 && (string(hb.Source) != "other" || hb.TTLMS != 6) {
			t.Fatalf("text %d: %q, %d", i, hb.Source, hb.TTLMS)
		}
	}
	if got := string(d.shape.source.of(d.shape.text[:])); got != "other" || d.shape.walks != 0 {
		t.Errorf("%q is learned, %d texts were walked since", got, d.shape.walks)
	}
}

// FuzzDecoder compares a decoder that reads lines one after the other with one that has seen none
// before: the same verdict and the same heartbeat, whatever was learned.
func FuzzDecoder(f *testing.F) {
	for _, lines := range [][]string{
		{line(), line(), line("seq", "8"), line("source", `"x"`), line("ttl", "1")},
		{line(), line("source", `"\u0064"`), line("source", `"d"`), line("source", `" daemon"`)},
		{line("ttl", "5"), line("ttl", "55"), line("ttl", "5 "), line("ttl", "05")},
		{line("end", `,"seq":3,"source":"y"}`), line("end", `,"seq":4,"source":"z"}`), line()},
		{line("sent", "9007199254740991"), line("sent", "9007199254740992"),
			line("sent", "12345678901234567"), line("seq", "1234567"), line("seq", "00000001")},
		{testwire.Body, line(), "{", "", " " + testwire.Body, testwire.Body + " "},
		{line("status", `"offline"`), line(), line("status", `"offline"`), line("ttl", "0")},
	} {
		f.Add(strings.Join(lines, "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		d := Decoder{shape: shape{walks: relearnEvery - 2}}
		for range 3 {
			for line := range strings.SplitSeq(text, "\n") {
				if len(line) > MaxBodyBytes {
					continue
				}
				want, wantProblem, _, _ := byDecoder(line)
				var got Heartbeat
				b := []byte(line)
				problem := d.Decode(b[:len(b):len(b)], &got)
				known := wantProblem == Valid || wantProblem > UpperCaseIDs
				if problem != wantProblem || problem == Valid && !sameHeartbeat(&got, &want) ||
					known && (got.User != want.User || got.Device != want.Device) {
					t.Fatalf("%q is %d, %+v; alone it is %d, %+v", line, problem, got, wantProblem,
						want)
				}
			}
		}
	})
}

func FuzzShape(f *testing.F) {
	f.Add(line(), line("seq", "8", "user", `"`+otherUser+`"`))
	f.Add(line("seq", "-0", "sent", "1"), line("seq", "10", "sent", "1.5"))
	f.Add(line("end", `,"seq":3,"user_id":"`+otherUser+`"}`),
		line("end", `,"seq":4,"user_id":"`+otherDevice+`"}`))
	f.Add(line("source", `"\u0064aemon"`), line("source", `"daemon"`))
	f.Add(testwire.Body, line())
	f.Fuzz(func(t *testing.T, first, second string) {
		if len(first) > MaxBodyBytes || len(second) > MaxBodyBytes {
			return
		}
		checkShape(t, first, second)
		checkShape(t, first, first)
	})
}
