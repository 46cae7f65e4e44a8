package jslog_test

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"rollcall/jslog/jslogtest"
)

// goldenStream is a stream as nodes of this and of other versions write and read it, a message a
// line: checksum, format and kind, epoch, LSN, count, payload. The clock says 2000-01-01T00:00:00Z.
const goldenStream = `
53c72295 0102 0000000000000000 0000000000000000 00000000 00accf6adc0000006e31
2458c225 0101 0100000000000000 0100000000000000 02000000 03006f6e6506007365636f6e64
2788f870 0104 0100000000000000 0300000000000000 02000000 0e00010000000000000076616c7565310e00020000000000000076616c756532
312c6a86 0105 0100000000000000 0300000000000000 00000000 0200000000000000e8030000000000000300000000000000
4b95aa1d 0103 0100000000000000 0300000000000000 00000000
`

// goldenMessages are the messages of goldenStream.
func goldenMessages(t *testing.T) (messages [][]byte) {
	t.Helper()
	for line := range strings.Lines(strings.TrimSpace(goldenStream)) {
		b, err := hex.DecodeString(strings.Join(strings.Fields(line), ""))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, b)
	}
	return messages
}

// TestGolden fixes the bytes of each kind of message. If it fails, logs that are there can no longer
// be read, nor can nodes of two versions share them: raise Format instead, see docs/cluster-formats.md.
func TestGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := jslogtest.New()
		l := start(t, s.As("a")) // 1: the claim
		add(t, l, "one")
		if err := l.Wait(add(t, l, "second")); err != nil { // 2: a batch
			t.Fatal(err)
		}
		replace(t, l.Store(), value(1, "value1"), value(2, "value2")) // 3: a bucket
		if err := errors.Join(l.Store().SetClock(1000), l.Store().Commit(2)); err != nil {
			t.Fatal(err) // 4: the end of the checkpoint
		}
		if err := l.Vouch(2); err != nil { // 5: a no-op
			t.Fatal(err)
		}
		_, got := s.Messages()
		want := goldenMessages(t)
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || !slices.Equal(got[i], want[i]) {
				t.Fatalf("messages are\n%x\nnot\n%x", got, want)
			}
		}
	})
}

// TestGoldenIsRead: what was written so is read so.
func TestGoldenIsRead(t *testing.T) {
	s := jslogtest.New()
	s.Set(1, goldenMessages(t))
	l, found, err := replay(t, s)
	want := []string{"1 one", "2 second", "[1]value1", "[2]value2"}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%q, %v", found, err)
	}
	ms, _ := l.Store().Clock()
	if next, _, _ := l.Replayed(); next != 3 || l.Store().LSN() != 2 || ms != 1000 {
		t.Errorf("next %d, as of %d at %d", next, l.Store().LSN(), ms)
	}
}
