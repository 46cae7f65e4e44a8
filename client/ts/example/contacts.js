import { createElement as h, createRoot, useState } from './react.js'
import { usePresence } from './presence.js'

const token = async () => (await fetch('/token')).text()

function Contacts({ url, people, lingerMs }) {
  const [hidden, setHidden] = useState(false) // half of the list: another list, on a new stream
  const shown = hidden ? people.slice(0, 1) : people
  const { state, users } = usePresence({ url, userIds: shown.map((p) => p.id), token, lingerMs })
  return h('section', null,
    h('ul', { 'data-state': state }, shown.map(({ id, name }) => {
      const { status, devices_online, last_seen_ms } = users.get(id) ?? {}
      return h('li', { key: id, className: status },
        h('span', { className: 'dot', title: status }), name, h('small', null, note()))

      function note() {
        if (status === 'online') return devices_online > 1 ? `on ${devices_online} devices` : ''
        return last_seen_ms ? `last seen ${new Date(last_seen_ms).toLocaleTimeString()}` : ''
      }
    })),
    h('button', { onClick: () => setHidden(!hidden) }, hidden ? 'All' : 'Only the first'))
}

const config = await (await fetch('/config')).json()
createRoot(document.querySelector('#app')).render(h(Contacts, config))
