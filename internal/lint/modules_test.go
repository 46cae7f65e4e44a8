package lint

import (
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// modules returns the directories with a go.mod.
func modules(t *testing.T) (dirs []string) {
	t.Helper()
	for _, file := range tracked(t) {
		if path.Base(file) == "go.mod" {
			dirs = append(dirs, path.Dir(file))
		}
	}
	return dirs
}

func run(t *testing.T, dir, name string, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Join(root, dir)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

func TestModulesAreTidy(t *testing.T) {
	for _, dir := range modules(t) {
		if out, err := run(t, dir, "go", "mod", "tidy", "-diff"); err != nil {
			t.Errorf("go.mod of %s is not tidy: run `go mod tidy` in it and commit what it changes\n%s", dir, out)
		}
	}
}

// linked returns one line of `go list` for each package that the binary is built from.
func linked(t *testing.T, format string) []string {
	t.Helper()
	out, err := run(t, ".", "go", "list", "-deps", "-f", format, "./cmd/rollcall")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Fields(out)
	slices.Sort(lines)
	return slices.Compact(lines)
}

func TestNoticeNamesWhatIsLinked(t *testing.T) {
	named := strings.Fields(string(read(t, "NOTICE")))
	for _, module := range linked(t, "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}") {
		if !slices.Contains(named, module) {
			t.Errorf("the binary has %s in it and NOTICE does not say so: add it below its licence, "+
				"with its copyright lines and what its own NOTICE asks for", module)
		}
	}
}

func TestDockerIgnoreLetsSourcesThrough(t *testing.T) {
	through := strings.Fields(string(read(t, ".dockerignore")))
	for _, pkg := range linked(t, "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}") {
		dir := strings.Split(strings.TrimPrefix(pkg, "rollcall/"), "/")[0]
		if !slices.Contains(through, "!"+dir) {
			t.Errorf(".dockerignore keeps %s from the build of the image: add !%s", pkg, dir)
		}
	}
}
