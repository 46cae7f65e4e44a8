package server

import (
	"bufio"
	"bytes"
	"hash/maphash"
	"net"
	"net/netip"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/server/conns"
	"rollcall/server/reply"
	"rollcall/wire"
)

// plain serves the plain heartbeats of a loop: those that are whole, that are right in every way,
// and that the engine takes at once. It is the conns.Requests of a loop, which says who calls what.
// Whatever is not plain is the handlers' of fasthttp, with its bytes, and nothing was done for it:
// so plain may be strict, but never more lenient than they are. Heads are read by fasthttp's own
// parser and judged by the same functions, and answers written by the same, so that there is one
// place for each rule.
type plain struct {
	engine.Group              // nil: later takes them
	later        engine.Later // nil: the Group does
	one          *heartbeats
	answers      *answers

	// Of the requests that Read took. Single owner: the loop.
	beats   [conns.GroupSize]engine.Heartbeat
	results [conns.GroupSize]engine.Result
	n       int
	bucket  conns.Bucket // of the address of the only one, where there is a rate
	decoder wire.Decoder
	senders addressSenders // where later takes the heartbeats

	heads heads
	text  bytes.Reader
	in    *bufio.Reader // as large as the readers of fasthttp, whose size bounds a head
	head  fasthttp.RequestHeader
	uri   fasthttp.URI

	ctx      fasthttp.RequestCtx // in which answers are written
	out      bytes.Buffer
	buffered *bufio.Writer
	accepted acceptedText
}

// requestLine is that of a plain heartbeat.
var requestLine = []byte("POST " + wire.HeartbeatPath + " HTTP/1.1\r\n")

var endOfHead = []byte("\r\n\r\n")

// newPlain makes the requests of a loop, which group applies, or later where there is none.
func newPlain(
	group engine.Group, later engine.Later, one *heartbeats, maxHead int,
) *plain {
	p := &plain{Group: group, one: one, answers: one.answers}
	if group == nil {
		p.later = later
	}
	p.in = bufio.NewReaderSize(&p.text, maxHead)
	p.heads.seed = maphash.MakeSeed()
	p.senders.seed = p.heads.seed
	p.buffered = bufio.NewWriter(&p.out)
	p.ctx.Init(&fasthttp.Request{}, &net.TCPAddr{}, nil)
	return p
}

// Read implements conns.Requests.
func (p *plain) Read(client netip.Addr, text []byte) (size int) {
	if n := min(len(text), len(requestLine)); !bytes.Equal(text[:n], requestLine[:n]) {
		return 0
	}
	at := bytes.Index(text, endOfHead)
	if at < 0 {
		if len(text) >= p.in.Size() {
			return 0 // a head that is too large
		}
		return -1
	}
	at += len(endOfHead)
	length, ok := p.judge(&client, text[:at])
	if !ok {
		return 0
	}
	if length > len(text)-at {
		return -1
	}
	if !p.decode(client, text[at:at+length]) {
		return 0
	}
	p.n++
	return at + length
}

// judge reports whether a head is that of a plain heartbeat, and the length of the body. Of a
// request from a trusted proxy it finds out who the client is.
func (p *plain) judge(client *netip.Addr, head []byte) (length int, ok bool) {
	secrets := p.one.secrets.current.Load()
	counted := p.one.rate != nil || p.later != nil && p.one.arrivals != nil // by the address
	proxied := counted && p.one.clients.proxies.Trust(*client)
	if !proxied {
		if length, ok = p.heads.known(head, secrets); ok {
			return length, true
		}
	}
	if !p.parse(head, secrets) {
		return 0, false
	}
	length = p.head.ContentLength()
	if proxied {
		*client = p.one.clients.of(*client, &p.head)
	} else {
		p.heads.keep(head, length, secrets)
	}
	return length, true
}

// parse reads a head and reports whether it is that of a plain heartbeat.
func (p *plain) parse(head []byte, secrets *secretLists) bool {
	p.text.Reset(head)
	p.in.Reset(&p.text)
	h := &p.head
	if h.Read(p.in) != nil || p.in.Buffered() > 0 || p.text.Len() > 0 {
		return false
	}
	length := h.ContentLength()
	if judgeHead(h) != reply.None || p.uri.Parse(h.Host(), h.RequestURI()) != nil ||
		length < 1 || length > wire.MaxBodyBytes || h.ConnectionClose() ||
		len(h.Peek(fasthttp.HeaderExpect)) > 0 || codingOf(h) != identity ||
		p.answers.origins != nil && len(h.PeekBytes(originName)) > 0 {
		return false
	}
	token, ok := bearer(h)
	return ok && secrets.ingest.Has(token)
}

// decode reads a body into the next heartbeat. A text with escapes is left alone: the decoder
// changes it.
func (p *plain) decode(client netip.Addr, body []byte) bool {
	hb := &p.beats[p.n]
	if bytes.IndexByte(body, '\\') >= 0 ||
		p.one.decode(&p.decoder, body, hb) != reply.None {
		return false
	}
	switch hb.Sender = nil; {
	case p.one.arrivals == nil:
	case p.later != nil:
		hb.Sender = p.senders.of(p.one.arrivals, client)
	default:
		hb.Sender = strange{}
	}
	return p.one.rate == nil || p.withinRate(client, hb)
}

// withinRate reports whether a heartbeat may be applied without exceeding the rate of its address.
// One that later takes is counted here, as fasthttp's handler counts it before it knows what comes
// of it: once this has said yes, the heartbeat is not the handler's any more. Any other is counted
// by Apply, since one that is left alone is counted by the handler.
func (p *plain) withinRate(client netip.Addr, hb *engine.Heartbeat) bool {
	if p.later != nil {
		return !p.one.overRate(client, hb)
	}
	p.bucket = p.one.rate.Bucket(client)
	return p.bucket.Has(1) || p.one.presence.Stale(hb)
}

