package testport

import (
	"net"
	"net/netip"
	"testing"
)

// TestAddress: a server can listen there, and until the test's end the address is handed out to no
// other.
func TestAddress(t *testing.T) {
	var addr netip.AddrPort
	t.Run("a test", func(t *testing.T) {
		addr = netip.MustParseAddrPort(Address(t))
		ln, err := net.Listen("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		if reserve(t, int(addr.Port())) {
			t.Error("it is handed out twice")
		}
	})
	ln, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if reserve(t, int(addr.Port())) {
		t.Error("what listens is handed out")
	}
	ln.Close()
	if !reserve(t, int(addr.Port())) {
		t.Error("it is kept after the test's end")
	}
}
