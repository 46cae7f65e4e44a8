// Run by `make client-ts` and, when that was done, by `make test`. ROLLCALL_BINARY names the server
// to test
// against; without it only the scripted tests run.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import {
  Daemon, type Fetch, FrameDecoder, type PresenceEvent, StatusError, StreamEnded, watch,
} from './rollcall.js'
import { binary, mint, secrets, serve } from './testserver.js'

const limit = 30_000 // bounds every wait; no claim about speed
const user = '6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01'
const device = 'b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d'
const url = 'http://rollcall'

function frames(pieces: Iterable<string>, maxLength = 1000): string {
  const decoder = new FrameDecoder(maxLength)
  const got: string[] = []
  for (const piece of pieces) {
    for (const f of decoder.feed(piece)) got.push(`${f.event}|${f.data ?? ''}|${f.retryMs ?? ''}`)
  }
  return got.join(' ')
}

test('frames are read as the standard says, however they are cut', () => {
  const rows: [string, string][] = [
    ['data: a\n\n', '|a|'],
    ['data:a\n\n', '|a|'],
    ['data:  a\n\n', '| a|'],
    ['data\n\n', '||'],
    ['data: a\r\n\r\n', '|a|'],
    ['data: a\r\rdata: b\r\r', '|a| |b|'],
    ['data: a\r\n\ndata: b\n\r\n', '|a| |b|'],
    ['data: a\ndata: b\ndata:\n\n', '|a\nb\n|'],
    ['data: a\n', ''],
    [': keepalive\ndata: a\n\n', '|a|'],
    [': keepalive\n\ndata: a\n\n', '|a|'],
    ['retry: 2500\n\n', '||2500'],
    ['retry: x\n\nretry:\n\nretry: -1\n\n', ''],
    ['event: x\ndata: a\n\ndata: b\n\n', 'x|a| |b|'],
    ['id: 7\nfoo\ndata: a:b\n\n', '|a:b|'],
  ]
  for (const [text, want] of rows) {
    assert.equal(frames([text]), want, JSON.stringify(text))
    assert.equal(frames([...text]), want, `${JSON.stringify(text)} by characters`)
    for (let i = 0; i <= text.length; i++) {
      assert.equal(frames([text.slice(0, i), '', text.slice(i)]), want)
    }
  }
})

test('frames are bounded', () => {
  const long = 'x'.repeat(200)
  for (const text of [long, `data: ${long}\n\n`, 'data: x\n'.repeat(100), ':'.repeat(200)]) {
    assert.throws(() => frames([text], 100), /larger than maxFrameLength/)
    assert.throws(() => frames([...text], 100), /larger than maxFrameLength/)
  }
})

interface Beat {
  seq: number
  status: string
}

/** A server for heartbeats: the script answers one after the other, then the seq rule does. */
function heartbeats(
  script: ((beat: Beat, apply: () => void) => Response | Promise<Response>)[], last = 0,
) {
  const bodies: string[] = []
  const tokens: string[] = []
  const waiting: (() => void)[] = []
  const fetch: Fetch = async (_, init) => {
    const body = String(init.body)
    const beat = JSON.parse(body) as Beat
    const apply = () => { last = Math.max(last, beat.seq) }
    bodies.push(body)
    tokens.push(new Headers(init.headers).get('Authorization') ?? '')
    for (const wake of waiting.splice(0)) wake()
    const scripted = script.shift()
    if (scripted) return scripted(beat, apply)
    if (beat.seq <= last) return refusal(409, { last_seq: last })
    apply()
    return new Response(null, { status: 204 })
  }
  const count = async (n: number) => {
    while (bodies.length < n) await new Promise<void>((resolve) => waiting.push(resolve))
  }
  return { fetch, bodies, tokens, count, beats: () => bodies.map((b) => JSON.parse(b) as Beat) }
}

function refusal(
  status: number, more: object = {}, headers: Record<string, string> = {},
): Response {
  const body = { error: 'unavailable', details: 'As the test wants', ...more }
  return new Response(JSON.stringify(body), { status, headers })
}

function daemon(fetch: Fetch, more: object = {}): Daemon {
  return new Daemon({
    url, token: () => 'ingest', userId: user, deviceId: device,
    ttlMs: 300, seq: 100, fetch, ...more,
  })
}

test('an unsure heartbeat comes again with the same bytes', { timeout: limit }, async () => {
  const cut = () => Promise.reject(new TypeError('fetch failed'))
  for (const applied of [true, false]) {
    type Answer = () => Response | Promise<Response>
    const outcome = (answer: Answer) => (_: Beat, apply: () => void) => {
      if (applied) apply()
      return answer()
    }
    const s = heartbeats([outcome(() => refusal(503)), outcome(cut)])
    const d = daemon(s.fetch)
    await s.count(4)
    await d.close()
    assert.deepEqual(s.beats().slice(0, 4).map((b) => b.seq), [101, 101, 101, 102])
    assert.equal(s.bodies[1], s.bodies[0])
    assert.equal(s.bodies[2], s.bodies[0])
  }
})

