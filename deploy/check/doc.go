// Package check holds nothing but tests: those of the files in deploy/ and of the Dockerfile. It is
// a module of its own, so that the libraries that know Kubernetes and Dockerfiles stay out of the
// product's go.mod.
//
//	make deploy
//
// A test whose tool is not installed is skipped; ROLLCALL_NO_SKIP=1, which .ci/run sets, makes that
// a failure.
package check
