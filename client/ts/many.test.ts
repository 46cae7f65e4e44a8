// Contact lists, queries, gateways and tokens; run as rollcall.test.ts is.
import assert from 'node:assert/strict'
import { createHmac, randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { mint, usersSha256 } from './mint.js'
import {
  DeviceError, type Fetch, Gateway, query, Roster, type Status, StatusError, type Update, watchMany,
  type WatchManyOptions,
} from './rollcall.js'
import { binary, secrets, serve } from './testserver.js'

const limit = 30_000 // bounds every wait; no claim about speed
const user = '6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01'
const friend = '0e5d6f3c-7a11-4b52-8c9e-3f2a1b0c9d8e'
const url = 'http://rollcall'
const names = new Map([[user, 'user'], [friend, 'friend']])

function refusal(status: number, headers: Record<string, string> = {}): Response {
  const body = { error: 'unavailable', details: 'As the test wants' }
  return new Response(JSON.stringify(body), { status, headers })
}

function userFrame(id: string, userId: string, devices: number): string {
  const payload = {
    schema_version: 1, user_id: userId, status: devices ? 'online' : 'offline',
    devices_online: devices, last_seen_ms: null, changed_at_ms: 5,
  }
  return `id: ${id}\nevent: user\ndata: ${JSON.stringify(payload)}\n\n`
}

function deviceFrame(
  id: string, userId: string, device: string, status: Status, seq: number,
): string {
  const payload = {
    schema_version: 1, user_id: userId, device_id: device, status, source: 's', sent_at_ms: 1, seq,
    ttl_ms: 5,
  }
  return `id: ${id}\nevent: presence\ndata: ${JSON.stringify(payload)}\n\n`
}

function synced(id: string, resumed: boolean): string {
  return `id: ${id}\nevent: synced\ndata: ${JSON.stringify({ resumed, users: 2 })}\n\n`
}

type End = 'ends' | 'is cut' | 'is silent'

/**
 * A server for streams of many users: each connection is served by the next of the script, each
 * renewal answered by renew. A stream that is silent ends when its client goes.
 */
function server(script: (() => Response | [string, End])[], renew = () => 204) {
  const asked: { url: string; method: string; body: string; cursor: string; token: string }[] = []
  const renewed: string[] = []
  const fetch: Fetch = async (to, init) => {
    const headers = new Headers(init.headers)
    const token = (headers.get('Authorization') ?? '').slice('Bearer '.length)
    const path = to.slice(url.length)
    if (/^\/api\/v1\/presence\/stream\/.*\/token$/.test(path)) {
      assert.equal(path, `/api/v1/presence/stream/stream%20${asked.length}/token`)
      assert.equal(init.method, 'POST')
      renewed.push(token)
      const status = renew()
      return status === 204 ? new Response(null, { status }) : refusal(status)
    }
    const cursor = headers.get('Last-Event-ID') ?? ''
    const { method = 'GET', body: sent = '' } = init
    asked.push({ url: path, method, body: String(sent), cursor, token })
    const next = script.shift()?.()
    if (!next) throw new TypeError('fetch failed')
    if (next instanceof Response) return next
    const [text, end] = next
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(text))
        if (end === 'ends') controller.close()
        if (end === 'is cut') setTimeout(() => controller.error(new TypeError('terminated')), 10)
      },
    })
    return new Response(body, {
      headers: { 'Content-Type': 'text/event-stream', 'Rollcall-Stream': `stream ${asked.length}` },
    })
  }
  return { fetch, asked, renewed }
}

function describe(up: Update): string {
  if (up.type === 'synced') return `synced ${up.resumed ? 'resumed' : 'anew'}`
  const gone = up.gone ? ' gone' : ''
  if (up.type === 'user') {
    return `${names.get(up.user.user_id)} ${up.user.status} ${up.user.devices_online}${gone}`
  }
  const { user_id, device_id, status, seq, transition } = up.device
  return `${names.get(user_id)} ${device_id} ${status} ${seq} ${transition}${gone}`
}

