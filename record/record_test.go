package record

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// goldenRecord is the only place, beside docs/wal-format.md, that fixes the bytes of a record.
const goldenRecord = `
	01 03 06 00
	6a0f5a1e2b7c4c559f100c5a3c1d7e01
	b3c1d2e48f9a4b6ca7d81e2f3a4b5c6d
	2a00000000000000
	00e4eae494010000
	e0dfeae494010000
	e02e000000000000
	05e4eae494010000
	6461656d6f6e`

func goldenState() (user, device uuid.UUID, s State) {
	return uuid.MustParse("6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01"),
		uuid.MustParse("b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d"), State{
			Online: true, Expired: true, Seq: 42, SentAtMS: 0x194e4eae400,
			HeartbeatAtMS: 0x194e4eadfe0,
			TTLMS:         12000, UpdatedAtMS: 0x194e4eae405,
		}
}

func TestGolden(t *testing.T) {
	user, device, s := goldenState()
	want, err := hex.DecodeString(strings.Join(strings.Fields(goldenRecord), ""))
	if err != nil {
		t.Fatal(err)
	}
	if got := Append(nil, user, device, &s,
		[]byte("daemon")); hex.EncodeToString(got) != hex.EncodeToString(want) {
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
	if r.Forget() {
		t.Error("a state reads as forgotten")
	}
	f, err := Parse(AppendForget([]byte("x"), r)[1:])
	if err != nil || !f.Forget() || f.Device() != device || f.State() != s {
		t.Errorf("forgotten: %x, %v", f, err)
	}
	if len(want) != Bytes(len("daemon")) || fixedBytes != 76 {
		t.Errorf("a record of a 6-byte source is %d bytes", len(want))
	}
}

func TestRefused(t *testing.T) {
	user, device, s := goldenState()
	good := Append(nil, user, device, &s, []byte("daemon"))
	newer := append([]byte{9}, good[1:]...)
	for name, b := range map[string][]byte{"empty": nil, "short": good[:75],
		"cut": good[:len(good)-1], "long": append(good[:len(good):len(good)], 0), "kind": newer} {
		if _, err := Parse(b); !errors.Is(err, Err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(newer); !strings.Contains(err.Error(), "newer version") {
		t.Errorf("unknown kind: %v", err)
	}
}
