package record

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"rollcall/internal/testwire"
)

// goldenRecord and goldenUser are the only place, beside docs/wal-format.md, that fixes the bytes
// of a record: of kind 1, and of kind 3.
const (
	goldenRecord = `
	01 03 06 01
	6a0f5a1e2b7c4c559f100c5a3c1d7e01
	b3c1d2e48f9a4b6ca7d81e2f3a4b5c6d
	2a00000000000000
	00e4eae494010000
	e0dfeae494010000
	e02e000000000000
	05e4eae494010000
	6461656d6f6e`
	goldenUser = `
	03 06 06 01
	6a0f5a1e2b7c4c559f100c5a3c1d7e01
	b3c1d2e48f9a4b6ca7d81e2f3a4b5c6d
	2a00000000000000
	00e4eae494010000
	e0dfeae494010000
	e02e000000000000
	05e4eae494010000
	04e0eae494010000
	06e1eae494010000
	02000000
	6461656d6f6e`
)

func goldenState() (user, device uuid.UUID, s State) {
	return uuid.MustParse("6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01"),
		uuid.MustParse("b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d"), State{
			Online: true, Expired: true, Seq: 42, SentAtMS: 0x194e4eae400,
			HeartbeatAtMS: 0x194e4eadfe0,
			TTLMS:         12000, UpdatedAtMS: 0x194e4eae405, SeenAtMS: 0x194e4eae405,
		}
}

func TestGolden(t *testing.T) {
	user, device, s := goldenState()
	want := testwire.Unhex(t, goldenRecord)
	if got := Append(nil, user, device, &s, []byte("daemon")); !bytes.Equal(got, want) {
		t.Errorf("record\n%x, want\n%x", got, want)
	}
	r, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if r.User() != user || r.Device() != device || r.State() != s ||
		string(r.Source()) != "daemon" {
		t.Errorf("read back: %v %v %+v %q", r.User(), r.Device(), r.State(), r.Source())
	}
	if r.Forget() || r.Turn() || !r.Tells() || r.UserSeen() != 0 || r.UserOnline() != 0 {
		t.Errorf("a heartbeat that turned nothing reads as %+v", r)
	}
	if len(want) != Bytes(len("daemon")) || fixedBytes != 76 {
		t.Errorf("a record of a 6-byte source is %d bytes", len(want))
	}
	forgets(t, r)
}

func TestGoldenUser(t *testing.T) {
	user, device, s := goldenState()
	s.Online, s.SeenAtMS = false, 0x194e4eae004
	u := User{SeenAtMS: 0x194e4eae106, Online: 2, Turn: true}
	want := testwire.Unhex(t, goldenUser)
	if got := AppendUser(nil, user, device, &s, []byte("daemon"), &u); !bytes.Equal(got, want) {
		t.Errorf("record\n%x, want\n%x", got, want)
	}
	r, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if r.User() != user || r.Device() != device || r.State() != s ||
		string(r.Source()) != "daemon" {
		t.Errorf("read back: %v %v %+v %q", r.User(), r.Device(), r.State(), r.Source())
	}
	if got := (User{r.UserSeen(), uint32(r.UserOnline()), r.Turn()}); got != u || !r.Tells() ||
		r.Forget() || r.Online() || r.Seen() != s.SeenAtMS || r.UpdatedAt() != s.UpdatedAtMS {
		t.Errorf("read back: %+v, want %+v", got, u)
	}
	if len(want) != UserBytes(len("daemon")) {
		t.Errorf("a record of a 6-byte source is %d bytes", len(want))
	}
	forgets(t, r)
	r, rest, err := Cut(append(want, "tail"...))
	if err != nil || !bytes.Equal(r, want) || string(rest) != "tail" {
		t.Errorf("cut: %x %q, %v", r, rest, err)
	}
}

// forgets checks what is left of a record whose device is forgotten.
func forgets(t *testing.T, r View) {
	t.Helper()
	f, err := Parse(AppendForget([]byte("x"), r)[1:])
	if err != nil || !f.Forget() || f.Turn() || f.Device() != r.Device() ||
		f.State().Seq != r.State().Seq || string(f.Source()) != string(r.Source()) ||
		len(f) != ForgetBytes(r) {
		t.Errorf("forgotten: %x, %v", f, err)
	}
}

// TestSeenOfEarlierVersions: a version that kept no seen wrote offline records of kind 1, from
// which it is estimated, and did not tell turns.
func TestSeenOfEarlierVersions(t *testing.T) {
	user, device, _ := goldenState()
	for name, c := range map[string]struct {
		s    State
		want uint64
	}{
		"online": {State{Online: true, UpdatedAtMS: 1000, HeartbeatAtMS: 1}, 1000},
		"expired": {State{Expired: true, UpdatedAtMS: 1000, TTLMS: 300, SentAtMS: 1000,
			HeartbeatAtMS: 5000}, 700},
		"expired, a ttl of ages": {State{Expired: true, UpdatedAtMS: 1000, TTLMS: 1 << 50}, 0},
		"said offline":           {State{UpdatedAtMS: 1000, HeartbeatAtMS: 900, SentAtMS: 950}, 900},
		"its clock is ahead":     {State{UpdatedAtMS: 1000, HeartbeatAtMS: 2000, SentAtMS: 2001}, 1000},
		"never online":           {State{UpdatedAtMS: 1000, HeartbeatAtMS: 900, SentAtMS: 900}, 0},
	} {
		b := Append(nil, user, device, &c.s, []byte("daemon"))
		b[3] = 0
		r, err := Parse(b)
		if err != nil || r.Seen() != c.want || r.State().SeenAtMS != c.want || r.Tells() {
			t.Errorf("%s: seen %d, want %d; tells turns: %v, %v", name, r.Seen(), c.want,
				r.Tells(), err)
		}
	}
}

func TestRefused(t *testing.T) {
	user, device, s := goldenState()
	good := Append(nil, user, device, &s, []byte("daemon"))
	newer := append([]byte{9}, good[1:]...)
	full := AppendUser(nil, user, device, &s, []byte("daemon"), &User{})
	for name, b := range map[string][]byte{"empty": nil, "short": good[:75],
		"cut": good[:len(good)-1], "long": append(good[:len(good):len(good)], 0), "kind": newer,
		"cut user": full[:len(full)-1], "long user": append(full[:len(full):len(full)], 0),
		"source": slices.Concat(good[:2], []byte{129}, good[3:])} {
		if _, err := Parse(b); !errors.Is(err, Err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(newer); !strings.Contains(err.Error(), "newer version") {
		t.Errorf("unknown kind: %v", err)
	}
}
