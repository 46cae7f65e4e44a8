package conns

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

const (
	// maxHeaderBytes bounds what follows the first 16 bytes of a header of version 2. Proxies send
	// some hundred: addresses, names, what they know of a TLS session.
	maxHeaderBytes = 4096

	// maxHeaderLine is how long the line of version 1 can be, by its specification.
	maxHeaderLine = 107
)

var errHeader = errors.New("not a PROXY protocol header")

// readHeader reads the header that a proxy sends in front of a connection (PROXY protocol, versions
// 1 and 2: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt), and not a byte more: what
// follows is for the reader of the connection, or for TLS. Zero: the connection is the proxy's own.
// io.EOF: it ended before it began, as with a port that is probed.
func readHeader(r io.Reader) (client netip.Addr, err error) {
	const signature = 12 // bytes that tell the versions apart; no header is shorter
	text := make([]byte, signature, 256)
	if _, err := io.ReadFull(r, text); err != nil {
		return client, err
	}
	more := func(n int) error {
		text = append(text, make([]byte, n)...)
		_, err := io.ReadFull(r, text[len(text)-n:])
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	switch {
	case bytes.Equal(text, proxyproto.SIGV2):
		if err := more(4); err != nil {
			return client, err
		}
		length := int(binary.BigEndian.Uint16(text[14:]))
		if length > maxHeaderBytes {
			return client, errHeader
		}
		err = more(length)
	case bytes.HasPrefix(text, []byte("PROXY ")):
		for err == nil && text[len(text)-1] != '\n' {
			if len(text) == maxHeaderLine {
				return client, errHeader
			}
			err = more(1)
		}
	default:
		return client, errHeader
	}
	if err != nil {
		return client, err
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(text), len(text)))
	if err != nil {
		return client, errors.Join(errHeader, err)
	}
	if from, _, ok := h.TCPAddrs(); ok && !h.Command.IsLocal() {
		client = addrOf(from)
	}
	return client, nil
}

// belowTLS is the connection under a TLS session that begins behind a header.
type belowTLS struct {
	net.Conn
	own *conn
}

// Read reads what comes behind the header.
func (b *belowTLS) Read(p []byte) (int, error) {
	if b.own.headed {
		if err := b.own.learn(); err != nil {
			return 0, err
		}
	}
	return b.Conn.Read(p)
}