/** Runs a watch until it tells something that begins with last. */
async function follow(fetch: Fetch, last: string, more: Partial<WatchManyOptions> = {}) {
  const told: string[] = []
  const interruptions: string[] = []
  const onInterruption = (e: unknown) => { interruptions.push(String(e)) }
  const options = {
    url, userIds: [user, friend], token: () => 'stream', fetch, maxBackoffMs: 20, onInterruption,
    ...more,
  }
  for await (const up of watchMany(options)) {
    told.push(describe(up))
    if (told.at(-1)!.startsWith(last)) break
  }
  return { told, interruptions }
}

test('a contact list is followed over reconnects', { timeout: limit }, async () => {
  const roster = new Roster()
  const states: string[] = []
  const seen = <T>(value: T) => () => { states.push(roster.state); return value }
  const half = userFrame('c-3', user, 9).slice(0, -1)
  const junk = 'event: other\ndata: {}\n\nevent: user\ndata: no JSON\n\n: keepalive\n'
  const s = server([
    seen([userFrame('c-0', user, 2) + userFrame('c-0', friend, 0) + synced('c-1', false) + junk +
      userFrame('c-2', user, 1) + half, 'is cut']),
    seen(refusal(503)),
    seen([userFrame('c-2', friend, 1), 'is cut']), // half a resume
    seen([userFrame('c-2', friend, 1) + synced('c-5', true) + userFrame('c-6', user, 0),
      'is silent']),
  ])
  const more = { roster, lingerMs: 30_000 }
  const { told, interruptions } = await follow(s.fetch, 'user offline', more)
  assert.deepEqual(told, [
    'user online 2', 'friend offline 0', 'synced anew', 'user online 1', 'friend online 1',
    'synced resumed', 'user offline 0'])
  assert.equal(interruptions.length, 3)
  assert.deepEqual(s.asked.map((a) => a.cursor), ['', 'c-2', 'c-2', 'c-2'])
  assert.deepEqual(s.asked[0], {
    url: '/api/v1/presence/stream?view=users&linger_ms=30000', method: 'POST',
    body: JSON.stringify({ user_ids: [user, friend] }), cursor: '', token: 'stream',
  })
  assert.deepEqual(states, ['connecting', 'interrupted', 'interrupted', 'interrupted'])
  assert.equal(roster.state, 'interrupted')
  assert.equal(roster.user(friend)?.devices_online, 1)
  assert.equal(roster.user(user)?.changed_at_ms, 5)
})

test('a snapshot after a refused cursor replaces everything', { timeout: limit }, async () => {
  const roster = new Roster()
  const s = server([
    () => [deviceFrame('c-0', user, 'a', 'online', 1) + deviceFrame('c-0', user, 'b', 'online', 7) +
      deviceFrame('c-0', friend, 'c', 'offline', 1) + synced('c-1', false) +
      deviceFrame('c-2', user, 'a', 'online', 2) + deviceFrame('c-3', user, 'a', 'offline', 3),
    'ends'],
    () => [deviceFrame('', user, 'a', 'online', 1), 'is cut'],
    () => [deviceFrame('', user, 'a', 'online', 1) + synced('c-9', false), 'is silent'],
  ])
  let anew = 0
  const more = { roster, view: 'devices' } as const
  const told: string[] = []
  for await (const up of watchMany({
    url, userIds: [user, friend], token: () => 'stream', fetch: s.fetch, maxBackoffMs: 20, ...more,
  })) {
    told.push(describe(up))
    if (up.type === 'synced' && ++anew === 2) break
  }
  assert.deepEqual(told, [
    'user a online 1 true', 'user b online 7 true', 'friend c offline 1 true', 'synced anew',
    'user a online 2 false', 'user a offline 3 true', 'user a online 1 true',
    'friend c offline 1 false gone', 'user b offline 7 true gone', 'synced anew'])
  assert.deepEqual(s.asked.map((a) => a.cursor), ['', 'c-3', ''])
  assert.equal(roster.user(friend), undefined)
  assert.deepEqual(roster.user(user)?.devices_online, 1)
  assert.deepEqual(roster.devices(user).map((d) => d.seq), [1])
})

