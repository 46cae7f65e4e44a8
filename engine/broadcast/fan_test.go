package broadcast

import (
	"math/rand/v2"
	"strings"
	"testing"

	"rollcall/internal/testseed"
)

func TestFanSpan(t *testing.T) {
	f := &fan{}
	for _, lsn := range []uint64{3, 5, 9} {
		f.text = append(f.text, strings.Repeat(string(rune('0'+lsn)), 10)...)
		f.frames = append(f.frames, frame{lsn, len(f.text)})
	}
	check := func(after uint64, limit int, want string, through uint64) {
		t.Helper()
		text, n, got := f.span(after, limit)
		if string(text) != want || got != through || n != len(want)/10 {
			t.Errorf("above %d, %d bytes: %q, %d frames, through %d", after, limit, text, n, got)
		}
	}
	three, five, nine := strings.Repeat("3", 10), strings.Repeat("5", 10), strings.Repeat("9", 10)
	check(0, 30, three+five+nine, 9)
	check(2, 29, three+five, 5)
	check(3, 100, five+nine, 9)
	check(4, 1, five, 5)
	check(8, 10, nine, 9)
	f.cut(4)
	check(0, 100, five+nine, 9)
	f.cut(9)
	if len(f.frames) != 0 || len(f.text) != 0 {
		t.Error("frames are left after the last was cut")
	}
}

// fanModel is a user beside all of its events.
type fanModel struct {
	user
	lsns []uint64
	text []string // by event
}

// TestFansKeepWhatIsAboveBase (B4, B6): after any adding, conflating and releasing, a user's fan
// holds exactly the frames above base, so that a stream at base or above can be given all of them,
// and the frames of all users stay within the bounds.
func TestFansKeepWhatIsAboveBase(t *testing.T) {
	rng := testseed.Rand(t)
	var stats Stats
	fs := &fans{codec: newModel(), userLimit: 400, limit: 1500, stats: &stats}
	users := make([]*fanModel, 6)
	for i := range users {
		users[i] = &fanModel{}
	}
	for lsn := uint64(1); lsn < 20_000; lsn++ {
		u := users[rng.IntN(len(users))]
		before := u.base
		switch r := rng.IntN(20); {
		case r < 17:
			u.add(t, fs, lsn, strings.Repeat("x", rng.IntN(60)))
		case r < 19:
			fs.release(&u.user, before+uint64(rng.IntN(int(u.last-before)+1)))
		default:
			fs.conflate(&u.user, lsn)
		}
		if u.base < before {
			t.Fatalf("base went from %d to %d", before, u.base)
		}
		checkFans(t, rng, fs, users)
	}
	if stats.FanOverflows == 0 {
		t.Error("no bound was reached")
	}
}

func (u *fanModel) add(t *testing.T, fs *fans, lsn uint64, event string) {
	t.Helper()
	if !fs.add(&u.user, lsn, []byte(event)) || fs.add(&u.user, lsn, []byte(event)) {
		t.Fatal("an event is taken once")
	}
	u.lsns = append(u.lsns, lsn)
	u.text = append(u.text, "data: "+event+"\n\n")
}

func checkFans(t *testing.T, rng *rand.Rand, fs *fans, users []*fanModel) {
	t.Helper()
	bytes := 0
	for _, u := range users {
		for len(u.lsns) > 0 && u.lsns[0] <= u.base {
			u.lsns, u.text = u.lsns[1:], u.text[1:]
		}
		if (u.fan == nil) != (len(u.lsns) == 0) {
			t.Fatalf("%d frames are above base, and the fan is %v", len(u.lsns), u.fan)
		}
		if u.fan == nil {
			continue
		}
		bytes += len(u.fan.text)
		i := rng.IntN(len(u.lsns))
		after := u.base
		if i > 0 {
			after = u.lsns[i-1]
		}
		text, n, through := u.fan.span(after, 1<<20)
		if want := strings.Join(u.text[i:], ""); string(text) != want || n != len(u.lsns)-i {
			t.Fatalf("above %d: %d frames %q, want %q", after, n, text, want)
		}
		if through != u.last {
			t.Fatalf("the last frame is of LSN %d, not %d", through, u.last)
		}
	}
	if bytes != fs.bytes || bytes > fs.limit {
		t.Fatalf("%d bytes of frames, counted as %d of %d", bytes, fs.bytes, fs.limit)
	}
}
