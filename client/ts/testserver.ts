// The server as it is, for the tests.
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const binary = process.env.ROLLCALL_BINARY
export const secrets = {
  PRESENCE_DO_INGEST_TOKEN: 'ingest-token-of-the-tests-of-the-client',
  PRESENCE_DO_TOKEN_SIGNING_KEY: 'signing-key-of-the-tests-of-the-client',
}

interface Server {
  base: string
  end: (signal: NodeJS.Signals) => Promise<unknown>
}

/** Runs a server in its own directory; returns its address, and how to signal and await it. */
export function serve(): Promise<Server> {
  const dir = mkdtempSync(join(tmpdir(), 'rollcall-ts-'))
  const args = [
    'serve', '--listen=127.0.0.1:0', '--admin-listen=127.0.0.1:0', `--data-dir=${dir}`,
    '--drain-timeout=100ms',
  ]
  const env = { ...process.env, ...secrets }
  const server = spawn(binary!, args, { env, stdio: ['ignore', 'ignore', 'pipe'] })
  const exited = new Promise<unknown>((resolve) => server.once('exit', resolve))
    .finally(() => rmSync(dir, { recursive: true }))
  const end = (signal: NodeJS.Signals) => { server.kill(signal); return exited }
  return new Promise((resolve, reject) => {
    let log = ''
    server.stderr.on('data', (piece) => {
      log += String(piece)
      const address = /msg=serving .*?listen=(\S+)/.exec(log)?.[1]
      if (address) resolve({ base: `http://${address}`, end })
    })
    void exited.then(() => reject(new Error(`the server ended: ${log}`)))
  })
}

export function mint(userId: string, ttl: string): string {
  const env = { ...process.env, ...secrets }
  return execFileSync(binary!, ['token', '--user', userId, '--ttl', ttl], { env }).toString().trim()
}
