// npm `event-source-polyfill`. Any status but 200 closes it for good; after 45 s without a byte it connects anew.
const { EventSourcePolyfill } = globalThis.EventSourcePolyfill ? globalThis : (await import('event-source-polyfill')).default

export function follow({ url, token }, tell) {
  const source = new EventSourcePolyfill(url, { headers: { Authorization: `Bearer ${token}` } })
  source.onopen = () => tell('open')
  source.onmessage = (event) => tell('message', event.data)
  source.onerror = (event) => tell(source.readyState === 2 ? 'closed' : 'error', `${event.status} ${event.error}`)
}
