package lint

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named is a path of this repository in a text: a file by its ending, or a directory by its slash.
var named = regexp.MustCompile("(?:^|[\\s`('\"\\[:])(" +
	`(?:\.ci|bench|checkpoint|client|cmd|datadir|deploy|docs|engine|feed|internal|loadgen|record|server|test|token|wal|wire)` +
	`/(?:[\w-]+/)*(?:[\w.-]+\.(?:go|md|ya?ml|json|ts|js|svg|png|txt|service|conf|cfg))?)` + "(?:$|[\\s`)'\",.:;\\]])")

// made are directories and files that a build or a measurement makes.
var made = regexp.MustCompile(`^(client/ts/(dist|build)/|bench/results/)`)

// TestPathsExist: a file or a directory that a document or a comment names is there.
func TestPathsExist(t *testing.T) {
	for _, file := range tracked(t) {
		text := ""
		switch path.Ext(file) {
		case ".md", ".yaml", ".yml":
			text = string(read(t, file))
		case ".go":
			text = comments(t, file)
		}
		for line := range strings.Lines(text) {
			for _, name := range paths(line) {
				beside := path.Join(path.Dir(file), name)
				if !exists(name) && !exists(beside) && !made.MatchString(name) {
					t.Errorf("%s names %s, which is not there: name what took its place", file, name)
				}
			}
		}
	}
}

func exists(name string) bool {
	_, err := os.Stat(filepath.Join(root, name))
	return err == nil
}

func paths(line string) (names []string) {
	for _, m := range named.FindAllStringSubmatch(line, -1) {
		names = append(names, m[1])
	}
	return names
}

func TestPaths(t *testing.T) {
	for line, want := range map[string]string{
		"see `engine/doc.go`, then `wal/`.":         "engine/doc.go wal/",
		"(docs/api.md)":                             "docs/api.md",
		"https://example.com/docs/api.md and/or us": "",
		"wal/batch":                     "",
		"bench/results/short/table.txt": "bench/results/short/table.txt",
	} {
		if got := strings.Join(paths(line), " "); got != want {
			t.Errorf("%q names %q, want %q", line, got, want)
		}
	}
}

// testName is the name of a test, or how it begins, in a document.
var testName = regexp.MustCompile(`\bTest[A-Z]\w+`)

// testFunc is where a test begins.
var testFunc = regexp.MustCompile(`(?m)^func (Test[A-Z]\w+)\(`)

// TestTestsExist: a test that a document names is there. What stands behind -run may be the
// beginning of several.
func TestTestsExist(t *testing.T) {
	tests := ""
	for _, file := range tracked(t) {
		if strings.HasSuffix(file, "_test.go") {
			for _, m := range testFunc.FindAllStringSubmatch(string(read(t, file)), -1) {
				tests += "\n" + m[1]
			}
		}
	}
	for _, file := range tracked(t) {
		if path.Ext(file) != ".md" {
			continue
		}
		for _, name := range testName.FindAllString(string(read(t, file)), -1) {
			if !strings.Contains(tests, "\n"+name) {
				t.Errorf("%s names %s, which is not there: name what took its place", file, name)
			}
		}
	}
}
