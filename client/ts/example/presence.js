import { useEffect, useState, useSyncExternalStore } from 'react'
import { Roster } from 'rollcall'

// The presence of these users, kept up to date: { state, users: Map of id → presence }.
export function usePresence({ url, userIds, token, lingerMs = 30_000 }) {
  const [roster] = useState(() => new Roster())
  const list = userIds.join()
  useEffect(() => {
    if (list) return roster.follow({ url, userIds: list.split(','), token, lingerMs })
  }, [roster, url, list, lingerMs])
  return useSyncExternalStore(roster.subscribe, roster.snapshot)
}
