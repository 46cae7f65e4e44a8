package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// registrars are the methods that register a route, and the HTTP method they do it for ("": it
// stands in the pattern).
var registrars = map[string]string{"GET": "GET", "POST": "POST", "PUT": "PUT", "PATCH": "PATCH", "DELETE": "DELETE", "ANY": "",
	"Handle": "", "HandleFunc": ""}

// TestOpenAPIRoutes: each route that server/ registers is in the document, and the other way round.
func TestOpenAPIRoutes(t *testing.T) {
	routed, documented := routesOfSource(t), map[string]bool{}
	doc := openapiModel(t)
	for path, item := range doc.Model.Paths.PathItems.FromOldest() {
		documented[path] = true
		for method := range item.GetOperations().FromOldest() {
			if methods := routed[path]; methods != nil && !methods[""] && method != "options" &&
				!methods[strings.ToUpper(method)] {
				t.Errorf("docs/openapi.yaml has %s %s, which the router does not know", method, path)
			}
		}
		for method := range routed[path] {
			if _, ok := item.GetOperations().Get(strings.ToLower(method)); method != "" && !ok {
				t.Errorf("docs/openapi.yaml lacks %s %s", method, path)
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(routed)) {
		if !documented[path] {
			t.Errorf("docs/openapi.yaml lacks %s: add it", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(documented)) {
		// which /debug/pprof/ is a prefix of
		if routed[path] == nil && path != "/debug/pprof/{profile}" {
			t.Errorf("docs/openapi.yaml has %s, which no router knows", path)
		}
	}
}

// routesOfSource reads path → methods from the calls in server/ that register routes.
func routesOfSource(t *testing.T) map[string]map[string]bool {
	t.Helper()
	names := goFiles(t, "../server")
	var files []*ast.File
	consts, routes := map[string]string{}, map[string]map[string]bool{}
	for _, name := range append(names, goFiles(t, "../wire")...) {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		ast.Inspect(file, func(n ast.Node) bool { readConst(n, consts); return true })
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 2 {
				return true
			}
			to, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			method, registers := registrars[to.Sel.Name]
			path, known := stringOf(call.Args[0], consts)
			if !registers || !known {
				return true
			}
			if m, rest, ok := strings.Cut(path, " "); ok {
				method, path = m, rest
			}
			if strings.HasPrefix(path, "/") {
				if routes[path] == nil {
					routes[path] = map[string]bool{}
				}
				routes[path][method] = true
			}
			return true
		})
	}
	if len(routes) < 10 {
		t.Fatalf("found only %d routes in server/: the routers are filled otherwise now, so teach this test", len(routes))
	}
	return routes
}

// goFiles are the sources below a directory, without the tests.
func goFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// readConst notes the string constants of a declaration.
func readConst(n ast.Node, consts map[string]string) {
	spec, ok := n.(*ast.ValueSpec)
	if !ok {
		return
	}
	for i, name := range spec.Names {
		if i < len(spec.Values) {
			if value, ok := stringOf(spec.Values[i], nil); ok {
				consts[name.Name] = value
			}
		}
	}
}

// stringOf is the value of a string literal or of a constant.
func stringOf(e ast.Expr, consts map[string]string) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.Ident:
		s, ok := consts[e.Name]
		return s, ok
	case *ast.SelectorExpr: // of a package: wire.HeartbeatPath
		s, ok := consts[e.Sel.Name]
		return s, ok
	}
	return "", false
}
