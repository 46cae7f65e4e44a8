// Mints stream tokens: for backends (Node 18 and later, Deno, Bun, workers), which have the signing
// key and know who asks. An app gets the token and never the key. One file without dependencies.
//
//   const token = await mint(process.env.PRESENCE_DO_TOKEN_SIGNING_KEY, {
//     userId: me, contacts: friendsOf(me), ttlMs: 15 * 60_000,
//   })

export interface MintOptions {
  /** The subject: whose token it is. It may be read, as well as what is named below. */
  userId: string
  /** Further users that may be read, at most 200: a contact list in the token. */
  contacts?: readonly string[]
  /**
   * A list that the app sends itself (userIds of watchMany and query): the token holds its digest,
   * so the list may have 1,000 users, and has to be sent whole.
   */
  users?: readonly string[]
  /** Allows to read every user: for backends, never for an app. */
  anyUser?: boolean
  /** How long the token lives. Minutes are good: the clients ask for the next one. */
  ttlMs: number
}

const maxContacts = 200

/** The web's cryptography, which is no global in Node 18. */
async function web(): Promise<Crypto> {
  if (globalThis.crypto) return globalThis.crypto
  const module = 'node:crypto' // by a name that no bundler looks for
  return ((await import(module)) as { webcrypto: Crypto }).webcrypto
}

/** Makes a signed token. */
export async function mint(key: string, o: MintOptions): Promise<string> {
  if (!key) throw new TypeError('the key is empty')
  for (const id of [o.userId, ...(o.contacts ?? [])]) canonical(id)
  if ((o.contacts?.length ?? 0) > maxContacts) {
    throw new TypeError(`${o.contacts!.length} contacts: want at most ${maxContacts}; ` +
      'users takes more')
  }
  if (!(o.ttlMs >= 1)) throw new TypeError(`ttlMs ${o.ttlMs}: want some minutes`)
  const crypto = await web()
  const now = Date.now()
  const claims = {
    token_id: crypto.randomUUID(),
    user_id: o.userId,
    ...(o.contacts?.length && { user_ids: o.contacts }),
    ...(o.users && { users_sha256: await usersSha256(o.users) }),
    scope: o.anyUser ? ['presence:read', 'presence:read:any'] : ['presence:read'],
    exp_ms: Math.floor(now + o.ttlMs),
    issued_at_ms: now,
  }
  const text = new TextEncoder()
  const payload = base64url(text.encode(JSON.stringify(claims)))
  const algorithm = { name: 'HMAC', hash: 'SHA-256' }
  const hmac = await crypto.subtle.importKey('raw', text.encode(key), algorithm, false, ['sign'])
  const signature = await crypto.subtle.sign('HMAC', hmac, text.encode(payload))
  return `${payload}.${base64url(new Uint8Array(signature))}`
}

/**
 * The claim users_sha256: the digest of a list of users, whatever their order and the case of their
 * ids; one that comes twice counts once.
 */
export async function usersSha256(users: readonly string[]): Promise<string> {
  const hex = [...new Set(users.map((id) => canonical(id.toLowerCase()).replace(/-/g, '')))].sort()
  const bytes = Uint8Array.from(hex.join('').match(/../g) ?? [], (byte) => parseInt(byte, 16))
  const crypto = await web()
  return base64url(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)))
}

function canonical(id: string): string {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(id)) {
    throw new TypeError(`"${id}": want a UUID in lowercase`)
  }
  return id
}

function base64url(bytes: Uint8Array): string {
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte)).join('')
  return btoa(text).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '')
}
