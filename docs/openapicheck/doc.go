// Package openapicheck holds docs/openapi.yaml true: its tests validate the document, run the server, provoke every answer
// that can be provoked, and validate each against it. It is a module of its own, so that the validator stays out of the
// product's go.mod. `make openapi` runs it.
package openapicheck
