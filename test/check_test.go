package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rollcall/internal/docblock"
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
	writeFile(t, keys, "KGVZ3Q-one-of-the-black-box-tests\nKGVZ3Q-two-of-the-black-box-tests\n")
	id := newIdentity(t, dir, "presence.example")
	data := filepath.Join(dir, "not", "there", "yet")
	out, problems, code := runCheck(t, []string{ingestTokenEnv + "=KGVZ3Q-of-the-black-box-tests!!", "ROLLCALL_SYNC=interval", "ENVIRONMENT=production"},
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
		if _, problems, code := runCheck(t, []string{ingestTokenEnv + "=" + ingestToken},
			append(flags, "--data-dir="+dir)...); code != 1 || problems == "" {
			t.Errorf("%v: exit %d %s", flags, code, problems)
		}
	}
	if _, problems, code := runCheck(t, nil, "--data-dir="+dir); code != 1 ||
		!strings.Contains(problems, ingestTokenEnv) {
		t.Errorf("without secrets: exit %d %s", code, problems)
	}
}

// TestCheckBesideARunningServer: its port and its directory are in use, and nothing of it is
// disturbed.
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

// namesBesideSegments lists a data directory without the log's segments: the server makes those
// whenever it wants one.
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

var memoryRow = regexp.MustCompile(`(?m)^  \d+ MiB, \d+ devices fit .*$`)

const configurationPage = "../docs/configuration.md"

// TestCheckIsDocumented holds what --check prints in docs/configuration.md true. ROLLCALL_UPDATE=1
// writes it.
func TestCheckIsDocumented(t *testing.T) {
	page, err := os.ReadFile(configurationPage)
	if err != nil {
		t.Fatal(err)
	}
	out, problems, code := runCheck(t, []string{
		ingestTokenEnv + "=" + ingestToken + "," + ingestToken + "2",
		signingKeyEnv + "=" + signingKey, "ROLLCALL_DATA_DIR=/var/lib/rollcall",
	}, "--listen=:8787")
	// the tester may not be allowed to write there
	if code != 0 && !strings.Contains(problems, "--data-dir") {
		t.Fatalf("exit %d: %s", code, problems)
	}
	// what is the machine's, the page has of a container
	out = memoryRow.ReplaceAllString(out, "  2048 MiB, 3971878 devices fit   the cgroup's limit")
	want, err := docblock.Replace(string(page), "check", "\n```\n"+out+"```\n")
	if err != nil {
		t.Fatal(err)
	}
	if want == string(page) {
		return
	}
	if os.Getenv("ROLLCALL_UPDATE") == "" {
		t.Fatal("docs/configuration.md does not say what the program does: run this test with ROLLCALL_UPDATE=1 and look at the difference")
	}
	writeFile(t, configurationPage, want)
}

// TestShortSecretsAreRefused: by a start and by --check, with the number of those that were read,
// since a comma makes two secrets of one; with --dev they are taken. Those that are only shorter
// than is recommended are counted.
func TestShortSecretsAreRefused(t *testing.T) {
	const short = "KGVZ3Q-15-bytes"
	dir := "--data-dir=" + t.TempDir()
	for name, c := range map[string]struct {
		env          []string
		flags        []string
		code         int
		says, counts string
	}{
		"a token":       {[]string{ingestTokenEnv + "=" + short}, nil, 1, "ingest token 1 of 1 has 15 bytes", "1 ingest token"},
		"a key":         {[]string{signingKeyEnv + "=" + short}, nil, 1, "signing key 1 of 1 has 15 bytes", "1 signing key"},
		"a comma in it": {[]string{signingKeyEnv + "=" + signingKey + "," + short}, nil, 1, "signing key 2 of 2 has 15 bytes", "2 signing keys"},
		"with --dev":    {[]string{signingKeyEnv + "=" + short}, []string{"--dev"}, 0, "", "1 signing key, 1 shorter than 32 bytes"},
		"16 bytes":      {[]string{signingKeyEnv + "=" + short + "!"}, nil, 0, "", "1 signing key, 1 shorter than 32 bytes"},
		"32 bytes":      {[]string{signingKeyEnv + "=" + short + short + "!!"}, nil, 0, "", "1 signing key "},
	} {
		out, problems, code := runCheck(t, c.env, append(c.flags, dir)...)
		if code != c.code || !strings.Contains(problems, c.says) ||
			!strings.Contains(out, c.counts) || strings.Contains(out+problems, "KGVZ3Q") {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, problems)
		}
		if c.code == 0 {
			continue
		}
		r := &rig{t: t, dir: t.TempDir(), env: c.env}
		started, err := r.command().CombinedOutput()
		if err == nil || !strings.Contains(string(started), c.says) ||
			strings.Contains(string(started), "KGVZ3Q") {
			t.Errorf("%s: the start: %v\n%s", name, err, started)
		}
	}
	r := &rig{t: t, dir: t.TempDir(), env: []string{signingKeyEnv + "=" + short + "!"}}
	r.start()
	if !strings.Contains(r.logs(), "signing_keys=1 short=1") {
		t.Errorf("no warning in\n%s", r.logs())
	}
}

// TestUnknownEnvironmentIsRefused: `prod` must not leave open what `production` closes.
func TestUnknownEnvironmentIsRefused(t *testing.T) {
	dir := "--data-dir=" + t.TempDir()
	for value, want := range map[string]int{
		"": 0, "production": 0, " Production ": 0, "staging": 0, "development": 0, "test": 0,
		"prod": 1, "live": 1,
	} {
		env := []string{ingestTokenEnv + "=" + ingestToken, "ENVIRONMENT=" + value}
		_, problems, code := runCheck(t, env, dir)
		if code != want || want == 1 && !strings.Contains(problems, "must be production, staging") {
			t.Errorf("%q: exit %d %s", value, code, problems)
		}
	}
	r := &rig{t: t, dir: t.TempDir(), env: append(slices.Clone(secretsEnv), "ENVIRONMENT=prod")}
	if out, err := r.command().CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "must be production") {
		t.Errorf("it started with ENVIRONMENT=prod: %v\n%s", err, out)
	}
}

// TestTokenCommandSaysHowManyKeys: a comma in a key makes two of it, and the first half signs.
func TestTokenCommandSaysHowManyKeys(t *testing.T) {
	for keys, want := range map[string]string{
		signingKey:             "",
		signingKey + ",second": "2 signing keys read from " + signingKeyEnv,
		"short":                "a server without --dev refuses fewer than 16",
	} {
		cmd := exec.Command(binary, "token", "--user", newBeat()["user_id"].(string))
		cmd.Env = []string{signingKeyEnv + "=" + keys}
		var problems bytes.Buffer
		cmd.Stderr = &problems
		out, err := cmd.Output()
		if err != nil || strings.Count(string(out), "\n") != 1 ||
			want == "" && problems.Len() > 0 || !strings.Contains(problems.String(), want) {
			t.Errorf("%q: %v %s\n%s", keys, err, out, &problems)
		}
	}
}
