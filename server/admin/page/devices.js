// One user's devices, over the stream that any client gets.

const streamPath = "/api/v1/mobile/presence/stream";
const maxDevices = 1000; // shown; the caption says that there are more
const maxChanges = 50; // lines of recent changes
const maxAtOnce = 5; // more changes in one moment become one line
const maxLine = 1 << 20; // characters; a longer line is no frame
const firstWait = 1000;
const longestWait = 15_000;

const moves = matchMedia("(prefers-reduced-motion: no-preference)");
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

let settings; // what the server says of itself: public_url, mints_tokens, lists_users
let followed; // the id of the user that is followed
let follower; // the AbortController of the stream that is followed
let devices = new Map(); // device id → what is known of it
let leftOut = 0;
const changed = new Set(); // devices to draw
let news = []; // [time, device id, words] of changes to append

// loadSettings asks the server where the stream is, again with each poll until the server knows.
async function loadSettings() {
  if (settings?.public_url) return;
  const found = await ask("/page.json")
    .then((answer) => answer.ok && answer.json())
    .catch(() => undefined);
  if (!found) return; // with the next poll
  settings = found;
  byId("users").hidden = !settings.lists_users;
  if (!byId("base").value || byId("base").value === byId("base").dataset.told)
    byId("base").value = settings.public_url;
  byId("base").dataset.told = settings.public_url;
  byId("token").required = !settings.mints_tokens;
  if (settings.mints_tokens)
    say(byId("token-hint"), "Leave it empty: this server gives the page one.");
  if (settings.public_url && settings.mints_tokens && !follower) followNamed();
}

// forgetSettings makes the next poll ask again: a server that comes back may be another one.
function forgetSettings() {
  settings = undefined;
}

// followNamed follows the user that the page's address names: ?user=ID.
function followNamed() {
  const user = new URLSearchParams(location.search).get("user") ?? "";
  if (!uuid.test(user)) return;
  byId("user").value = user;
  byId("follow").requestSubmit();
}

byId("follow").addEventListener("submit", (event) => {
  event.preventDefault();
  const [user, base, token] = ["user", "base", "token"].map((id) => byId(id).value.trim());
  if (uuid.test(user)) history.replaceState(null, "", `?user=${user}${location.hash}`);
  stop();
  devices = new Map();
  byId("rows").replaceChildren();
  byId("changes").replaceChildren();
  byId("live").hidden = false;
  byId("stop").hidden = false;
  follower = new AbortController();
  followed = user.toLowerCase();
  follow({ user, base, token, signal: follower.signal });
});

byId("stop").addEventListener("click", () => {
  stop();
  tellFollowing("idle", "Stopped.");
});

function stop() {
  follower?.abort();
  follower = undefined;
  byId("stop").hidden = true;
  byId("aggregate").hidden = true;
}

// Refusal is an answer that a retry does not change.
class Refusal extends Error {}

// follow keeps a stream open until it is refused or stopped.
async function follow(wanted) {
  let wait = firstWait;
  while (!wanted.signal.aborted) {
    let pause = wait;
    try {
      tellFollowing("waiting", "Connecting…");
      const answer = await connect(wanted);
      tellFollowing("live", `Live: ${wanted.user}`);
      wait = firstWait;
      pause = (await read(answer.body.getReader())) ?? firstWait;
      if (!wanted.signal.aborted) tellFollowing("waiting", "The stream ended. Connecting again.");
    } catch (error) {
      if (wanted.signal.aborted) return;
      if (error instanceof Refusal) {
        stop();
        tellFollowing("refused", error.message);
        return;
      }
      tellFollowing("waiting", `${error.message}. Trying again.`);
      wait = Math.min(2 * wait, longestWait);
    }
    await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)));
  }
}

// connect returns the answer whose body is the stream.
async function connect({ user, base, token, signal }) {
  let url;
  try {
    url = new URL(streamPath, base);
  } catch {
    throw new Refusal("The public address is not a URL");
  }
  url.searchParams.set("user_id", user);
  const headers = { Authorization: `Bearer ${token || (await mint(user, signal))}` };
  const answer = await fetch(url, {
    headers,
    signal,
    cache: "no-store",
    credentials: "omit",
  }).catch((error) => {
    throw signal.aborted
      ? error
      : new Error(`${url.origin} cannot be reached, or does not allow ${location.origin}`);
  });
  if (!answer.ok) await refuse(answer);
  if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream"))
    throw new Refusal(`${url.origin} answers, but not with a stream`);
  return answer;
}

// mint gets a token from the server.
async function mint(user, signal) {
  const headers = { "Rollcall-Page": "1", ...authorization() };
  const request = { method: "POST", headers, cache: "no-store", signal };
  const answer = await fetch(`/debug/token?user_id=${encodeURIComponent(user)}`, request).catch(
    (error) => {
      throw signal.aborted ? error : new Error("The server does not answer");
    },
  );
  if (!answer.ok) await refuse(answer);
  return (await answer.json()).token;
}

// refuse throws what an answer other than 200 says.
async function refuse(answer) {
  const details = (await answer.json().catch(() => undefined))?.details ?? answer.statusText;
  const text = `${String(details).slice(0, 200)} (${answer.status})`;
  throw answer.status >= 500 || answer.status === 429 ? new Error(text) : new Refusal(text);
}

