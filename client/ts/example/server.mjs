// The backend of the example: it knows who asks and who their contacts are, and mints tokens. Run
// `make client-ts` before, and see docs/clients.md.
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname } from 'node:path'
import { mint } from '../dist/mint.js'

const url = process.env.ROLLCALL_URL ?? 'http://127.0.0.1:8787'
const key = process.env.PRESENCE_DO_TOKEN_SIGNING_KEY
const me = '6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01' // a real backend asks its session
const people = [
  { id: '0e5d6f3c-7a11-4b52-8c9e-3f2a1b0c9d8e', name: 'Ann' },
  { id: '1f6e7a4d-8b22-4c63-9dad-4a3b2c1dae9f', name: 'Ben' },
  { id: '2a7f8b5e-9c33-4d74-8ebe-5b4c3d2ebfa0', name: 'Cem' },
]
const lingerMs = Number(process.env.LINGER_MS ?? 30_000)

const answers = {
  '/config': async () => JSON.stringify({ url, people, lingerMs }),
  '/token': () => mint(key, { userId: me, contacts: people.map((p) => p.id), ttlMs: 5 * 60_000 }),
}
const files = { '/': 'index.html', '/rollcall.js': '../dist/rollcall.js' }
for (const name of ['contacts.js', 'presence.js', 'react.js']) files[`/${name}`] = name
for (const name of ['react', 'react-dom']) {
  const file = `${name}/umd/${name}.production.min.js`
  files[`/${file}`] = `../node_modules/${file}`
}
const types = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript' }

const server = createServer(async (request, response) => {
  try {
    const { pathname } = new URL(request.url, 'http://localhost')
    const file = files[pathname]
    if (!file && !answers[pathname]) {
      response.writeHead(404).end()
      return
    }
    const body = file ? await readFile(new URL(file, import.meta.url)) : await answers[pathname]()
    response.setHeader('Content-Type', types[extname(file ?? '')] ?? 'text/plain')
    response.end(body)
  } catch (error) {
    console.error(error)
    response.writeHead(500).end()
  }
})
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}/`)
})
