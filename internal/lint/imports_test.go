package lint

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// mayImport says which packages of ours a package may import; docs/architecture.md has the picture.
// Every package may import internal/ and what lies below it.
var mayImport = map[string][]string{
	"wire":       {"record"},
	"record":     {},
	"token":      {},
	"engine":     {"record", "wire"},
	"wal":        {},
	"checkpoint": {},
	"datadir":    {"checkpoint", "wal"},
	"feed":       {"record", "wal"},
	"server":     {"engine", "token", "wire"},
	"loadgen":    {"token", "wire"},
	"client":     {},
	"cmd":        {"checkpoint", "datadir", "engine", "feed", "loadgen", "record", "server", "token", "wal", "wire"},
	"internal":   {},
}

// strangers are packages side by side below one room that do not know each other.
var strangers = []string{"engine/table", "engine/wheel", "engine/broadcast"}

// closed are the rooms that no test outside of them imports either.
var closed = []string{"server", "cmd", "bench", "test"}

// room is the first element of a package's path within the module.
func room(pkg string) string {
	first, _, _ := strings.Cut(pkg, "/")
	return first
}

func TestImports(t *testing.T) {
	type listed struct {
		ImportPath                         string
		Imports, TestImports, XTestImports []string
	}
	out, err := run(t, ".", "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkg := strings.TrimPrefix(p.ImportPath, "rollcall/")
		allowed, known := mayImport[room(pkg)]
		if !known {
			t.Errorf("%s is a room that mayImport does not have: add it, and to the picture in docs/architecture.md", pkg)
		}
		for _, to := range ours(p.Imports) {
			if !within(pkg, to) && room(to) != "internal" && !slices.Contains(allowed, room(to)) {
				t.Errorf("%s imports %s, which docs/architecture.md does not allow: declare the interface that "+
					"%[1]s needs in %[1]s, and join the two in cmd", pkg, to)
			}
		}
		for _, to := range slices.Concat(ours(p.Imports), ours(p.TestImports),
			ours(p.XTestImports)) {
			if slices.Contains(closed, room(to)) && room(pkg) != room(to) && room(pkg) != "cmd" {
				t.Errorf("%s imports %s, which only cmd may: move what it needs to a room of its own", pkg, to)
			}
			if slices.Contains(strangers, pkg) && slices.Contains(strangers, to) && pkg != to {
				t.Errorf("%s imports %s: they do not know each other, engine joins them", pkg, to)
			}
		}
	}
}

// ours are the imports from this module, as paths within it.
func ours(imports []string) (paths []string) {
	for _, to := range imports {
		if path, ok := strings.CutPrefix(to, "rollcall/"); ok {
			paths = append(paths, path)
		}
	}
	return paths
}

// within reports whether an import stays in the importer's own room, and does not go up in it.
func within(pkg, to string) bool { return room(pkg) == room(to) && !strings.HasPrefix(pkg, to+"/") }
