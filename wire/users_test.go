package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func listBody(n int) []byte {
	b := []byte(`{"user_ids":[`)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `"%08x-0000-4000-8000-000000000000"`, i)
	}
	return append(b, "]}"...)
}

func TestUsers(t *testing.T) {
	const a, b = `"` + testUser + `"`, `"` + testDevice + `"`
	upper := `" ` + strings.ToUpper(testUser) + `"`
	for _, test := range []struct {
		body  string
		want  ListProblem
		users int
		bad   int
	}{
		{`{"user_ids":[` + a + `,` + b + `]}`, ListValid, 2, NoIndex},
		{` { "x" : [1] , "user_ids" : [ ` + a + ` , ` + b + ` ] } `, ListValid, 2, NoIndex},
		{`{"user_ids":[` + a + `,` + upper + `,` + b + `,` + a + `]}`, ListValid, 2, NoIndex},
		{`{"user_ids":["\u0036` + testUser[1:] + `"]}`, ListValid, 1, NoIndex},
		{`{"user_ids":["x"],"user_ids":[` + a + `]}`, ListValid, 1, NoIndex},
		{`{"user_ids":[` + a + `],"user_ids":null}`, ListMissing, 0, NoIndex},
		{`{}`, ListMissing, 0, NoIndex},
		{`{"user_ids":[]}`, ListMissing, 0, NoIndex},
		{`{"USER_IDS":[` + a + `]}`, ListMissing, 0, NoIndex},
		{`{"user_ids":` + a + `}`, ListInvalid, 0, NoIndex},
		{`{"user_ids":{}}`, ListInvalid, 0, NoIndex},
		{`{"user_ids":1}`, ListInvalid, 0, NoIndex},
		{`{"user_ids":["bob"]}`, ListInvalid, 0, 0},
		{`{"user_ids":[` + a + `,null,"x"]}`, ListInvalid, 1, 1},
		{`{"user_ids":[` + a + `,` + a + `,[` + a + `]]}`, ListInvalid, 1, 2},
		{`{"user_ids":["` + uuid.Nil.String() + `"]}`, ListInvalid, 0, 0},
		{`{"user_ids":[` + a + `,]}`, ListInvalidJSON, 1, NoIndex},
		{`{"user_ids":[` + a, ListInvalidJSON, 1, NoIndex},
		{`{"user_ids":[` + a + `]}x`, ListInvalidJSON, 1, NoIndex},
		{`[` + a + `]`, ListInvalidJSON, 0, NoIndex},
		{``, ListInvalidJSON, 0, NoIndex},
		{`null`, ListInvalidJSON, 0, NoIndex},
	} {
		var u Users
		got := u.Decode([]byte(test.body), 1000)
		if got != test.want || got != ListInvalidJSON && (len(u.IDs) != test.users ||
			u.Bad != test.bad) {
			t.Errorf("%s: %d, users %v, bad %d", test.body, got, u.IDs, u.Bad)
		}
	}
}

// TestUsersLimit: a list keeps no more than its limit, counts what it repeats, and begins anew.
func TestUsersLimit(t *testing.T) {
	var u Users
	for _, n := range []int{1000, 1001, 1500, 1, 1000} {
		if got := u.Decode(listBody(n), 1000); got != ListValid || u.Count != n ||
			len(u.IDs) != min(n, 1000) || u.TooMany() != (n > 1000) {
			t.Errorf("%d users: %d, %d of %d", n, got, len(u.IDs), u.Count)
		}
	}
	twice := strings.Replace(string(listBody(2)), "00000001", "00000000", 1)
	if u.Decode([]byte(twice), 1) != ListValid || !u.TooMany() || len(u.IDs) != 1 {
		t.Errorf("%+v", u.IDs)
	}
}

// FuzzUsers compares the decoder with encoding/json.
func FuzzUsers(f *testing.F) {
	f.Add(string(listBody(3)))
	f.Add(`{"user_ids":["` + strings.ToUpper(testUser) + `","` + testUser + `"],"x":[[{}]]}`)
	f.Add(`{"user_ids":[1,"x"],"user_ids":{"a":null}}`)
	f.Fuzz(func(t *testing.T, body string) {
		var u Users
		got := u.Decode([]byte(body), 5)
		var m map[string]json.RawMessage
		ok := json.Unmarshal([]byte(body), &m) == nil && m != nil
		if ok != (got != ListInvalidJSON) && !tooDeep([]byte(body)) {
			t.Fatalf("%q: %d, encoding/json says %v", body, got, ok)
		}
		var texts []any
		if got == ListInvalidJSON || json.Unmarshal(m["user_ids"], &texts) != nil {
			return
		}
		var want []uuid.UUID
		bad := NoIndex
		for i, text := range texts {
			s, _ := text.(string)
			id, form := ParseID([]byte(s))
			if form == IDInvalid && bad == NoIndex {
				bad = i
			}
			if form != IDInvalid && i < 5 && !slices.Contains(want, id) {
				want = append(want, id)
			}
		}
		if u.Count != len(texts) || u.Bad != bad || !slices.Equal(u.IDs, want) {
			t.Fatalf("%q: %v of %d, bad %d, want %v of %d, bad %d", body, u.IDs, u.Count, u.Bad,
				want, len(texts), bad)
		}
	})
}

func BenchmarkUsers(b *testing.B) {
	body := listBody(1000)
	text := bytes.Clone(body)
	var u Users
	b.ReportAllocs()
	for b.Loop() {
		copy(text, body)
		u.Decode(text, 1000)
	}
}
