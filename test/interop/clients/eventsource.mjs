// npm `eventsource`. It follows the standard: any status but 200 closes it for good.
import { EventSource } from 'eventsource'

export function follow({ url, token }, tell) {
  const source = new EventSource(url, {
    fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } }),
  })
  source.onopen = () => tell('open')
  source.onmessage = (event) => tell('message', event.data)
  source.onerror = (event) => tell(source.readyState === source.CLOSED ? 'closed' : 'error', `${event.code} ${event.message}`)
}
