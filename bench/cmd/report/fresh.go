package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/scanner"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// fresh reports why the results may not be published: they are of several commits or of a tree with
// changes, or the program has changed since. Tests, documents, comments and the layout of the code
// do not count.
func (m *measured) fresh(root string) error {
	commits := m.commits()
	if len(commits) != 1 {
		return fmt.Errorf("the results are of %d commits, %s: run make bench, which measures all of them again",
			len(commits), strings.Join(commits, " and "))
	}
	commit := commits[0]
	if strings.Contains(commit, " ") {
		return fmt.Errorf("the results are of commit %s: commit them, then run make bench", commit)
	}
	if _, err := output(root, "git", "cat-file", "-e", commit+"^{commit}"); err != nil {
		return fmt.Errorf("the results are of commit %s, which this repository does not have: run make bench", commit)
	}
	changed, err := changedSince(root, commit)
	if err != nil {
		return err
	}
	if len(changed) > 0 {
		return fmt.Errorf("the results are of commit %s, and since then the program changed (%s): run make bench",
			commit, strings.Join(changed, ", "))
	}
	return nil
}

// changedSince returns the files of the program that say something else than they did at a commit.
func changedSince(root, commit string) (changed []string, err error) {
	dirs, err := output(root, "go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}", "./cmd/rollcall")
	if err != nil {
		return nil, err
	}
	args := []string{"diff", "--name-only", commit, "--", "go.mod"}
	for dir := range strings.FieldsSeq(dirs) {
		args = append(args, ":(glob)"+filepath.Join(dir, "*.go"))
	}
	names, err := output(root, "git", args...)
	if err != nil {
		return nil, err
	}
	for name := range strings.FieldsSeq(names) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		before, _ := output(root, "git", "show", commit+":"+name) // it may be new
		after, _ := os.ReadFile(filepath.Join(root, name))        // it may be gone
		if filepath.Ext(name) != ".go" || !sameCode([]byte(before), after) {
			changed = append(changed, name)
		}
	}
	return changed, nil
}

// sameCode reports whether two sources differ in comments and white space only.
func sameCode(a, b []byte) bool { return bytes.Equal(code(a), code(b)) }

// code is the tokens of a source, a line each.
func code(source []byte) []byte {
	var s scanner.Scanner
	set := token.NewFileSet()
	s.Init(set.AddFile("", set.Base(), len(source)), source, func(token.Position, string) {}, 0)
	var b bytes.Buffer
	for {
		_, t, text := s.Scan()
		if t == token.EOF {
			return b.Bytes()
		}
		if t != token.SEMICOLON { // which line ends make
			fmt.Fprintln(&b, t, text)
		}
	}
}

func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s %s: %w\n%s", name, args[0], err, exit.Stderr)
	}
	return string(out), err
}
