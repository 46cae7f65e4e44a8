package jslog_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/jslog"
	"rollcall/jslog/jslogtest"
)

// value is one of a checkpoint: LSN and text.
func value(lsn uint64, text string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, lsn), text...)
}

// replace writes values as a range of a checkpoint.
func replace(t *testing.T, s *jslog.Store, values ...[]byte) {
	t.Helper()
	err := s.Replace(nil, nil, func(yield func(_, v []byte) bool) {
		for _, v := range values {
			if !yield(nil, v) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkpoint ends a checkpoint and shortens the log.
func checkpoint(t *testing.T, l *jslog.Log, lsn uint64) {
	t.Helper()
	err := errors.Join(l.Store().SetClock(1000+lsn), l.Store().Commit(lsn), l.TruncateBefore(lsn+1))
	if err != nil {
		t.Fatal(err)
	}
}

// replay claims a stream and returns what it has, a value with its LSN in brackets.
func replay(t *testing.T, s *jslogtest.Stream) (l *jslog.Log, found []string, err error) {
	t.Helper()
	l, err = jslog.Claim(t.Context(), s.As("reader"), options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	err = l.Replay(0, func(lsn uint64, record []byte) error {
		if strings.HasPrefix(string(record), "value") {
			found = append(found, fmt.Sprintf("[%d]%s", lsn, record))
			return nil
		}
		found = append(found, fmt.Sprintf("%d %s", lsn, record))
		return nil
	})
	return l, found, err
}

// history is a stream with two owners and a checkpoint of the first, which the second has not
// finished another one behind.
func history(t *testing.T) *jslogtest.Stream {
	t.Helper()
	s := jslogtest.New()
	a := start(t, s.As("a")) // 1
	for i := range 3 {       // 2 to 4
		commit(t, a, fmt.Sprint("a", i+1))
	}
	replace(t, a.Store(), value(1, "value1"))                     // 5
	commit(t, a, "a4")                                            // 6
	replace(t, a.Store(), value(2, "value2"), value(4, "value4")) // 7
	checkpoint(t, a, 3)                                           // 8; purged below 5
	commit(t, a, "a5")                                            // 9
	b := start(t, s.As("b"))                                      // 10
	commit(t, b, "b6")                                            // 11
	if err := b.Vouch(6); err != nil {                            // 12
		t.Fatal(err)
	}
	replace(t, b.Store(), value(5, "value5")) // 13
	b.Close()
	return s
}

// TestReplay: what a new owner finds, and where it goes on (C4).
func TestReplay(t *testing.T) {
	s := history(t)
	l, found, err := replay(t, s)
	want := []string{"[1]value1", "4 a4", "[2]value2", "[4]value4", "5 a5", "6 b6", "[5]value5"}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%q, %v", found, err)
	}
	ms, _ := l.Store().Clock()
	if next, _, _ := l.Replayed(); next != 7 || l.Store().LSN() != 3 || ms != 1003 {
		t.Errorf("next %d, as of %d at %d", next, l.Store().LSN(), ms)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	if l.Committed() != 6 || l.Appended() != 6 {
		t.Errorf("committed %d of %d", l.Committed(), l.Appended())
	}
	commit(t, l, "c7")
	replace(t, l.Store(), value(7, "value7"))
	checkpoint(t, l, 7)
	if first, messages := s.Messages(); first != 16 || len(messages) != 2 {
		t.Errorf("%d messages from %d are left", len(messages), first)
	}
	if _, size := l.Size(); size > 200 {
		t.Errorf("%d bytes are left", size)
	}
	l, found, err = replay(t, s)
	if next, _, _ := l.Replayed(); err != nil || !slices.Equal(found, []string{"[7]value7"}) || next != 8 {
		t.Errorf("%q, next %d, %v", found, next, err)
	}
}

// reseal makes the checksum of a message right again.
func reseal(message []byte) []byte {
	sum := crc32.Checksum(message[4:], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(message, sum)
	return message
}

// TestReplayRefuses what owners that keep to the rules cannot have left (C1, C4), with the message
// at which it shows.
func TestReplayRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(first uint64, messages [][]byte) (uint64, [][]byte)
		at     uint64
	}{
		"a flipped bit": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			m[9-first][29] ^= 4
			return first, m
		}, 9},
		"a missing message": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			return first, slices.Delete(m, int(9-first), int(10-first))
		}, 10},
		"a doubled message": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			return first, slices.Insert(m, int(9-first), m[9-first])
		}, 10},
		"an older epoch behind a newer claim": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			m[11-first][6] = 1
			reseal(m[11-first])
			return first, m
		}, 11},
		"a newer epoch than any claim": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			m[9-first][6] = 9
			reseal(m[9-first])
			return first, m
		}, 9},
		"another count": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			m[9-first][22] = 2
			reseal(m[9-first])
			return first, m
		}, 9},
		"a short message": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			m[9-first] = m[9-first][:20]
			return first, m
		}, 9},
		"a lost front": {func(first uint64, m [][]byte) (uint64, [][]byte) {
			return first + 1, m[1:]
		}, 6},
		"a front without a checkpoint": {func(_ uint64, m [][]byte) (uint64, [][]byte) {
			return 9, m[9-5:]
		}, 9},
		"nothing but the claim": {func(uint64, [][]byte) (uint64, [][]byte) {
			return 14, nil
		}, 14},
	} {
		t.Run(name, func(t *testing.T) {
			s := history(t)
			s.Set(c.damage(s.Messages()))
			_, _, err := replay(t, s)
			var damage *jslog.DamageError
			if !errors.As(err, &damage) || damage.Seq != c.at {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestNewerFormat: a message of a newer version is refused with what to do.
func TestNewerFormat(t *testing.T) {
	for at, newer := range map[int]byte{4: jslog.Format + 1, 5: 9} {
		s := history(t)
		first, m := s.Messages()
		m[9-first][at] = newer
		reseal(m[9-first])
		s.Set(first, m)
		_, _, err := replay(t, s)
		var format *jslog.FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), "start the newer version") {
			t.Errorf("%v", err)
		}
	}
}

// TestReplayWaits: a replica that is behind is asked again, until it has the claim or makes no
// progress any more.
func TestReplayWaits(t *testing.T) {
	for _, arrives := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := history(t)
			behind := &lagging{Stream: s.As("reader"), upTo: 9, arrives: arrives}
			l, err := jslog.Claim(t.Context(), behind, options())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			records := 0
			err = l.Replay(0, func(uint64, []byte) error { records++; return nil })
			if arrives != (err == nil) || arrives != (records == 7) {
				t.Errorf("%d records, %v", records, err)
			}
		})
	}
}

