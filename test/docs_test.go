package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rollcall/internal/testport"
	"rollcall/internal/testwait"
)

// The documents' commands are run as they are printed. CONTRIBUTING.md tells writers of the
// convention: a fence's language says what happens to it here, and a language that is not in this
// list fails the test.
//
//	sh              run, in order, in one shell for each document; must succeed
//	sh background   the same, left running until the document's end: servers, streams
//	output          what the sh block above prints; … stands for anything, on a line of its own for any lines
//	console         not run, since it needs more than a shell and a server; its flags and make targets must exist
//	the others      shown; must not hold commands
//
// `needs=TOOL` behind sh leaves the block out where the tool is not installed; ROLLCALL_NO_SKIP=1
// makes that a failure.

// shown are the languages of fences that hold no commands. A fence without a language is a picture.
var shown = []string{"", "text", "json", "yaml", "ini", "go", "ts", "js", "html", "sse", "promql", "nginx", "haproxy", "caddy", "http"}

// command is how a line begins that a reader would paste into a shell.
var command = regexp.MustCompile(`(?m)^\s*(\$ |(cd|export|curl|make|go (test|run|build|install)|(\S*/)?rollcall (serve|token|load|inspect|backup)|promtool|systemctl|kubectl|docker|npm|git) )`)

// atLeisure lets a test run beside the others that mostly wait, and leaves it out of short runs:
// those are made for the race detector, which sees nothing of the built binary.
func atLeisure(t *testing.T) {
	if testing.Short() {
		t.Skip("drives the built binary only")
	}
	t.Parallel()
}

// fence is one fenced block of a document.
type fence struct {
	line     int
	language string
	words    []string // the rest of the info string
	text     string
}

// wholeProgram is the language of what TestClientsPage and TestTokensPage run: fences with one of
// the words.
const wholeProgram = "program"

var wholePrograms = []string{"daemon", "gateway", "watch", "list", "query", "mint", "hook"}

func (f fence) has(word string) bool { return slices.Contains(f.words, word) }

// documents returns what is tested: the pages for users, not those of a package.
func documents(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal("no documents: ", err)
	}
	return append(pages, "../README.md", "../CONTRIBUTING.md")
}

var opening = regexp.MustCompile("^( *)```(.*)$")

func fences(t *testing.T, page string) (all []fence) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	open, indent := false, ""
	for i, line := range strings.Split(string(text), "\n") {
		m := opening.FindStringSubmatch(line)
		switch {
		case !open && m != nil:
			words := strings.Fields(m[2] + " ")
			f := fence{line: i + 1}
			if len(words) > 0 {
				f.language, f.words = words[0], words[1:]
			}
			if slices.ContainsFunc(wholePrograms, f.has) {
				f.language = wholeProgram
			}
			all, open, indent = append(all, f), true, m[1]
		case open && m != nil && m[2] == "":
			open = false
		case open:
			all[len(all)-1].text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	if open {
		t.Fatalf("%s:%d: the fence is not closed", page, all[len(all)-1].line)
	}
	return all
}

// TestDocuments runs the commands of all documents and compares what they print.
func TestDocuments(t *testing.T) {
	atLeisure(t)
	for _, page := range documents(t) {
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			blocks := fences(t, page)
			checkFences(t, page, blocks)
			if slices.ContainsFunc(blocks, func(f fence) bool { return f.language == "sh" }) {
				runDocument(t, page, blocks)
			}
		})
	}
}

func checkFences(t *testing.T, page string, blocks []fence) {
	for i, f := range blocks {
		switch at := fmt.Sprintf("%s:%d", page, f.line); {
		case f.language == "sh":
			for _, w := range f.words {
				if w != "background" && !strings.HasPrefix(w, "needs=") {
					t.Errorf("%s: sh has no option %q", at, w)
				}
			}
		case f.language == wholeProgram:
		case f.language == "output":
			if i == 0 || blocks[i-1].language != "sh" {
				t.Errorf("%s: output must stand right under the sh block that prints it", at)
			}
		case f.language == "console":
			checkConsole(t, at, f.text)
		case !slices.Contains(shown, f.language):
			t.Errorf("%s: unknown fence language %q: see the convention in CONTRIBUTING.md", at, f.language)
		default:
			if c := command.FindString(f.text); c != "" {
				t.Errorf("%s: %q… looks like a command: make it sh, so that it is tested, or console", at, strings.TrimSpace(c))
			}
		}
	}
}

