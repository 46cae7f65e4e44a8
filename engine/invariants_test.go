package engine

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNoClockBelow: table, wheel and the broadcaster's workers read no clock (I7). A connection
// without a poller is the exception: net.Conn takes deadlines by the wall clock.
func TestNoClockBelow(t *testing.T) {
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer",
		"NewTicker"}
	files := 0
	for _, dir := range []string{"table", "wheel", "broadcast"} {
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "goconn.go" {
				continue
			}
			files++
			set := token.NewFileSet()
			parsed, err := parser.ParseFile(set, path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "time" &&
					slices.Contains(clocks, s.Sel.Name) {
					t.Errorf("%v: time.%s: let the engine pass the time in", set.Position(s.Pos()),
						s.Sel.Name)
				}
				return true
			})
		}
	}
	if files < 15 {
		t.Errorf("found only %d files", files)
	}
}