test('another list goes on from the same roster', { timeout: limit }, async () => {
  const roster = new Roster()
  const s = server([
    () => [userFrame('c-0', user, 1) + userFrame('c-0', friend, 1) + synced('c-1', false),
      'is silent'],
    () => [userFrame('c-1', user, 2) + synced('c-2', true), 'is silent'],
    () => [synced('c-3', false), 'is silent'],
  ])
  await follow(s.fetch, 'synced', { roster })
  const { told } = await follow(s.fetch, 'synced', { roster, userIds: [user.toUpperCase()] })
  assert.deepEqual(told, ['friend offline 0 gone', 'user online 2', 'synced resumed'])
  await follow(s.fetch, 'synced', { roster, view: 'devices' }) // another question
  assert.deepEqual(s.asked.map((a) => a.cursor), ['', 'c-1', ''])
})

test('without a list the token says whom to follow', { timeout: limit }, async () => {
  const tokens = await Promise.all([[friend], []].map((contacts) => {
    return mint('key', { userId: user, contacts, ttlMs: 3_600_000 })
  }))
  for (const opaque of [false, true]) {
    const s = server([
      () => [userFrame('c-0', user, 1) + userFrame('c-0', friend, 1) + synced('c-1', false),
        'ends'],
      () => refusal(403),
      () => [synced('c-2', true), 'is silent'],
    ])
    const token = () => opaque ? `opaque-${s.asked.length}` : tokens[s.asked.length ? 1 : 0]!
    const options = { url, token, fetch: s.fetch, maxBackoffMs: 20 }
    const told: string[] = []
    for await (const up of watchMany(options)) {
      told.push(describe(up))
      if (told.at(-1) === 'synced resumed') break
    }
    assert.equal(told.includes('friend offline 0 gone'), !opaque)
    assert.equal(s.asked.at(-1)?.cursor, opaque ? '' : 'c-1')
    assert.equal(s.asked.at(-1)?.method, 'GET')
  }
})

function shortTokens(ttlMs: number): () => string {
  let minted = 0
  return () => {
    const claims = btoa(JSON.stringify({ n: ++minted, exp_ms: Date.now() + ttlMs }))
    return `${claims.replace(/=+$/, '')}.signature`
  }
}

test('a token is renewed on the open stream', { timeout: limit }, async () => {
  const s = server([() => [synced('c-1', false), 'is silent']])
  const leave = new AbortController()
  const told: string[] = []
  for await (const up of watchMany({
    url, token: shortTokens(1500), fetch: s.fetch, signal: leave.signal,
    onInterruption: (e) => assert.fail(String(e)),
  })) {
    told.push(describe(up))
    while (s.renewed.length < 2) await new Promise((resolve) => setTimeout(resolve, 5))
    leave.abort()
  }
  assert.equal(s.asked.length, 1)
  assert.equal(new Set([s.asked[0]!.token, ...s.renewed]).size, s.renewed.length + 1)
})

test('a JWT says when it ends, too', { timeout: limit }, async () => {
  const s = server([() => [synced('c-1', false), 'is silent']])
  const part = (claims: object) => btoa(JSON.stringify(claims)).replace(/=+$/, '')
  let minted = 0
  const token = () => {
    const exp = Math.ceil(Date.now() / 1000) + 1
    return [part({ alg: 'HS256' }), part({ sub: user, exp, n: ++minted }), 'x'].join('.')
  }
  const leave = new AbortController()
  for await (const _ of watchMany({ url, token, fetch: s.fetch, signal: leave.signal })) {
    while (!s.renewed.length) await new Promise((resolve) => setTimeout(resolve, 5))
    leave.abort()
  }
  assert.equal(s.asked.length, 1)
})

test('a renewal that fails', { timeout: limit }, async () => {
  // The stream is gone, or the token does not fit: the next one takes it, with the cursor.
  for (const status of [404, 403]) {
    const s = server([
      () => [synced('c-1', false), 'is silent'],
      () => [synced('c-1', true) + userFrame('c-2', user, 3), 'is silent'],
    ], () => status)
    const { told, interruptions } = await follow(s.fetch, 'user', { token: shortTokens(1500) })
    assert.deepEqual(told, ['synced anew', 'synced resumed', 'user online 3'])
    assert.deepEqual(interruptions, [])
    assert.equal(s.asked[1]!.cursor, 'c-1')
    assert.equal(s.asked[1]!.token, s.renewed[0])
  }
  // Not for now: it is tried again while the old token serves.
  const answers = [503, 429, 204]
  const leave = new AbortController()
  const s = server([() => [synced('c-1', false), 'is silent']], () => answers.shift() ?? 204)
  let minted = 0
  const token = () => {
    if (++minted === 2) throw new Error('the backend is away')
    return `${btoa(JSON.stringify({ minted, exp_ms: Date.now() + 1500 })).replace(/=+$/, '')}.s`
  }
  for await (const _ of watchMany({
    url, token, fetch: s.fetch, signal: leave.signal, maxBackoffMs: 20,
    onInterruption: (e) => assert.fail(String(e)),
  })) {
    while (s.renewed.length < 3) await new Promise((resolve) => setTimeout(resolve, 5))
    leave.abort()
  }
  assert.equal(s.asked.length, 1)
})

