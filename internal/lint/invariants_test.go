package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	// definition is the line of a comment that states an invariant: its number comes first, alone
	// or behind a list's dash, and a sentence follows.
	definition = regexp.MustCompile(`(?m)^//(?: |   - )([A-Z][0-9]+)(?:[:.] | [A-Z])`)
	// citation is the number of an invariant, or of several: W3, B1 to B4.
	citation = regexp.MustCompile(`\b([A-Z])([0-9]+)(?:(?: to |-| and |, )[A-Z]?([0-9]+))?\b`)
)

// TestInvariants: each letter belongs to one package, and each invariant is cited by a test that
// checks it.
func TestInvariants(t *testing.T) {
	owner, invariants, cited := map[string]string{}, map[string]string{}, map[string]bool{}
	for _, file := range tracked(t) {
		if path.Ext(file) != ".go" {
			continue
		}
		text := comments(t, file)
		if strings.HasSuffix(file, "_test.go") {
			for _, id := range cites(text) {
				cited[id] = true
			}
			continue
		}
		for _, m := range definition.FindAllStringSubmatch(text, -1) {
			dir, letter := path.Dir(file), m[1][:1]
			if other, taken := owner[letter]; taken && other != dir {
				t.Errorf("%s: %s: the letter belongs to %s: take one that no package has", file, m[1], other)
			}
			owner[letter], invariants[m[1]] = dir, file
		}
	}
	uncited := 0
	for _, id := range slices.Sorted(maps.Keys(invariants)) {
		if !cited[id] {
			uncited++
			t.Errorf("%s of %s is cited by no test: name it in the comment of the test that checks it, "+
				"or write that test", id, invariants[id])
		}
	}
	t.Logf("%d invariants, %d without a test", len(invariants), uncited)
	if len(invariants) < 50 {
		t.Errorf("found only %d invariants: they are written otherwise now, so teach this test", len(invariants))
	}
}

// comments returns the comments of a file, each with its slashes.
func comments(t *testing.T, file string) string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil,
		parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, group := range parsed.Comments {
		for _, c := range group.List {
			b.WriteString(c.Text + "\n")
		}
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			b.WriteString(f.Name.Name + "\n")
		}
	}
	return b.String()
}

// cites returns the numbers that a text names; "B1 to B3" names three.
func cites(text string) (ids []string) {
	for _, m := range citation.FindAllStringSubmatch(text, -1) {
		ids = append(ids, m[1]+m[2])
		if m[3] != "" {
			ids = append(ids, m[1]+m[3])
		}
		first, _ := strconv.Atoi(m[2])
		last, _ := strconv.Atoi(m[3])
		for n := first + 1; n < last && strings.Contains(m[0], " to "); n++ {
			ids = append(ids, m[1]+strconv.Itoa(n))
		}
	}
	return ids
}

func TestCites(t *testing.T) {
	for text, want := range map[string][]string{
		"W3 holds":         {"W3"},
		"B1 to B4, and T2": {"B1", "B4", "B2", "B3", "T2"},
		"(C1, C2)":         {"C1", "C2"},
		"sha256 HTTP2 x1":  nil,
	} {
		if got := cites(text); !slices.Equal(got, want) {
			t.Errorf("%q cites %q, want %q", text, got, want)
		}
	}
}
