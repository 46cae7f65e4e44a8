// A client of rollcall in one file without dependencies, for browsers, Node (20 and later) and
// React Native: Daemon reports a device, watch() follows a user's devices.
//
//   const daemon = new Daemon({ url, token: () => ingestToken, userId, deviceId, ttlMs: 30_000 })
//   …
//   await daemon.close() // says offline
//
//   for await (const ev of watch({ url, userId, token: () => fetchStreamToken(), signal })) {
//     if (ev.transition) console.log(ev.device_id, ev.status)
//   }
//
// React Native's own fetch has no response.body, which a stream needs. Pass one that has:
// `import { fetch } from 'expo/fetch'` and watch({ …, fetch }), or react-native-fetch-api with
// `reactNative: { textStreaming: true }` in a wrapper. Daemon works with the built-in one.
//
// Both keep the rules of the Go client, K1 to K10; its doc.go explains them. One differs: the body
// of an error is read whole.

export type Status = 'online' | 'offline'

/** The part of fetch that is used here; globalThis.fetch fits. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>

/** The state of a device after a heartbeat or after its TTL ran out. */
export interface PresenceEvent {
  user_id: string
  device_id: string
  status: Status
  source: string
  /** Unix milliseconds: the daemon's clock, or the server's when a TTL ran out. */
  sent_at_ms: number
  seq: number
  ttl_ms: number
  /** Set when the status differs from the last event of the device, or there was none. */
  transition: boolean
}

/** An answer other than success. */
export class StatusError extends Error {
  override name = 'StatusError'
  constructor(
    /** Of HTTP. */
    readonly status: number,
    /**
     * 'unauthorized', 'forbidden', 'rate_limited', 'unavailable', 'invalid_payload', or '' for an
     * answer of another server.
     */
    readonly code: string,
    readonly details: string,
    /** How long the server asks to wait; 0: it does not say. */
    readonly retryAfterMs: number,
    /** Of a 409: the last accepted seq. */
    readonly lastSeq?: number,
  ) {
    super(`rollcall answered ${status}${details && `: ${details}`}${hints.get(status) ?? ''}`)
  }
  /** Whether waiting alone may help. */
  get temporary(): boolean {
    return this.status >= 500 || this.status === 429 || this.status === 408
  }
}

const hints = new Map([
  [401, ' (check what token() returns)'],
  [403, ' (check what token() returns)'],
  [404, " (check that url is the server's base URL)"],
  [405, " (check that url is the server's base URL)"],
])

/** An interruption that the server announced: it restarts, or the token's time was over. */
export class StreamEnded extends Error {
  override name = 'StreamEnded'
  constructor() {
    super('the server ended the stream')
  }
}

export interface WatchOptions {
  /** Of the server, as https://presence.example.com. */
  url: string
  /** Of the user to follow, a UUID in lowercase. */
  userId: string
  /**
   * Returns a new stream token for the user. The watch calls it before the first connect, in the
   * last fifth of the token's time (read from its exp_ms) and when the server refuses it; for a
   * token without an expiry, before each connect.
   */
  token: () => string | Promise<string>
  /** Ends the loop. */
  signal?: AbortSignal
  /** Gets the error of each lost or refused connection; the watch reconnects by itself. */
  onInterruption?: (error: unknown) => void
  /** How long a connection may be silent. Default: 45,000, three of the server's keepalives. */
  idleTimeoutMs?: number
  /** The longest random wait between two tries. Default: 30,000. */
  maxBackoffMs?: number
  /** Bounds one frame, in characters; rollcall's have at most some 1,200. Default: 65,536. */
  maxFrameLength?: number
  /** Makes the requests. Default: globalThis.fetch. */
  fetch?: Fetch
}

export interface DaemonOptions {
  /** Of the server, as https://presence.example.com. */
  url: string
  /** Returns the ingest token; called before each request, so the token may change at any time. */
  token: () => string | Promise<string>
  /** Lowercase UUIDs. A device is the pair. */
  userId: string
  deviceId: string
  /** What sent the heartbeat, in at most 128 bytes. Default: 'rollcall-ts'. */
  source?: string
  /**
   * How long the server waits for a heartbeat before it shows the device offline; 30,000 is a good
   * start.
   */
  ttlMs: number
  /** The longest time between two heartbeats. Default: a third of the TTL. */
  intervalMs?: number
  /** Bounds one request. Default: the interval, but at least 1,000 and at most 10,000. */
  timeoutMs?: number
  /** The last seq known to be used, for a caller that stores `seq`. Default: Date.now() (K2). */
  seq?: number
  /** Gets the error of every attempt that was not accepted. */
  onError?: (error: unknown) => void
  /** Makes the requests. Default: globalThis.fetch. */
  fetch?: Fetch
}

