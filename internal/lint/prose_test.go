package lint

import (
	"go/scanner"
	"go/token"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// columns is where a line ends at the latest; a tab counts as tabWidth.
const (
	columns  = 100
	tabWidth = 4
)

func width(line string) int {
	return utf8.RuneCountInString(line) + (tabWidth-1)*strings.Count(line, "\t")
}

func TestColumns(t *testing.T) {
	for _, file := range tracked(t) {
		var long []int
		switch path.Ext(file) {
		case ".go":
			long = longGo(read(t, file))
		case ".md":
			long = longMarkdown(string(read(t, file)))
		}
		if len(long) > 0 {
			t.Errorf("%s: lines %v pass column %d: wrap them", file, long, columns)
		}
	}
}

// pictured is a line of a picture or a table in a comment.
var pictured = regexp.MustCompile(`^\t*//\t`)

// longGo returns the numbers of the lines that are too long. What a line owes to string literals
// does not count, since a text that is split cannot be searched for; nor do addresses, directives
// and pictures.
func longGo(source []byte) (long []int) {
	inText := map[int]int{} // columns that literals take, by line
	var s scanner.Scanner
	set := token.NewFileSet()
	file := set.AddFile("", set.Base(), len(source))
	s.Init(file, source, nil, 0)
	for {
		pos, t, text := s.Scan()
		if t == token.EOF {
			break
		}
		if t == token.STRING {
			for i, part := range strings.Split(text, "\n") {
				inText[file.Line(pos)+i] += width(part)
			}
		}
	}
	for i, line := range strings.Split(string(source), "\n") {
		exempt := strings.Contains(line, "://") || strings.HasPrefix(line, "//go:") || pictured.MatchString(line)
		if width(line)-inText[i+1] > columns && !exempt {
			long = append(long, i+1)
		}
	}
	return long
}

// unwrapped are lines of Markdown that cannot be wrapped: tables, headings, pictures, and a link or
// a path that is the line's only word.
var unwrapped = regexp.MustCompile(`^\s*(\||#|!\[|[-*>]?\s*\S+$)|<!-- |\]\(|://`)

// longMarkdown returns the numbers of the lines that are too long.
func longMarkdown(text string) (long []int) {
	fenced := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if width(line) > columns && !fenced && !unwrapped.MatchString(line) {
			long = append(long, i+1)
		}
	}
	return long
}

func TestLongLines(t *testing.T) {
	word := strings.Repeat("word ", 25)
	for source, want := range map[string]int{
		"package p\n\n// " + word:                                   1,
		"package p\n\nvar a = \"" + word + "\"":                     0,
		"package p\n\nvar a = `\n" + word + "\n`":                   0,
		"package p\n\n// https://example.com/" + word:               0,
		"package p\n\n\t\t\t\t\t// " + word[:80]:                    1,
		"package p\n\n//go:generate " + word:                        0,
		"package p\n\nvar a = f(" + strings.Repeat("1, ", 40) + ")": 1,
	} {
		if got := longGo([]byte(source)); len(got) != want {
			t.Errorf("%q: lines %v, want %d", source, got, want)
		}
	}
	for text, want := range map[string]int{
		word:                       1,
		"| " + word + "|":          0,
		"```\n" + word + "\n```\n": 0,
		"# " + word:                0,
		"- [a](b.md) " + word:      0,
		"```\n```\n" + word:        1,
	} {
		if got := longMarkdown(text); len(got) != want {
			t.Errorf("%q: lines %v, want %d", text, got, want)
		}
	}
}
