package reply

import (
	"encoding/json"
	"net/http"
	"testing"

	"rollcall/wire"
)

// TestTable: every row has a status that HTTP knows and a text of its own, since the texts are
// labels of a metric; errors have a code, and their body is what row and wire say.
func TestTable(t *testing.T) {
	names := map[string]Reply{}
	for r := None + 1; r < Count; r++ {
		if http.StatusText(r.Status()) == "" || r.Details() == "" {
			t.Errorf("row %d: status %d, details %q", r, r.Status(), r.Details())
		}
		if other, taken := names[r.Details()]; taken {
			t.Errorf("rows %d and %d are both %q", r, other, r.Details())
		}
		names[r.Details()] = r
		if isError := r.Status() >= 400; isError != (r.Body() != nil) {
			t.Errorf("%q: status %d with body %q", r.Details(), r.Status(), r.Body())
		}
		if r.Body() == nil {
			continue
		}
		var body struct{ Error, Details string }
		if err := json.Unmarshal(r.Body(), &body); err != nil || body.Error == "" ||
			body.Details != r.Details() {
			t.Errorf("%q: body %s, %v", r.Details(), r.Body(), err)
		}
	}
}

// TestOfProblem: each check of wire has its own row, with the text of wire.
func TestOfProblem(t *testing.T) {
	if OfProblem(wire.Valid) != None {
		t.Error("a valid heartbeat is refused")
	}
	for p := wire.Valid + 1; p < wire.ProblemCount; p++ {
		if r := OfProblem(p); r.Status() != http.StatusBadRequest || r.Details() != p.Details() {
			t.Errorf("%q is answered %d %q", p.Details(), r.Status(), r.Details())
		}
	}
}

func TestRefused(t *testing.T) {
	var c Counters
	for r := None + 1; r < Count; r++ {
		c.Heartbeats[r].Add(1)
	}
	got := c.Refused()
	if got.RateLimited < 1 || got.Unavailable != 1 || got.Unauthorized < 2 || got.Invalid < 10 {
		t.Errorf("%+v", got)
	}
	sum := got.Invalid + got.Unauthorized + got.RateLimited + got.Unavailable
	if sum != uint64(Count)-1 {
		t.Errorf("%d refusals are counted, want each once", sum)
	}
}