var (
	rollcallCall = regexp.MustCompile(`(?m)(?:^|[;&|(])\s*(?:\S*/)?rollcall ([a-z]+)([^|;&>#)\n]*)`)
	longFlag     = regexp.MustCompile(`\s--([a-z-]+)`)
	makeCall     = regexp.MustCompile(`(?m)(?:^|[\s;&])make ((?:[a-z-]+ ?)+)`)
)

// checkConsole: commands that cannot be run here name flags and targets that exist.
func checkConsole(t *testing.T, at, text string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	for _, call := range rollcallCall.FindAllStringSubmatch(text, -1) {
		help, err := exec.Command(binary, call[1], "--help").Output()
		if err != nil {
			t.Errorf("%s: rollcall %s: %v", at, call[1], err)
		}
		if call[1] == "load" { // whose flags are those of the command that it stands for
			more, _ := exec.Command(binary, "load", "run", "--help").Output()
			help = append(help, more...)
		}
		for _, flag := range longFlag.FindAllStringSubmatch(call[2], -1) {
			if !regexp.MustCompile(`--(\[no-\])?` + flag[1] + `\b`).Match(help) {
				t.Errorf("%s: rollcall %s has no --%s", at, call[1], flag[1])
			}
		}
	}
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range makeCall.FindAllStringSubmatch(text, -1) {
		for _, target := range strings.Fields(call[1]) {
			if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
				t.Errorf("%s: the Makefile has no target %s", at, target)
			}
		}
	}
}

// runDocument runs the sh blocks in one shell, in a directory that looks like a checkout in which
// `make build` was run. A document that starts a server itself gets ports and directories of its
// own in the place of those that it prints; others get a server.
func runDocument(t *testing.T, page string, blocks []fence) {
	term := newTerminal(t, slices.ContainsFunc(blocks, func(f fence) bool { return f.starts("serve") }))
	run, left := 0, 0
	for i, f := range blocks {
		if f.language != "sh" {
			continue
		}
		if tool := missingTool(f); tool != "" {
			if os.Getenv("ROLLCALL_NO_SKIP") != "" {
				t.Fatalf("%s:%d: needs %s, and with ROLLCALL_NO_SKIP nothing is left out", page, f.line, tool)
			}
			t.Logf("%s:%d: not run: %s is not installed", page, f.line, tool)
			left++
			continue
		}
		want := ""
		if i+1 < len(blocks) && blocks[i+1].language == "output" {
			want = blocks[i+1].text
		}
		term.run(fmt.Sprintf("%s:%d", page, f.line), f, want)
		run++
	}
	t.Logf("%s: %d blocks run, %d left out", page, run, left)
}

// starts tells whether the block leaves a `rollcall` of this command running.
func (f fence) starts(cmd string) bool {
	return f.language == "sh" && f.has("background") && strings.Contains(f.text, "rollcall "+cmd)
}

func missingTool(f fence) string {
	for _, w := range f.words {
		if tool, ok := strings.CutPrefix(w, "needs="); ok {
			if _, err := exec.LookPath(tool); err != nil {
				return tool
			}
		}
	}
	return ""
}

// terminal is a bash that reads one block after the other.
type terminal struct {
	t       *testing.T
	dir     string
	replace *strings.Replacer
	in      *os.File
	exited  chan struct{}
	blocks  int
}

