package server

import (
	"bufio"
	"errors"
	"io"
	"net"

	"github.com/klauspost/compress/zstd"
	"github.com/valyala/fasthttp"

	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/wire"
)

var errNoWindow = errors.New("server: all windows of zstd bodies are taken")

// batchBody reads the body of a batch from its request, unpacked and bounded: a body that grows
// past wire.MaxBatchBytes ends with errTooMuch as soon as it does, however much there may be to
// come. Single owner.
type batchBody struct {
	sent   sentBody
	packed io.Reader    // reads sent; nil: sent as it is
	free   func()       // gives packed back; nil: nothing to give back
	bucket conns.Bucket // of what is unpacked
	left   int          // bytes that may still come
}

// sentBody is a request's body as it was sent. It remembers how it ended, since the reader that
// unpacks it reports that in its own words.
type sentBody struct {
	body    io.Reader
	conn    net.Conn
	chunked bool
	left    int    // of Content-Length
	place   *place // where it waits for bytes; nil: nowhere
	err     error
}

// newSentBody is the body of ctx's request.
func newSentBody(ctx *fasthttp.RequestCtx) sentBody {
	n := ctx.Request.Header.ContentLength()
	s := sentBody{body: ctx.RequestBodyStream(), conn: ctx.Conn(), chunked: n < 0, left: max(n, 0)}
	if s.body == nil { // without a body
		s = sentBody{err: io.EOF}
	}
	return s
}

// Read returns bytes as they were sent. fasthttp lets a body that was cut pass for a whole one:
// here it ends with io.ErrUnexpectedEOF.
func (s *sentBody) Read(p []byte) (n int, err error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.place != nil {
		n, err = s.place.read(s.body, p)
	} else {
		n, err = s.body.Read(p)
	}
	s.left -= n
	if err == io.EOF && (s.chunked && conns.Ended(s.conn) || !s.chunked && s.left > 0) {
		err = io.ErrUnexpectedEOF
	}
	s.err = err
	return n, err
}

// packedReaders read bodies that are packed, packedBytes at a time.
var packedReaders = &stock[bufio.Reader]{most: 64, make: func() *bufio.Reader {
	return bufio.NewReaderSize(nil, packedBytes)
}}

// open begins to read the body of a request. A packed one is unpacked when packedBytes of it have
// come, or all: what most bodies wait for then is a turn, and not their sender. close follows.
func (b *batchBody) open(ctx *fasthttp.RequestCtx, c coding, p *place) error {
	b.sent, b.left = newSentBody(ctx), wire.MaxBatchBytes
	b.sent.place = p
	if c == identity {
		return nil
	}
	in := packedReaders.get()
	in.Reset(&b.sent)
	b.free = func() {
		in.Reset(nil)
		packedReaders.put(in)
	}
	b.packed = in
	if _, err := in.Peek(packedBytes); err != nil && err != io.EOF {
		return err
	}
	if in.Buffered() == 0 {
		return io.ErrUnexpectedEOF // what is packed has a head at least
	}
	return b.unpack(in, c, p)
}

// unpack begins to unpack what in reads.
func (b *batchBody) unpack(in *bufio.Reader, c coding, p *place) error {
	giveIn := b.free
	if c == gzipCoding {
		p.takeTurn()
		r := gzipReaders.get()
		b.packed, b.free = r, func() {
			gzipReaders.put(r)
			giveIn()
		}
		return r.Reset(in)
	}
	if !p.takeWindow() {
		return errNoWindow
	}
	p.takeTurn()
	r := zstdReaders.get()
	b.packed, b.free = r, func() {
		_ = r.Reset(nil) // lets go of the request
		zstdReaders.put(r)
		giveIn()
	}
	return r.Reset(in)
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
		b.bucket.Spend(n)
	} else {
		n, err = b.sent.Read(p)
	}
	if b.left -= n; b.left < 0 {
		return 0, errTooMuch
	}
	return n, err
}

// whole reports that the request's body was read to its end.
func (b *batchBody) whole() bool { return b.sent.err == io.EOF }

// refusal is the reply to an error of open or Read.
func (b *batchBody) refusal(err error) reply.Reply {
	switch {
	case errors.Is(err, errTooMuch):
		return reply.BatchTooLarge
	case errors.Is(err, errNoWindow):
		return reply.TooManyUnpacking
	case b.sent.place.cut.Load():
		return reply.BodyTooSlow
	case b.sent.err != nil && b.sent.err != io.EOF:
		return readError(b.sent.err)
	case b.packed == nil:
		return readError(err)
	}
	return unpackError(err, reply.BatchTooLarge)
}

// unpackError is the reply to a body that cannot be unpacked.
func unpackError(err error, tooLarge reply.Reply) reply.Reply {
	switch {
	case errors.Is(err, errTooMuch), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return tooLarge
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return reply.WindowTooLarge
	}
	return reply.BadEncoding
}
