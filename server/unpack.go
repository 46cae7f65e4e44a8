package server

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/valyala/fasthttp"
)

const (
	// maxBatchBytes bounds the body of a batch, as it is sent and unpacked.
	maxBatchBytes = 4 << 20
	// maxUnpacking bounds how many compressed bodies are read at a time: one of zstd may ask for zstdWindowBytes.
	maxUnpacking = 64
	// zstdWindowBytes is how far back a zstd body may refer. RFC 8878 wants 8 MiB to be understood, and encoders that do not
	// know how much will come ask for it.
	zstdWindowBytes = 8 << 20
)

var errBatchTooLarge = errors.New("server: the body of a batch is too large")

// unpacker reads the body of a batch from its request, unpacked and bounded: a body that grows past maxBatchBytes ends with
// errBatchTooLarge as soon as it does, however much there may be to come. Single owner.
type unpacker struct {
	sent   source
	packed io.Reader // reads sent; nil: sent as it is
	free   func()    // gives packed back; nil: nothing to give back
	left   int       // bytes that may still come
}

// source is a request's body as it was sent. It remembers how it ended, since an unpacker may say it in its own words.
type source struct {
	body io.Reader
	left int // of Content-Length; negative: chunked
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.left -= n
	if err == io.EOF && s.left > 0 {
		err = io.ErrUnexpectedEOF // fasthttp lets a body that was cut pass for a whole one
	}
	s.err = err
	return n, err
}

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zstdReaders = sync.Pool{New: func() any {
		r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindowBytes), zstd.WithDecoderMaxMemory(zstdWindowBytes))
		if err != nil {
			panic("bug: zstd refuses its options: " + err.Error())
		}
		return r
	}}
)

// open makes u ready to read the body of a request whose Content-Encoding is known. Close follows.
func (u *unpacker) open(ctx *fasthttp.RequestCtx, coding []byte) error {
	*u = unpacker{left: maxBatchBytes}
	u.sent = source{body: ctx.RequestBodyStream(), left: ctx.Request.Header.ContentLength()}
	if u.sent.body == nil { // without a body
		u.sent = source{body: eofReader{}}
	}
	switch string(coding) {
	case "gzip":
		r := gzipReaders.Get().(*gzip.Reader)
		u.packed, u.free = r, func() { gzipReaders.Put(r) }
		return r.Reset(&u.sent)
	case "zstd":
		r := zstdReaders.Get().(*zstd.Decoder)
		u.packed, u.free = r, func() {
			_ = r.Reset(nil) // lets go of the request
			zstdReaders.Put(r)
		}
		return r.Reset(&u.sent)
	}
	return nil
}

func (u *unpacker) close() {
	if u.free != nil {
		u.free()
	}
	*u = unpacker{}
}

// Read returns unpacked bytes.
func (u *unpacker) Read(p []byte) (n int, err error) {
	if u.packed != nil {
		n, err = u.packed.Read(p)
	} else {
		n, err = u.sent.Read(p)
	}
	if u.left -= n; u.left < 0 {
		return 0, errBatchTooLarge
	}
	return n, err
}

// whole reports that the request's body was read to its end.
func (u *unpacker) whole() bool { return u.sent.err == io.EOF }

// refusal is the reply to an error of open or Read.
func (u *unpacker) refusal(err error) reply {
	switch {
	case errors.Is(err, errBatchTooLarge):
		return batchTooLarge
	case u.sent.err != nil && u.sent.err != io.EOF:
		return unreadable(u.sent.err)
	case u.packed != nil:
		return badEncoding
	}
	return unreadable(err)
}

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }
