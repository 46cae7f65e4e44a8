//go:build !linux

package bench

import "testing"

func dropCache(b *testing.B, _ string) {
	b.Skip("there is no way to drop the page cache of single files here")
}