const heartbeatPath = '/api/v1/daemon/presence/heartbeat'
const streamPath = '/api/v1/mobile/presence/stream'
const maxRetryAfterMs = 3_600_000
const maxTimerMs = 2 ** 31 - 1
const maxKnown = 65_536 // devices whose last event a watch remembers (K10)
const refusedPauseMs = 30_000 // at most, after a refusal that needs an operator (K5)

/**
 * Follows a user: first the devices as they are, then each change, over as many connections as it
 * takes. The loop ends when the signal aborts or the caller leaves it. It throws an error that
 * another try does not change (a wrong option, a 400).
 */
export function watch(options: WatchOptions): AsyncGenerator<PresenceEvent, void, void> {
  return new Watch(options).run()
}

const renewal = new Error('it is time to renew the token')

class Watch {
  readonly #o: WatchOptions
  readonly #url: string
  readonly #fetch: Fetch
  readonly #idleMs: number
  readonly #known = new Map<string, string>() // device → its last payload, canonical
  readonly #backoff: Backoff
  #token = ''
  #renewAt = 0 // the token serves until then; 0: for one connection
  #refused = 0 // 401s and 403s in a row
  #retryMs: number | undefined // what the server asked for before the end of the stream

  constructor(o: WatchOptions) {
    this.#url = `${endpoint(o.url, streamPath)}?user_id=${canonicalId('userId', o.userId)}`
    const { idleTimeoutMs, maxBackoffMs, maxFrameLength } = o
    positive({ idleTimeoutMs, maxBackoffMs, maxFrameLength })
    this.#o = o
    this.#fetch = o.fetch ?? ((url, init) => globalThis.fetch(url, init))
    this.#idleMs = o.idleTimeoutMs ?? 45_000
    const limit = o.maxBackoffMs ?? 30_000
    this.#backoff = new Backoff(Math.min(1000, limit), limit)
  }

  async *run(): AsyncGenerator<PresenceEvent, void, void> {
    const { signal, onInterruption } = this.#o
    while (!signal?.aborted) {
      this.#retryMs = undefined
      let failure: unknown
      try {
        yield* this.#connection()
      } catch (error) {
        failure = error
      }
      if (signal?.aborted) return
      if (failure === renewal) continue // the watch itself did it: no interruption, no wait
      onInterruption?.(failure)
      const wait = this.#pause(failure)
      if (wait === undefined) throw failure
      await sleep(wait, signal)
    }
  }

