package server

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/valyala/fasthttp"

	"rollcall/server/reply"
	"rollcall/wire"
)

const (
	// maxUnpacking bounds how many compressed bodies are read at a time: one of zstd may ask for
	// zstdWindowBytes.
	maxUnpacking = 64
	// zstdWindowBytes is how far back a zstd body may refer. RFC 8878 wants 8 MiB to be understood,
	// and encoders that do not know how much will come ask for it.
	zstdWindowBytes = 8 << 20
)

var errBatchTooLarge = errors.New("server: the body of a batch is too large")

// batchBody reads the body of a batch from its request, unpacked and bounded: a body that grows
// past wire.MaxBatchBytes ends with errBatchTooLarge as soon as it does, however much there may be
// to come. Single owner.
type batchBody struct {
	sent   sentBody
	packed io.Reader // reads sent; nil: sent as it is
	free   func()    // gives packed back; nil: nothing to give back
	left   int       // bytes that may still come
}

// sentBody is a request's body as it was sent. It remembers how it ended, since the reader that
// unpacks it reports that in its own words.
type sentBody struct {
	body io.Reader
	left int // of Content-Length; negative: chunked
	err  error
}

func (s *sentBody) Read(p []byte) (int, error) {
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

// open begins to read the body of a request whose Content-Encoding is known. close follows.
func (b *batchBody) open(ctx *fasthttp.RequestCtx, coding []byte) error {
	*b = batchBody{left: wire.MaxBatchBytes}
	b.sent = sentBody{body: ctx.RequestBodyStream(), left: ctx.Request.Header.ContentLength()}
	if b.sent.body == nil { // without a body
		b.sent = sentBody{body: eofReader{}}
	}
	switch string(coding) {
	case "gzip":
		r := gzipReaders.Get().(*gzip.Reader)
		b.packed, b.free = r, func() { gzipReaders.Put(r) }
		return r.Reset(&b.sent)
	case "zstd":
		r := zstdReaders.Get().(*zstd.Decoder)
		b.packed, b.free = r, func() {
			_ = r.Reset(nil) // lets go of the request
			zstdReaders.Put(r)
		}
		return r.Reset(&b.sent)
	}
	return nil
}

func (b *batchBody) close() {
	if b.free != nil {
		b.free()
	}
	*b = batchBody{}
}

// Read returns unpacked bytes.
func (b *batchBody) Read(p []byte) (n int, err error) {
	if b.packed != nil {
		n, err = b.packed.Read(p)
	} else {
		n, err = b.sent.Read(p)
	}
	if b.left -= n; b.left < 0 {
		return 0, errBatchTooLarge
	}
	return n, err
}

// whole reports that the request's body was read to its end.
func (b *batchBody) whole() bool { return b.sent.err == io.EOF }

// refusal is the reply to an error of open or Read.
func (b *batchBody) refusal(err error) reply.Reply {
	switch {
	case errors.Is(err, errBatchTooLarge):
		return reply.BatchTooLarge
	case b.sent.err != nil && b.sent.err != io.EOF:
		return readError(b.sent.err)
	case b.packed != nil:
		return reply.BadEncoding
	}
	return readError(err)
}

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }
