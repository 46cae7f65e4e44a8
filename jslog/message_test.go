package jslog_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"rollcall/internal/testwire"
	"rollcall/jslog/jslogtest"
)

// goldenStream is a stream as nodes of this and of other versions write and read it. A message is a
// line and the line of its payload; docs/cluster-formats.md shows the same.
const goldenStream = `53c72295 01 02 0000000000000000 0000000000000000 00000000
  00accf6adc000000 6e31
2458c225 01 01 0100000000000000 0100000000000000 02000000
  0300 6f6e65 0600 7365636f6e64
2788f870 01 04 0100000000000000 0300000000000000 02000000
  0e00 0100000000000000 76616c756531 0e00 0200000000000000 76616c756532
312c6a86 01 05 0100000000000000 0300000000000000 00000000
  0200000000000000 e803000000000000 0300000000000000
4b95aa1d 01 03 0100000000000000 0300000000000000 00000000
`

// goldenMessages are the messages of goldenStream.
func goldenMessages(t *testing.T) (messages [][]byte) {
	t.Helper()
	for line := range strings.Lines(goldenStream) {
		b := testwire.Unhex(t, line)
		if n := len(messages); strings.HasPrefix(line, " ") {
			messages[n-1] = append(messages[n-1], b...)
		} else {
			messages = append(messages, b)
		}
	}
	return messages
}

// TestGolden fixes the bytes of each kind of message. If it fails, logs that are there can no
// longer be read, nor can nodes of two versions share them: see docs/cluster-formats.md.
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
	const page = "../docs/cluster-formats.md"
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), goldenStream) {
		t.Errorf("%s does not show the bytes of goldenStream: paste them (%v)", page, err)
	}
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
