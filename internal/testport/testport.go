// Package testport finds ports for servers of tests that must know where they listen before they
// do, such as nodes of a cluster, which are told of each other.
package testport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports are outside of the range from which systems hand out others, so that no listener on any
// port and no connection takes one of them. Browsers, and Node's fetch, refuse 10080.
const (
	first, last = 10_081, 20_000
	// mark is from a port to that of the UDP socket that says to other processes that it is taken.
	mark = 10_000
)

// Address is an address of loopback where nothing listens. It is the test's until its end: no other
// call returns it, neither here nor in another process.
func Address(t testing.TB) string {
	t.Helper()
	return Addresses(t, 0)[0]
}

// Addresses is Address of a port and of those at these distances above it, in their order.
func Addresses(t testing.TB, distances ...int) (addrs []string) {
	t.Helper()
	for range 1000 {
		port := first + rand.IntN(last-first)
		addrs = addrs[:0]
		for _, d := range distances {
			if reserve(t, port+d) {
				addrs = append(addrs, address(port+d))
			}
		}
		if len(addrs) == len(distances) {
			return addrs
		}
	}
	t.Fatal("no free port")
	return nil
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// reserve takes a port, until the test's end, unless it is taken. The mark goes with its process,
// however that ends.
func reserve(t testing.TB, port int) bool {
	taken, err := net.ListenPacket("udp", address(port+mark))
	if err != nil {
		return false
	}
	ln, err := net.Listen("tcp", address(port))
	if err != nil {
		taken.Close()
		return false
	}
	ln.Close()
	t.Cleanup(func() { taken.Close() })
	return true
}