test('a 409 says where to go on', { timeout: limit }, async () => {
  const s = heartbeats([], 5000)
  const d = daemon(s.fetch)
  await s.count(3)
  await d.close()
  assert.deepEqual(s.beats().slice(0, 3).map((b) => b.seq), [101, 5001, 5002])
  assert.ok(d.seq > 5002)
})

test('a 429 leaves the seq free and its Retry-After is kept', { timeout: limit }, async () => {
  const s = heartbeats([() => refusal(429, {}, { 'Retry-After': '1' })])
  const began = Date.now()
  const d = daemon(s.fetch)
  await s.count(2)
  assert.ok(Date.now() - began >= 990)
  await d.close()
  assert.deepEqual(s.beats().slice(0, 2).map((b) => b.seq), [101, 101])
})

test('status changes are sent, and offline is the last word', { timeout: limit }, async () => {
  const s = heartbeats([])
  const d = daemon(s.fetch, { ttlMs: 60_000 })
  await s.count(1)
  d.setStatus('offline')
  await s.count(2)
  d.setStatus('online')
  await s.count(3)
  await d.close()
  await d.close()
  d.setStatus('online')
  assert.deepEqual(s.beats().map((b) => b.status), ['online', 'offline', 'online', 'offline'])
  assert.deepEqual(s.beats().map((b) => b.seq), [101, 102, 103, 104])
})

test('a refused token is reported, and close does not try again', { timeout: limit }, async () => {
  const s = heartbeats([() => refusal(401), () => refusal(401)])
  const told: unknown[] = []
  const d = daemon(s.fetch, { onError: (e: unknown) => told.push(e) })
  await s.count(1)
  await assert.rejects(d.close(), (e) => {
    return e instanceof StatusError && e.status === 401 && /token\(\)/.test(e.message)
  })
  assert.equal(s.tokens[0], 'Bearer ingest')
})

test('wrong options are refused', () => {
  const o = { url, token: () => 'x', userId: user, deviceId: device, ttlMs: 1000 }
  for (const wrong of [
    { url: 'rollcall' }, { userId: user.toUpperCase() }, { deviceId: 'x' },
    { ttlMs: 0 }, { ttlMs: 0.5 }, { intervalMs: 1000 },
  ]) {
    assert.throws(() => new Daemon({ ...o, ...wrong }), TypeError, JSON.stringify(wrong))
  }
  for (const wrong of [{ url: 'http://x?y' }, { userId: '' }, { idleTimeoutMs: -1 }]) {
    assert.throws(() => watch({ ...o, ...wrong }), TypeError, JSON.stringify(wrong))
  }
})

function frame(n: number, status: string, seq: number): string {
  const payload = {
    schema_version: 1, user_id: user, device_id: `device-${n}`, status,
    source: 's', sent_at_ms: 1, seq, ttl_ms: 5,
  }
  return `data: ${JSON.stringify(payload)}\n\n`
}

/** A server for streams: each connection is served by the next of the script. */
function streams(script: (() => Response)[]) {
  const tokens: string[] = []
  const fetch: Fetch = async (_, init) => {
    tokens.push((new Headers(init.headers).get('Authorization') ?? '').slice('Bearer '.length))
    const next = script.shift()
    if (!next) throw new TypeError('fetch failed')
    return next()
  }
  return { fetch, tokens }
}

function stream(text: string, end: 'ends' | 'is cut' | 'is silent' = 'ends'): Response {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(text))
      if (end === 'ends') controller.close()
      if (end === 'is cut') setTimeout(() => controller.error(new TypeError('terminated')), 10)
    },
  })
  return new Response(body, { headers: { 'Content-Type': 'text/event-stream' } })
}

async function follow(fetch: Fetch, until: string, more: object = {}) {
  const events: string[] = []
  const interruptions: unknown[] = []
  const options = {
    url, userId: user, token: () => 'stream', fetch, maxBackoffMs: 20,
    onInterruption: (e: unknown) => interruptions.push(e), ...more,
  }
  for await (const ev of watch(options)) {
    events.push(`${ev.device_id} ${ev.status} ${ev.seq} ${ev.transition}`)
    if (events.at(-1)?.startsWith(until)) break
  }
  return { events, interruptions }
}

test('a reconnect shows only what is new', { timeout: limit }, async () => {
  const junk = ': keepalive\nevent: other\ndata: {}\n\ndata: no JSON\n\n' +
    'data: {"schema_version":2}\n\ndata: null\n\n'
  const s = streams([
    () => stream(frame(1, 'online', 1) + frame(2, 'offline', 7) + junk +
      frame(1, 'online', 2) + frame(1, 'offline', 2), 'is cut'),
    () => refusal(503),
    () => new Response('<p>', { headers: { 'Content-Type': 'text/html' } }),
    () => stream('retry: 5\n\n'),
    () => stream(frame(1, 'offline', 2) + frame(2, 'offline', 7) +
      frame(3, 'online', 1) + frame(2, 'online', 8), 'is silent'),
  ])
  const { events, interruptions } = await follow(s.fetch, 'device-2 online')
  assert.deepEqual(events, [
    'device-1 online 1 true', 'device-2 offline 7 true', 'device-1 online 2 false',
    'device-1 offline 2 true', 'device-3 online 1 true', 'device-2 online 8 true'])
  const names = interruptions.map((e) => (e instanceof Error ? e.name : ''))
  assert.deepEqual(names, ['TypeError', 'StatusError', 'Error', 'StreamEnded'])
})