  /** How long to wait after a failure; undefined: another try makes no sense. */
  #pause(failure: unknown): number | undefined {
    if (!(failure instanceof StatusError)) {
      if (this.#retryMs === undefined) return this.#backoff.next()
      return Math.min(this.#retryMs, maxRetryAfterMs)
    }
    if (failure.temporary) return failure.retryAfterMs + this.#backoff.next()
    if (failure.status === 400) return undefined
    if (this.#refused === 1) return this.#backoff.next() // with a new token
    return Math.max(failure.retryAfterMs, between(refusedPauseMs / 2, refusedPauseMs))
  }

  /** Yields from one connection until it ends, by an error in any case. */
  async *#connection(): AsyncGenerator<PresenceEvent, void, void> {
    const { signal } = this.#o
    const connection = new AbortController()
    const stop = () => connection.abort(signal?.reason)
    signal?.addEventListener('abort', stop, { once: true })
    const idle = new Alarm(this.#idleMs, () => {
      connection.abort(new Error('the stream was silent for too long'))
    })
    const renew = new Alarm(maxTimerMs, () => {
      this.#renewAt = 0 // by Date.now() it may be a moment early: timers have another clock
      connection.abort(renewal)
    })
    try {
      await this.#needToken()
      idle.set()
      const response = await this.#open(connection.signal)
      if (this.#renewAt) renew.set(Math.max(0, this.#renewAt - Date.now()))
      yield* this.#read(response, idle, connection.signal)
    } catch (error) {
      throw connection.signal.aborted ? connection.signal.reason : error
    } finally {
      signal?.removeEventListener('abort', stop)
      idle.clear()
      renew.clear()
      connection.abort()
    }
  }

  async #needToken(): Promise<void> {
    const now = Date.now()
    if (now < this.#renewAt) return
    const token = await this.#o.token()
    this.#renewAt = 0
    // A token that has expired by this clock may still be good, since the clock may be wrong; and
    // token() may return the old one again. With these the server says when their time is over.
    const left = expiry(token) - now
    if (left > 0 && token !== this.#token) this.#renewAt = now + between(left * 0.8, left * 0.95)
    this.#token = token
  }

  async #open(signal: AbortSignal): Promise<Response> {
    const asked = this.#fetch(this.#url, {
      headers: { Accept: 'text/event-stream', Authorization: `Bearer ${this.#token}` },
      cache: 'no-store',
      redirect: 'error', // a token is for one server
      signal,
    })
    const response = await unless(signal, asked)
    if (response.status === 401 || response.status === 403) {
      this.#renewAt = 0
      this.#refused++
      throw await statusError(response)
    }
    this.#refused = 0
    if (response.status !== 200) throw await statusError(response)
    const type = response.headers.get('Content-Type') ?? ''
    if (!/^text\/event-stream\s*(;|$)/i.test(type)) {
      throw new Error(`the answer is "${type}" and not a stream: ` +
        "check that url is the server's, and the proxies before it")
    }
    return response
  }

  async *#read(
    response: Response, idle: Alarm, signal: AbortSignal,
  ): AsyncGenerator<PresenceEvent, void, void> {
    const reader = response.body?.getReader()
    if (!reader) {
      throw new Error('this fetch has no response.body: ' +
        'pass one that streams, see the top of rollcall.ts')
    }
    const text = new TextDecoder()
    const frames = new FrameDecoder(this.#o.maxFrameLength ?? 65_536)
    const opened = Date.now()
    try {
      for (;;) {
        idle.set()
        const { done, value } = await unless(signal, reader.read())
        idle.clear() // the time that the loop's body takes does not count (K7)
        if (done) throw new StreamEnded()
        for (const frame of frames.feed(text.decode(value, { stream: true }))) {
          if (frame.retryMs !== undefined) this.#retryMs = frame.retryMs
          const event = this.#event(frame)
          if (event) yield event
        }
      }
    } finally {
      void reader.cancel().catch(() => {}) // the connection is over in any case
      if (Date.now() - opened >= (this.#o.maxBackoffMs ?? 30_000)) this.#backoff.reset()
    }
  }

  /** Reads a frame; undefined for one that says nothing new (K6) or is of another kind. */
  #event(frame: Frame): PresenceEvent | undefined {
    if (frame.data === undefined) return undefined
    if (frame.event !== '' && frame.event !== 'message') return undefined
    const payload = parse(frame.data)
    const { user_id, device_id, status, source, sent_at_ms, seq, ttl_ms } = payload
    if (payload.schema_version !== 1) return undefined
    if (status !== 'online' && status !== 'offline') return undefined
    if (typeof user_id !== 'string' || typeof device_id !== 'string') return undefined
    if (typeof source !== 'string' || typeof sent_at_ms !== 'number') return undefined
    if (typeof seq !== 'number' || typeof ttl_ms !== 'number') return undefined
    const now = JSON.stringify([status, source, sent_at_ms, seq, ttl_ms])
    const before = this.#known.get(device_id)
    if (before === now) return undefined
    if (before !== undefined || this.#known.size < maxKnown) this.#known.set(device_id, now)
    const transition = before === undefined || !before.startsWith(`["${status}"`)
    return { user_id, device_id, status, source, sent_at_ms, seq, ttl_ms, transition }
  }
}

interface Heartbeat {
  seq: number
  status: Status
  body: string // made once: what is sent again is the same (K1)
}

/**
 * Sends a device's heartbeats, the first one at once, until it is closed. A server that cannot be
 * reached is not an error. Its timer keeps a Node process alive.
 */
export class Daemon {
  readonly #o: DaemonOptions
  readonly #url: string
  readonly #fetch: Fetch
  readonly #intervalMs: number
  readonly #timeoutMs: number
  readonly #source: string
  readonly #backoff: Backoff
  readonly #closing = new AbortController()
  readonly #done: Promise<void>
  #farewell: Promise<void> | undefined
  #status: Status = 'online' // what the caller wants the device to be
  #wake = new AbortController() // aborted when the status changes
  #accepted = 0
  #seq: number // the highest that the server may have
  #unsure: Heartbeat | undefined // sent; whether it was accepted is not known (K1)
  #shown: Status | undefined // what the server shows, if that is known
  #stale = 0 // 409s in a row

  constructor(o: DaemonOptions) {
    this.#url = endpoint(o.url, heartbeatPath)
    canonicalId('userId', o.userId)
    canonicalId('deviceId', o.deviceId)
    positive({ ttlMs: o.ttlMs, intervalMs: o.intervalMs, timeoutMs: o.timeoutMs })
    this.#o = o
    this.#fetch = o.fetch ?? ((url, init) => globalThis.fetch(url, init))
    this.#source = o.source ?? 'rollcall-ts'
    this.#intervalMs = o.intervalMs ?? o.ttlMs / 3
    if (!Number.isSafeInteger(o.ttlMs) || this.#intervalMs >= o.ttlMs) {
      throw new TypeError(`ttlMs ${o.ttlMs}: ` +
        `want a whole number of milliseconds above intervalMs, ${this.#intervalMs}`)
    }
    this.#timeoutMs = o.timeoutMs ?? Math.min(Math.max(this.#intervalMs, 1000), 10_000)
    this.#seq = o.seq ?? Date.now()
    this.#backoff = new Backoff(Math.min(500, o.ttlMs / 8), Math.min(10_000, o.ttlMs / 2))
    this.#done = this.#run()
  }

  /** The last accepted seq, 0 before the first. Storing it is not needed. */
  get seq(): number {
    return this.#accepted
  }

  /**
   * A change is sent at once, or when the wait after a failure is over. An offline device is silent
   * until it is online.
   */
  setStatus(status: Status): void {
    if (this.#status === status || this.#closing.signal.aborted) return
    this.#status = status
    this.#wake.abort()
  }

  /** Says offline and stops; rejects if the server did not take it within the time. */
  async close(withinMs = 5000): Promise<void> {
    if (!this.#closing.signal.aborted) {
      this.#status = 'offline'
      this.#closing.abort()
      this.#farewell = this.#done.then(() => this.#sayOffline(Date.now() + withinMs))
    }
    return this.#farewell
  }

  async #run(): Promise<void> {
    const closing = this.#closing.signal
    while (!closing.aborted) {
      this.#wake = new AbortController()
      const heartbeat = this.#due()
      if (!heartbeat) {
        await sleep(maxTimerMs, closing, this.#wake.signal)
        continue
      }
      const began = Date.now()
      const failure = await this.#send(heartbeat, this.#timeoutMs, closing)
      if (closing.aborted) return
      if (failure === undefined) {
        const interval = between(this.#intervalMs * 0.75, this.#intervalMs)
        await sleep(interval - (Date.now() - began), closing, this.#wake.signal)
      } else {
        this.#o.onError?.(failure)
        await sleep(this.#pause(failure), closing) // even if the status changes: spare the server
      }
    }
  }

  /**
   * The unsure heartbeat again if its status is still right, else a new one; undefined if the
   * device is offline and the server shows that.
   */
  #due(): Heartbeat | undefined {
    const status = this.#status
    if (this.#unsure?.status === status) return this.#unsure
    if (!this.#unsure && status === 'offline' && this.#shown === 'offline') return undefined
    const { userId, deviceId, ttlMs } = this.#o
    const seq = this.#seq + 1
    const body = JSON.stringify({
      schema_version: 1, user_id: userId, device_id: deviceId, status, source: this.#source,
      sent_at_ms: Date.now(), seq, ttl_ms: ttlMs,
    })
    return { seq, status, body }
  }

  /** Makes one attempt and notes what is known after it. Undefined: accepted, now or before. */
  async #send(h: Heartbeat, timeoutMs: number, signal?: AbortSignal): Promise<unknown> {
    let failure: unknown
    let sent = false
    try {
      const token = await this.#o.token()
      sent = true
      failure = await this.#post(h, token, timeoutMs, signal)
    } catch (error) {
      failure = error
    }
    const answer = failure instanceof StatusError ? failure : undefined
    const ownConflict = h === this.#unsure && answer?.status === 409 && answer.lastSeq === h.seq
    if (failure === undefined || ownConflict) {
      this.#unsure = undefined
      this.#shown = h.status
      this.#seq = this.#accepted = h.seq
      this.#stale = 0
      this.#backoff.reset()
      return undefined
    }
    if (answer?.status === 409) {
      // Go on from the last seq that it names. The original service names none: then the clock is
      // the best guess.
      this.#unsure = this.#shown = undefined
      this.#seq = Math.max(h.seq, answer.lastSeq ?? Date.now())
      this.#stale++
    } else if (sent && (!answer || answer.status >= 500 || answer.status === 408)) {
      this.#unsure = h
      this.#seq = h.seq
    }
    return failure
  }

  async #post(
    h: Heartbeat, token: string, timeoutMs: number, signal?: AbortSignal,
  ): Promise<StatusError | undefined> {
    const attempt = new AbortController()
    const stop = () => attempt.abort(signal?.reason)
    if (signal?.aborted) stop()
    signal?.addEventListener('abort', stop, { once: true })
    const timeout = new Alarm(timeoutMs, () => {
      attempt.abort(new Error(`no answer within ${timeoutMs} ms`))
    })
    timeout.set()
    try {
      const asked = this.#fetch(this.#url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
        body: h.body,
        redirect: 'error',
        keepalive: h.status === 'offline', // so that a page that is closed can still send it
        signal: attempt.signal,
      })
      const response = await unless(attempt.signal, asked)
      return response.status === 204 ? undefined : await statusError(response)
    } catch (error) {
      throw attempt.signal.aborted ? attempt.signal.reason : error
    } finally {
      timeout.clear()
      signal?.removeEventListener('abort', stop)
    }
  }

  #pause(failure: unknown): number {
    if (!(failure instanceof StatusError)) return this.#backoff.next()
    if (failure.status === 409 && this.#stale === 1) return 0 // the next seq is known now
    if (failure.status === 409 || failure.temporary) {
      return failure.retryAfterMs + this.#backoff.next()
    }
    return Math.max(failure.retryAfterMs, between(refusedPauseMs / 2, refusedPauseMs))
  }

  async #sayOffline(deadline: number): Promise<void> {
    this.#backoff.reset()
    for (let h = this.#due(); h; h = this.#due()) {
      const left = Math.max(1, deadline - Date.now())
      const failure = await this.#send(h, Math.min(this.#timeoutMs, left))
      if (failure === undefined) continue
      const final = failure instanceof StatusError && !failure.temporary && failure.status !== 409
      const wait = this.#pause(failure)
      if (final || Date.now() + wait >= deadline) throw failure
      await sleep(wait)
    }
  }
}

interface Frame {
  event: string
  data: string | undefined // undefined: a retry: line alone
  retryMs: number | undefined
}

/**
 * Reads server-sent events as the HTML standard defines them, fed with pieces of text: lines end in
 * LF, CR or CRLF, a blank line dispatches, several data lines are joined with LF, unknown fields
 * and comments are ignored. Exported for tests.
 */
export class FrameDecoder {
  #line = '' // begun, not ended
  #cr = false // the last piece ended in CR: a LF that follows belongs to it
  #event = ''
  #data: string | undefined
  #retryMs: number | undefined

  constructor(readonly maxLength: number) {}

  *feed(piece: string): Generator<Frame, void, void> {
    if (this.#cr && piece.startsWith('\n')) piece = piece.slice(1)
    else if (piece === '') return
    this.#cr = piece.endsWith('\r')
    const lines = (this.#line + piece).split(/\r\n|\r|\n/)
    this.#line = lines.pop() ?? ''
    for (const line of lines) {
      const frame = this.#take(line)
      if (frame) yield frame
    }
    this.#bound(this.#line.length)
  }

  #take(line: string): Frame | undefined {
    this.#bound(line.length)
    if (line === '') return this.#dispatch()
    const colon = line.indexOf(':')
    const name = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1)
    if (name === 'data') {
      this.#data = this.#data === undefined ? value : `${this.#data}\n${value}`
      this.#bound(this.#data.length)
    } else if (name === 'event') {
      this.#event = value
    } else if (name === 'retry' && /^[0-9]+$/.test(value)) {
      this.#retryMs = Number(value)
    }
    return undefined
  }

  #dispatch(): Frame | undefined {
    const frame = { event: this.#event, data: this.#data, retryMs: this.#retryMs }
    this.#event = ''
    this.#data = this.#retryMs = undefined
    return frame.data === undefined && frame.retryMs === undefined ? undefined : frame
  }

  #bound(length: number): void {
    if (length > this.maxLength) {
      throw new Error('a frame of the stream is larger than maxFrameLength')
    }
  }
}

/**
 * How long to wait after failures in a row: at random up to a bound that doubles from first to
 * limit (K4).
 */
class Backoff {
  #bound: number
  constructor(
    readonly first: number,
    readonly limit: number,
  ) {
    this.#bound = first
  }
  next(): number {
    const bound = this.#bound
    this.#bound = Math.min(2 * bound, this.limit)
    return between(0, bound)
  }
  reset(): void {
    this.#bound = this.first
  }
}

/** A timer that can be set again. */
class Alarm {
  #timer: ReturnType<typeof setTimeout> | undefined
  constructor(
    readonly afterMs: number,
    readonly ring: () => void,
  ) {}
  set(afterMs = this.afterMs): void {
    this.clear()
    this.#timer = setTimeout(this.ring, Math.min(afterMs, maxTimerMs))
  }
  clear(): void {
    clearTimeout(this.#timer)
  }
}

/** Waits, or until one of the signals aborts. */
function sleep(ms: number, ...signals: (AbortSignal | undefined)[]): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer)
      for (const s of signals) s?.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, Math.min(Math.max(ms, 0), maxTimerMs))
    for (const s of signals) s?.addEventListener('abort', end, { once: true })
    if (signals.some((s) => s?.aborted)) end()
  })
}

