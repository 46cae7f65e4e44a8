// Follows streams with one client and tells what happens: `say` gets {id, what, text}, where what is one of open, message,
// error (the client will try again), closed (it will not) and thrown (nothing caught it). A stream that was closed for good
// is followed anew, so that a run goes on and can count.
export async function keep(client, streams, say) {
  const { follow } = await import(`./${client}.mjs`)
  const begin = (stream) => {
    let closed = false
    follow(stream, (what, text = '') => {
      if (closed) return
      say({ id: stream.id, what, text })
      closed = what === 'closed'
      if (closed) setTimeout(begin, 1000, stream)
    })
  }
  streams.forEach(begin)
}
