package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"rollcall/internal/docblock"
)

const configurationPage = "../../docs/configuration.md"

// TestFlagsAreDocumented holds the tables of the flags in docs/configuration.md true.
// ROLLCALL_UPDATE=1 writes them.
func TestFlagsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(configurationPage)
	if err != nil {
		t.Fatal(err)
	}
	want, err := docblock.Replace(string(page), "flags", "\n"+flagTables(t))
	if err != nil {
		t.Fatal(err)
	}
	if want == string(page) {
		return
	}
	if os.Getenv("ROLLCALL_UPDATE") == "" {
		t.Fatal("docs/configuration.md does not say what the program does: run this test with " +
			"ROLLCALL_UPDATE=1 and look at the difference")
	}
	if err := os.WriteFile(configurationPage, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
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
				fmt.Fprintf(&b, "\n### %s\n\n| flag | environment | default | |\n"+
					"| --- | --- | --- | --- |\n", group)
			}
			env := ""
			if len(f.Envs) > 0 {
				env = "`" + f.Envs[0] + "`"
			}
			fmt.Fprintf(&b, "| `--%s` | %s | %s | %s |\n", f.Name, env, defaultText(f),
				strings.ReplaceAll(helpText(f), "|", "\\|"))
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
