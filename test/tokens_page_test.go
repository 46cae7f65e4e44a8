package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/token"
)

// TestTokensPage runs the programs of docs/tokens.md, and checks the tokens that they print by the
// server's own code: of a few contacts, of none, and of more than a token may name. A language that
// is not installed is left out, also where nothing else is: the gate need not have all of them.
func TestTokensPage(t *testing.T) {
	t.Parallel()
	programs := pagePrograms(t, "../docs/tokens.md")
	languages := []string{"go", "js", "python", "php", "ruby", "java", "csharp", "elixir"}
	if len(programs) != len(languages) {
		t.Fatalf("docs/tokens.md has %d programs, want one in each of %v", len(programs), languages)
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			text := programs[language+" mint"]
			if text == "" {
				t.Fatal("docs/tokens.md has none")
			}
			mint := mintProgram(t, language, text)
			for _, n := range []int{0, 2, 200, 250} {
				user, contacts := uuid.New(), make([]uuid.UUID, n)
				var names []string
				for i := range contacts {
					contacts[i] = uuid.New()
					names = append(names, contacts[i].String())
				}
				cmd := exec.Command(mint[0], mint[1:]...)
				cmd.Env = append(os.Environ(), signingKeyEnv+"="+signingKey, "USER_ID="+user.String(),
					"CONTACTS="+strings.Join(names, " "))
				var errs strings.Builder
				cmd.Stderr = &errs
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%d contacts: %v\n%s", n, err, errs.String())
				}
				checkMinted(t, strings.TrimSpace(string(out)), user, contacts)
			}
		})
	}
}

func checkMinted(t *testing.T, text string, user uuid.UUID, contacts []uuid.UUID) {
	t.Helper()
	n := len(contacts)
	grant, err := token.Keys{signingKey}.Grant([]byte(text), "presence:read", "presence:read:any",
		time.Now())
	if err != nil {
		t.Fatalf("%d contacts: %v: %s", n, err, text)
	}
	if left := time.Until(time.UnixMilli(int64(grant.ExpMS))); left < 5*time.Minute ||
		left > 16*time.Minute {
		t.Errorf("%d contacts: the token ends in %v", n, left)
	}
	if grant.Any() || !grant.Is(user) || token.ID([]byte(text)) == "" {
		t.Errorf("%d contacts: the token is not the user's, or has no id, or is for all", n)
	}
	all := append([]uuid.UUID{user}, contacts...)
	if n > token.MaxUserIDs {
		all = contacts // the digest is that of the list itself
	}
	if !grant.Covers(all) || n > 0 && n <= token.MaxUserIDs && !grant.Covers(contacts[:1]) ||
		grant.Covers(append(all, uuid.New())) {
		t.Errorf("%d contacts: the token covers other users", n)
	}
}

// mintProgram makes a program ready, and returns the command that runs it.
func mintProgram(t *testing.T, language, text string) []string {
	t.Helper()
	tool := map[string]string{"python": "python3", "js": "node"}[language]
	if tool == "" {
		tool = language
	}
	find := func(names ...string) bool {
		for _, name := range names {
			if _, err := exec.LookPath(name); err != nil {
				return false
			}
		}
		return true
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	build := func(name string, args ...string) {
		cmd := exec.Command(name, args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	switch {
	case language == "go":
		out := filepath.Join(dir, "program")
		build("go", "build", "-o", out, write("main.go", text))
		return []string{out}
	case language == "js":
		mint, err := os.ReadFile("../client/ts/build/mint.js")
		if err != nil {
			needs(t, "node and `make client-ts`: ", err)
		}
		write("mint.js", string(mint))
		write("package.json", `{"type":"module"}`)
		return []string{"node", write("program.js", text)}
	case language == "csharp" && find("dotnet"):
		write("Mint.cs", text)
		write("Mint.csproj", `<Project Sdk="Microsoft.NET.Sdk"><PropertyGroup>`+
			`<OutputType>Exe</OutputType><TargetFramework>net$(BundledNETCoreAppTargetFrameworkVersion)`+
			`</TargetFramework></PropertyGroup></Project>`)
		build("dotnet", "build", "-o", filepath.Join(dir, "out"), dir)
		return []string{"dotnet", filepath.Join(dir, "out", "Mint.dll")}
	case language == "csharp" && find("mcs", "mono"):
		out := filepath.Join(dir, "mint.exe")
		build("mcs", "-out:"+out, write("Mint.cs", text))
		return []string{"mono", out}
	case language == "csharp":
		t.Skip("C# is not installed: needs dotnet, or mcs and mono")
	case language == "java" && find("java", "javac"):
		build("javac", "-d", dir, write("Mint.java", text))
		return []string{"java", "-cp", dir, "Mint"}
	case !find(tool):
		t.Skipf("%s is not installed: needs %s", language, tool)
	}
	return []string{tool, write("Mint."+language, text)}
}
