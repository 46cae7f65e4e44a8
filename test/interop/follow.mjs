// Follows a user with the npm package `eventsource` and prints each payload on a line. Arguments: URL, token, how many.
import { EventSource } from 'eventsource'

const [url, token, count] = process.argv.slice(2)
let left = Number(count)
const source = new EventSource(url, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }),
})
source.onmessage = (event) => {
  console.log(event.data)
  if (--left === 0) {
    source.close()
    process.exit(0)
  }
}
source.onerror = (event) => {
  console.error('error', event.code, event.message)
  process.exit(1)
}
