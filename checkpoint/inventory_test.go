package checkpoint

import (
	"os"
	"strings"
	"testing"
)

// The format page shows a file FILES, byte for byte.
func TestFilesGolden(t *testing.T) {
	page, err := os.ReadFile("../docs/wal-format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```\nrollcall checkpoint")
	text, _, _ := strings.Cut("rollcall checkpoint"+rest, "```")
	want := inventory{
		manifest: "MANIFEST-000009", manifestBytes: 292,
		marker: "marker.manifest.000002.MANIFEST-000009", format: "marker.format-version.000011.024",
		options: "OPTIONS-000011", optionsBytes: 2779, optionsSum: 0x5f0c3b1e,
	}
	if got := string(want.encode()); got != text {
		t.Errorf("written:\n%sthe page:\n%s", got, text)
	}
	if got, err := decodeInventory([]byte(text)); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range text {
		b := []byte(text)
		b[i] ^= 1
		if _, err := decodeInventory(b); err == nil {
			t.Errorf("byte %d changed: not noticed", i)
		}
		if _, err := decodeInventory(b[:i]); err == nil {
			t.Errorf("cut at byte %d: not noticed", i)
		}
	}
}
