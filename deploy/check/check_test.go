package check

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the repository.
const root = "../.."

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// skip leaves the test out, or fails it where nothing may be left out.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("ROLLCALL_NO_SKIP") != "" {
		t.Fatal("with ROLLCALL_NO_SKIP nothing is left out: ", why)
	}
	t.Skip(why)
}

// tool runs an installed program and wants exit status 0.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		skip(t, err.Error())
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// scratch writes a file into a new directory and returns its path.
func scratch(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
