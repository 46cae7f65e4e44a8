// Polls /metrics and /readyz once a second and draws them in cards.

const pollEvery = 1000;
const pollTimeout = 3000; // how long an answer may take
const lookBack = 10; // readings over which a quantile is taken, one a second
const gapAfter = 5000; // readings further apart are not joined

const byId = (id) => document.getElementById(id);

// What a line may show: functions of the newest reading, the one before, and the oldest of
// lookBack.
const total = (name, labels) => (now) => now.sum(name, labels);
const growth = (name, labels) => (now, before) => before && perSecond(now, before, name, labels);
const quantileOf = (q, name) => (now, before, oldest) => quantile(q, now, oldest, name);
const quantiles = (name) => [
  ["median", quantileOf(0.5, name)],
  ["p99", quantileOf(0.99, name)],
];

const cards = [
  {
    title: "Heartbeats",
    format: rate,
    note: outcomes,
    lines: [
      ["accepted", growth("rollcall_heartbeats_total", { outcome: "accepted" })],
      ["refused", refused],
    ],
  },
  {
    title: "Frames to streams",
    format: rate,
    lines: [["frames", growth("rollcall_stream_frames_total")]],
    note: (now, before) =>
      noted([rate, growth("rollcall_stream_conflations_total")(now, before), "conflated"]),
  },
  {
    title: "Devices",
    format: count,
    lines: [
      ["online", total("rollcall_devices", { status: "online" })],
      ["offline", total("rollcall_devices", { status: "offline" })],
    ],
    note: (now, before) =>
      noted(
        [count, now.sum("rollcall_users"), "users"],
        [count, now.sum("rollcall_users", { status: "online" }), "users online"],
        [rate, growth("rollcall_expiries_total")(now, before), "expired"],
      ),
  },
  {
    title: "Expiry lateness",
    format: seconds,
    lines: quantiles("rollcall_expiry_lateness_seconds"),
    note: () => "from the TTL’s end to offline, last 10 s",
  },
  {
    title: "Heartbeat to frame",
    format: seconds,
    lines: quantiles("rollcall_delivery_seconds"),
    note: () => "from applied to written to the socket, last 10 s",
  },
  {
    title: "Log commit",
    format: seconds,
    lines: quantiles("rollcall_log_commit_seconds"),
    note: () => "write and sync of a batch, last 10 s",
  },
  {
    title: "Streams",
    format: count,
    lines: [["open", total("rollcall_streams")]],
    note: (now, before) =>
      noted(
        [rate, growth("rollcall_streams_opened_total")(now, before), "opened"],
        [count, now.sum("rollcall_streams_lagging"), "lagging"],
      ),
  },
  {
    title: "Log on disk",
    format: bytes,
    lines: [["log", total("rollcall_log_bytes")]],
    note: checkpoint,
  },
  {
    title: "Memory",
    format: bytes,
    lines: [
      ["resident", total("process_resident_memory_bytes")],
      ["Go heap", total("go_memstats_heap_inuse_bytes")],
    ],
    note: (now, before) =>
      noted(
        [count, growth("process_cpu_seconds_total")(now, before), "cores busy"],
        [count, now.sum("go_goroutines"), "goroutines"],
      ),
  },
].map(build);

const bounds = [
  ["Streams", count, "rollcall_streams", "rollcall_streams_limit"],
  ["Devices", count, "rollcall_devices", "rollcall_devices_limit"],
  ["Log buffer", bytes, "rollcall_log_buffer_used_bytes", "rollcall_log_buffer_bytes"],
  [
    "Broadcast queue",
    bytes,
    "rollcall_broadcast_queue_bytes",
    "rollcall_broadcast_queue_limit_bytes",
  ],
  [
    "Stream backlogs",
    bytes,
    "rollcall_stream_pending_bytes",
    "rollcall_stream_pending_limit_bytes",
  ],
  ["File descriptors", count, "process_open_fds", "process_max_fds"],
].map(buildBound);

// build makes the elements of a card.
function build(card) {
  const names = card.lines.map(([name]) => name);
  const values = names.map(() => element("dd", {}, "–"));
  const note = element("p", { class: "note" });
  const plot = new Plot(card.title, card.format, names);
  const now = element(
    "dl",
    { class: "now" },
    ...names.map((name, i) =>
      element("div", { class: `value value${i}` }, element("dt", {}, name), values[i]),
    ),
  );
  byId("cards").append(
    element("article", { class: "card" }, element("h3", {}, card.title), now, plot.element, note),
  );
  return { ...card, plot, values, noteElement: note };
}

function buildBound([name, format, used, limit]) {
  const meter = element("meter", {
    min: 0,
    max: 1,
    low: 0.6,
    high: 0.85,
    optimum: 0,
    "aria-label": name,
  });
  const text = element("span", {}, "–");
  byId("bounds").append(
    element("div", {}, element("dt", {}, name), element("dd", {}, meter, text)),
  );
  return { format, used, limit, meter, text };
}

// noted joins those of the [format, value, words] that are known.
function noted(...parts) {
  return parts
    .filter(([, v]) => v !== undefined)
    .map(([format, v, words]) => `${words} ${written(format, v)}`)
    .join(", ");
}

