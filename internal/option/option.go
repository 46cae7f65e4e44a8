// Package option fills in and checks Options structs, in one way for every package.
//
//	func (o Options) withDefaults() (Options, error) {
//		option.Default(&o.Timeout, 10*time.Second)
//		problems := option.Problems{Package: "server"}
//		option.NotNegative(&problems, "Timeout", o.Timeout)
//		problems.When(o.Clock == nil, "Clock is missing")
//		return o, problems.Err()
//	}
package option

import (
	"errors"
	"fmt"
)

// Default sets a field that still has its zero value.
func Default[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Problems collects what is wrong with an Options struct, so that all of it is reported at once.
// Single owner.
type Problems struct {
	// Package is the name with which each problem begins.
	Package string

	errs []error
}

// When adds a problem if wrong is true.
func (p *Problems) When(wrong bool, format string, args ...any) {
	if wrong {
		p.errs = append(p.errs, fmt.Errorf("%s: option "+format,
			append([]any{p.Package}, args...)...))
	}
}

// Add adds an error of a part that checked itself. Nil adds nothing.
func (p *Problems) Add(err error) {
	if err != nil {
		p.errs = append(p.errs, err)
	}
}

// Err returns all problems joined, nil when there are none.
func (p *Problems) Err() error { return errors.Join(p.errs...) }

// NotNegative adds a problem if a field is below zero. NaN is a problem, too.
func NotNegative[T ~int | ~int64 | ~float64](p *Problems, name string, value T) {
	p.When(!(value >= 0), "%s is %v: it cannot be negative", name, value)
}