test('a page follows into a roster', { timeout: limit }, async () => {
  const roster = new Roster()
  const s = server([
    () => [userFrame('c-0', user, 1) + userFrame('c-0', friend, 1) + synced('c-1', false),
      'is silent'],
    () => [synced('c-1', true), 'is silent'],
    () => refusal(413),
  ])
  const until = (what: () => boolean) => new Promise<void>((resolve) => {
    const end = roster.subscribe(() => { if (what()) { end(); resolve() } })
  })
  const options = { url, token: () => 'stream', fetch: s.fetch }
  assert.equal(roster.snapshot(), roster.snapshot())
  let stop = roster.follow({ ...options, userIds: [user, friend] })
  const before = roster.snapshot()
  await until(() => roster.state === 'synced')
  assert.notEqual(roster.snapshot(), before)
  assert.deepEqual([...roster.snapshot().users.keys()], [user, friend])
  stop()
  stop = roster.follow({ ...options, userIds: [friend] }) // as an effect of React does
  await until(() => roster.state === 'synced' && s.asked.length === 2)
  assert.deepEqual([...roster.snapshot().users.keys()], [friend])
  stop()
  const failed = new Promise((resolve) => {
    roster.follow({ ...options, userIds: [], onInterruption: resolve })
  })
  assert.ok(await failed instanceof StatusError)
  assert.throws(() => roster.follow({ ...options, userIds: ['bob'] }), TypeError)
})

test('wrong options are refused', () => {
  const o = { url, token: () => 'x', userIds: [user] }
  for (const wrong of [
    { url: 'rollcall' }, { userIds: ['x'] }, { view: 'all' as 'users' }, { lingerMs: 600_001 },
    { lingerMs: 0.5 }, { lingerMs: 1, view: 'devices' as const },
  ]) {
    assert.throws(() => watchMany({ ...o, ...wrong }), TypeError, JSON.stringify(wrong))
  }
  for (const wrong of [{ url: 'x' }, { ttlMs: 0 }, { intervalMs: 2000 }, { maxBatch: 0 }]) {
    assert.throws(() => new Gateway({ url, token: () => 'x', ttlMs: 1000, ...wrong }), TypeError)
  }
})

test('a query asks in the fewest requests', { timeout: limit }, async () => {
  const id = (i: number) => `${i.toString(16).padStart(8, '0')}-0000-4000-8000-000000000000`
  for (const [n, want] of [[0, ''], [1, 'GET'], [21, 'POST'], [2001, 'POST POST GET']] as const) {
    const methods: string[] = []
    const fetch: Fetch = async (to, init) => {
      methods.push(init.method ?? 'GET')
      const path = to.slice(url.length)
      const ids = init.method
        ? (JSON.parse(String(init.body)) as { user_ids: string[] }).user_ids
        : new URL(to).searchParams.getAll('user_id')
      assert.ok(path.startsWith(init.method ? '/api/v1/presence/query' : '/api/v1/presence?'))
      return new Response(JSON.stringify({ users: ids.map((user_id) => ({ user_id })) }))
    }
    const userIds = Array.from({ length: n }, (_, i) => id(n - i))
    const users = await query({ url, token: () => 'x', userIds, fetch })
    assert.equal(methods.join(' '), want)
    assert.deepEqual(users.map((u) => u.user_id), userIds)
  }
  const ask = (answer: Response) => {
    return query({ url, token: () => 'x', userIds: [user], fetch: async () => answer })
  }
  await assert.rejects(ask(refusal(403)), StatusError)
  await assert.rejects(ask(new Response('<p>')), /not the answer/)
})

interface Beat {
  user_id: string
  device_id: string
  status: Status
  seq: number
}

