// Elements and plots.

// element makes one: element("p", {class: "note"}, "text", otherElement). Text is never markup.
function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(e, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

// say sets a text only when it differs, so that a screen reader does not repeat it.
function say(e, text) {
  if (e.textContent !== text) e.textContent = text;
}

const plotSpan = 120_000; // milliseconds that a plot shows

// Plot draws lines over the last two minutes, the newest at the right. A value of undefined leaves
// a gap.
class Plot {
  constructor(title, format, names) {
    this.title = title;
    this.format = format;
    this.names = names;
    this.points = []; // [at, values]
    this.lines = names.map((_, i) => svg("path", { class: `line line${i}` }));
    this.area = svg("path", { class: "area" });
    this.box = svg(
      "svg",
      { viewBox: "0 0 120 40", preserveAspectRatio: "none", role: "img" },
      svg("path", { class: "grid", d: "M0 0.25H120M0 20H120M0 39.75H120M30 0V40M60 0V40M90 0V40" }),
      this.area,
      ...this.lines,
    );
    this.top = element("span");
    this.middle = element("span");
    this.element = element(
      "div",
      { class: "plot" },
      element(
        "div",
        { class: "scale", "aria-hidden": "true" },
        this.top,
        this.middle,
        element("span", {}, "0"),
      ),
      this.box,
      element(
        "div",
        { class: "times", "aria-hidden": "true" },
        ...["2 min", "90 s", "60 s", "30 s", "now"].map((t) => element("span", {}, t)),
      ),
    );
  }

  // add appends the values of an instant and forgets what has left the plot.
  add(at, values) {
    this.points.push([at, values]);
    while (this.points[0][0] < at - plotSpan) this.points.shift();
  }

  draw(now) {
    const seen = this.points.flatMap(([, values]) => values.filter((v) => v !== undefined));
    const top = this.format.top(Math.max(0, ...seen) * 1.02);
    const place = ([at, values], i) => [
      120 - ((now - at) * 120) / plotSpan,
      39.75 - (39.5 * values[i]) / top,
    ];
    this.lines.forEach((line, i) =>
      line.setAttribute(
        "d",
        runs(this.points, i)
          .map((run) => trace(run.map((p) => place(p, i))))
          .join(""),
      ),
    );
    this.area.setAttribute(
      "d",
      runs(this.points, 0)
        .map((run) => under(run.map((p) => place(p, 0))))
        .join(""),
    );
    say(this.top, written(this.format, top));
    say(this.middle, written(this.format, top / 2));
    this.box.setAttribute("aria-label", this.described(seen));
  }

  described(seen) {
    if (!seen.length) return `${this.title}: no data yet`;
    const latest = this.points
      .at(-1)[1]
      .map((v, i) => `${this.names[i]} ${written(this.format, v)}`)
      .join(", ");
    const highest = written(this.format, Math.max(...seen));
    return `${this.title}, two minutes: now ${latest}; highest ${highest}`;
  }
}

// runs are the sequences of points that have a value of line i.
function runs(points, i) {
  const all = [[]];
  for (const p of points) {
    if (p[1][i] !== undefined) all.at(-1).push(p);
    else if (all.at(-1).length) all.push([]);
  }
  return all.filter((run) => run.length);
}

function trace(places) {
  const path = places.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`);
  // A single point is drawn as a dash.
  return "M" + (path.length > 1 ? path.join("L") : `${path[0]}h0.4`);
}

function under(places) {
  return `${trace(places)}V39.75H${places[0][0].toFixed(2)}Z`;
}