// read takes frames until the stream ends, and returns the pause that the stream asked for, if any.
async function read(reader) {
  const decoder = new TextDecoder();
  const old = devices;
  devices = new Map();
  leftOut = 0;
  byId("rows").replaceChildren();
  let rest = "";
  let retry;
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new Error("The stream broke off");
    });
    if (done) return retry;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    if (rest.length > maxLine) throw new Refusal("The answer is not a presence stream");
    for (const line of lines) {
      if (line.startsWith("data:")) take(line.slice(5), old);
      else if (/^retry: ?\d+$/.test(line)) retry = Math.min(Number(line.slice(6)), longestWait);
    }
  }
}

// take takes up one frame. old is what was known before this connection.
function take(payload, old) {
  let event;
  try {
    event = JSON.parse(payload);
  } catch {
    return;
  }
  const known = devices.get(event.device_id);
  if (!known && devices.size >= maxDevices) {
    leftOut++;
    return;
  }
  const device = known ?? { row: undefined };
  const before = known?.event ?? old.get(event.device_id)?.event;
  if (before?.status !== event.status)
    news.push([new Date(), event.device_id, inWords(event, before)]);
  Object.assign(device, { event, heardAt: performance.now(), first: !known });
  devices.set(event.device_id, device);
  if (!changed.size) requestAnimationFrame(drawDevices);
  changed.add(device);
}

// inWords describes a change of status. An expiry repeats the seq of the last heartbeat.
function inWords(event, before) {
  if (event.status === "online") return before ? "came back online" : "is online";
  if (!before) return "is offline";
  return before.seq === event.seq
    ? `went offline: expired after ${ago(event.ttl_ms)}`
    : "went offline: reported by the device";
}

function drawDevices() {
  for (const device of changed) {
    if (devices.get(device.event.device_id) !== device) continue; // of the stream before
    device.row ??= addRow(device.event.device_id);
    drawDevice(device);
  }
  changed.clear();
  drawCaption();
  drawNews();
}

function addRow(id) {
  const row = {
    dot: element("span", { class: "dot", "aria-hidden": "true" }),
    status: element("span"),
    source: element("small"),
    left: element("span"),
    bar: element("span", { class: "left" }),
    heard: element("td"),
    seq: element("td", { class: "number" }),
  };
  row.element = element(
    "tr",
    {},
    element("th", { scope: "row" }, element("code", {}, id), row.source),
    element("td", { class: "status" }, row.dot, row.status),
    element(
      "td",
      {},
      row.left,
      element("span", { class: "track", "aria-hidden": "true" }, row.bar),
    ),
    row.heard,
    row.seq,
  );
  byId("rows").append(row.element);
  return row;
}

function drawDevice(device) {
  const { event, row } = device;
  row.element.dataset.status = event.status;
  say(row.status, event.status);
  say(row.source, event.source);
  say(row.seq, String(event.seq));
  row.countdown?.cancel();
  row.bar.hidden = event.status !== "online";
  if (moves.matches && event.status === "online") {
    row.countdown = row.bar.animate([{ transform: "none" }, { transform: "scaleX(0)" }], {
      duration: Math.min(event.ttl_ms, 1e9),
      fill: "forwards",
    });
    row.dot.animate(
      [{ boxShadow: "0 0 0 0 currentColor" }, { boxShadow: "0 0 0 0.6rem transparent" }],
      { duration: 700, easing: "ease-out" },
    );
  }
  drawTimes(device);
}

// drawTimes writes what changes as time passes. The snapshot does not say when the server received
// a device's last heartbeat, so its time to expiry is an upper bound until the next one.
function drawTimes({ event, heardAt, first, row }) {
  const silent = performance.now() - heardAt;
  const left = Math.ceil((event.ttl_ms - silent) / 1000);
  say(
    row.left,
    event.status !== "online" ? "–" : left > 0 ? `${first ? "≤ " : ""}${ago(left * 1000)}` : "due",
  );
  say(row.heard, first ? `sent ${clock(new Date(event.sent_at_ms))}` : `${ago(silent)} ago`);
  if (!moves.matches) row.bar.style.transform = `scaleX(${Math.max(0, 1 - silent / event.ttl_ms)})`;
}

function drawCaption() {
  const online = [...devices.values()].filter((d) => d.event.status === "online").length;
  const more = leftOut ? `; only the first ${maxDevices} are shown` : "";
  say(
    byId("table-caption"),
    `${devices.size} ${devices.size === 1 ? "device" : "devices"}, ${online} online${more}`,
  );
}

function drawNews() {
  if (news.length > maxAtOnce) news = [[new Date(), "", `${news.length} devices changed at once`]];
  const list = byId("changes");
  for (const [at, id, words] of news) {
    list.prepend(
      element(
        "li",
        {},
        element("time", {}, clock(at)),
        " ",
        element("code", {}, id.slice(0, 8)),
        ` ${words}`,
      ),
    );
  }
  while (list.children.length > maxChanges) list.lastChild.remove();
  news = [];
}

function tellFollowing(kind, text) {
  byId("following").dataset.state = kind;
  say(byId("following"), text);
}

setInterval(() => {
  if (follower && !paused && !document.hidden)
    for (const device of devices.values()) if (device.row) drawTimes(device);
}, 1000);
