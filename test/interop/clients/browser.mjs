// The browser's own EventSource, which cannot send a header: the token is in the query. It follows the standard: any
// status but 200 closes it for good.
export function follow({ url, token }, tell) {
  const source = new EventSource(`${url}&access_token=${token}`)
  source.onopen = () => tell('open')
  source.onmessage = (event) => tell('message', event.data)
  source.onerror = () => tell(source.readyState === EventSource.CLOSED ? 'closed' : 'error')
}