func newTerminal(t *testing.T, ownServer bool) *terminal {
	t.Helper()
	s := &terminal{t: t, dir: t.TempDir(), exited: make(chan struct{})}
	s.checkout()
	listen, admin := "", ""
	if ownServer {
		listen, admin = testport.Address(t), testport.Address(t)
	} else {
		r := startServer(t)
		listen, admin = r.addr, r.admin
	}
	s.replace = strings.NewReplacer(":8787", port(listen), ":8788", port(admin),
		"/var/lib/rollcall", s.dir+"/var", "/etc/rollcall", s.dir+"/etc")
	cmd := exec.Command("bash")
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + s.dir + "/bin:" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + s.dir}
	if ownServer {
		cmd.Env = append(cmd.Env, "ROLLCALL_LISTEN="+listen, "ROLLCALL_ADMIN_LISTEN="+admin, "ROLLCALL_DATA_DIR="+s.dir+"/data")
	} else {
		cmd.Env = append(cmd.Env, ingestTokenEnv+"="+ingestToken, signingKeyEnv+"="+signingKey)
	}
	// so that what it left in the background can be stopped with it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.in, cmd.Stdin = out, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	go func() { cmd.Wait(); close(s.exited) }()
	t.Cleanup(func() {
		s.in.Close()
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-s.exited
	})
	return s
}

// checkout fills the directory with the files that commands name, and the binary where `make build`
// puts it.
func (s *terminal) checkout() {
	s.t.Helper()
	repo, err := filepath.Abs("..")
	if err != nil {
		s.t.Fatal(err)
	}
	links := map[string]string{"bin/rollcall": binary}
	for _, name := range []string{"deploy", "docs", "client", "Makefile"} {
		links[name] = filepath.Join(repo, name)
	}
	for _, dir := range []string{"bin", "etc"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(s.dir, name)); err != nil {
			s.t.Fatal(err)
		}
	}
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":"):] }

