// The users that changed last, and the user that is followed, from /debug/users.

const listEvery = 5000;
const listRest = 20; // of the time that a list takes to make: the server looks at every user for it
const listTimeout = 120_000;
const aggregateEvery = 2000;
const typingPause = 300; // after which a search begins by itself

let listDue = 0; // performance.now() of the next list
let lister; // the AbortController of the list that is asked for
let aggregateDue = 0;
let askingAggregate = false;
const userRows = new Map(); // user id → the elements of its row

// askUsers asks for what is due; each poll calls it.
function askUsers() {
  if (!settings?.lists_users) return;
  const now = performance.now();
  if (!lister && now >= listDue) listUsers();
  if (follower && !askingAggregate && now >= aggregateDue) askAggregate();
}

// usersOf asks for users that meet some conditions.
async function usersOf(conditions, signal) {
  const query = new URLSearchParams(Object.entries(conditions).filter(([, text]) => text));
  const answer = await ask(`/debug/users?${query}`, signal);
  const body = await answer.json();
  if (!answer.ok) throw new Error(String(body.details).slice(0, 300));
  return body;
}

async function listUsers() {
  lister?.abort();
  const mine = new AbortController();
  lister = mine;
  const [q, status, source] = ["id", "status", "source"].map((name) =>
    byId(`search-${name}`).value.trim(),
  );
  let rest = listEvery;
  try {
    const within = AbortSignal.any([mine.signal, AbortSignal.timeout(listTimeout)]);
    const { users, took_ms } = await usersOf({ q, status, source }, within);
    if (lister !== mine) return;
    rest = Math.max(rest, listRest * took_ms);
    drawUsers(users, q || status || source);
  } catch (error) {
    if (lister !== mine) return;
    say(byId("users-caption"), locked ? "Locked" : `No list: ${error.message}`);
  }
  lister = undefined;
  listDue = performance.now() + rest;
}

let typing;
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  listUsers();
});
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => byId("search").checkValidity() && listUsers(), typingPause);
});

function drawUsers(users, searched) {
  const shown = new Set(users.map((user) => user.user_id));
  for (const [id, row] of userRows)
    if (!shown.has(id)) {
      row.element.remove();
      userRows.delete(id);
    }
  const body = byId("user-rows");
  users.forEach((user, i) => {
    const row = userRows.get(user.user_id) ?? addUser(user.user_id);
    if (body.children[i] !== row.element) body.insertBefore(row.element, body.children[i] ?? null);
    row.element.dataset.status = user.status;
    say(row.status, user.status);
    say(row.changed, since(user.changed_at_ms));
    say(row.devices, `${user.devices_online} of ${user.devices}`);
    say(row.seen, since(user.last_seen_ms));
    say(row.source, user.source);
  });
  const few = users.length === 1 ? "1 user" : `${users.length} users`;
  const matches = searched ? ` that match${users.length > 1 ? "" : "es"}` : "";
  const what = users.length ? `${few}${matches}, the last changed first` : `No user${matches}`;
  say(byId("users-caption"), `${what}, at ${clock(new Date())}`);
}

function addUser(id) {
  const name = element("button", { type: "button", class: "link" }, element("code", {}, id));
  name.addEventListener("click", () => {
    byId("user").value = id;
    byId("devices").scrollIntoView();
    byId("follow").requestSubmit();
  });
  const row = {
    status: element("span"),
    changed: element("td"),
    devices: element("td"),
    seen: element("td"),
    source: element("td", { class: "source" }),
  };
  row.element = element(
    "tr",
    {},
    element("th", { scope: "row" }, name),
    element(
      "td",
      { class: "status" },
      element("span", { class: "dot", "aria-hidden": "true" }),
      row.status,
    ),
    row.changed,
    row.devices,
    row.seen,
    row.source,
  );
  userRows.set(id, row);
  return row;
}

// askAggregate says what the devices of the followed user make of the user.
async function askAggregate() {
  askingAggregate = true;
  const [mine, line] = [follower, byId("aggregate")];
  const found = await usersOf({ q: followed }).catch(() => undefined);
  askingAggregate = false;
  aggregateDue = performance.now() + aggregateEvery;
  if (follower !== mine || !found) return;
  const user = found.users[0];
  line.hidden = false;
  say(
    line,
    user
      ? `The user is ${user.status}, with ${user.devices_online} of ${user.devices} devices online; ` +
          `last seen ${since(user.last_seen_ms)}, changed ${since(user.changed_at_ms)}.`
      : "Nothing was ever heard of this user.",
  );
}

// since writes an instant of the server's clock.
function since(ms) {
  return ms === null ? "never" : `${ago(Date.now() - ms)} ago`;
}