// GroupSize implements conns.Requests. Where Apply counts heartbeats, one is applied before the
// next is judged: it may make that stale, and a stale one does not count.
func (p *plain) GroupSize() int {
	if p.one.rate != nil && p.later == nil {
		return 1
	}
	return conns.GroupSize
}

// strange is a Sender that brings no new device here: its own one counts those, and may refuse.
type strange struct{}

func (strange) AdmitsNew() bool { return false }

// Apply implements conns.Requests.
func (p *plain) Apply(answers []conns.Answer) (n int, lsn uint64) {
	n, lsn = p.Group.Apply(p.beats[:p.n], p.results[:p.n])
	p.n = 0
	for i := range n {
		r := &p.results[i]
		if r.Outcome == engine.Accepted {
			p.bucket.Spend(1)
		}
		answers[i] = conns.Answer{Stale: r.Outcome == engine.Stale, LastSeq: r.LastSeq}
	}
	return n, lsn
}

// Append implements conns.Requests.
func (p *plain) Append(text []byte, answers []conns.Answer, err error) (_ []byte, last bool) {
	last = p.answers.draining.Load()
	accepted, stale := p.accepted.current(p, last), 0
	for i := range answers {
		a := &answers[i]
		if a.Stale {
			stale++
		}
		switch {
		case err != nil:
			text = p.append(text, func(c *fasthttp.RequestCtx) { p.answers.unavailable(c, err) })
		case a.Stale:
			text = p.append(text, func(c *fasthttp.RequestCtx) { p.answers.stale(c, a.LastSeq) })
		default:
			text = append(text, accepted...)
		}
	}
	n := len(answers) - stale
	if err == nil {
		p.answers.counters.Answers[reply.Accepted].Add(uint64(n))
	}
	if p.later == nil {
		p.Told(n, stale, err)
	}
	return text, last
}

// Later implements conns.Requests.
func (p *plain) Later() conns.Later {
	if p.later == nil {
		return nil
	}
	return &laterPlain{plain: p}
}

// laterPlain is a plain whose heartbeats are answered from elsewhere. It is the conns.Later of a
// loop.
type laterPlain struct {
	*plain
	came []engine.LaterResult // scratch of Collect
}

// Submit implements conns.Later.
func (p *laterPlain) Submit(tokens []uint64) {
	p.later.Submit(p.beats[:p.n], tokens)
	p.n = 0
}

// Collect implements conns.Later.
func (p *laterPlain) Collect(spare []conns.Told) []conns.Told {
	p.came = p.later.Collect(p.came[:0])
	for i := range p.came {
		r := &p.came[i]
		told := conns.Told{Token: r.Token}
		told.Stale, told.LastSeq = r.Outcome == engine.Stale, r.LastSeq
		if r.Outcome == engine.Unavailable {
			told.Err = r.Err
		}
		spare = append(spare, told)
	}
	return spare
}

// Close implements conns.Later.
func (p *laterPlain) Close() { p.later.Close() }

// append appends the text of an answer as fasthttp would write it.
func (p *plain) append(text []byte, answer func(ctx *fasthttp.RequestCtx)) []byte {
	r := &p.ctx.Response
	r.Reset()
	r.Header.SetNoDefaultContentType(true)
	p.answers.origins.allow(&p.ctx)
	answer(&p.ctx)
	p.out.Reset()
	p.buffered.Reset(&p.out)
	_ = r.Write(p.buffered) // into memory: it cannot fail
	_ = p.buffered.Flush()
	return append(text, p.out.Bytes()...)
}

// acceptedText is the text of the answer to an accepted heartbeat, which is the same within a
// second.
type acceptedText struct {
	text     []byte
	second   int64
	draining bool
}

func (t *acceptedText) current(p *plain, draining bool) []byte {
	second := p.answers.clock.Wall().Unix()
	if t.text == nil || t.second != second || t.draining != draining {
		t.text = p.append(t.text[:0], func(ctx *fasthttp.RequestCtx) {
			p.answers.fill(ctx, reply.Accepted)
		})
		t.second, t.draining = second, draining
	}
	return t.text
}

// Stalled implements conns.Requests.
func (p *plain) Stalled() error {
	if p.later == nil && p.Group.Stalled() {
		return engine.ErrStalled
	}
	return nil
}

// heads remembers heads that were found plain, since a client repeats its own but for the length:
// the same bytes under the same secrets have the same verdict. The hash has a random seed, and
// texts are compared only where all of it is equal, so that neither can a stranger drive the heads
// of others out on purpose, nor does the time of a comparison tell of a token. Single owner: the
// loop.
type heads struct {
	seed maphash.Seed
	kept [256]head
}

type head struct {
	hash    uint64
	secrets *secretLists
	text    []byte
	length  int
}

// maxHeadKept bounds what heads keeps, with their number.
const maxHeadKept = 1024

func (h *heads) known(text []byte, secrets *secretLists) (length int, ok bool) {
	hash := maphash.Bytes(h.seed, text)
	k := &h.kept[hash%uint64(len(h.kept))]
	if k.hash != hash || k.secrets != secrets || !bytes.Equal(k.text, text) {
		return 0, false
	}
	return k.length, true
}

func (h *heads) keep(text []byte, length int, secrets *secretLists) {
	if len(text) > maxHeadKept {
		return
	}
	hash := maphash.Bytes(h.seed, text)
	k := &h.kept[hash%uint64(len(h.kept))]
	k.hash, k.secrets, k.length = hash, secrets, length
	k.text = append(k.text[:0], text...)
}
