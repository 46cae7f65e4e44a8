// A client of rollcall in one file without dependencies, for browsers, Node (20 and later) and
// React Native: Daemon reports a device, Gateway many, watch() follows a user's devices,
// watchMany() a list of users, query() asks once. Backends mint tokens with mint.ts.
//
//   const daemon = new Daemon({ url, token: () => ingestToken, userId, deviceId, ttlMs: 30_000 })
//   …
//   await daemon.close() // says offline
//
//   for await (const ev of watch({ url, userId, token: () => fetchStreamToken(), signal })) {
//     if (ev.transition) console.log(ev.device_id, ev.status)
//   }
//
//   const roster = new Roster()
//   roster.subscribe(() => render(roster.snapshot().users))
//   const stop = roster.follow({ url, userIds: contacts, token: () => fetchStreamToken() })
//
// React Native's own fetch has no response.body, which a stream needs. Pass one that has:
// `import { fetch } from 'expo/fetch'` and watch({ …, fetch }), or react-native-fetch-api with
// `reactNative: { textStreaming: true }` in a wrapper. Daemon works with the built-in one.
//
// All keep the rules of the Go client, K1 to K12; its doc.go explains them. One differs: the body
// of an answer is read whole.

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

/** The presence of a user over all devices. */
export interface UserPresence {
  user_id: string
  status: Status
  /** 0 while status is 'online' when the last device has just left (lingerMs). */
  devices_online: number
  /**
   * The server's time of the last heartbeat that said online, in unix milliseconds; null: never, or
   * not known (view 'devices').
   */
  last_seen_ms: number | null
  /** The server's time of the last change of status or devices_online; null as above. */
  changed_at_ms: number | null
}

/** What a watchMany() tells. */
export type Update =
  /** With view 'users'. gone: not followed any more, or forgotten by the server; then offline. */
  | { type: 'user'; user: UserPresence; gone: boolean }
  /** With view 'devices'. */
  | { type: 'device'; device: PresenceEvent; gone: boolean }
  /**
   * All is told that the server knew when the connection was opened. resumed: only what changed
   * since the last one. users: how many are followed.
   */
  | { type: 'synced'; resumed: boolean; users: number }

/**
 * 'connecting' until it is 'synced', 'interrupted' from a failure until it is 'synced' again, and
 * when the watch has ended.
 */
export type ConnectionState = 'connecting' | 'synced' | 'interrupted'

export interface WatchManyOptions {
  /** Of the server, as https://presence.example.com. */
  url: string
  /**
   * The users to follow, as UUIDs. The token has to cover them. Default: those in the token, its
   * user_id and user_ids.
   */
  userIds?: readonly string[]
  /** Returns a new stream token; called as that of watch(). */
  token: () => string | Promise<string>
  /** What is told: changes of users, or each heartbeat of each device. Default: 'users'. */
  view?: 'users' | 'devices'
  /**
   * How long a user who has no device online is still shown online, so that a phone that changes
   * cells does not flicker: at most 600,000, with view 'users' only. Default: 0.
   */
  lingerMs?: number
  /**
   * Keeps the state of all users, and the place to resume from when another watchMany() follows.
   * Default: one of the watch's own.
   */
  roster?: Roster
  /** As those of watch(). */
  signal?: AbortSignal
  onInterruption?: (error: unknown) => void
  idleTimeoutMs?: number
  maxBackoffMs?: number
  maxFrameLength?: number
  fetch?: Fetch
}

export interface QueryOptions {
  /** Of the server, as https://presence.example.com. */
  url: string
  /** Returns a token that covers the users. */
  token: () => string | Promise<string>
  /**
   * The users to ask about, as UUIDs. More than 1,000 take several requests, and a token with
   * presence:read:any; their answers are of different moments.
   */
  userIds: readonly string[]
  signal?: AbortSignal
  /** Makes the requests. Default: globalThis.fetch. */
  fetch?: Fetch
}

/** A user's presence with that of each device, as the server answers it. */
export interface UserDevices {
  user_id: string
  status: Status
  devices_online: number
  last_seen_ms: number | null
  devices: (Omit<PresenceEvent, 'transition'> & {
    last_heartbeat_ms: number | null
    last_offline_ms: number | null
    updated_at_ms: number
  })[]
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
const manyPath = '/api/v1/presence/stream'
const batchPath = '/api/v1/daemon/presence/heartbeats'
const maxStreamId = 256
const maxCursor = 1024
const maxByGet = 20 // users that a query names in its URL: proxies may bound a request's line
const maxByPost = 1000 // users that one request may name
const maxRetryAfterMs = 3_600_000
const maxTimerMs = 2 ** 31 - 1
const maxKnown = 65_536 // devices whose last event a watch remembers, users too (K10)
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

/** What every watch is told. */
interface StreamOptions {
  url: string
  token: () => string | Promise<string>
  signal?: AbortSignal
  onInterruption?: (error: unknown) => void
  idleTimeoutMs?: number
  maxBackoffMs?: number
  maxFrameLength?: number
  fetch?: Fetch
}

/** The loop of connections behind each watch: tokens, waits, renewal. */
abstract class Stream<T> {
  readonly #o: StreamOptions
  readonly #fetch: Fetch
  readonly #idleMs: number
  readonly #backoff: Backoff
  #refused = 0 // 401s and 403s in a row
  #retryMs: number | undefined // what the server asked for before the end of the stream
  #renewAt = 0 // the token serves until then; 0: for one connection
  protected token = '' // the last one

