// Reads /metrics and computes figures from it. A family that the server does not have is undefined
// all the way to the page, which shows a dash.

// Reading is one answer of /metrics, at an instant in milliseconds.
class Reading {
  constructor(text, at) {
    this.at = at;
    this.families = new Map();
    for (const line of text.split("\n")) this.#read(line);
  }

  #read(line) {
    const [, name, list, value] = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    if (!name) return; // a comment
    const labels = {};
    for (const [, key, text] of (list ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
      labels[key] = text;
    if (!this.families.has(name)) this.families.set(name, []);
    this.families.get(name).push({ labels, value: toNumber(value) });
  }

  // samples are those of a family that have these labels, or undefined when there are none.
  samples(name, labels = {}) {
    const found = this.families
      .get(name)
      ?.filter((s) => Object.entries(labels).every(([k, v]) => s.labels[k] === v));
    return found?.length ? found : undefined;
  }

  // sum adds them up.
  sum(name, labels) {
    return this.samples(name, labels)?.reduce((total, s) => total + s.value, 0);
  }

  // buckets are a histogram's, from the lowest bound up: [bound, observations up to it].
  buckets(name) {
    const all = this.samples(name + "_bucket")?.map((s) => [toNumber(s.labels.le), s.value]);
    return all?.sort((a, b) => a[0] - b[0]);
  }
}

function toNumber(text) {
  return Number(text.replace("Inf", "Infinity"));
}

// perSecond is how fast a counter grew between two readings; undefined when it was reset.
function perSecond(now, before, name, labels) {
  const grown = now.sum(name, labels) - before?.sum(name, labels);
  return grown >= 0 ? (grown * 1000) / (now.at - before.at) : undefined;
}

// quantile estimates a quantile of what a histogram observed between two readings, as Prometheus
// does: observations are spread evenly inside a bucket. Undefined when nothing was observed.
function quantile(q, now, before, name) {
  const buckets = now.buckets(name);
  const old = before?.buckets(name);
  if (!buckets || old?.length !== buckets.length) return undefined;
  const grown = buckets.map(([bound, n], i) => [bound, n - old[i][1]]);
  const total = grown.at(-1)[1];
  if (!(total > 0)) return undefined;
  const at = grown.findIndex(([, n]) => n >= q * total);
  const [low, below] = at > 0 ? grown[at - 1] : [0, 0];
  const [high, upTo] = grown[at];
  if (high === Infinity) return low; // at least
  return low + ((high - low) * (q * total - below)) / (upTo - below);
}

// Formats of a number: [text, unit] of a value, and the round number above a value, for the top of
// an axis.
const count = {
  text: (v) => scaled(v, 1000, ["", "k", "M", "G"]),
  top: (v) => roundUp(Math.max(v, 1)),
};
const rate = {
  ...count,
  text: (v) => [...scaled(v, 1000, ["", "k", "M", "G"])].map((t, i) => (i ? t + "/s" : t)),
};
const bytes = {
  text: (v) => scaled(v, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]),
  top: (v) => 2 ** Math.ceil(Math.log2(Math.max(v, 1024))),
};
const seconds = {
  text: (v) =>
    v < 1e-3 ? [digits(v * 1e6), "µs"] : v < 1 ? [digits(v * 1e3), "ms"] : [digits(v), "s"],
  top: (v) => roundUp(Math.max(v, 1e-4)),
};

function scaled(v, step, units) {
  let unit = 0;
  for (; Math.abs(v) >= step * 0.9995 && unit < units.length - 1; unit++) v /= step;
  return [digits(v), units[unit]];
}

// digits writes a number with three significant digits.
function digits(v) {
  return v.toLocaleString("en", {
    maximumFractionDigits: v >= 100 ? 0 : v >= 10 ? 1 : 2,
    useGrouping: false,
  });
}

// roundUp is the next of 1, 2, 5, 10, 20, …
function roundUp(v) {
  const power = 10 ** Math.floor(Math.log10(v) + 1e-9);
  return power * [1, 2, 5, 10].find((m) => m * power >= v * (1 - 1e-9));
}

// written is a value with its unit, or a dash.
function written(format, v) {
  return v === undefined ? "–" : format.text(v).filter(Boolean).join("\u202f");
}

// clock writes a time of the day as logs do.
function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

// ago writes a duration: one unit, two for long ones.
function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}
