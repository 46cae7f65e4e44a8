// npm `@microsoft/fetch-event-source`, used as its README shows: what a server says that is away is retried, and so is
// the stream's end, for which onclose has to throw.
import { fetchEventSource } from '@microsoft/fetch-event-source'

// It is for browsers; in Node it finds these two to be there.
globalThis.window ??= globalThis
globalThis.document ??= { addEventListener() {}, removeEventListener() {} }

class Fatal extends Error {}

export function follow({ url, token }, tell) {
  fetchEventSource(url, {
    headers: { Authorization: `Bearer ${token}` },
    openWhenHidden: true, // without it a hidden page closes its stream
    async onopen(response) {
      if (response.ok) tell('open')
      else if (response.status >= 400 && response.status < 500 && response.status !== 429) throw new Fatal(response.status)
      else throw new Error(response.status)
    },
    onmessage(event) {
      tell('message', event.data)
      JSON.parse(event.data) // as its users do; what this throws makes it connect anew
    },
    onclose() {
      throw new Error('ended')
    },
    onerror(err) {
      if (err instanceof Fatal) throw err
      tell('error', String(err))
    },
  }).then(
    () => tell('closed', 'resolved'),
    (err) => tell('closed', String(err)),
  )
}