  constructor(o: StreamOptions) {
    endpoint(o.url, '')
    const { idleTimeoutMs, maxBackoffMs, maxFrameLength } = o
    positive({ idleTimeoutMs, maxBackoffMs, maxFrameLength })
    this.#o = o
    this.#fetch = o.fetch ?? ((url, init) => globalThis.fetch(url, init))
    this.#idleMs = o.idleTimeoutMs ?? 45_000
    this.#backoff = this.#newBackoff()
  }

  /** Before a connection, with its token: what there is to tell. */
  protected *settle(): Iterable<T> {}
  /** The request of a connection, without its token. */
  protected abstract request(): { url: string; init: RequestInit; headers: Record<string, string> }
  /** A connection is open. */
  protected opened(): void {}
  /** Reads a frame, and yields what it says that is new. */
  protected abstract take(frame: Frame): Iterable<T>
  protected interrupted(_failure: unknown): void {}

  async *run(): AsyncGenerator<T, void, void> {
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
      this.interrupted(failure)
      onInterruption?.(failure)
      const wait = this.#pause(failure)
      if (wait === undefined) throw failure
      await sleep(wait, signal)
    }
  }

  #newBackoff(): Backoff {
    const limit = this.#o.maxBackoffMs ?? 30_000
    return new Backoff(Math.min(1000, limit), limit)
  }

  /** How long to wait after a failure; undefined: another try makes no sense. */
  #pause(failure: unknown): number | undefined {
    if (!(failure instanceof StatusError)) {
      if (this.#retryMs === undefined) return this.#backoff.next()
      return Math.min(this.#retryMs, maxRetryAfterMs)
    }
    if (failure.temporary) return failure.retryAfterMs + this.#backoff.next()
    if (failure.status === 400 || failure.status === 413) return undefined
    if (this.#refused === 1) return this.#backoff.next() // with a new token
    return Math.max(failure.retryAfterMs, between(refusedPauseMs / 2, refusedPauseMs))
  }

  /** Yields from one connection until it ends, by an error in any case. */
  async *#connection(): AsyncGenerator<T, void, void> {
    const { signal } = this.#o
    const connection = new AbortController()
    const stop = () => connection.abort(signal?.reason)
    signal?.addEventListener('abort', stop, { once: true })
    const idle = new Alarm(this.#idleMs, () => {
      connection.abort(new Error('the stream was silent for too long'))
    })
    try {
      if (Date.now() >= this.#renewAt) this.#use(await this.#o.token())
      yield* this.settle()
      idle.set()
      const response = await this.#open(connection.signal)
      const id = response.headers.get('Rollcall-Stream') ?? ''
      void this.#keepToken(id.length <= maxStreamId ? id : '', connection)
      this.opened()
      yield* this.#read(response, idle, connection.signal)
    } catch (error) {
      throw connection.signal.aborted ? connection.signal.reason : error
    } finally {
      signal?.removeEventListener('abort', stop)
      idle.clear()
      connection.abort()
    }
  }

  /** Notes a token and until when it serves. */
  #use(token: string): void {
    this.#renewAt = 0
    // A token that has expired by this clock may still be good, since the clock may be wrong; and
    // token() may return the old one again. With these the server says when their time is over.
    const left = claimsOf(token).expiresMs - Date.now()
    if (left > 0 && token !== this.token) {
      this.#renewAt = Date.now() + between(left * 0.8, left * 0.95)
    }
    this.token = token
  }

  /**
   * Renews the token of the open stream `id` before it ends. Where that cannot be done it ends the
   * connection, and the next one takes the new token (K9).
   */
  async #keepToken(id: string, connection: AbortController): Promise<void> {
    const { signal } = connection
    const backoff = this.#newBackoff()
    while (this.#renewAt) {
      const left = this.#renewAt - Date.now()
      // A timer has another clock, and a longest time: it may be early.
      if (left > 0) await sleep(left, signal)
      if (signal.aborted) return
      if (this.#renewAt - Date.now() > 1000) continue
      let failure: unknown
      try {
        const token = await this.#o.token()
        if (signal.aborted) return
        if (token === this.token) {
          this.#renewAt = 0 // there is no other: the server says when its time is over
          return
        }
        if (id) failure = await this.#renew(id, token, signal)
        const refused = failure instanceof StatusError && !failure.temporary
        if (!failure || refused) this.#use(token)
        if (!id || refused) {
          connection.abort(renewal)
          return
        }
      } catch (error) {
        failure = error
      }
      if (signal.aborted) return
      if (failure) { // the old token serves for a while yet
        const asked = failure instanceof StatusError ? failure.retryAfterMs : 0
        this.#renewAt = Date.now() + asked + backoff.next()
      } else {
        backoff.reset()
      }
    }
  }

  async #renew(id: string, token: string, signal: AbortSignal): Promise<StatusError | undefined> {
    const url = endpoint(this.#o.url, `${manyPath}/${encodeURIComponent(id)}/token`)
    const asked = this.#fetch(url, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}` },
      redirect: 'error',
      signal,
    })
    const response = await within(this.#idleMs, signal, asked)
    return response.status === 204 ? undefined : await statusError(response)
  }

  async #open(signal: AbortSignal): Promise<Response> {
    const { url, init, headers } = this.request()
    const asked = this.#fetch(url, {
      ...init,
      headers: { Accept: 'text/event-stream', Authorization: `Bearer ${this.token}`, ...headers },
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
  ): AsyncGenerator<T, void, void> {
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
          yield* this.take(frame)
        }
      }
    } finally {
      void reader.cancel().catch(() => {}) // the connection is over in any case
      if (Date.now() - opened >= (this.#o.maxBackoffMs ?? 30_000)) this.#backoff.reset()
    }
  }
}

