// Runs one client in Node: its name is the argument, the streams are a JSON array of {id, url, token} on standard input.
// What happens is printed, an object a line. It ends with its standard input.
import { keep } from './keep.mjs'

const say = (told) => process.stdout.write(`${JSON.stringify(told)}\n`)
process.on('uncaughtException', (err) => say({ id: -1, what: 'thrown', text: String(err?.stack ?? err) }))

let text = ''
process.stdin.setEncoding('utf8')
process.stdin.on('data', (chunk) => {
  text += chunk
  if (!text.endsWith('\n')) return
  keep(process.argv[2], JSON.parse(text), say)
  text = ''
})
process.stdin.on('end', () => process.exit(0))