/**
 * Is what the promise becomes, or a rejection when the signal aborts: not every fetch obeys its
 * signal to the end.
 */
function unless<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })
}

function between(low: number, high: number): number {
  return low + Math.random() * (high - low)
}

/** Reads what the server says of its refusal. */
async function statusError(response: Response): Promise<StatusError> {
  let reply: Record<string, unknown> = {}
  try {
    reply = parse(await response.text())
  } catch {
    // The status counts, whatever the body would have been.
  }
  const text = (value: unknown) => (typeof value === 'string' ? value : '')
  const lastSeq = typeof reply.last_seq === 'number' ? reply.last_seq : undefined
  const wait = retryAfter(response)
  return new StatusError(response.status, text(reply.error), text(reply.details), wait, lastSeq)
}

/**
 * Reads a Retry-After header, seconds or a date; 0 if it is neither. A page of another origin may
 * not see that of a proxy.
 */
function retryAfter(response: Response): number {
  const header = response.headers.get('Retry-After') ?? ''
  const ms = /^[0-9]+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Math.min(Math.max(Number.isNaN(ms) ? 0 : ms, 0), maxRetryAfterMs)
}

/** The fields of a JSON object, none if it is not one. */
function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

/** Reads exp_ms from a stream token, whose format is the wire contract's; 0 if there is none. */
function expiry(token: string): number {
  try {
    const payload = token.split('.')[0] ?? ''
    const { exp_ms } = parse(atob(payload.replace(/-/g, '+').replace(/_/g, '/')))
    return typeof exp_ms === 'number' ? exp_ms : 0
  } catch {
    return 0
  }
}

function endpoint(base: string, path: string): string {
  if (!/^https?:\/\/[^/?#]+[^?#]*$/.test(base)) {
    throw new TypeError(`url "${base}": want http://HOST or https://HOST, ` +
      'as in https://presence.example.com')
  }
  return base.replace(/\/$/, '') + path
}

function canonicalId(name: string, id: string): string {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)) {
    throw new TypeError(`${name} "${id}": want a UUID in lowercase`)
  }
  return id
}

function positive(values: Record<string, number | undefined>): void {
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && !(value > 0)) {
      throw new TypeError(`${name} must be above 0, not ${value}`)
    }
  }
}