class Watch extends Stream<PresenceEvent> {
  readonly #url: string
  readonly #known = new Map<string, string>() // device → its last payload, canonical

  constructor(o: WatchOptions) {
    super(o)
    this.#url = `${endpoint(o.url, streamPath)}?user_id=${canonicalId('userId', o.userId)}`
  }

  protected override request() {
    return { url: this.#url, init: {}, headers: {} }
  }

  /** Yields nothing for a frame that says nothing new (K6) or is of another kind. */
  protected override *take(frame: Frame): Iterable<PresenceEvent> {
    if (frame.event !== '' && frame.event !== 'message') return
    const event = readEvent(frame.data)
    if (!event) return
    const { device_id, status, source, sent_at_ms, seq, ttl_ms } = event
    const now = JSON.stringify([status, source, sent_at_ms, seq, ttl_ms])
    const before = this.#known.get(device_id)
    if (before === now) return
    if (before !== undefined || this.#known.size < maxKnown) this.#known.set(device_id, now)
    event.transition = before === undefined || !before.startsWith(`["${status}"`)
    yield event
  }
}

/** Reads the eight fields; undefined: it is something else. */
function readEvent(data: string | undefined): PresenceEvent | undefined {
  const payload = data === undefined ? {} : parse(data)
  const { user_id, device_id, status, source, sent_at_ms, seq, ttl_ms } = payload
  if (payload.schema_version !== 1) return undefined
  if (status !== 'online' && status !== 'offline') return undefined
  if (typeof user_id !== 'string' || typeof device_id !== 'string') return undefined
  if (typeof source !== 'string' || typeof sent_at_ms !== 'number') return undefined
  if (typeof seq !== 'number' || typeof ttl_ms !== 'number') return undefined
  return { user_id, device_id, status, source, sent_at_ms, seq, ttl_ms, transition: true }
}

/** What a Roster shows: immutable, and the same object until something changes. */
export interface RosterSnapshot {
  readonly state: ConnectionState
  /** By user id; a user who is not there is not known yet, or not followed. */
  readonly users: ReadonlyMap<string, UserPresence>
}

interface Seat {
  user: UserPresence
  round: number
  devices: Map<string, { event: PresenceEvent; round: number }> // view 'devices'
}

/**
 * What a watchMany() knows of its users. It serves one watch at a time. A later one, with other
 * users too, goes on where the last one stopped: the server sends only what changed. `subscribe`
 * and `snapshot` are what React's useSyncExternalStore takes.
 */
export class Roster {
  #state: ConnectionState = 'connecting'
  readonly #seats = new Map<string, Seat>()
  #held = 0 // users and devices, at most maxKnown (K10)
  #cursor = '' // '': none
  #asked = '' // what cursor and users are answers to
  #inUse = false
  #round = 0 // the connection's number: what it confirmed has it
  #snapshot: RosterSnapshot | undefined
  readonly #listeners = new Set<() => void>()
  #notice: ReturnType<typeof setTimeout> | undefined
  #following: Promise<void> = Promise.resolve()

  get state(): ConnectionState {
    return this.#state
  }

  user(id: string): UserPresence | undefined {
    return this.#seats.get(id)?.user
  }

  /** The last event of each device of a user: with view 'devices' only. */
  devices(userId: string): PresenceEvent[] {
    return [...(this.#seats.get(userId)?.devices.values() ?? [])].map((d) => d.event)
  }

  readonly snapshot = (): RosterSnapshot => {
    this.#snapshot ??= {
      state: this.#state,
      users: new Map([...this.#seats].map(([id, seat]) => [id, seat.user])),
    }
    return this.#snapshot
  }

  /** Calls the listener after changes, at most once a turn of the event loop, until it is ended. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  /**
   * Runs a watchMany() into this roster until the returned function is called. What it would throw
   * goes to onInterruption, as the last one. A call while another is still ending waits for it.
   */
  follow(options: Omit<WatchManyOptions, 'roster' | 'signal'>): () => void {
    const stop = new AbortController()
    const watch = new Many({ ...options, roster: this, signal: stop.signal })
    this.#following = this.#following.then(async () => {
      if (stop.signal.aborted) return
      try {
        for await (const _ of watch.start()); // the roster has it
      } catch {
        // onInterruption was called with it
      }
    })
    return () => stop.abort()
  }

  // What follows is for watchMany().

  /** Makes the roster one watch's. What it holds is dropped when it answers another question. */
  begin(question: string): void {
    if (this.#inUse) throw new TypeError('the Roster serves another watchMany() already')
    if (this.#asked !== question) {
      this.#seats.clear()
      this.#held = 0
      this.#cursor = ''
    }
    this.#inUse = true
    this.#asked = question
    this.setState('connecting')
  }

  end(): void {
    this.#inUse = false
    this.setState('interrupted')
  }

  setState(state: ConnectionState): void {
    if (this.#state === state) return
    this.#state = state
    this.#changed()
  }

  get cursor(): string {
    return this.#cursor
  }

  /** Notes the id of the last event. One that no header can carry is none (K10). */
  setCursor(id: string): void {
    this.#cursor = id.length <= maxCursor && /^[!-~]*$/.test(id) ? id : ''
  }

  /** Begins a connection's round. */
  opened(): void {
    this.#round++
  }

  /** Notes a user event; whether it says anything new. */
  setUser(user: UserPresence): boolean {
    const seat = this.#seat(user.user_id)
    if (!seat) return true
    const before = seat.user
    if (before.status === user.status && before.devices_online === user.devices_online &&
      before.last_seen_ms === user.last_seen_ms && before.changed_at_ms === user.changed_at_ms) {
      return false
    }
    seat.user = user
    this.#changed()
    return true
  }

  /** Notes a presence event and sets its transition; whether it says anything new. */
  setDevice(event: PresenceEvent): boolean {
    const seat = this.#seat(event.user_id)
    if (!seat) return true
    const device = seat.devices.get(event.device_id)
    if (!device && this.#held >= maxKnown) return true
    if (!device) this.#held++
    const before = device?.event
    event.transition = before?.status !== event.status
    seat.devices.set(event.device_id, { event, round: this.#round })
    if (event.transition) count(seat)
    this.#changed()
    return !before || JSON.stringify({ ...before, transition: 0 }) !==
      JSON.stringify({ ...event, transition: 0 })
  }

  /** Removes the users that are not followed any more. */
  keepOnly(followed: ReadonlySet<string>): Update[] {
    return this.#remove((id) => !followed.has(id))
  }

  /** Removes what this connection, which told everything, did not tell. */
  replace(): Update[] {
    const gone = this.#remove((_, seat) => seat.round !== this.#round)
    for (const seat of this.#seats.values()) {
      for (const [id, { event, round }] of seat.devices) {
        if (round === this.#round) continue
        seat.devices.delete(id)
        this.#held--
        gone.push(deviceGone(event))
        count(seat)
      }
    }
    this.#changed()
    return gone
  }

  #remove(unwanted: (id: string, seat: Seat) => boolean): Update[] {
    const gone: Update[] = []
    for (const [id, seat] of this.#seats) {
      if (!unwanted(id, seat)) continue
      this.#seats.delete(id)
      this.#held -= 1 + seat.devices.size
      for (const { event } of seat.devices.values()) gone.push(deviceGone(event))
      if (!seat.devices.size) {
        const user: UserPresence = { ...seat.user, status: 'offline', devices_online: 0 }
        gone.push({ type: 'user', user, gone: true })
      }
      this.#changed()
    }
    return gone
  }

  #seat(id: string): Seat | undefined {
    let seat = this.#seats.get(id)
    if (!seat && this.#held < maxKnown) {
      const user: UserPresence = {
        user_id: id, status: 'offline', devices_online: -1, last_seen_ms: null, changed_at_ms: null,
      }
      seat = { user, round: 0, devices: new Map() }
      this.#seats.set(id, seat)
      this.#held++
    }
    if (seat) seat.round = this.#round
    return seat
  }

  #changed(): void {
    this.#snapshot = undefined
    if (!this.#listeners.size) return
    this.#notice ??= setTimeout(() => {
      this.#notice = undefined
      for (const listener of [...this.#listeners]) listener()
    })
  }
}

/** Makes the user's state from the devices. */
function count(seat: Seat): void {
  const online = [...seat.devices.values()].filter((d) => d.event.status === 'online').length
  seat.user = { ...seat.user, status: online ? 'online' : 'offline', devices_online: online }
}

function deviceGone(event: PresenceEvent): Update {
  const device = { ...event, status: 'offline' as const, transition: event.status === 'online' }
  return { type: 'device', device, gone: true }
}

/**
 * Follows many users on one stream: first all as they are, then a 'synced', then each change, over
 * as many connections as it takes. After a reconnect only what changed meanwhile is told, and a
 * 'synced'. The loop ends when the signal aborts or the caller leaves it. It throws an error that
 * another try does not change (a wrong option, a 400, a 413).
 */
export function watchMany(options: WatchManyOptions): AsyncGenerator<Update, void, void> {
  return new Many(options).start()
}

class Many extends Stream<Update> {
  readonly #view: 'users' | 'devices'
  readonly #roster: Roster
  readonly #ids: string[] | undefined // undefined: those of the token
  readonly #url: string

  constructor(o: WatchManyOptions) {
    super(o)
    this.#view = o.view ?? 'users'
    this.#roster = o.roster ?? new Roster()
    this.#ids = o.userIds?.map((id, i) => canonicalId(`userIds[${i}]`, id.toLowerCase()))
    const { lingerMs = 0 } = o
    if (this.#view !== 'users' && this.#view !== 'devices') {
      throw new TypeError(`view "${String(o.view)}": want 'users' or 'devices'`)
    }
    if (!Number.isSafeInteger(lingerMs) || lingerMs < 0 || lingerMs > 600_000) {
      throw new TypeError(`lingerMs ${lingerMs}: want 0 to 600000`)
    }
    if (lingerMs && this.#view === 'devices') throw new TypeError("lingerMs is for view 'users'")
    const linger = lingerMs ? `&linger_ms=${lingerMs}` : ''
    this.#url = `${endpoint(o.url, manyPath)}?view=${this.#view}${linger}`
  }

  async *start(): AsyncGenerator<Update, void, void> {
    this.#roster.begin(this.#url)
    try {
      yield* this.run()
    } finally {
      this.#roster.end()
    }
  }

  /**
   * Tells of the users that this connection does not follow any more: a resume is silent about
   * them.
   */
  protected override settle(): Update[] {
    if (this.#roster.state === 'synced') this.#roster.setState('connecting') // to renew the token
    let followed = this.#ids
    if (!followed) {
      const { users } = claimsOf(this.token)
      if (!users.length) { // whom such a token follows shows a whole snapshot only
        this.#roster.setCursor('')
        return []
      }
      followed = users
    }
    return this.#roster.keepOnly(new Set(followed))
  }

  protected override request() {
    const headers: Record<string, string> = {}
    if (this.#roster.cursor) headers['Last-Event-ID'] = this.#roster.cursor
    if (!this.#ids) return { url: this.#url, init: {}, headers }
    headers['Content-Type'] = 'application/json'
    const init = { method: 'POST', body: JSON.stringify({ user_ids: this.#ids }) }
    return { url: this.#url, init, headers }
  }

  protected override opened(): void {
    this.#roster.opened()
  }

  protected override interrupted(): void {
    this.#roster.setState('interrupted')
  }

  /**
   * The id of a frame counts once what it says is in the roster: a cursor is never ahead of what
   * was told (K11).
   */
  protected override take(frame: Frame): Update[] {
    if (frame.data === undefined) return []
    const updates = this.#updates(frame.event, frame.data)
    if (frame.id !== undefined) this.#roster.setCursor(frame.id)
    return updates
  }

  #updates(event: string, data: string): Update[] {
    if (event === 'user' && this.#view === 'users') {
      const user = readUser(parse(data))
      return user && this.#roster.setUser(user) ? [{ type: 'user', user, gone: false }] : []
    }
    if (event === 'presence' && this.#view === 'devices') {
      const device = readEvent(data)
      const news = device && this.#roster.setDevice(device)
      return news ? [{ type: 'device', device, gone: false }] : []
    }
    if (event !== 'synced') return [] // of a later version
    const { resumed, users } = parse(data)
    if (typeof resumed !== 'boolean' || typeof users !== 'number') return []
    const gone = resumed ? [] : this.#roster.replace()
    this.#roster.setState('synced')
    return [...gone, { type: 'synced', resumed, users }]
  }
}

/** Reads a user's presence; undefined: it is something else. */
function readUser(payload: Record<string, unknown>): UserPresence | undefined {
  const { user_id, status, devices_online, last_seen_ms, changed_at_ms } = payload
  if (payload.schema_version !== 1 || typeof user_id !== 'string') return undefined
  if (status !== 'online' && status !== 'offline') return undefined
  if (typeof devices_online !== 'number') return undefined
  const time = (value: unknown) => (typeof value === 'number' ? value : null)
  return {
    user_id, status, devices_online,
    last_seen_ms: time(last_seen_ms), changed_at_ms: time(changed_at_ms),
  }
}

/**
 * Asks once, and returns the users in the order in which they were asked for. A user never heard of
 * is offline without devices. Rejects with a StatusError if the server refused; nothing is tried
 * again.
 */
export async function query(o: QueryOptions): Promise<UserDevices[]> {
  const ids = o.userIds.map((id, i) => canonicalId(`userIds[${i}]`, id.toLowerCase()))
  const fetch = o.fetch ?? ((url, init) => globalThis.fetch(url, init))
  const ask = endpoint(o.url, '/api/v1/presence')
  const signal = o.signal ?? new AbortController().signal
  const headers = { Authorization: `Bearer ${await o.token()}` }
  const users: UserDevices[] = []
  for (let from = 0; from < ids.length; from += maxByPost) {
    const some = ids.slice(from, from + maxByPost)
    const common = { cache: 'no-store', redirect: 'error', signal } as const
    const asked = some.length <= maxByGet
      ? fetch(`${ask}?${some.map((id) => `user_id=${id}`).join('&')}`, { headers, ...common })
      : fetch(`${ask}/query`, {
        method: 'POST',
        headers: { ...headers, 'Content-Type': 'application/json' },
        body: JSON.stringify({ user_ids: some }),
        ...common,
      })
    const response = await unless(signal, asked)
    if (response.status !== 200) throw await statusError(response)
    const answer = parse(await response.text())
    if (!Array.isArray(answer.users) || answer.users.length !== some.length) {
      throw new Error('not the answer to a query: check url, and what stands between')
    }
    users.push(...(answer.users as UserDevices[]))
  }
  return users
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

export interface GatewayOptions {
  /** Of the server, as https://presence.example.com. */
  url: string
  /** Returns the ingest token; called before each request. */
  token: () => string | Promise<string>
  /** What sent the heartbeats, in at most 128 bytes. Default: 'rollcall-ts'. */
  source?: string
  /**
   * How long the server waits for a heartbeat before it shows a device offline; 30,000 is a good
   * start.
   */
  ttlMs: number
  /** The longest time between two heartbeats of a device. Default: a third of the TTL. */
  intervalMs?: number
  /** Bounds one request. Default: the interval, but at least 1,000 and at most 10,000. */
  timeoutMs?: number
  /** Bounds the devices, and with them memory. Default: 100,000. */
  maxDevices?: number
  /** How many heartbeats one request carries. Default: 1,000. */
  maxBatch?: number
  /**
   * Gets the error of every request that failed, and a DeviceError for each heartbeat that was
   * refused.
   */
  onError?: (error: unknown) => void
  /** Makes the requests. Default: globalThis.fetch. */
  fetch?: Fetch
}

/** The refusal of one device's heartbeat in a batch. */
export class DeviceError extends Error {
  override name = 'DeviceError'
  constructor(readonly userId: string, readonly deviceId: string, readonly refusal: StatusError) {
    super(`device ${deviceId} of user ${userId}: ${refusal.message}`)
  }
}

interface Member {
  userId: string
  deviceId: string
  want: Status // what the caller wants the device to be
  seq: number // the highest that the server may have
  unsure: Heartbeat | undefined // sent; whether it was accepted is not known (K1)
  stale: number // 409s in a row
  dueMs: number
  rests: boolean // until dueMs, whatever the caller wants: the server refused it
}

interface Sent {
  member: Member
  beat: Heartbeat
  again: boolean // it was sent before, and whether it was accepted is not known
}

/** What an answer says of the lines of a batch, which count from 1. */
interface Outcome {
  error?: unknown // about the request
  unknown: boolean // whether every line without another word is
  errors: Map<number, StatusError>
  unsure: number // from this line on it is not known, up to
  unlooked: number // this one, from which on no line was looked at
}

// An answer lists as many rejected lines. A batch has no more lines that are sent again, so that
// each 409 that means "accepted before" is listed.
const maxListed = 100
const maxBodyLength = 1 << 20 // in characters, each of at most 3 bytes; the server takes 4 MiB

/**
 * Speaks for many devices, in batches: it repeats the heartbeats of all that are online, and sends
 * a change at once. It is for a program that holds the devices' connections. Its timer keeps a Node
 * process alive until close().
 */
export class Gateway {
  readonly #o: GatewayOptions
  readonly #url: string
  readonly #fetch: Fetch
  readonly #intervalMs: number
  readonly #timeoutMs: number
  readonly #backoff: Backoff
  readonly #closing = new AbortController()
  readonly #giveUp = new AbortController()
  readonly #members = new Map<string, Member>()
  readonly #due = new Queue()
  readonly #done: Promise<void>
  #wake = new AbortController() // aborted when a device is due now
  #maxBatch: number
  #halved = 0 // 413s in a row
  #floor = 0 // no seq of a device that was forgotten is above
  #failure: unknown // why the gateway ended before every device was offline

  constructor(o: GatewayOptions) {
    this.#url = endpoint(o.url, batchPath)
    positive({
      ttlMs: o.ttlMs, intervalMs: o.intervalMs, timeoutMs: o.timeoutMs, maxDevices: o.maxDevices,
      maxBatch: o.maxBatch,
    })
    this.#o = o
    this.#fetch = o.fetch ?? ((url, init) => globalThis.fetch(url, init))
    this.#intervalMs = o.intervalMs ?? o.ttlMs / 3
    if (!Number.isSafeInteger(o.ttlMs) || this.#intervalMs >= o.ttlMs) {
      throw new TypeError(`ttlMs ${o.ttlMs}: ` +
        `want a whole number of milliseconds above intervalMs, ${this.#intervalMs}`)
    }
    this.#timeoutMs = o.timeoutMs ?? Math.min(Math.max(this.#intervalMs, 1000), 10_000)
    this.#maxBatch = o.maxBatch ?? 1000
    this.#backoff = new Backoff(Math.min(500, o.ttlMs / 8), Math.min(10_000, o.ttlMs / 2))
    this.#done = this.#run()
  }

  /** How many devices it speaks for, those included whose offline is not accepted yet. */
  get size(): number {
    return this.#members.size
  }

  /**
   * A change is sent at once, or when the wait after a failure is over. An online device is
   * repeated until it is set offline, and forgotten here once that is accepted. Throws when it is
   * closed or has maxDevices.
   */
  set(userId: string, deviceId: string, status: Status): void {
    const key = canonicalId('userId', userId) + canonicalId('deviceId', deviceId)
    if (this.#closing.signal.aborted) throw new Error('the Gateway is closed')
    const member = this.#members.get(key)
    if (member?.want === status) return
    if (member) {
      member.want = status
      if (!member.rests) this.#due.set(member, Date.now())
    } else {
      if (this.#members.size >= (this.#o.maxDevices ?? 100_000)) {
        throw new Error('the Gateway has maxDevices devices')
      }
      const seq = Math.max(Date.now(), this.#floor) // K2
      const added = {
        userId, deviceId, want: status, seq, unsure: undefined, stale: 0, dueMs: 0, rests: false,
      }
      this.#members.set(key, added)
      this.#due.push(added, Date.now())
    }
    this.#wake.abort()
  }

  /** Says offline for every device and stops; rejects if the server did not take it in time. */
  async close(withinMs = 5000): Promise<void> {
    if (!this.#closing.signal.aborted) {
      for (const member of this.#members.values()) {
        member.want = 'offline'
        this.#due.set(member, Date.now())
      }
      this.#closing.abort()
      const limit = new Alarm(withinMs, () => this.#giveUp.abort(new Error('out of time')))
      limit.set()
      void this.#done.then(() => limit.clear())
    }
    await this.#done
    if (this.#failure !== undefined) throw this.#failure
  }

  async #run(): Promise<void> {
    const closing = this.#closing.signal
    const giveUp = this.#giveUp.signal
    while (!giveUp.aborted) {
      const ends = closing.aborted
      // Once it is closing, what is left to send waits as the server asks.
      const hurry = ends ? undefined : closing
      this.#wake = new AbortController()
      const batch = this.#collect()
      if (!batch.length) {
        const wait = this.#due.first === undefined ? maxTimerMs : this.#due.first - Date.now()
        if (ends && !this.#members.size) return
        await sleep(wait, this.#wake.signal, giveUp, hurry)
        continue
      }
      const { error } = await this.#send(batch, giveUp)
      if (error === undefined) {
        this.#backoff.reset()
        this.#halved = 0
        continue
      }
      if (giveUp.aborted) break
      this.#o.onError?.(error)
      const status = error instanceof StatusError ? error : undefined
      if (ends && status && !status.temporary && status.status !== 413) {
        this.#failure = error
        return
      }
      await sleep(this.#pause(error), giveUp, hurry)
    }
    if (this.#members.size) {
      this.#failure = new Error(`offline of ${this.#members.size} devices was not delivered`)
    }
  }

  #pause(error: unknown): number {
    if (!(error instanceof StatusError)) return this.#backoff.next()
    if (error.temporary) return error.retryAfterMs + this.#backoff.next()
    if (error.status === 413 && this.#halved++ < 16) return 0 // half as many at once
    return Math.max(error.retryAfterMs, between(refusedPauseMs / 2, refusedPauseMs))
  }

  /**
   * Takes the devices that are due, at most a batch, and those that are nearly due, so that batches
   * grow and requests become fewer.
   */
  #collect(): Sent[] {
    const batch: Sent[] = []
    const now = Date.now()
    if (this.#due.first === undefined || this.#due.first > now) return batch
    const nearly = now + this.#intervalMs / 20
    let again = 0
    let length = 0
    while (this.#due.first !== undefined && this.#due.first <= nearly && again < maxListed &&
      batch.length < this.#maxBatch && length < maxBodyLength) {
      const member = this.#due.pop()!
      const beat = this.#next(member, now)
      const sent = { member, beat, again: beat === member.unsure }
      if (sent.again) again++
      length += beat.body.length
      batch.push(sent)
    }
    return batch
  }

  /** The unsure heartbeat again if its status is still right, else a new one. */
  #next(member: Member, now: number): Heartbeat {
    if (member.unsure?.status === member.want) return member.unsure
    const seq = member.seq + 1
    const body = JSON.stringify({
      schema_version: 1, user_id: member.userId, device_id: member.deviceId, status: member.want,
      source: this.#o.source ?? 'rollcall-ts', sent_at_ms: now, seq, ttl_ms: this.#o.ttlMs,
    })
    return { seq, status: member.want, body }
  }

  /** Makes one request and puts every device back, with what is known after it. */
  async #send(batch: Sent[], giveUp: AbortSignal): Promise<Outcome> {
    const outcome = await this.#post(batch, giveUp)
    if (outcome.error instanceof StatusError && outcome.error.status === 413 && batch.length > 1) {
      this.#maxBatch = Math.max(1, Math.floor(batch.length / 2)) // the server takes fewer
    }
    const now = Date.now()
    batch.forEach((sent, i) => this.#settle(sent, i + 1, outcome, now))
    if (outcome.error === undefined && outcome.unlooked <= batch.length) {
      const text = `the log had no room from line ${outcome.unlooked} of ${batch.length} on`
      outcome.error = new StatusError(503, 'unavailable', text, 0)
    }
    return outcome
  }

  #settle({ member, beat, again }: Sent, line: number, outcome: Outcome, now: number): void {
    const refusal = outcome.errors.get(line)
    const untouched = line >= outcome.unlooked
    const ownConflict = again && refusal?.status === 409 && refusal.lastSeq === beat.seq
    let wait = 0
    member.rests = false
    if (untouched) {
      // Its seq is as free as it was.
    } else if (refusal && !ownConflict) {
      if (refusal.status !== 409 || member.stale > 0) {
        this.#o.onError?.(new DeviceError(member.userId, member.deviceId, refusal))
      }
      wait = this.#refuse(member, beat, refusal)
      member.rests = wait > 0
      if (wait < 0) return
    } else if (!refusal && (outcome.unknown || line >= outcome.unsure)) {
      member.unsure = beat
      member.seq = beat.seq
    } else {
      member.unsure = undefined
      member.seq = beat.seq
      member.stale = 0
      if (member.want === beat.status && beat.status === 'offline') {
        this.#forget(member)
        return
      }
      if (member.want === beat.status) {
        wait = between(this.#intervalMs * 0.75, this.#intervalMs) // K3
      }
    }
    this.#due.push(member, now + wait)
  }

  #forget(member: Member): void {
    this.#floor = Math.max(this.#floor, member.seq) // if it comes back within the millisecond
    this.#members.delete(member.userId + member.deviceId)
  }

  /** Notes the refusal of a line; returns how long the device rests, below 0 for ever. */
  #refuse(member: Member, beat: Heartbeat, refusal: StatusError): number {
    const rest = between(this.#backoff.limit / 2, this.#backoff.limit)
    if (refusal.status === 409) { // another program counted: go on from there, as a Daemon does
      member.unsure = undefined
      member.seq = Math.max(beat.seq, refusal.lastSeq ?? Date.now())
      return ++member.stale === 1 ? 0 : rest
    }
    if (refusal.temporary) return rest
    if (member.want === 'offline') { // it will not be taken another time either
      this.#forget(member)
      return -1
    }
    return between(refusedPauseMs / 2, refusedPauseMs)
  }

  async #post(batch: Sent[], giveUp: AbortSignal): Promise<Outcome> {
    const none = batch.length + 1
    const outcome: Outcome = {
      unknown: false, errors: new Map(), unsure: none, unlooked: none,
    }
    const attempt = new AbortController()
    try {
      const token = await this.#o.token()
      outcome.unknown = true // from here on
      const asked = this.#fetch(this.#url, {
        method: 'POST',
        headers: { 'Content-Type': 'application/x-ndjson', Authorization: `Bearer ${token}` },
        body: batch.map(({ beat }) => `${beat.body}\n`).join(''),
        redirect: 'error',
        signal: attempt.signal,
      })
      const answered = asked.then(async (response) => {
        const text = await response.clone().text()
        return { text, error: response.status === 200 ? undefined : await statusError(response) }
      })
      const { text, error } = await within(this.#timeoutMs, giveUp, answered)
      this.#read(text, error, outcome)
    } catch (error) {
      attempt.abort()
      outcome.error = error
      if (!outcome.unknown) outcome.unlooked = 1 // nothing was sent
    }
    return outcome
  }

  /** Reads what became of the lines. */
  #read(text: string, error: StatusError | undefined, outcome: Outcome): void {
    const answer = parse(text)
    const number = (value: unknown) => (typeof value === 'number' ? value : 0)
    outcome.error = error
    if (typeof answer.accepted !== 'number' || error && !number(answer.line)) {
      if (!error) throw new Error('not the answer to a batch: check url, and what stands between')
      if (error.status < 500 && error.status !== 408) outcome.unlooked = 1 // surely not taken
      return
    }
    outcome.unknown = false
    let last = 0
    for (const item of Array.isArray(answer.errors) ? answer.errors : []) {
      const { line, status, error: code, details, last_seq } = item as Record<string, unknown>
      const seq = typeof last_seq === 'number' ? last_seq : undefined
      last = Math.max(last, number(line))
      outcome.errors.set(number(line),
        new StatusError(number(status), String(code ?? ''), String(details ?? ''), 0, seq))
    }
    if (number(answer.errors_omitted)) outcome.unsure = last + 1
    for (const from of [number(answer.unavailable_from), number(answer.line)]) {
      if (from) outcome.unlooked = Math.min(outcome.unlooked, from)
    }
  }
}

/** Members by dueMs: a binary heap, for a gateway may have 100,000. */
class Queue {
  readonly #heap: Member[] = []
  readonly #places = new Map<Member, number>()

  get first(): number | undefined {
    return this.#heap[0]?.dueMs
  }

  push(member: Member, dueMs: number): void {
    member.dueMs = dueMs
    this.#put(this.#heap.length, member)
    this.#up(this.#heap.length - 1)
  }

  /** Changes when a member is due; one that is in a batch is put back by that. */
  set(member: Member, dueMs: number): void {
    const place = this.#places.get(member)
    if (place === undefined) return
    member.dueMs = dueMs
    this.#up(place)
    this.#down(this.#places.get(member)!)
  }

  pop(): Member | undefined {
    const top = this.#heap[0]
    const last = this.#heap.pop()
    if (!top || !last) return undefined
    this.#places.delete(top)
    if (last !== top) {
      this.#put(0, last)
      this.#down(0)
    }
    return top
  }

  #put(place: number, member: Member): void {
    this.#heap[place] = member
    this.#places.set(member, place)
  }

  #up(place: number): void {
    const member = this.#heap[place]!
    while (place > 0) {
      const above = (place - 1) >> 1
      const other = this.#heap[above]!
      if (other.dueMs <= member.dueMs) break
      this.#put(place, other)
      place = above
    }
    this.#put(place, member)
  }

  #down(place: number): void {
    const member = this.#heap[place]!
    for (;;) {
      let below = 2 * place + 1
      const right = this.#heap[below + 1]
      if (right && right.dueMs < this.#heap[below]!.dueMs) below++
      const other = this.#heap[below]
      if (!other || other.dueMs >= member.dueMs) break
      this.#put(place, other)
      place = below
    }
    this.#put(place, member)
  }
}

interface Frame {
  event: string
  data: string | undefined // undefined: a retry: line alone
  retryMs: number | undefined
  id: string | undefined // the last one of the stream; undefined: it has said nothing of it
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
  #newId: string | undefined // of the event that is being read
  #id: string | undefined // of the last whole event that had one

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
    } else if (name === 'id' && !value.includes('\0')) {
      this.#newId = value
    } else if (name === 'retry' && /^[0-9]+$/.test(value)) {
      this.#retryMs = Number(value)
    }
    return undefined
  }

  #dispatch(): Frame | undefined {
    this.#id = this.#newId ?? this.#id
    this.#newId = undefined
    const frame = { event: this.#event, data: this.#data, retryMs: this.#retryMs, id: this.#id }
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

/** Is what the promise becomes, or a rejection when the signal aborts or the time is over. */
async function within<T>(ms: number, signal: AbortSignal, promise: Promise<T>): Promise<T> {
  const attempt = new AbortController()
  const stop = () => attempt.abort(signal.reason)
  if (signal.aborted) stop()
  signal.addEventListener('abort', stop, { once: true })
  const timeout = new Alarm(ms, () => attempt.abort(new Error(`no answer within ${ms} ms`)))
  timeout.set()
  try {
    return await unless(attempt.signal, promise)
  } finally {
    timeout.clear()
    signal.removeEventListener('abort', stop)
  }
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

/** Reads what a client may know of its token, an HMAC token of the wire contract or a JWT. */
function claimsOf(token: string): { expiresMs: number; users: string[] } {
  let claims: Record<string, unknown> = {}
  let users: string[] = []
  try {
    const parts = token.split('.')
    const payload = (parts.length === 3 ? parts[1] : parts[0]) ?? ''
    claims = parse(atob(payload.replace(/-/g, '+').replace(/_/g, '/')))
    const more: unknown[] = Array.isArray(claims.user_ids) ? claims.user_ids : []
    const ids = [claims.user_id ?? claims.sub, ...more]
    users = ids.map((id) => canonicalId('user', String(id).toLowerCase()))
  } catch {
    // What cannot be read is not known; the server reads it.
  }
  const { exp_ms, exp } = claims
  const seconds = typeof exp === 'number' ? exp : 0
  return { expiresMs: typeof exp_ms === 'number' ? exp_ms : seconds * 1000, users }
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
