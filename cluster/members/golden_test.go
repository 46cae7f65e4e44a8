package members

import (
	"encoding/json"
	"testing"
)

// TestGolden fixes an entry of the journal: nodes of other versions read it, see
// docs/cluster-formats.md. A field may be added, which others pass over; none may be renamed, or
// mean something else.
func TestGolden(t *testing.T) {
	whole := Deed{
		Kind: "replace", Node: "n3", By: "n4", Runner: "n1", BeganMS: 1, AtMS: 2, Step: "P000007",
		Moved: 3, Left: 4, Done: true, Failed: "no",
	}
	const want = `{"kind":"replace","node":"n3","by":"n4","runner":"n1","began_ms":1,"at_ms":2,` +
		`"step":"P000007","moved":3,"left":4,"done":true,"failed":"no"}`
	got, err := json.Marshal(&whole)
	if err != nil || string(got) != want {
		t.Errorf("%s, %v\nwant %s", got, err, want)
	}
	for _, text := range []string{want, `{"of_a_later_version":[],` + want[1:]} {
		var read Deed
		if err := json.Unmarshal([]byte(text), &read); err != nil || read != whole {
			t.Errorf("%s is read as %+v, %v", text, read, err)
		}
	}
}