// run gives the shell one block and waits for its end; of a block in the background, for what it is
// to print.
func (s *terminal) run(at string, f fence, want string) {
	s.t.Helper()
	s.blocks++
	name := filepath.Join(s.dir, fmt.Sprintf("%d", s.blocks))
	if err := os.WriteFile(name+".sh", []byte(s.replace.Replace(f.text)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	printed := func() (out, err string) {
		o, _ := os.ReadFile(name + ".out")
		e, _ := os.ReadFile(name + ".err")
		return string(o), string(e)
	}
	pattern := outputPattern(s.replace.Replace(want), f.has("background"))
	line, done := ". %[1]s.sh >%[1]s.out 2>%[1]s.err && echo >%[1]s.done || exit\n", func() bool {
		_, err := os.Stat(name + ".done")
		return err == nil
	}
	if f.has("background") {
		line, done = ". %[1]s.sh >%[1]s.out 2>%[1]s.err &\n", func() bool {
			out, err := printed()
			return (want == "" || pattern.MatchString(out)) &&
				(!f.starts("serve") || strings.Contains(err, "serving"))
		}
	}
	if _, err := fmt.Fprintf(s.in, "set -e; "+line, name); err != nil {
		s.t.Fatalf("%s: the shell is gone: %v", at, err)
	}
	if !s.wait(done) {
		out, err := printed()
		s.t.Fatalf("%s: failed, or did not end within %v:\n%s\nstdout:\n%s\nstderr:\n%s\nwanted:\n%s", at, testwait.Limit, f.text, out, err, want)
	}
	if out, err := printed(); want != "" && !f.has("background") && !pattern.MatchString(out) &&
		!pattern.MatchString(err) {
		s.t.Errorf("%s: printed\n%s%s\nthe document says\n%s", at, out, err, want)
	}
}

// wait returns whether done became true before the shell ended or testwait.Limit did.
func (s *terminal) wait(done func() bool) bool {
	late := time.After(testwait.Limit)
	for !done() {
		select {
		case <-s.exited:
			return done()
		case <-late:
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}

var longNumber = regexp.MustCompile(`\d{10,}`)

// outputPattern matches what a document shows: … is anything on its line, a line of it any lines,
// and times differ. A block in the background may have printed more around it.
func outputPattern(want string, part bool) *regexp.Regexp {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(want), "\n") {
		if strings.TrimSpace(line) == "…" {
			b.WriteString(`(?:.*\n)*?`)
			continue
		}
		q := regexp.QuoteMeta(strings.TrimRight(line, " "))
		q = longNumber.ReplaceAllString(q, `\d{10,}`)
		b.WriteString(strings.ReplaceAll(q, "…", ".*?") + ` *\r?(?:\n|\z)`)
	}
	if part {
		return regexp.MustCompile(b.String())
	}
	return regexp.MustCompile(`\A\s*` + b.String() + `\s*\z`)
}

// TestOutputPattern: the comparison itself tells right from wrong.
func TestOutputPattern(t *testing.T) {
	for _, c := range []struct {
		want, got string
		same      bool
	}{
		{"a 1739030400000 b\n", "a 1795382132000 b\n", true},
		{"a 17 b\n", "a 18 b\n", false},
		{"a … b\n", "a whatever b\n", true},
		{"a … b\n", "a what\never b\n", false},
		{"a\n…\nb\n", "a\n1\n2\nb\n", true},
		{"a\n…\nb\n", "a\nb\n", true},
		{"a\nb\n", "a\nb\nc\n", false},
		{"HTTP/1.1 204 No Content\n", "HTTP/1.1 204 No Content\r\n", true},
		{"a.c\n", "abc\n", false},
		{"a\n", "a", true},
		{"a\nb\n", "ab", false},
	} {
		if same := outputPattern(c.want, false).MatchString(c.got); same != c.same {
			t.Errorf("%q and %q: %v", c.want, c.got, same)
		}
	}
	if !outputPattern("b\n", true).MatchString("a\nb\nc\n") {
		t.Error("a part is not found")
	}
}

// TestQuickStart: the lines that `make run` prints work when they are pasted, and what the README
// shows comes.
func TestQuickStart(t *testing.T) {
	atLeisure(t)
	s := newTerminal(t, true)
	s.run("make run", fence{language: "sh", words: []string{"background"}, text: "rollcall serve --dev\n"}, "…\nCtrl-C stops the server.\n")
	printed, err := os.ReadFile(filepath.Join(s.dir, "1.out"))
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^curl (?:.*\\\n)*.*\n`).FindAllString(string(printed), -1)
	send := slices.IndexFunc(lines,
		func(l string) bool { return strings.Contains(l, heartbeatPath) })
	follow := slices.IndexFunc(lines,
		func(l string) bool { return strings.Contains(l, streamPath) })
	if send < 0 || follow < 0 {
		t.Fatalf("there must be a command to send a heartbeat and one to follow:\n%s", printed)
	}
	shows := ""
	for _, f := range fences(t, "../README.md") {
		if strings.Contains(f.text, `"source":"curl"`) && strings.HasPrefix(f.text, "data: ") {
			shows = f.text
		}
	}
	if !strings.Contains(shows, `"status":"online"`) || !strings.Contains(shows, `"status":"offline"`) {
		t.Fatalf("the README does not show a device come and go:\n%s", shows)
	}
	// The stream is there before the heartbeat, so that it gets both events however slow the
	// machine is.
	s.run("follow", fence{language: "sh", words: []string{"background"}, text: lines[follow]}, "")
	following := `until curl -s http://127.0.0.1:8788/metrics | grep -q '^rollcall_streams 1$'; do sleep 0.05; done`
	s.run("wait", fence{language: "sh", text: following}, "")
	s.run("send", fence{language: "sh", text: lines[send]}, "HTTP/1.1 204 No Content\n…\n")
	pattern, followed := outputPattern(shows, true), filepath.Join(s.dir, "2.out")
	if !s.wait(func() bool { got, _ := os.ReadFile(followed); return pattern.Match(got) }) {
		got, _ := os.ReadFile(followed)
		t.Errorf("the stream showed\n%s\nthe README shows\n%s", got, shows)
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)

// TestDocumentsLinks: a link within the project leads somewhere.
func TestDocumentsLinks(t *testing.T) {
	for _, page := range append(documents(t), "../CHANGELOG.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %s: %v", page, m[0], err)
			}
		}
	}
}