// TestPurgedWhileRead: the purge of a later owner, or the late one of an earlier owner, is no
// damage, and another claim reads what is left.
func TestPurgedWhileRead(t *testing.T) {
	for name, c := range map[string]struct {
		from, to  uint64 // messages that do not come the first time
		meanwhile func(t *testing.T, s *jslogtest.Stream)
		want      bool
	}{
		"a later owner's, before a message came": {5, 99, func(t *testing.T, s *jslogtest.Stream) {
			l, found, err := replay(t, s)
			if err := errors.Join(err, l.Start(nil)); err != nil || len(found) != 7 {
				t.Fatal(len(found), err)
			}
			replace(t, l.Store(), value(6, "value6"))
			checkpoint(t, l, 6)
			if first, _ := s.Messages(); first <= 14 {
				t.Fatalf("the claim is there: the stream begins at %d", first)
			}
		}, false},
		"a late one of an earlier owner, behind some messages": {8, 99,
			func(t *testing.T, s *jslogtest.Stream) {
				if _, err := s.Apply(&jslogtest.Call{Kind: jslogtest.Purge, Seq: 10}); err != nil {
					t.Fatal(err)
				}
			}, false},
		"none, and the first message was lost on its way": {5, 6,
			func(*testing.T, *jslogtest.Stream) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := history(t)
			reader := &losing{Stream: s.As("reader"), from: c.from, to: c.to}
			reader.meanwhile = func() { c.meanwhile(t, s) }
			l, err := jslog.Claim(t.Context(), reader, options())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			err = l.Replay(0, func(uint64, []byte) error { return nil })
			damage := new(jslog.DamageError)
			if errors.As(err, &damage) || c.want != (err == nil) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestPausedWhileRead: a process that was paused in the middle of a claim, for longer than anything
// is waited for, takes neither what was purged meanwhile nor a message that is lost for damage.
func TestPausedWhileRead(t *testing.T) {
	for name, c := range map[string]struct {
		purged uint64
		want   error
	}{
		"a message lost":   {0, nil},
		"purged meanwhile": {10, jslog.ErrPurged},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := history(t)
				var reads []*jslogtest.Call
				s.Sees = func(call *jslogtest.Call) (uint64, [][]byte) {
					begun := call.Kind == jslogtest.Read && !slices.Contains(reads, call)
					if begun {
						reads = append(reads, call)
					}
					if begun && len(reads) == 2 {
						time.Sleep(time.Minute)
						_, _ = s.Apply(&jslogtest.Call{Kind: jslogtest.Purge, Seq: c.purged})
					}
					begins, messages := s.Messages()
					if len(reads) <= 2 {
						messages[0] = nil
					}
					return begins, messages
				}
				if _, _, err := replay(t, s); !errors.Is(err, c.want) {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// TestUnread: a copy that does not give what it has is told from one that is damaged.
func TestUnread(t *testing.T) {
	for name, sees := range map[string]func(s *jslogtest.Stream) (uint64, [][]byte){
		"it ends": func(s *jslogtest.Stream) (uint64, [][]byte) {
			first, messages := s.Messages()
			return first, messages[:3]
		},
		"it is empty": func(*jslogtest.Stream) (uint64, [][]byte) { return 1, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := history(t)
				s.Sees = func(*jslogtest.Call) (uint64, [][]byte) { return sees(s) }
				_, _, err := replay(t, s)
				if !errors.Is(err, jslog.ErrUnread) || strings.Contains(err.Error(), "%!") {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// TestCutShort: a checkpoint that did not end leaves the one before (C4), and the log goes on after
// one that was given up.
func TestCutShort(t *testing.T) {
	s := history(t)
	l := start(t, s.As("c"))
	replace(t, l.Store(), value(1, "value1"))
	if err := l.Store().Discard(); err != nil {
		t.Fatal(err)
	}
	before, _ := s.Messages()
	replace(t, l.Store(), value(5, "value5"), value(6, "value6"))
	checkpoint(t, l, 6)
	first, messages := s.Messages()
	if first <= before || len(messages) != 2 {
		t.Errorf("%d messages from %d", len(messages), first)
	}
	_, found, err := replay(t, s)
	if want := []string{"[5]value5", "[6]value6"}; err != nil || !slices.Equal(found, want) {
		t.Errorf("%q, %v", found, err)
	}
}

// TestBegin: a copy goes on behind what it holds, and one that was not finished is refused.
func TestBegin(t *testing.T) {
	for _, finished := range []bool{true, false} {
		s := jslogtest.New()
		l, err := jslog.Claim(t.Context(), s.As("a"), options())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Begin(99), l.Start(nil)); err != nil {
			t.Fatal(err)
		}
		replace(t, l.Store(), value(98, "value98"))
		if finished {
			checkpoint(t, l, 99)
		}
		l.Close()
		l, found, err := replay(t, s)
		if next, _, _ := l.Replayed(); finished != (err == nil) || finished && next != 100 {
			t.Errorf("finished %v: %q, next %d, %v", finished, found, next, err)
		}
		if l, err = jslog.Claim(t.Context(), s.As("b"), options()); err != nil {
			t.Fatal(err)
		}
		if err := l.Begin(5); err == nil {
			t.Error("a copy into a stream that is not empty")
		}
		l.Close()
	}
}