/** apply judges the first n lines by the seq rule. */
type BatchAnswer = (lines: string[], apply: (n: number) => object[]) => Response

/**
 * A server for batches, which keeps the seq rule. The script answers the first requests in its
 * place.
 */
function batches(script: BatchAnswer[]) {
  const last = new Map<string, Beat>()
  const accepted = new Map<string, string>() // device and seq → line (K1)
  const sent: string[][] = []
  const fetch: Fetch = async (to, init) => {
    assert.equal(to, `${url}/api/v1/daemon/presence/heartbeats`)
    const lines = String(init.body).trimEnd().split('\n')
    sent.push(lines)
    const apply = (n: number) => lines.slice(0, n).flatMap((text, i) => {
      const beat = JSON.parse(text) as Beat
      const before = accepted.get(`${beat.device_id} ${beat.seq}`)
      assert.ok(before === undefined || before === text, 'one seq for two heartbeats')
      const last_seq = last.get(beat.device_id)?.seq ?? 0
      if (beat.seq <= last_seq) return [{ line: i + 1, status: 409, last_seq }]
      last.set(beat.device_id, beat)
      accepted.set(`${beat.device_id} ${beat.seq}`, text)
      return []
    })
    return script.shift()?.(lines, apply) ?? batchAnswer(200, apply(lines.length))
  }
  const online = () => [...last.values()].filter((b) => b.status === 'online').length
  return { fetch, sent, online }
}

function batchAnswer(status: number, errors: object[], more: object = {}): Response {
  const omitted = errors.length > 100 ? { errors_omitted: errors.length - 100 } : {}
  const body = { accepted: 0, ...more, ...omitted, errors: errors.slice(0, 100) }
  return new Response(JSON.stringify(body), { status })
}

function deviceId(i: number): string {
  return `${i.toString(16).padStart(8, '0')}-0000-4000-8000-000000000000`
}

async function settled(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 2))
}

test('a gateway speaks for many devices', { timeout: limit }, async () => {
  const s = batches([])
  const errors: unknown[] = []
  const g = new Gateway({
    url, token: () => 'ingest', ttlMs: 300, fetch: s.fetch, maxBatch: 100,
    onError: (e) => errors.push(e),
  })
  for (let i = 0; i < 250; i++) g.set(user, deviceId(i), 'online')
  await settled(() => s.sent.flat().length > 1000) // each is repeated
  assert.equal(s.online(), 250)
  assert.ok(s.sent.every((lines) => lines.length <= 100))
  for (const status of ['offline', 'online', 'offline'] as const) g.set(user, deviceId(7), status)
  await settled(() => g.size === 249)
  assert.equal(s.online(), 249)
  await g.close()
  assert.equal(s.online(), 0)
  assert.throws(() => g.set(user, deviceId(7), 'online'), /closed/)
  assert.deepEqual(errors, [])
})

test('what a gateway sends again', { timeout: limit }, async () => {
  const rows: [string, BatchAnswer, number, number][] = [
    // name, the answer to the first batch of 150, lines that come again, errors told
    ['cut', (_, apply) => { apply(70); throw new TypeError('fetch failed') }, 150, 1],
    ['503', (_, apply) => { apply(70); return refusal(503) }, 150, 1],
    ['429', () => refusal(429), 150, 1],
    ['no room', (_, apply) => batchAnswer(200, apply(40), { unavailable_from: 41 }), 110, 1],
    ['too slow', (_, apply) => batchAnswer(408, apply(40), { line: 41 }), 110, 1],
    ['too many', (_, apply) => batchAnswer(413, apply(100), { line: 101 }), 50, 1],
    ['a page', () => new Response('<p>'), 150, 1],
    ['refusals', (lines, apply) => {
      apply(0)
      return batchAnswer(200, lines.map((_, i) => ({ line: i + 1, status: 429 })))
    }, 150, 100],
  ]
  for (const [name, answer, again, told] of rows) {
    const s = batches([answer])
    const errors: unknown[] = []
    const g = new Gateway({
      url, token: () => 'ingest', ttlMs: 4000, intervalMs: 3999, fetch: s.fetch,
      onError: (e) => errors.push(e),
    })
    for (let i = 0; i < 150; i++) g.set(user, deviceId(i), 'online')
    await settled(() => s.online() === 150 && s.sent.flat().length >= 150 + again)
    const seqs = s.sent.flat().map((line) => (JSON.parse(line) as Beat).seq)
    assert.equal(seqs.length - 150, again, name)
    assert.equal(errors.length, told, `${name}: ${String(errors[0])}`)
    assert.equal(errors[0] instanceof DeviceError, name === 'refusals')
    await g.close()
    assert.equal(s.online(), 0, name)
  }
})

