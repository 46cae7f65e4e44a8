package lint

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// tracked returns the paths of the files that git has, or would take, below the root.
func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("needs git and a checkout: %v", err)
	}
	var paths []string
	for path := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		// else it was removed, and not yet for git
		if _, err := os.Lstat(filepath.Join(root, path)); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// inRoot is what may lie in the root. A new name goes in here together with its reason in
// CONTRIBUTING.md.
var inRoot = []string{
	".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "LICENSE",
	"Makefile", "NOTICE", "README.md", "SECURITY.md", "go.mod", "go.sum",
	"bench", "checkpoint", "client", "cluster", "cmd", "cursor", "datadir", "deploy", "docs", "engine",
	"feed", "internal", "jslog", "loadgen", "record", "server", "test", "token", "wal", "wire",
}

func TestNothingStrayInRoot(t *testing.T) {
	seen := map[string]bool{}
	for _, path := range tracked(t) {
		name, _, _ := strings.Cut(path, "/")
		if !slices.Contains(inRoot, name) && !seen[name] {
			t.Errorf("%s does not belong into the root: remove it, or move it to where its reader looks for it", name)
		}
		seen[name] = true
	}
}

// notText are the files that are not text: pictures, and data directories that an old version
// wrote.
var notText = []string{".png", ".gz"}

func TestNothingBinary(t *testing.T) {
	for _, path := range tracked(t) {
		if slices.Contains(notText, filepath.Ext(path)) {
			continue
		}
		if text := read(t, path); bytes.IndexByte(text, 0) >= 0 {
			t.Errorf("%s is binary: remove it, and ignore it in .gitignore if a tool makes it", path)
		}
	}
}

// marks are lines that no file may have, with the remedy.
var marks = []struct {
	files  *regexp.Regexp
	line   *regexp.Regexp
	remedy string
}{
	{regexp.MustCompile(``), regexp.MustCompile(`(?m)^(<<<<<<<|>>>>>>>|\|\|\|\|\|\|\|) .*`),
		"a merge left a conflict: keep what is right and delete the marker"},
	{regexp.MustCompile(`\.(go|md|ts|yaml|sh)$`), regexp.MustCompile(`(?m).*\b(TO` + `DO|FIX` + `ME|XX` + `X)\b.*`),
		"it is left for later: do it, or say in the text what holds today"},
	{regexp.MustCompile(`\.(go|md|ya?ml|ts|js|html)$`),
		regexp.MustCompile(`(?m).*\b(?i:no` + `body|who` + `ever|some` + `body|any` + `body|every` + `body|is ` + `told of)\b.*`),
		"the thing has a name: say what acts, and what it acts on"},
	{regexp.MustCompile(``), regexp.MustCompile(`(?m)^.*(^|[\s"'=(])/(work|farm|root)/[a-z.].*`),
		"a path of one machine: name it relative to the repository"},
}

func TestNoMarks(t *testing.T) {
	for _, path := range tracked(t) {
		if slices.Contains(notText, filepath.Ext(path)) {
			continue
		}
		text := read(t, path)
		for _, m := range marks {
			if !m.files.MatchString(path) {
				continue
			}
			if line := m.line.Find(text); line != nil {
				t.Errorf("%s: %q: %s", path, bytes.TrimSpace(line), m.remedy)
			}
		}
	}
}
