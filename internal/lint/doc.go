// Package lint keeps the rules of this repository that a program can check. All of it is tests, so
// that `go test ./internal/lint` says which rule a line breaks and what to do about it; `make lint`
// runs them beside gofmt, go vet and staticcheck.
//
//	tree_test.go        what lies in the root, conflict markers, binary files, words that no line has
//	modules_test.go     each module's go.mod is tidy; NOTICE and .dockerignore name what the binary is built from
//	imports_test.go     which package may import which
//	invariants_test.go  every numbered invariant has one definition and a test that cites it
//	prose_test.go       lines end by column 100
//	client_test.go      client/ can be copied into another module, and agrees with wire
//	docs_test.go        files that a page names exist; figures that a page states are in bench/results
package lint
