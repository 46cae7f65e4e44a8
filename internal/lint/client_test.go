package lint

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"rollcall/wire"
)

// TestClientCanBeCopied into another module, tests and examples included.
func TestClientCanBeCopied(t *testing.T) {
	dir := t.TempDir()
	files, err := filepath.Glob(filepath.Join(root, "client", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of client: %v", err)
	}
	copied := filepath.Join(dir, "presence")
	if err := os.Mkdir(copied, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, filepath.Base(file)), text,
			0o666); err != nil {
			t.Fatal(err)
		}
	}
	module := "module example.com/other\n\ngo 1.26\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"build", "vet"} {
		cmd := exec.Command("go", command, "./...")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("go %s of a copy of client/: %v: it may import nothing but the standard library, "+
				"in its tests too\n%s", command, err, out)
		}
	}
}

// TestClientAgreesWithWire: the client has constants of the contract of its own, since it is there
// to be copied.
func TestClientAgreesWithWire(t *testing.T) {
	own := constantsOf(t, "client")
	for name, want := range map[string]constant.Value{
		"heartbeatPath": constant.MakeString(wire.HeartbeatPath),
		"streamPath":    constant.MakeString(wire.StreamPath),
		"batchPath":     constant.MakeString(wire.HeartbeatsPath),
		"manyPath":      constant.MakeString(wire.ListStreamPath),
		"askPath":       constant.MakeString(wire.PresencePath),
		"queryPath":     constant.MakeString(wire.QueryPath),
		"maxSeq":        constant.MakeInt64(wire.MaxInteger),
		"maxSource":     constant.MakeInt64(wire.MaxSourceBytes),
	} {
		if got, ok := own[name]; !ok || !constant.Compare(got, token.EQL, want) {
			t.Errorf("client: %s is %v, and %v in wire", name, got, want)
		}
	}
}

// constantsOf returns the constants of a package by name, as far as they need no other.
func constantsOf(t *testing.T, dir string) map[string]constant.Value {
	t.Helper()
	values := map[string]constant.Value{}
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok == token.CONST {
				evaluate(d, values)
			}
		}
	}
	return values
}

func evaluate(d *ast.GenDecl, values map[string]constant.Value) {
	for _, spec := range d.Specs {
		spec := spec.(*ast.ValueSpec)
		for i, value := range spec.Values {
			v, err := types.Eval(token.NewFileSet(), nil, token.NoPos, types.ExprString(value))
			if err == nil {
				values[spec.Names[i].Name] = v.Value
			}
		}
	}
}
