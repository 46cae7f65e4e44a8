package check

import (
	"bytes"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"rollcall/internal/testlog"
	"rollcall/internal/testproc"
)

// stages parses the Dockerfile as BuildKit does. What BuildKit would warn of fails the test.
func stages(t *testing.T) (build, final instructions.Stage) {
	t.Helper()
	ast, err := parser.Parse(bytes.NewReader(read(t, "Dockerfile")))
	if err != nil {
		t.Fatal(err)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, description, url, message string,
		_ []parser.Range) {
		t.Errorf("Dockerfile: %s: %s (%s)", rule, message, url)
	}})
	all, _, err := instructions.Parse(ast.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ast.Warnings {
		t.Errorf("Dockerfile: %s", w.Short)
	}
	if len(all) != 2 || all[0].Name != "build" || all[1].BaseName != "scratch" {
		t.Fatal("want a stage named build and an empty final one")
	}
	return all[0], all[1]
}

func of[T instructions.Command](s instructions.Stage) (all []T) {
	for _, c := range s.Commands {
		if c, ok := c.(T); ok {
			all = append(all, c)
		}
	}
	return all
}

// TestDockerfile: the image runs without rights, begins with its program, and knows where
// everything is.
func TestDockerfile(t *testing.T) {
	_, final := stages(t)
	users := of[*instructions.UserCommand](final)
	if len(users) != 1 || !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(users[0].User) {
		t.Error("USER must be numbers other than 0: Kubernetes cannot tell from a name that it is not root")
	}
	copied := map[string]bool{}
	for _, c := range of[*instructions.CopyCommand](final) {
		if c.From != "build" {
			t.Errorf("%s does not come from the build stage", c.DestPath)
		}
		copied[c.DestPath] = true
	}
	if entry := of[*instructions.EntrypointCommand](final); len(entry) != 1 ||
		entry[0].PrependShell || !copied[entry[0].CmdLine[0]] {
		t.Error("ENTRYPOINT must be a copied file without a shell, which the image does not have")
	}
	for _, v := range of[*instructions.VolumeCommand](final) {
		for _, dir := range v.Volumes {
			if !copied[dir] {
				t.Errorf("the volume %s would begin as root's", dir)
			}
		}
	}
}

// TestImageRuns follows the build stage by hand, with the files that .dockerignore lets through,
// and runs the result as the final stage says: alone in an empty root, as its user, with its
// environment. Only the pulling of base images is left to a real build.
func TestImageRuns(t *testing.T) {
	if os.Getenv("ROLLCALL_NO_SKIP") == "" {
		t.Skip("builds everything once more without cgo; set ROLLCALL_NO_SKIP=1")
	}
	if os.Getuid() != 0 {
		skip(t, "chroot needs root")
	}
	build, final := stages(t)
	src, out := t.TempDir(), t.TempDir()
	copyContext(t, src)
	env := append(os.Environ(), "GOFLAGS=-buildvcs=false")
	for _, a := range of[*instructions.ArgCommand](build) {
		for _, arg := range a.Args {
			env = append(env, arg.Key+"="+arg.ValueString())
		}
	}
	for _, r := range of[*instructions.RunCommand](build) {
		cmd := exec.Command("bash", "-c", strings.ReplaceAll(strings.Join(r.CmdLine, " "), "/out", out))
		cmd.Dir, cmd.Env = src, env
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("RUN %s: %v\n%s", r.CmdLine, err, text)
		}
	}
	runInEmptyRoot(t, final, out)
}

// copyContext copies what a build would be sent.
func copyContext(t *testing.T, to string) {
	t.Helper()
	patterns, err := ignorefile.ReadAll(bytes.NewReader(read(t, ".dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "node_modules", "data", "bin"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if out, err := ignored.MatchesOrParentMatches(name); err != nil || out ||
			!d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(to, filepath.Dir(name)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

var servingLine = regexp.MustCompile(`msg=serving .*admin=(\S+)`)

func runInEmptyRoot(t *testing.T, final instructions.Stage, out string) {
	t.Helper()
	image := t.TempDir()
	uid, err := strconv.Atoi(strings.Split(of[*instructions.UserCommand](final)[0].User, ":")[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range of[*instructions.CopyCommand](final) {
		to := filepath.Join(image, c.DestPath)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(strings.Replace(c.SourcePaths[0], "/out", out, 1), to); err != nil {
			t.Fatal(err)
		}
		if c.Chown != "" {
			if err := os.Chown(to, uid, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	for dir := image; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755) // the test's own directories are closed to others
	}
	entry, args := of[*instructions.EntrypointCommand](final)[0].CmdLine[0],
		of[*instructions.CmdCommand](final)[0].CmdLine
	cmd := exec.Command(entry, args...)
	cmd.Path = entry // inside the new root
	cmd.Err = nil
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: image,
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	cmd.Env = []string{"PRESENCE_DO_INGEST_TOKEN=ingest-token-of-the-check-of-the-image"}
	for _, e := range of[*instructions.EnvCommand](final) {
		for _, kv := range e.Env {
			cmd.Env = append(cmd.Env, kv.Key+"="+regexp.MustCompile(`^0\.0\.0\.0:\d+$`).ReplaceAllString(kv.Value, "127.0.0.1:0"))
		}
	}
	var logs testlog.Output
	server := testproc.Start(t, cmd, &logs)
	admin := server.Await(t, servingLine)[1]
	resp, err := http.Get("http://" + admin + "/readyz")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("/readyz: %v %v", resp, err)
	}
	resp.Body.Close()
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-server.Exited:
		if server.Err != nil {
			t.Errorf("after SIGTERM: %v\n%s", server.Err, &logs)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("did not obey SIGTERM within the stop time of 30 s\n%s", &logs)
	}
}
