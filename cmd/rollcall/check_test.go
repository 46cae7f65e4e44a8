package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// runCheck runs `rollcall serve --check` and returns what it printed.
func runCheck(t *testing.T, env []string, flags ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"serve", "--check"}, flags...)...)
	cmd.Env = env
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), problems.String(), cmd.ProcessState.ExitCode()
}

// TestCheckSaysWhereEachValueComesFrom, and shows no secret.
func TestCheckSaysWhereEachValueComesFrom(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	writeFile(t, keys, "KGVZ3Q-one\nKGVZ3Q-two\n")
	id := newIdentity(t, dir, "presence.example")
	data := filepath.Join(dir, "not", "there", "yet")
	out, problems, code := runCheck(t, []string{ingestTokenEnv + "=KGVZ3Q", "ROLLCALL_SYNC=interval", "ENVIRONMENT=production"},
		"--signing-key-file="+keys, "--data-dir="+data, "--tls-cert="+id.cert, "--tls-key="+id.key)
	if code != 0 || problems != "" {
		t.Fatalf("exit %d: %s", code, problems)
	}
	for _, want := range [][]string{
		{"--data-dir=" + data, "command line"},
		{"--sync=interval", "ROLLCALL_SYNC"},
		{"--environment=production", "ENVIRONMENT"},
		{"--listen=127.0.0.1:8787", "default"},
		{"1 ingest token", ingestTokenEnv},
		{"2 signing keys", keys},
		{"certificate for presence.example, 127.0.0.1", id.cert},
	} {
		found := false
		for line := range strings.Lines(out) {
			line = strings.TrimSpace(line)
			found = found || strings.HasPrefix(line, want[0]) && strings.HasSuffix(line, want[1])
		}
		if !found {
			t.Errorf("no line with %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "KGVZ3Q") {
		t.Errorf("a secret is shown\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "not")); err == nil {
		t.Error("the data directory was made")
	}
}

// TestCheckFindsEveryProblem at once, without a start.
func TestCheckFindsEveryProblem(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	writeFile(t, file, "")
	_, problems, code := runCheck(t, []string{ingestTokenEnv + "=two words"}, "--listen=here", "--admin-listen=127.0.0.1:nothing",
		"--data-dir="+filepath.Join(file, "data"), "--segment-bytes=1", "--stream-backlog=2000000000", "--tls-cert="+file, "--tls-key="+file)
	for _, want := range []string{"--listen", "--admin-listen", "--data-dir", "segment of 1 bytes", "BacklogBytes", "--tls-cert", "ingest token 1"} {
		if !strings.Contains(problems, want) {
			t.Errorf("nothing of %s in\n%s", want, problems)
		}
	}
	if code != 1 || strings.Contains(problems, "two words") {
		t.Errorf("exit %d\n%s", code, problems)
	}
	for _, flags := range [][]string{{"--listen=:99", "--admin-listen=:99"}, {"--sync=maybe"}, {"--sync-interval=-1s"}, {"--nonsense"}} {
		if _, problems, code := runCheck(t, []string{ingestTokenEnv + "=x"}, append(flags, "--data-dir="+dir)...); code != 1 || problems == "" {
			t.Errorf("%v: exit %d %s", flags, code, problems)
		}
	}
	if _, problems, code := runCheck(t, nil, "--data-dir="+dir); code != 1 || !strings.Contains(problems, ingestTokenEnv) {
		t.Errorf("without secrets: exit %d %s", code, problems)
	}
}

// TestCheckBesideARunningServer: its port and its directory are in use, and nothing of it is disturbed.
func TestCheckBesideARunningServer(t *testing.T) {
	r := startServer(t)
	before := namesBesideSegments(t, r.dir)
	if _, problems, code := runCheck(t, r.env, "--listen="+r.addr, "--admin-listen="+r.admin, "--data-dir="+r.dir); code != 0 {
		t.Errorf("exit %d: %s", code, problems)
	}
	if after := namesBesideSegments(t, r.dir); !slices.Equal(before, after) {
		t.Errorf("the directory had %q, now %q", before, after)
	}
	r.mustBeat(newBeat())
	r.terminate()
}

// namesBesideSegments lists a data directory without the log's segments: the server makes those whenever it wants one.
func namesBesideSegments(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".wal" {
			names = append(names, e.Name())
		}
	}
	return names
}

const configurationPage = "../../docs/configuration.md"

// TestConfigurationIsDocumented holds the generated parts of docs/configuration.md true: the tables of the flags and what
// --check prints. ROLLCALL_UPDATE=1 writes them.
func TestConfigurationIsDocumented(t *testing.T) {
	text, err := os.ReadFile(configurationPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	page = replaceBlock(t, page, "flags", flagTables(t))
	out, problems, code := runCheck(t, []string{ingestTokenEnv + "=a,b", signingKeyEnv + "=c", "ROLLCALL_DATA_DIR=/var/lib/rollcall"}, "--listen=:8787")
	if code != 0 && !strings.Contains(problems, "--data-dir") { // the tester may not be allowed to write there
		t.Fatalf("exit %d: %s", code, problems)
	}
	page = replaceBlock(t, page, "check", "```\n"+out+"```\n")
	if page == string(text) {
		return
	}
	if os.Getenv("ROLLCALL_UPDATE") == "" {
		t.Fatal("docs/configuration.md does not say what the program does: run this test with ROLLCALL_UPDATE=1 and look at the difference")
	}
	writeFile(t, configurationPage, page)
}

// replaceBlock puts text between the page's two comments of this name.
func replaceBlock(t *testing.T, page, name, text string) string {
	t.Helper()
	open, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, ok := strings.Cut(page, open)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/configuration.md has no place for %s", name)
	}
	return before + open + text + end + after
}

// flagTables are the flags of serve as the program knows them, a table for each group.
func flagTables(t *testing.T) string {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("rollcall"), kong.DefaultEnvars("ROLLCALL"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	group := ""
	for _, command := range parser.Model.Children {
		if command.Name != "serve" {
			continue
		}
		for _, f := range command.Flags {
			title := "Other"
			if f.Group != nil {
				title = f.Group.Title
			}
			if title != group {
				group = title
				fmt.Fprintf(&b, "\n### %s\n\n| flag | environment | default | |\n| --- | --- | --- | --- |\n", group)
			}
			env := ""
			if len(f.Envs) > 0 {
				env = "`" + f.Envs[0] + "`"
			}
			fmt.Fprintf(&b, "| `--%s` | %s | %s | %s |\n", f.Name, env, defaultText(f), strings.ReplaceAll(helpText(f), "|", "\\|"))
		}
	}
	return b.String() + "\n"
}

func defaultText(f *kong.Flag) string {
	if !f.HasDefault {
		return ""
	}
	return "`" + f.Default + "`"
}

// helpText is the flag's help without the default, which has a column of its own.
func helpText(f *kong.Flag) string {
	return strings.NewReplacer(" ("+f.Default+").", ".", " (ENVIRONMENT).", ".").Replace(f.Help)
}