test('a gateway that cannot say offline says so', { timeout: limit }, async () => {
  for (const status of [401, 503]) {
    const g = new Gateway({
      url, token: () => 'ingest', ttlMs: 2000, fetch: async () => refusal(status),
    })
    g.set(user, deviceId(0), 'online')
    await assert.rejects(g.close(100))
  }
})

test('a minted token is the wire contract\'s', async () => {
  const token = await mint('key', {
    userId: user, contacts: [friend], users: [user, friend], anyUser: true, ttlMs: 60_000,
  })
  const [payload, signature] = token.split('.')
  assert.equal(signature, createHmac('sha256', 'key').update(payload!).digest('base64url'))
  const text = Buffer.from(payload!, 'base64url').toString()
  const claims = JSON.parse(text) as Record<string, unknown>
  assert.equal(claims.user_id, user)
  assert.deepEqual(claims.user_ids, [friend])
  assert.deepEqual(claims.scope, ['presence:read', 'presence:read:any'])
  assert.equal(Number(claims.exp_ms) - Number(claims.issued_at_ms), 60_000)
  assert.equal(claims.users_sha256, await usersSha256([friend, user.toUpperCase(), friend]))
  assert.equal(claims.users_sha256, 'HqWYKfekfmbl8ubjJoqnessR4IvdHECgdj35HCiy2Mk')
  for (const wrong of [
    { userId: 'bob' }, { contacts: ['eve'] }, { users: ['mal'] }, { ttlMs: 0 },
    { contacts: Array.from({ length: 201 }, () => friend) },
  ]) {
    await assert.rejects(mint('key', { userId: user, ttlMs: 1000, ...wrong }), TypeError)
  }
  await assert.rejects(mint('', { userId: user, ttlMs: 1000 }), TypeError)
})

// Against the server as it is.

const real = { timeout: limit, skip: !binary }

test('with the real server: a list, its query, its gateway', real, async (t) => {
  const { base, end } = await serve()
  const leave = new AbortController()
  t.after(() => { leave.abort(); return end('SIGKILL') })
  const [me, other] = [randomUUID(), randomUUID()]
  const g = new Gateway({
    url: base, token: () => secrets.PRESENCE_DO_INGEST_TOKEN, ttlMs: 30_000, intervalMs: 200,
    onError: (e) => assert.fail(String(e)),
  })
  const key = secrets.PRESENCE_DO_TOKEN_SIGNING_KEY
  let minted = 0
  const token = () => {
    minted++
    return mint(key, { userId: me, contacts: [other], ttlMs: 3000 })
  }
  const roster = new Roster()
  let opened = 0
  const counted: Fetch = (to, init) => {
    if (to.includes('/stream?')) opened++
    return fetch(to, init)
  }
  const updates = watchMany({
    url: base, token, roster, fetch: counted, signal: leave.signal,
    onInterruption: (e) => assert.fail(String(e)),
  })
  const next = async (what: string) => {
    for (;;) {
      const { value, done } = await updates.next()
      assert.ok(!done, 'the watch ended')
      if (describe(value).replace(me, 'me').startsWith(what)) return value
    }
  }
  names.set(me, 'me').set(other, 'other')
  await next('me offline 0')
  await next('other offline 0')
  await next('synced anew')
  for (let i = 0; i < 150; i++) g.set(other, randomUUID(), 'online')
  await next('other online 150')
  const before = roster.user(other)
  assert.ok(before?.last_seen_ms)
  const users = await query({ url: base, token, userIds: [other, me] })
  assert.deepEqual(users.map((u) => [u.user_id, u.devices_online, u.devices.length]),
    [[other, 150, 150], [me, 0, 0]])
  while (minted < 5) await new Promise((resolve) => setTimeout(resolve, 20)) // renewals
  await g.close()
  await next('other offline 0')
  assert.equal(opened, 1, 'the token is renewed on the open stream')
})