function refused(now, before) {
  const all = growth("rollcall_heartbeats_total")(now, before);
  const good = growth("rollcall_heartbeats_total", { outcome: "accepted" })(now, before);
  return all === undefined || good === undefined ? undefined : Math.max(0, all - good);
}

function outcomes(now, before) {
  const kinds = (now.samples("rollcall_heartbeats_total") ?? [])
    .map((s) => s.labels.outcome)
    .filter((o) => o !== "accepted");
  const parts = kinds.map((o) => [
    rate,
    growth("rollcall_heartbeats_total", { outcome: o })(now, before),
    o.replace("_", " "),
  ]);
  return noted(...parts.filter(([, v]) => v > 0)) || "none refused";
}

function checkpoint(now) {
  const at = now.sum("rollcall_checkpoint_timestamp_seconds");
  const behind = now.sum("rollcall_log_appended_lsn") - now.sum("rollcall_checkpoint_lsn");
  const age = at > 0 ? `checkpoint ${ago(Date.now() - at * 1000)} ago` : "no checkpoint yet";
  return behind >= 0 ? `${age}, ${written(count, behind)} records since` : age;
}

const readings = []; // the newest last

// show adds a reading and draws everything.
function show(now) {
  const started = now.sum("process_start_time_seconds");
  const another = readings.at(-1)?.sum("process_start_time_seconds") !== started;
  if (another) readings.length = 0; // another process
  const before = readings.at(-1);
  readings.push(now);
  if (readings.length > lookBack) readings.shift();
  for (const card of cards) {
    const values = card.lines.map(([, value]) => value(now, before, readings[0]));
    if (!before || now.at - before.at > gapAfter)
      card.plot.add(
        now.at,
        values.map(() => undefined),
      );
    card.plot.add(now.at, values);
    values.forEach((v, i) => say(card.values[i], written(card.format, v)));
    say(card.noteElement, card.note(now, before));
  }
  for (const b of bounds) {
    const [used, limit] = [now.sum(b.used), now.sum(b.limit)];
    b.meter.value = limit > 0 ? used / limit : 0;
    say(
      b.text,
      limit > 0
        ? `${written(b.format, used)} of ${written(b.format, limit)}`
        : written(b.format, used),
    );
  }
  const version = now.samples("rollcall_build_info")?.[0].labels.version;
  say(
    byId("facts"),
    [version, started && `up ${ago(Date.now() - started * 1000)}`].filter(Boolean).join(" · "),
  );
  draw();
}

function draw() {
  for (const card of cards) card.plot.draw(performance.now());
}

let polling = false;
let paused = false;
let timer;
let lastAnswer; // when the server last answered

// poll asks once, and again in a second unless the page is paused or hidden.
async function poll() {
  clearTimeout(timer);
  if (polling || locked) return;
  polling = true;
  const pulse = await askPulse().catch(tellLost);
  polling = false;
  if (!paused && !document.hidden) timer = setTimeout(poll, pollEvery);
  if (locked) tell("locked", "This server wants its admin token");
  if (!pulse) return draw();
  lastAnswer = new Date();
  if (pulse.ready) tell("ready", "Ready");
  else tell("not-ready", `Not ready: ${pulse.why}`);
  show(new Reading(pulse.metrics, performance.now()));
  loadSettings();
  askUsers();
}

async function askPulse() {
  const [metrics, ready] = await Promise.all([ask("/metrics"), ask("/readyz")]);
  if (!metrics.ok) throw new Error(`/metrics answers ${metrics.status}`);
  return {
    metrics: await metrics.text(),
    ready: ready.ok,
    why: (await ready.text()).trim().slice(0, 300),
  };
}

async function ask(path, signal = AbortSignal.timeout(pollTimeout)) {
  const answer = await fetch(path, { headers: authorization(), cache: "no-store", signal });
  if (answer.status === 401) lock();
  return answer;
}

const tokenKey = "rollcall-admin-token"; // in the tab's storage, which ends with the tab
let locked = false; // the server wants a token that the tab does not have; nothing is asked

// authorization are the headers of every request to the admin listener.
function authorization() {
  const token = sessionStorage.getItem(tokenKey);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// lock asks for the admin token.
function lock() {
  if (locked) return;
  locked = true;
  if (sessionStorage.getItem(tokenKey)) say(byId("admin-token-hint"), "Not one of its tokens.");
  sessionStorage.removeItem(tokenKey);
  byId("unlock").hidden = false;
  byId("admin-token").focus();
}

byId("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(tokenKey, byId("admin-token").value.trim());
  byId("admin-token").value = "";
  byId("unlock").hidden = true;
  locked = false;
  poll();
});

function tellLost(error) {
  forgetSettings();
  if (locked) return;
  const why = error.message.startsWith("/metrics") ? error.message : "The server does not answer";
  tell(
    "lost",
    lastAnswer
      ? `${why}; last answer at ${clock(lastAnswer)}. Trying again.`
      : `${why}. Trying again.`,
  );
}

function tell(kind, text) {
  const state = byId("state");
  state.dataset.state = kind;
  say(state, text);
  document.body.dataset.server = kind;
  document.title = kind === "ready" ? "rollcall" : `rollcall: ${kind.replace("-", " ")}`;
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", paused);
  document.body.dataset.paused = paused;
  if (paused) clearTimeout(timer);
  else poll();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!paused) poll();
});

poll();
