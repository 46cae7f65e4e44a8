package forward

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rollcall/engine"
)

// TestGolden fixes the bytes of messages, which nodes of other versions read, see
// docs/cluster-formats.md.
func TestGolden(t *testing.T) {
	d := device{
		uuid.MustParse("11111111-1111-4111-8111-111111111111"),
		uuid.MustParse("22222222-2222-4222-8222-222222222222"),
	}
	hb := newHeartbeat(d, 7)
	hb.Sender = &gate{}
	text := appendBeat(make([]byte, headBytes), 258, hb)
	putHead(text, 0x0102030405060708, 9, 1)
	want := "0100" + "0807060504030201" + "0900000000000000" + "0100" +
		"0201" + "03" + "07" + "11111111111141118111111111111111" +
		"22222222222242228222222222222222" + "0700000000000000" + "0768e5cf8b010000" +
		"e02e000000000000" + hex.EncodeToString([]byte("desktop"))
	if got := hex.EncodeToString(text); got != want {
		t.Errorf("a message is\n%s, not\n%s", got, want)
	}
	h, err := readHead(text)
	if err != nil || h != (head{session: 0x0102030405060708, number: 9, count: 1}) {
		t.Errorf("its head is read as %+v, %v", h, err)
	}
	b, err := beatAt(text[headBytes:])
	if err != nil || b.partition() != 258 || !b.Asks() {
		t.Fatalf("its heartbeat is read as %x, %v", b, err)
	}
	var read engine.Heartbeat
	b.fill(&read)
	source, asked := string(read.Source), string(hb.Source)
	read.Source, read.Sender = nil, nil
	sent := *hb
	sent.Source, sent.Sender = nil, nil
	if !reflect.DeepEqual(read, sent) || source != asked {
		t.Errorf("its heartbeat is read as %+v of %q", read, source)
	}
	answers := beginAnswers(nil, 0x0102030405060708)
	answers = appendPart(answers, 9, 2)
	answers = appendAnswer(answers, 0, codeAccepted, 0)
	answers = appendAnswer(answers, 1, codeStale, 7)
	want = "0100" + "0807060504030201" + "0900000000000000" + "0200" +
		"000000" + "010001" + "0700000000000000"
	if got := hex.EncodeToString(answers); got != want {
		t.Errorf("answers are\n%s, not\n%s", got, want)
	}
	var told []string
	err = readAnswers(answers, 0x0102030405060708, func(number uint64) {
		told = append(told, fmt.Sprint("message ", number))
	}, func(place int, c code, lastSeq uint64) {
		told = append(told, fmt.Sprint(place, " ", c, " ", lastSeq))
	})
	if got := strings.Join(told, ", "); err != nil || got != "message 9, 0 0 0, 1 1 7" {
		t.Errorf("answers are read as %s, %v", got, err)
	}
	kinds := []code{codeAccepted, codeStale, codeNotMine, codeTooManyDevices, codeTooManyOfUser,
		codeNew, codeNoRoom, codeNotStored}
	for i, c := range kinds {
		if int(c) != i {
			t.Errorf("code %d is %d", i, c)
		}
	}
}

// FuzzMessage: what is read of a message is what is written.
func FuzzMessage(f *testing.F) {
	text := appendBeat(make([]byte, headBytes), 3, newHeartbeat(newDevice(), 7))
	text = appendBeat(text, 1, newHeartbeat(newDevice(), 8))
	putHead(text, 5, 6, 2)
	f.Add(text)
	f.Add(text[:headBytes])
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := readHead(text)
		if err != nil {
			return
		}
		r := &Receiver{inboxes: make([]inbox, 64), ends: make([]int, 64)}
		if !r.scan(text, h.count) {
			return
		}
		again := make([]byte, headBytes)
		var hb engine.Heartbeat
		for _, at := range r.spots {
			b, err := beatAt(text[at:])
			if err != nil {
				t.Fatal(err)
			}
			b.fill(&hb)
			again = appendBeat(again, b.partition(), &hb)
		}
		putHead(again, h.session, h.number, h.count)
		if !bytes.Equal(again, text) {
			t.Errorf("%x became %x", text, again)
		}
		places := 0
		for p, spots := range r.sorted(text) {
			for i, s := range spots {
				if Beat(text[s.at:]).partition() != p || i > 0 && s.at <= spots[i-1].at {
					t.Errorf("%+v is not in its place", s)
				}
			}
			places += len(spots)
		}
		if places != h.count {
			t.Errorf("%d of %d heartbeats are sorted", places, h.count)
		}
	})
}

// FuzzAnswers: what is read of answers is what is written.
func FuzzAnswers(f *testing.F) {
	text := appendPart(beginAnswers(nil, 5), 9, 2)
	text = appendAnswer(text, 0, codeAccepted, 0)
	f.Add(appendAnswer(text, 1, codeStale, 7))
	f.Fuzz(func(t *testing.T, text []byte) {
		again := beginAnswers(nil, 5)
		if readAnswers(text, 5, func(uint64) {}, func(int, code, uint64) {}) != nil ||
			!bytes.HasPrefix(text, again) {
			return
		}
		var part int
		var count uint16
		end := func() {
			if part > 0 {
				again[part-2], again[part-1] = byte(count), byte(count>>8)
			}
		}
		_ = readAnswers(text, 5, func(number uint64) {
			end()
			again, count = appendPart(again, number, 0), 0
			part = len(again)
		}, func(place int, c code, lastSeq uint64) {
			count++
			again = appendAnswer(again, uint16(place), c, lastSeq)
		})
		end()
		if !bytes.Equal(again, text) {
			t.Errorf("%x became %x", text, again)
		}
	})
}