test('a silent connection is given up', { timeout: limit }, async () => {
  const s = streams([
    () => stream(frame(1, 'online', 1), 'is silent'), () => stream(frame(1, 'offline', 1)),
  ])
  const { interruptions } = await follow(s.fetch, 'device-1 offline', { idleTimeoutMs: 50 })
  assert.match(String(interruptions[0]), /silent/)
})

test('tokens are renewed before they expire and after a refusal', { timeout: limit }, async (t) => {
  const now = Date.now
  // By this clock the timer of the renewal comes early.
  t.mock.method(Date, 'now', () => now() - now() % 50)
  let minted = 0
  const token = () => {
    const claims = btoa(JSON.stringify({ n: ++minted, exp_ms: Date.now() + 500 }))
    return `${claims.replace(/=+$/, '')}.signature`
  }
  const s = streams([
    () => refusal(403),
    () => stream(frame(1, 'online', 1), 'is silent'),
    () => stream(frame(1, 'offline', 1), 'is silent'),
  ])
  const { interruptions } = await follow(s.fetch, 'device-1 offline', { token })
  assert.equal(interruptions.length, 1, 'the renewal is no interruption')
  assert.equal(new Set(s.tokens).size, 3)
})

test('a 400 ends the loop, an abort ends it quietly', { timeout: limit }, async () => {
  await assert.rejects(follow(streams([() => refusal(400)]).fetch, 'x'), (e) => {
    return e instanceof StatusError && e.status === 400
  })
  const stop = new AbortController()
  const s = streams([() => stream(frame(1, 'online', 1), 'is silent')])
  setTimeout(() => stop.abort(), 50)
  const { events } = await follow(s.fetch, 'x', { signal: stop.signal })
  assert.deepEqual(events, ['device-1 online 1 true'])
  assert.deepEqual((await follow(s.fetch, 'x', { signal: stop.signal })).events, [])
})

// Against the server as it is.

const real = { timeout: limit, skip: !binary }

test('with the real server: beat, resume, offline', real, async (t) => {
  const { base, end } = await serve()
  const leave = new AbortController()
  t.after(() => { leave.abort(); return end('SIGKILL') })
  const userId = randomUUID()
  const follow = (ttl: string) => watch({
    url: base, userId, token: () => mint(userId, ttl), signal: leave.signal, maxBackoffMs: 500,
  })
  let events = follow('1h') // one stream, which misses nothing
  const next = async (ok: (ev: PresenceEvent) => boolean) => {
    for (;;) {
      const { value, done } = await events.next()
      assert.ok(!done, 'the watch ended')
      if (ok(value)) return value
    }
  }
  const options = {
    url: base, token: () => secrets.PRESENCE_DO_INGEST_TOKEN, userId, deviceId: randomUUID(),
    ttlMs: 30_000, intervalMs: 100,
  }
  const first = new Daemon({ ...options, seq: 2 ** 50 })
  await next((ev) => ev.status === 'online' && ev.transition && ev.seq > 2 ** 50)
  await first.close()
  const left = await next((ev) => ev.status === 'offline')
  assert.equal(left.seq, first.seq)
  const again = new Daemon(options) // whose clock is below: the 409 says where to go on
  const back = await next((ev) => ev.status === 'online')
  assert.equal(back.seq, left.seq + 1)
  await events.return(undefined)
  events = follow('2s')
  const begun = await next((ev) => ev.status === 'online')
  await next((ev) => ev.seq > begun.seq + 25) // over the end of the token
  await again.close()
  await next((ev) => ev.status === 'offline' && ev.source === 'rollcall-ts')
})

test('with the real server: a drain ends the stream as announced', real, async (t) => {
  const { base, end } = await serve()
  t.after(() => end('SIGKILL'))
  const userId = randomUUID()
  const deviceId = randomUUID()
  const d = new Daemon({
    url: base, token: () => secrets.PRESENCE_DO_INGEST_TOKEN, userId, deviceId, ttlMs: 30_000,
  })
  const leave = new AbortController()
  const interruptions: unknown[] = []
  const onInterruption = (e: unknown) => { interruptions.push(e); leave.abort() }
  const token = () => mint(userId, '1h')
  const { signal } = leave
  for await (const ev of watch({ url: base, userId, token, signal, onInterruption })) {
    if (ev.status === 'online') await d.close()
    else void end('SIGTERM')
  }
  assert.ok(interruptions[0] instanceof StreamEnded, String(interruptions[0]))
})
