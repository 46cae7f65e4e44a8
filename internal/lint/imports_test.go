package lint

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// mayImport says which packages of ours each package may import, besides internal/. The picture is
// in docs/architecture.md: cmd joins; server speaks HTTP; engine is a partition; the others are
// leaves that do not know each other. What lies below engine is joined there, what lies below
// server there.
var mayImport = map[string][]string{
	"wire":   {"record"},
	"record": {},
	"token":  {},
	"cursor": {},

	"engine":           {"cursor", "engine/broadcast", "engine/table", "engine/wheel", "record", "wire"},
	"engine/table":     {"record"},
	"engine/wheel":     {},
	"engine/broadcast": {},

	"wal":        {},
	"checkpoint": {},
	"datadir":    {"checkpoint", "wal"},
	"feed":       {},

	"jslog":             {},
	"jslog/jslogtest":   {"jslog"},
	"engine/enginetest": {"engine", "wire"},

	"cluster": {"cluster/bus", "cluster/embed", "cluster/forward", "cluster/members",
		"cluster/partition", "cluster/read", "cluster/transfer", "cluster/watch", "cursor",
		"engine", "engine/broadcast", "jslog", "record",
		"wire"},
	"cluster/bus":         {},
	"cluster/bus/bustest": {"cluster/bus"},
	"cluster/embed":       {"cluster/bus"},
	"cluster/forward":     {"cluster/bus", "engine", "record", "wire"},
	"cluster/members":     {},
	"cluster/partition":   {},
	"cluster/read":        {"cluster/bus", "engine", "engine/broadcast", "record", "wire"},
	"cluster/transfer":    {"cluster/bus", "engine"},
	"cluster/watch":       {"cluster/bus", "engine", "engine/broadcast", "record", "wire"},

	"server": {"cursor", "engine", "engine/broadcast", "server/admin", "server/conns", "server/reply",
		"token", "wire"},
	"server/admin":      {"engine", "server/admin/page", "server/conns", "server/reply", "token", "wire"},
	"server/admin/page": {},
	"server/conns":      {"server/reply"},
	"server/reply":      {"wire"},

	"loadgen": {"wire"},
	"client":  {},
	"cmd/rollcall": {"checkpoint", "cluster", "cluster/members", "cluster/partition",
		"cluster/transfer", "datadir", "engine", "engine/broadcast", "loadgen", "record", "server",
		"token", "wal", "wire"},
}

// closed are the rooms that no package outside of them imports but cmd, in its tests neither.
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
		allowed, known := mayImport[pkg]
		if !known && room(pkg) != "internal" {
			t.Errorf("%s is a package that mayImport does not have: add it there and to the picture in "+
				"docs/architecture.md", pkg)
		}
		for _, to := range ours(p.Imports) {
			if room(to) != "internal" && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s, which docs/architecture.md does not allow: declare the interface "+
					"that %[1]s needs in %[1]s, and join the two in cmd", pkg, to)
			}
		}
		for _, to := range slices.Concat(ours(p.TestImports), ours(p.XTestImports)) {
			if slices.Contains(closed, room(to)) && room(pkg) != room(to) && room(pkg) != "cmd" {
				t.Errorf("a test of %s imports %s, which only cmd may: move what it needs to a room of its own",
					pkg, to)
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
