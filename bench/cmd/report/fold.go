package main

import (
	"strings"
	"unicode/utf8"
)

// columns is where a line of prose ends at the latest.
const columns = 100

// fold wraps the paragraphs and the list items of a page. Tables, headings, pictures and fences
// stay as they are.
func fold(page string) string {
	var out, paragraph []string
	flush := func() {
		if len(paragraph) > 0 {
			out = append(out, wrap(strings.Join(paragraph, " "))...)
			paragraph = nil
		}
	}
	fenced := false
	for line := range strings.SplitSeq(page, "\n") {
		fence := strings.HasPrefix(line, "```")
		if fence {
			fenced = !fenced
		}
		if fence || fenced || line == "" || strings.ContainsAny(line[:1], "|#!") {
			flush()
			out = append(out, line)
			continue
		}
		if strings.HasPrefix(line, "- ") {
			flush()
		}
		paragraph = append(paragraph, strings.TrimSpace(line))
	}
	flush()
	return strings.Join(out, "\n")
}

// wrap breaks a paragraph; the lines behind the first of a list item are indented.
func wrap(text string) (lines []string) {
	indent := ""
	if strings.HasPrefix(text, "- ") {
		indent = "  "
	}
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns:
			lines = append(lines, line)
			line = indent + word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
