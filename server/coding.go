package server

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/valyala/fasthttp"
)

// coding is how a body was packed.
type coding uint8

const (
	identity coding = iota
	gzipCoding
	zstdCoding
	unknownCoding
)

const (
	// zstdWindowBytes is how far back a zstd body may refer: RFC 9659 allows no more, and encoders
	// that do not know how much will come ask for it.
	zstdWindowBytes = 8 << 20
	// packedBytes is how much of a packed body is read before it is unpacked. Most are whole then.
	packedBytes = 64 << 10
)

// codingOf reads Content-Encoding (RFC 9110, section 8.4.1): in any case, and identity is none. One
// coding over another is not known.
func codingOf(h *fasthttp.RequestHeader) coding {
	found := identity
	for _, list := range h.PeekAll(fasthttp.HeaderContentEncoding) {
		for more := true; more; {
			var name []byte
			name, list, more = bytes.Cut(list, []byte(","))
			c := codingNamed(bytes.Trim(name, " \t"))
			if c == identity {
				continue
			}
			if found != identity {
				return unknownCoding
			}
			found = c
		}
	}
	return found
}

func codingNamed(name []byte) coding {
	switch {
	case len(name) == 0, bytes.EqualFold(name, []byte("identity")):
		return identity
	case bytes.EqualFold(name, []byte("gzip")), bytes.EqualFold(name, []byte("x-gzip")):
		return gzipCoding
	case bytes.EqualFold(name, []byte("zstd")):
		return zstdCoding
	}
	return unknownCoding
}

var (
	gzipReaders = &stock[gzip.Reader]{most: 64, make: func() *gzip.Reader {
		return new(gzip.Reader)
	}}
	zstdReaders = &stock[zstd.Decoder]{most: maxWindows, make: func() *zstd.Decoder {
		return newZstd(1)
	}}
	// zstdWhole unpacks bodies of a single heartbeat: they need no window but themselves.
	zstdWhole = sync.OnceValue(func() *zstd.Decoder { return newZstd(runtime.GOMAXPROCS(0)) })
)

func newZstd(concurrency int) *zstd.Decoder {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(concurrency),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindowBytes),
		zstd.WithDecoderMaxMemory(zstdWindowBytes), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("bug: zstd refuses its options: " + err.Error())
	}
	return r
}

// errTooMuch is the end of a body that unpacks to more than it may.
var errTooMuch = errors.New("server: the body is too large, unpacked")

// appendUnpacked appends what is packed in text, most bytes at most.
func (c coding) appendUnpacked(dst, text []byte, most int) ([]byte, error) {
	if len(text) == 0 {
		return dst, io.ErrUnexpectedEOF
	}
	if c == zstdCoding {
		dst = slices.Grow(dst, most)
		return zstdWhole().DecodeAll(text, dst[:len(dst):len(dst)+most])
	}
	r := gzipReaders.get()
	defer gzipReaders.put(r)
	if err := r.Reset(bytes.NewReader(text)); err != nil {
		return dst, err
	}
	for len(dst) <= most {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):min(cap(dst), most+1)])
		if dst = dst[:len(dst)+n]; err == io.EOF && len(dst) <= most {
			return dst, nil
		} else if err != nil && err != io.EOF {
			return dst, err
		}
	}
	return dst, errTooMuch
}
