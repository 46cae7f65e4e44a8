// npm `launchdarkly-eventsource`. It tries again after 500, 502, 503 and 504 and closes for good after any other status.
import { EventSource } from 'launchdarkly-eventsource'

export function follow({ url, token }, tell) {
  const source = new EventSource(url, { headers: { Authorization: `Bearer ${token}` } })
  source.onopen = () => tell('open')
  source.onmessage = (event) => tell('message', event.data)
  source.onerror = (event) => tell('error', `${event.status} ${event.message}`)
  source.onclosed = () => tell('closed')
}
